"""What the lab has measured, as rows: of a table, of a CSV file, of a plot."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path

__all__ = ["MEASURES", "Measure", "Row", "at_budget", "best", "write_csv"]


@dataclass(frozen=True)
class Measure:
    """A kind of number.

    Args:
        title: What it is, for people.
        more_is_better: Errors are better the smaller they are.
    """

    title: str
    more_is_better: bool = False


MEASURES = {
    "rms": Measure("RMS distance from the exact solution"),
    "w2": Measure("Wasserstein-2 distance from the exact distribution"),
    "latent": Measure("RMS distance of latents from the converged ones, over their RMS"),
    "subject": Measure("share of pictures with the subject asked for", more_is_better=True),
}
"""By the name that a `Row` has. The data of the mixtures has a variance of about 1."""


@dataclass(frozen=True)
class Row:
    """One run of one sampler.

    Args:
        sampler: Its name, or the repr of an instance.
        schedule: Its name.
        steps: Intervals of the run.
        evaluations: How often the model was called; 0 where the run failed.
        measure: One of `MEASURES`.
        value: NaN where the run failed.
        failure: What went wrong; empty where nothing did.
    """

    sampler: str
    schedule: str
    steps: int
    evaluations: int
    measure: str
    value: float
    failure: str = ""


def write_csv(rows: Iterable[Row], path: str | Path) -> None:
    """Writes rows as a CSV file, with a header; numbers are written in full."""
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def best(rows: Iterable[Row]) -> Row | None:
    """The best of some rows of one measure; None where all of them failed."""
    worked = [row for row in rows if not row.failure]
    if not worked:
        return None
    sign = -1 if MEASURES[worked[0].measure].more_is_better else 1
    return min(worked, key=lambda row: sign * row.value)


def at_budget(rows: Sequence[Row], evaluations: int) -> float:
    """What so many evaluations of the model buy.

    Args:
        rows: Runs of one sampler with one schedule, in any order.
        evaluations: The budget.

    Returns:
        The value there, on the straight line between the two nearest runs in a plot with
        logarithmic axes; NaN where there is none on one of the sides.
    """
    line = sorted((row.evaluations, row.value) for row in rows if not row.failure)
    for count, value in line:
        if count == evaluations:
            return value
    for (low, below), (high, above) in pairwise(line):
        if low < evaluations < high and below > 0 and above > 0:
            part = math.log(evaluations / low) / math.log(high / low)
            return below * (above / below) ** part
    return math.nan
