"""The table as a picture; needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from comparison.results import Spread, rows_of

_COLORS = {
    "keras_sd (jax)": "#7b4fa3",
    "keras_sd (tensorflow)": "#e8862e",
    "keras_sd (torch)": "#d1402f",
    "diffusers": "#3b6fb6",
    "keras_cv": "#4d8c57",
}
_GREY = "#888888"


def save(results: Mapping[str, Any], path: Path) -> None:
    """Writes a PNG file with bars of the warm and the cold seconds.

    A line goes from the fastest run to the slowest; a row with wrong pictures is hatched.

    Args:
        results: of `runs.measure`.
        path: of the file.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    rows, settings = rows_of(results), results["settings"]
    figure = Figure(figsize=(11, 1.2 + 0.32 * len(rows)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, measure in zip(panels, ("warm", "cold"), strict=True):
        for place, row in enumerate(rows):
            if measure not in row.spreads:
                panel.text(0, place, " failed", va="center", color=_GREY)
                continue
            spread: Spread = row.spreads[measure]
            error = [[spread.median - spread.low], [spread.high - spread.median]]
            wrong = row.verdict == "wrong"
            panel.barh(
                place,
                spread.median,
                xerr=error,
                color=_COLORS.get(row.case.program.removesuffix(", again"), _GREY),
                hatch="///" if wrong else None,
                capsize=2,
            )
            text = f" {spread.median:.3g}" + (", wrong pictures" if wrong else "")
            panel.text(spread.high, place, text, va="center", fontsize=8)
        panel.set_title(measure)
        panel.set_xlabel("seconds for a batch")
        panel.margins(x=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(rows)), [row.case.name for row in rows])
    panels[0].invert_yaxis()
    figure.suptitle(
        f"{settings['model']}, {settings['width']}x{settings['height']}, batch of "
        f"{settings['batch']}, {settings['steps']} steps: the median, n = {settings['runs']}"
    )
    figure.savefig(path, dpi=120)
