"""The results as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_COLUMNS: dict[str, tuple[tuple[str, str], ...]] = {
    "pictures": (
        ("system", "emoji, 4 pictures"),
        ("precision", "precision"),
        ("largest", "largest difference of 255"),
        ("mean", "mean"),
        ("differ", "numbers that differ"),
        ("load_s", "load, s"),
        ("first_s", "first, s"),
        ("next_s", "next, s"),
    ),
    "steps": (
        ("system", "SD 1.5, one guided step"),
        ("dtype", "dtype"),
        ("batch", "pictures"),
        ("ms", "ms"),
        ("queued_ms", "ms, queued"),
        ("peak_mb", "peak, MB"),
        ("build_s", "build, s"),
        ("first_s", "first, s"),
        ("note", "note"),
    ),
    "attention": (
        ("system", "attention, bfloat16"),
        ("shape", "batch x heads x queries x keys x features"),
        ("ms", "ms"),
        ("extra_mb", "memory beside, MB"),
        ("scores_mb", "scores would be, MB"),
    ),
}
_MOST_LINES = 60
_MOST_CHARACTERS = 160


def table(results: Mapping[str, Any]) -> str:
    """A Markdown table for each kind of row, then what failed; at most 60 lines.

    Args:
        results: `machine`, by name; `rows`, each with its `kind`; `wrong`, what failed or was
            skipped, each with its `job`.
    """
    lines = [f"{key}: {value}" for key, value in results["machine"].items()]
    for kind, columns in _COLUMNS.items():
        rows = [row for row in results["rows"] if row["kind"] == kind]
        if rows:
            lines += ["", _line([title for _, title in columns]), "|---" * len(columns) + "|"]
            lines += [_line([_cell(row.get(key)) for key, _ in columns]) for row in rows]
    wrong = [
        f"- {each['job']} {word}: {_last(each[word])}"
        for each in results["wrong"]
        for word in ("failed", "skipped")
        if word in each
    ]
    lines += ["", *wrong] if wrong else []
    if len(lines) > _MOST_LINES:
        left = len(lines) - _MOST_LINES + 1
        lines = [*lines[: _MOST_LINES - 1], f"{left} lines more: see results.json"]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value).replace("|", "\\|")


def _last(why: str) -> str:
    """The first words of a reason and the last line of it, where an error says what it is."""
    first, *rest = why.strip().splitlines() or [""]
    text = f"{first[:60]} ... {rest[-1]}" if rest else first
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 3] + "..."
