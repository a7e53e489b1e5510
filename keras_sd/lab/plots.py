"""The lab's rows as pictures; needs matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from keras_sd.lab.errors import sampling_floor
from keras_sd.lab.rows import MEASURES, Row, at_budget

__all__ = ["NEEDED", "plot", "plot_budget"]

NEEDED = 'The lab draws with matplotlib: pip install "keras-sd[plot]"'

_COLOURS = ("#3b6fb6", "#e8862e", "#4d8c57", "#7b4fa3", "#1f9e9e", "#8a6d3b", "#c05a98", "#444444")
_FAILED, _GREY, _FAINT = "#d1402f", "#777777", "#ececec"


def plot(rows: Sequence[Row], path: str | Path) -> None:
    """Value against evaluations of the model: a panel a sampler, a line a schedule.

    All panels have the same axes. Behind the lines of a sampler are, faint, those of all others; a
    cross in the corner says that a run failed; a dashed line is `sampling_floor`.

    Args:
        rows: Of `mixture_errors`, or those of `emoji_fidelity` with one measure.
        path: Of the PNG file.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: No run worked.
    """
    figure_of = _figure_class()
    samplers, schedules = _contents(rows)
    columns = min(6, math.ceil(math.sqrt(len(samplers))))
    lines = math.ceil(len(samplers) / columns)
    size = (max(6, 1 + 2 * columns), 1.2 + 1.7 * lines)
    figure = figure_of(figsize=size, layout="constrained")
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for panel, name in zip(panels, samplers, strict=False):
        for other in samplers:
            for scale in schedules:
                _line(
                    panel, _of(rows, other, scale), color=_FAINT, linewidth=0.4, zorder=1, aa=False
                )
        for scale, colour in schedules.items():
            _line(panel, _of(rows, name, scale), color=colour, marker=".", linewidth=1.2)
        if any(row.failure for row in _of(rows, name)):
            panel.plot(0.95, 0.92, "x", color=_FAILED, transform=panel.transAxes)
        if any(row.measure == "w2" for row in _of(rows, name)):
            panel.axhline(sampling_floor(), color=_GREY, linestyle="--", linewidth=0.8)
        panel.set_title(_short(name), fontsize=8.5)
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[len(samplers) :]:
        panel.set_visible(False)
    for panel in panels[max(0, len(samplers) - columns) : len(samplers)]:
        panel.tick_params(labelbottom=True)  # the lowest of its column
    counts = sorted({row.steps for row in rows})
    panels[0].set_xscale("log")
    panels[0].set_xticks(counts, [str(count) for count in counts])
    panels[0].minorticks_off()
    if _is_share(rows):
        panels[0].set_ylim(0, 1.05)
    else:
        panels[0].set_yscale("log")
    figure.supxlabel("evaluations of the model", fontsize=9)
    figure.supylabel(_meaning(rows), fontsize=9)
    _legend(figure, rows, schedules)
    figure.savefig(path, dpi=100)


def plot_budget(rows: Sequence[Row], path: str | Path, evaluations: int | None = None) -> None:
    """What so many evaluations of the model buy: a line a sampler, the best first, a dot a
    schedule. Samplers that draw noise, which are measured otherwise, come below the others.

    Args:
        rows: As of `plot`.
        path: Of the PNG file.
        evaluations: The budget; None is the middle one of the runs' numbers of steps. What it buys
            between two runs, see `at_budget`.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: No run worked.
    """
    figure_of = _figure_class()
    samplers, schedules = _contents(rows)
    if evaluations is None:
        counts = sorted({row.steps for row in rows})
        evaluations = counts[len(counts) // 2]
    noisy = {row.sampler for row in rows if row.measure == "w2"}
    values = {
        name: {scale: at_budget(_of(rows, name, scale), evaluations) for scale in schedules}
        for name in samplers
    }

    def rank(name: str) -> tuple[bool, float]:
        known = [value for value in values[name].values() if math.isfinite(value)]
        signed = [-value for value in known] if _is_share(rows) else known
        return name in noisy, min(signed, default=math.inf)

    order = sorted(samplers, key=rank)
    figure = figure_of(figsize=(7.5, 1.5 + 0.23 * len(order)), layout="constrained")
    panel = figure.subplots()
    for place, name in enumerate(order):
        panel.axhline(place, color=_FAINT, linewidth=0.7, zorder=1)
        for scale, colour in schedules.items():
            panel.plot(values[name][scale], place, "o", color=colour, markersize=5, alpha=0.85)
        if rank(name)[1] == math.inf:
            text = "not at so many"
            panel.text(0.01, place, text, fontsize=7, transform=panel.get_yaxis_transform())
    if noisy:
        ends = [len(order) - len(noisy) - 0.5, len(order) - 0.5]
        panel.plot([sampling_floor()] * 2, ends, "--", color=_GREY, linewidth=0.8)
    panel.set_yticks(range(len(order)), [_short(name) for name in order], fontsize=8)
    panel.set_ylim(len(order) - 0.4, -0.6)
    if not _is_share(rows) and any(rank(name)[1] < math.inf for name in order):
        panel.set_xscale("log")
    panel.set_xlabel(_meaning(rows), fontsize=9)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.set_title(f"at {evaluations} evaluations of the model", fontsize=9)
    _legend(figure, rows, schedules)
    figure.savefig(path, dpi=100)


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(NEEDED) from error
    return Figure


def _contents(rows: Sequence[Row]) -> tuple[list[str], dict[str, str]]:
    """The samplers, and the colours of the schedules."""
    if all(row.failure for row in rows):
        raise ValueError("there is nothing to plot: no run worked")
    samplers = list(dict.fromkeys(row.sampler for row in rows))
    schedules = dict.fromkeys(row.schedule for row in rows)
    return samplers, dict(zip(schedules, cycle(_COLOURS), strict=False))


def _of(rows: Sequence[Row], sampler: str, schedule: str | None = None) -> list[Row]:
    return [row for row in rows if row.sampler == sampler and schedule in (None, row.schedule)]


def _line(panel: Any, rows: Sequence[Row], **style: Any) -> None:
    points = sorted((row.evaluations, row.value) for row in rows if not row.failure)
    panel.plot([x for x, _ in points], [y for _, y in points], **style)


def _is_share(rows: Sequence[Row]) -> bool:
    return MEASURES[rows[0].measure].more_is_better


def _meaning(rows: Sequence[Row]) -> str:
    kinds = dict.fromkeys(row.measure for row in rows)
    return "\n".join(MEASURES[kind].title for kind in kinds)


def _short(name: str) -> str:
    """A repr may be long."""
    return name if len(name) <= 24 else f"{name[:23]}…"


def _legend(figure: Any, rows: Sequence[Row], schedules: dict[str, str]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=c, marker=".", label=name) for name, c in schedules.items()]
    if any(row.measure == "w2" for row in rows):
        handles.append(Line2D([], [], color=_GREY, linestyle="--", label="exact samples"))
    if any(row.failure for row in rows):
        handles.append(
            Line2D([], [], color=_FAILED, marker="x", linestyle="", label="a run failed")
        )
    figure.legend(handles=handles, loc="outside upper center", ncols=4, fontsize=8, frameon=False)
