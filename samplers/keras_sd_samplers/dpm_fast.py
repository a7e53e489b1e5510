"""DPM-Solver-fast: single steps of order 3, each over three intervals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from keras_sd.noise import Levels, epsilon, transfer
from keras_sd.sampler import Array, Denoise, Noise
from keras_sd_samplers._dpm import distance, walk


@dataclass(frozen=True)
class DPMFast:
    """DPM-Solver-3 (Lu et al. 2022, algorithm 2) over every three intervals, and orders 2 and 1
    over what is left, as the authors do for a given number of evaluations: one an interval. What is
    yielded after a first or second of three is the method's look ahead.

    Its error depends on what is left at the end, the number of steps modulo 3.
    """

    def __call__(self, denoise: Denoise, x: Array, levels: Levels, noise: Noise) -> Iterator[Array]:
        rest = list(levels)
        if rest[0].alpha == 0:  # a level without a logarithm: an Euler step, as at the end
            x = transfer(x, denoise(x, rest[0]), rest[0], rest[1])
            yield x
            rest = rest[1:]
        intervals = sum(level.sigma > 0 for level in rest[1:])
        # As the paper: a last step of order 1 or 2, so that the number of evaluations comes out.
        threes, left = divmod(intervals, 3)
        orders = [3] * threes + [left] if left else [3] * (threes - 1) + [2, 1] * bool(threes)
        for order in orders:
            now, *between, end = rest[: order + 1]
            eps = epsilon(x, denoise(x, now), now)
            slope: Array = None
            for level in between:
                ahead = walk(x, eps, now, level, slope)
                yield ahead
                change = epsilon(ahead, denoise(ahead, level), level) - eps
                slope = change / distance(now, level)
            if order == 2:  # the mean over the step, as the paper has it
                x = walk(x, eps + slope * distance(now, end) / 2, now, end)
            else:
                x = walk(x, eps, now, end, slope)
            yield x
            rest = rest[order:]
        if len(rest) > 1:
            yield transfer(x, denoise(x, rest[0]), rest[0], rest[1])
