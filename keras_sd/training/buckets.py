"""Sizes that pictures are brought to: their own shape nearly, and about the same area each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from keras_sd.checks import SIZE_UNIT, check_size

__all__ = ["Buckets"]

_FINEST = 64
_PARTS = 8


@dataclass(frozen=True)
class Buckets:
    """The sizes of a training (NovelAI 2022, "aspect ratio bucketing").

    Sides are multiples of an eighth of the resolution, and at most of 64 pixels; no side is more
    than twice the other.

    Attributes:
        resolution: pixels of the side of the square, a multiple of 8.
        square: whether the square is the only one.

    Raises:
        keras_sd.checks.SettingError: the resolution is no size.
    """

    resolution: int
    square: bool = False

    def __post_init__(self) -> None:
        check_size("resolution", self.resolution)

    @cached_property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Heights and widths; none has more pixels than the square, or less than 3/4 of them."""
        if self.square:
            return ((self.resolution, self.resolution),)
        eighth = self.resolution // _PARTS // SIZE_UNIT * SIZE_UNIT
        step = min(_FINEST, max(SIZE_UNIT, eighth))
        found = {(self.resolution, self.resolution)}
        for short in range(step, self.resolution + 1, step):
            long = min(2 * short, self.resolution**2 // short // step * step)
            if 4 * short * long >= 3 * self.resolution**2:
                found |= {(short, long), (long, short)}
        return tuple(sorted(found))

    def of(self, height: int, width: int) -> tuple[int, int]:
        """The size whose shape is nearest to that of a picture; of several, the largest."""
        wanted = math.log(height / width)
        return min(self.sizes, key=lambda s: (abs(math.log(s[0] / s[1]) - wanted), -s[0] * s[1]))
