"""Problems whose solution is known, on paths of every kind, and arrays that can do only what those
of every backend can.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from keras_sd.noise import CLEAN, Level, Levels
from keras_sd.random import normal

# Data is N(0.7, 0.25): the best denoiser is affine in x, so that the exact solution is known.
MEAN, VARIANCE = 0.7, 0.25


def spread_at(level: Level) -> float:
    return math.sqrt(level.alpha**2 * VARIANCE + level.sigma**2)


def gaussian_denoise(x: Any, level: Level) -> Any:
    gain = level.alpha * VARIANCE / spread_at(level) ** 2
    return MEAN + gain * (x - level.alpha * MEAN)


def gaussian_consistency(x: Any, level: Level) -> Any:
    """Where the probability-flow ODE takes x: the function that a consistency model is trained to
    be.
    """
    return MEAN + math.sqrt(VARIANCE) / spread_at(level) * (x - level.alpha * MEAN)


class UnitDraws:
    """Noise one number at a time: row 2 + k has the k-th of the run's independent numbers as 1, the
    others as 0. Each draw is one of them, or with `brownian` each piece of the path between two
    levels at which one was asked for.
    """

    def __init__(self, brownian: bool) -> None:
        self._brownian = brownian
        self._asked: list[tuple[float, float]] = []
        self._drawn = 0

    def counted(self, now: Level, nxt: Level) -> Any:
        """No noise, but remembered."""
        self._asked.append((_clock(now), _clock(nxt)))
        return np.zeros(2)

    @property
    def _ticks(self) -> list[float]:
        return sorted({tick for interval in self._asked for tick in interval})

    @property
    def count(self) -> int:
        """The run's independent numbers."""
        return max(len(self._ticks) - 1, 0) if self._brownian else len(self._asked)

    def __call__(self, now: Level, nxt: Level) -> Any:
        drawn = np.zeros(2 + self.count)
        if self._brownian:
            start, end = sorted((_clock(now), _clock(nxt)))
            for k, (low, high) in enumerate(pairwise(self._ticks)):
                if start <= low and high <= end:
                    drawn[2 + k] = math.sqrt((high - low) / (end - start))
        else:
            drawn[2 + self._drawn : 3 + self._drawn] = 1
            self._drawn += 1
        return drawn


def _clock(level: Level) -> float:
    return math.atan2(level.sigma, level.alpha)


# Paths, noise and arrays

SHAPE = (2, 3, 4)


def _vp(ratio: float) -> Level:
    norm = math.hypot(1, ratio)
    return Level(1000 * math.atan(ratio) / (math.pi / 2), 1 / norm, ratio / norm)


def _ve(ratio: float) -> Level:
    return Level(_vp(ratio).t, 1.0, ratio)


def _flow(ratio: float) -> Level:
    sigma = ratio / (1 + ratio)
    return Level(1000 * sigma, 1 - sigma, sigma)


def _angle(f: float) -> float:
    return math.tan(1.45 + f * (0.15 - 1.45))


def _geometric(f: float) -> float:
    return 10.0 * math.exp(f * math.log(0.01))


def _straight(f: float) -> float:
    sigma = 0.95 + f * (0.1 - 0.95)
    return sigma / (1 - sigma)


# Name -> (the path: ratio -> level, the grid: fraction of the run -> ratio), smooth as orders need.
PATHS = {"VP": (_vp, _angle), "VE": (_ve, _geometric), "flow": (_flow, _straight)}


def grid(
    path: tuple[Callable[[float], Level], Callable[[float], float]],
    num_steps: int,
    to_zero: bool = False,
) -> Levels:
    level, ratio = path
    entries = [level(ratio(i / num_steps)) for i in range(num_steps + 1)]
    if to_zero:
        entries[-1] = CLEAN
    return Levels(entries, path=level)


class Draws:
    """Normal noise by the number of the draw, so that two equal runs draw the same."""

    def __init__(self, shape: tuple[int, ...] = SHAPE, dtype: Any = np.float64) -> None:
        self.shape, self.dtype, self.count = shape, dtype, 0

    def __call__(self, now: Level, nxt: Level) -> Any:
        self.count += 1
        return normal(0, 0, self.count, self.shape).astype(self.dtype)


def started(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Any:
    return normal(seed, 0, 0, shape).astype(np.float64)


class Plain:
    """An array that can do what the arrays of every backend can, and nothing else."""

    __array_ufunc__ = None  # a NumPy number times this asks this
    was_read = False

    def __init__(self, value: Any) -> None:
        self.value = value

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    @property
    def dtype(self) -> Any:
        return self.value.dtype

    def _other(self, other: Any) -> Any:
        if isinstance(other, Plain):
            return other.value
        if type(other) in (int, float):
            return other
        raise TypeError(
            f"a tensor met a {type(other).__module__}.{type(other).__name__}: use Python numbers"
        )

    def __add__(self, other: Any) -> Any:
        return type(self)(self.value + self._other(other))

    def __radd__(self, other: Any) -> Any:
        return type(self)(self._other(other) + self.value)

    def __sub__(self, other: Any) -> Any:
        return type(self)(self.value - self._other(other))

    def __rsub__(self, other: Any) -> Any:
        return type(self)(self._other(other) - self.value)

    def __mul__(self, other: Any) -> Any:
        return type(self)(self.value * self._other(other))

    def __rmul__(self, other: Any) -> Any:
        return type(self)(self._other(other) * self.value)

    def __truediv__(self, other: Any) -> Any:
        return type(self)(self.value / self._other(other))

    def __rtruediv__(self, other: Any) -> Any:
        return type(self)(self._other(other) / self.value)

    def __pow__(self, other: Any) -> Any:
        return type(self)(self.value ** self._other(other))

    def __neg__(self) -> Any:
        return type(self)(-self.value)

    def __abs__(self) -> Any:
        return type(self)(abs(self.value))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        raise TypeError("a tensor was turned into a NumPy array")

    def _compared(self, other: Any) -> Any:
        raise TypeError("a tensor was compared")

    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = _compared
    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise TypeError("a tensor was used as a condition")

    def __float__(self) -> float:
        raise TypeError("a tensor was read as a number")


class Readable(Plain):
    """The array for samplers that declare ``reads_tensors``: ``np.asarray`` works too."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        type(self).was_read = True
        return np.array(self.value, dtype=dtype)
