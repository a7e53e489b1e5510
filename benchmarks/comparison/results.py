"""From the numbers of the runs to those of the table: medians, spreads, ratios, wrong pictures."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from comparison.cases import Case, baseline

Run = Mapping[str, Any]

MEASURES: dict[str, Callable[[Run], float]] = {
    "cold": lambda run: run["first"],
    "start": lambda run: run["import"] + run["load"] + run["first"],
    "warm": lambda run: run["warm"],
    "step": lambda run: statistics.median(run["parts"]["step"]),
    "text": lambda run: sum(run["parts"]["text"]),
    "decode": lambda run: sum(run["parts"]["decode"]),
    "compile": lambda run: run["first_parts"]["step"][0] - statistics.median(run["parts"]["step"]),
    "memory": lambda run: run["memory"],
}
"""Seconds of a run, and bytes: `cold` is the first picture of a process, `start` the same with
imports and loading; `compile` is what the first step took more than a step takes."""

_RIGHT = {"float32": 0.5, "16 bits": 4.0}
"""The largest mean difference of a right picture, in steps of 255. In float32 what differs is the
order of sums; with 16 bits, 20 steps end 0.4 apart, and a wrong picture is some 40 apart."""


@dataclass(frozen=True)
class Spread:
    """The median of some numbers, the lowest and the highest, and how many there are."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Spread:
        return cls(statistics.median(numbers), min(numbers), max(numbers), len(numbers))


@dataclass(frozen=True)
class Row:
    """A case and what its runs gave.

    Attributes:
        case: what was run.
        spreads: by the name in `MEASURES`; empty where no run came to its end.
        device_memory: bytes at the highest, where the backend tells.
        difference: the largest of the runs' differences of the pictures, see `runs.difference`.
        verdict: of the pictures: `"right"`, `"wrong"` or `"unknown"`.
        ratios: by another system's name and a measure: this over that, run by run.
        error: why a run failed.
        versions: of the packages.
        device: what it ran on.
    """

    case: Case
    spreads: Mapping[str, Spread]
    device_memory: int | None
    difference: Mapping[str, float | None] | None
    verdict: str
    ratios: Mapping[str, Mapping[str, Spread]]
    error: str | None
    versions: Mapping[str, str]
    device: str


def rows_of(results: Mapping[str, Any]) -> list[Row]:
    """The rows of the table.

    Args:
        results: of `runs.measure`.
    """
    found = {Case(**entry["case"]): entry for entry in results["cases"]}
    return [_row(case, entry, found) for case, entry in found.items()]


def _row(case: Case, entry: Mapping[str, Any], found: Mapping[Case, Mapping[str, Any]]) -> Row:
    runs = entry["runs"]
    spreads = {name: Spread.of([of(run) for run in runs]) for name, of in MEASURES.items() if runs}
    memories = [run["device"]["memory"] for run in runs if run["device"]["memory"] is not None]
    difference = _worst([run["difference"] for run in runs])
    ratios = {}
    for system in ("diffusers", "keras_cv"):
        other = baseline(case, found, system)
        if other is not None and (shared := ratios_of(runs, found[other]["runs"])):
            ratios[system] = shared
    return Row(
        case=case,
        spreads=spreads,
        device_memory=max(memories, default=None),
        difference=difference,
        verdict=_verdict(case, difference),
        ratios=ratios,
        error=entry["error"],
        versions=runs[0]["versions"] if runs else {},
        device=runs[0]["device"]["name"] if runs else "",
    )


def ratios_of(runs: Sequence[Run], others: Sequence[Run]) -> dict[str, Spread]:
    """This over that by measure, of the runs of the same round."""
    theirs = {run["round"]: run for run in others}
    pairs = [(run, theirs[run["round"]]) for run in runs if run["round"] in theirs]
    ratios = {name: [of(a) / of(b) for a, b in pairs if of(b) > 0] for name, of in MEASURES.items()}
    return {name: Spread.of(numbers) for name, numbers in ratios.items() if numbers}


def noise_of(results: Mapping[str, Any]) -> dict[str, Spread] | None:
    """The ratios of a case to itself, if it was run twice: what differences mean nothing.

    Args:
        results: of `runs.measure`.
    """
    found = {Case(**entry["case"]): entry["runs"] for entry in results["cases"]}
    for case, runs in found.items():
        if case.again and runs and (others := found[replace(case, again=False)]):
            return ratios_of(runs, others)
    return None


def _worst(differences: Sequence[Mapping[str, float | None] | None]) -> Any:
    known = [found for found in differences if found is not None]
    return max(
        known,
        key=lambda found: float("inf") if found["mean"] is None else found["mean"],
        default=None,
    )


def _verdict(case: Case, difference: Mapping[str, float | None] | None) -> str:
    if difference is None:
        return "unknown"
    mean = difference["mean"]
    limit = _RIGHT["16 bits" if case.mixed else "float32"]
    return "right" if mean is not None and mean <= limit else "wrong"
