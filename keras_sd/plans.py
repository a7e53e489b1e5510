"""What a run will take, as a value: `Plan`. `keras_sd.planning.plan` makes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["SPREAD", "DoesNotFitError", "Phase", "Plan"]

SPREAD = 2.0
"""Within this factor of the middle were the times that were measured, but for small pictures."""


class DoesNotFitError(ValueError):
    """A run needs more memory than there is; the message says what would fit."""


@dataclass(frozen=True)
class Phase:
    """A part of a run.

    Attributes:
        name: `"load"`, `"text"`, `"unet"` (with a refiner `"refiner unet"`, too), `"decode"`.
        weights: bytes of those that are in memory.
        tensors: bytes of all else that the networks hold at once.
        memory: bytes of the whole process.
        operations: of floating point, in all calls together.
        seconds: an estimate; None for what is not computing.
    """

    name: str
    weights: int
    tensors: int
    memory: int
    operations: int
    seconds: float | None


@dataclass(frozen=True)
class Plan:
    """What a run will take.

    Attributes:
        model: what it is called.
        backend: that it runs on.
        dtype: the policy of the networks.
        width: of the pictures, in pixels.
        height: likewise.
        batch_size: pictures.
        evaluations: calls of the UNet.
        phases: in their order.
        available: bytes that there are; None where that is not known.
        would_fit: what would, if this does not: each change with the bytes it then takes.
        notes: what the numbers leave out.
    """

    model: str
    backend: str
    dtype: str
    width: int
    height: int
    batch_size: int
    evaluations: int
    phases: tuple[Phase, ...]
    available: int | None
    would_fit: Mapping[str, int]
    notes: tuple[str, ...] = ()

    @property
    def peak(self) -> int:
        """The most bytes that the process has at once."""
        return max(phase.memory for phase in self.phases)

    @property
    def seconds(self) -> float:
        """Of computing, an estimate: neither loading nor compiling is in it."""
        return sum(phase.seconds or 0.0 for phase in self.phases)

    @property
    def fits(self) -> bool | None:
        """Whether there is as much memory; None where that is not known."""
        return None if self.available is None else self.peak <= self.available

    def check(self) -> None:
        """Refuses a run that cannot fit.

        Raises:
            DoesNotFitError: it cannot; the message says what would.
        """
        if self.fits is not False:
            return
        peak = next(phase for phase in self.phases if phase.memory == self.peak)
        would = " or ".join(f"{name} ({_gb(size)})" for name, size in self.would_fit.items())
        raise DoesNotFitError(
            f"{self.batch_size} of {self.width}x{self.height} with {self.model} in {self.dtype} on "
            f"{self.backend} takes {_gb(self.peak)} ({peak.name}), and {_gb(self.available or 0)} "
            f"are free. What would fit: {would or 'nothing that could be changed here'}"
        )

    def as_json(self) -> dict[str, Any]:
        """All of it, as JSON types."""
        found = asdict(self)
        totals = {"peak": self.peak, "seconds": self.seconds, "fits": self.fits}
        return {**found, **totals, "would_fit": dict(self.would_fit), "notes": list(self.notes)}

    def rows(self) -> list[tuple[str, ...]]:
        """The table in words, its head first."""
        rows: list[tuple[str, ...]] = [("", "weights", "tensors", "memory", "time")]
        for each in self.phases:
            time = "" if each.seconds is None else _between(each.seconds)
            rows.append((each.name, *map(_gb, (each.weights, each.tensors, each.memory)), time))
        free = "not known" if self.available is None else _gb(self.available)
        return [
            *rows,
            ("peak", "", "", _gb(self.peak), _between(self.seconds)),
            ("free", "", "", free, ""),
        ]

    def __str__(self) -> str:
        rows = self.rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
        return "\n".join([self.title, *lines, *self.notes])

    @property
    def title(self) -> str:
        """What is planned, in one line."""
        return (
            f"{self.model}, {self.batch_size} of {self.width}x{self.height}, {self.evaluations} "
            f"evaluations, {self.dtype} on {self.backend}"
        )


def _gb(count: int) -> str:
    return f"{count / 1e9:.2f} GB"


def _between(seconds: float) -> str:
    """Both ends of an estimate, in words."""
    low, high = seconds / SPREAD, seconds * SPREAD
    for unit, over in (("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if high >= 2 * over or unit == "s":
            break
    ends = [f"{end / over:.0f}" if end >= 10 * over else f"{end / over:.2g}" for end in (low, high)]
    return f"{' to '.join(ends)} {unit}"
