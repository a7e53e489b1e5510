"""Results of earlier days, a line of JSON each, so that a later change can be compared.

Seconds of two days are not comparable, for machines are not the same, so what is compared is the
ratio to another program that ran in the same turns.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from comparison.results import rows_of

_NOT_MEASURED = ("output", "timeout", "keep")
"""Settings that make no difference to what is measured."""

_MEASURES = ("warm", "step", "decode", "text", "memory")


def entry(results: Mapping[str, Any], commit: str | None) -> dict[str, Any]:
    """What is kept of a benchmark: its settings, the machine, and medians.

    Args:
        results: of `runs.measure`.
        commit: of the source tree, if that is known.
    """
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit,
        "settings": {
            name: value for name, value in results["settings"].items() if name not in _NOT_MEASURED
        },
        "machine": results["machine"],
        "rows": {
            row.case.name: {
                "seconds": {name: each.median for name, each in row.spreads.items()},
                "ratios": {
                    system: {name: each.median for name, each in ratios.items()}
                    for system, ratios in row.ratios.items()
                },
            }
            for row in rows_of(results)
            if row.spreads
        },
    }


def append(path: Path, new: Mapping[str, Any]) -> list[str]:
    """Adds a benchmark to a file of them.

    Args:
        path: of the file, which need not be there.
        new: of `entry`.

    Returns:
        How each ratio changed since the last benchmark of the same settings, a line each; none
        where there is no such benchmark.

    Raises:
        ValueError: a line of the file is no benchmark; nothing is added.
    """
    before = None
    if path.exists():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                old = json.loads(line)
                same = old["settings"] == new["settings"] and bool(old["rows"])
            except (ValueError, TypeError, KeyError):
                raise ValueError(f"{path}, line {number} is no benchmark") from None
            before = old if same else before
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(new) + "\n")
    return [] if before is None else _changes(before, new)


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, row in new["rows"].items():
        for system, ratios in row["ratios"].items():
            then = old["rows"].get(name, {}).get("ratios", {}).get(system, {})
            said = [
                f"{measure} {then[measure]:.2f} -> {ratios[measure]:.2f}"
                for measure in _MEASURES
                if measure in ratios and measure in then
            ]
            if said:
                since = f"{old['date']}, {old['commit'] or 'unknown'}"
                lines.append(f"{name} over {system} since {since}: {', '.join(said)}")
    return lines
