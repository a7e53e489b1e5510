"""Restart sampling: the middle of the way is walked again, from fresh noise."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from keras_sd.noise import Levels
from keras_sd.sampler import Array, Denoise, Noise
from keras_sd_samplers._split import forward
from keras_sd_samplers.heun import step


@dataclass(frozen=True)
class Restart:
    """Heun's method which, at the low end of an interval of noise, adds noise up to its high end
    and walks down again (Xu et al. 2023, algorithm 1): fresh noise forgets the errors made above.

    The interval is walked on the levels of the run that lie in it; a run with fewer than two there
    has nothing to walk again. What is yielded at its low end has been through all the walks.

    Args:
        low: Low end of the interval in sigma / alpha, above 0.
        high: High end of the interval, above `low`.
        times: How often the interval is walked again, from 1 up.

    Raises:
        ValueError: An end is not where it should be, or `times` is below 1.
    """

    order: ClassVar[int] = 2
    stochastic: ClassVar[bool] = True

    low: float = 0.1
    high: float = 2.0
    times: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < math.inf:
            raise ValueError(
                f"0 < low < high must hold, got low {self.low!r} and high {self.high!r}."
            )
        if self.times < 1:
            raise ValueError(f"times must be at least 1, got {self.times!r}.")

    def __call__(self, denoise: Denoise, x: Array, levels: Levels, noise: Noise) -> Iterator[Array]:
        again = [level for level in levels if self.low <= level.ratio <= self.high]
        for now, nxt in pairwise(levels):
            x = step(denoise, x, now, nxt)
            if len(again) > 1 and nxt is again[-1]:
                for _ in range(self.times):
                    top = again[0]
                    x = top.alpha / nxt.alpha * x + forward(nxt, top) * noise(top, nxt)
                    for upper, lower in pairwise(again):
                        x = step(denoise, x, upper, lower)
            yield x
