"""The table, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from comparison.cases import VARIANTS
from comparison.results import Row, Spread, noise_of, rows_of

_OTHERS = {"diffusers": "diffusers", "keras_cv": "KerasCV"}


def markdown(results: Mapping[str, Any]) -> str:
    """The page: what was measured, on what, the tables, and what to know about them.

    Args:
        results: of `runs.measure`.
    """
    rows, settings = rows_of(results), results["settings"]
    there = [name for name in _OTHERS if any(name in row.ratios for row in rows)]
    lines = [
        f"# {settings['model']}, {settings['width']}x{settings['height']}",
        "",
        _sentence(settings),
        "",
        _machine(results, rows),
        "",
        "## Seconds for a batch",
        "",
        "The median of the runs, and in brackets the fastest and the slowest. Cold: the first "
        "picture of a process, compiling included, imports and loading not. Start: with them. "
        f"{_ratio_sentence(there)}".strip(),
        "",
        *_table(
            ["", "", "cold", "start", "warm", *(f"warm / {_OTHERS[n]}" for n in there), "n"],
            [_totals(row, there) for row in rows],
        ),
        "",
        "## Seconds of the parts, memory, pictures",
        "",
        "Compile: what the first step took more than the median step. Pictures: the difference to "
        f"the reference in float32 ({results['reference']}), mean and largest, in steps of 255.",
        "",
        *_table(
            [
                *("", "", "compile", "text", "step", *(f"step / {_OTHERS[n]}" for n in there)),
                *("decode", "memory, GB", "device, GB", "pictures"),
            ],
            [_parts(row, there) for row in rows],
        ),
    ]
    if noise := noise_of(results):
        shown = ", ".join(f"{name} {_ratio(noise[name])}" for name in ("cold", "warm", "step"))
        lines += [
            "",
            f"Noise: one of the rows was measured twice, and its ratio to itself is: {shown}. "
            "What differs by no more is the same.",
        ]
    if results["notes"]:
        lines += ["", *(f"- {note}" for note in results["notes"])]
    return "\n".join([*lines, ""])


def _sentence(settings: Mapping[str, Any]) -> str:
    pictures = "1 picture" if settings["batch"] == 1 else f"{settings['batch']} pictures"
    return (
        f"{pictures} at a time, {settings['steps']} steps of DDIM, guidance "
        f"{settings['guidance']:g}; n = {settings['runs']}, each run in a process of its own, all "
        f"rows in turn. Mixed precision is {settings['dtype']}."
    )


def _machine(results: Mapping[str, Any], rows: Sequence[Row]) -> str:
    machine = results["machine"]
    devices = sorted({row.device for row in rows if row.device not in ("", "cpu")})
    memory = f", {machine['memory'] / 1e9:.0f} GB" if machine["memory"] else ""
    versions = sorted({f"{name} {value}" for row in rows for name, value in row.versions.items()})
    loads = [run["load_average"] for entry in results["cases"] for run in entry["runs"]]
    known = [load for load in loads if load is not None]
    busy = f" The system's load was {min(known):.1f} to {max(known):.1f}." if known else ""
    return (
        f"{', '.join([*devices, machine['processor']])}, {machine['cores']} cores{memory}, "
        f"{machine['threads']} threads; {', '.join(versions)}.{busy}"
    )


def _ratio_sentence(there: Sequence[str]) -> str:
    if not there:
        return ""
    names = " and ".join(_OTHERS[name] for name in there)
    return (
        f"Ratios are to the row of {names} of the same precision: below 1 is faster than it. They "
        "are medians of the ratios run by run."
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines]


def _names(row: Row) -> list[str]:
    return [row.case.program, VARIANTS[row.case.variant]]


def _totals(row: Row, there: Sequence[str]) -> list[str]:
    if not row.spreads:
        why = "not measured" if row.error is None else f"failed: {row.error}"
        return [*_names(row), why, *[""] * (3 + len(there))]
    cells = [_seconds(row.spreads[name]) for name in ("cold", "start", "warm")]
    count = str(row.spreads["warm"].count) + (f"; then failed: {row.error}" if row.error else "")
    wrong = " (pictures are wrong)" if row.verdict == "wrong" else ""
    program, variant = _names(row)
    return [program, variant + wrong, *cells, *_ratios(row, there, "warm"), count]


def _parts(row: Row, there: Sequence[str]) -> list[str]:
    if not row.spreads:
        return [*_names(row), "" if row.error is None else "failed", *[""] * (6 + len(there))]
    spreads, found = row.spreads, row.difference
    if found is None:
        pictures = "no reference"
    elif found["mean"] is None:
        pictures = "WRONG: of another size"
    else:
        pictures = f"{found['mean']:.2f}, {found['max']:.0f}"
        pictures = f"WRONG: {pictures}" if row.verdict == "wrong" else pictures
    device = "" if row.device_memory is None else f"{row.device_memory / 1e9:.2f}"
    return [
        *_names(row),
        *(_seconds(spreads[name]) for name in ("compile", "text", "step")),
        *_ratios(row, there, "step"),
        _seconds(spreads["decode"]),
        f"{spreads['memory'].high / 1e9:.2f}",
        device,
        pictures,
    ]


def _ratios(row: Row, there: Sequence[str], measure: str) -> list[str]:
    return [_ratio(row.ratios[name][measure]) if name in row.ratios else "" for name in there]


def _seconds(spread: Spread) -> str:
    digits = 3 if abs(spread.median) < 0.1 else 2 if abs(spread.median) < 10 else 1
    low, high = (f"{number:.{digits}f}" for number in (spread.low, spread.high))
    return f"{spread.median:.{digits}f} ({low} to {high})"


def _ratio(spread: Spread) -> str:
    return f"{spread.median:.2f} ({spread.low:.2f} to {spread.high:.2f})"
