"""How far two pictures are from each other."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

__all__ = ["Difference", "difference"]

_ROWS = 256  # at a time, so that a large picture takes little memory


@dataclass(frozen=True)
class Difference:
    """Of two pictures of one size.

    Attributes:
        largest: of all values, from 0 to 255.
        mean: likewise, of the absolute differences.
        pixels: the share of pixels that differ at all, from 0 to 1.
    """

    largest: int
    mean: float
    pixels: float

    def to_dict(self) -> dict[str, float]:
        """The value in JSON's types."""
        return asdict(self)


def difference(one: np.ndarray, other: np.ndarray) -> Difference | None:
    """How far two pictures are from each other.

    Args:
        one: uint8 array of shape (height, width, 3).
        other: likewise.

    Returns:
        The difference; None where their sizes differ.
    """
    if one.shape != other.shape:
        return None
    largest, total, differing = 0, 0, 0
    for row in range(0, len(one), _ROWS):
        parts = (each[row : row + _ROWS].astype(np.int16) for each in (one, other))
        distance = np.abs(np.subtract(*parts))
        largest = max(largest, int(distance.max()))
        total += int(distance.sum())
        differing += int(distance.any(axis=2).sum())
    return Difference(largest, total / one.size, differing / (one.shape[0] * one.shape[1]))
