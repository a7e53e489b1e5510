"""The step of DPM-Solver (Lu et al. 2022), which its fast and its adaptive form share."""

from __future__ import annotations

import math

from keras_sd.noise import Level, denoised, transfer
from keras_sd.sampler import Array


def distance(now: Level, nxt: Level) -> float:
    """How far two levels are apart in log(alpha / sigma), half the log-SNR."""
    return math.log(now.ratio / nxt.ratio)


def walk(x: Array, eps: Array, now: Level, nxt: Level, slope: Array = None) -> Array:
    """The exact solution (equation 3.4) where the noise estimate is `eps` at `now`, and changes by
    `slope` a unit of `distance`, if that is given.
    """
    there = transfer(x, denoised(x, eps, now), now, nxt)
    if slope is None:
        return there
    h = distance(now, nxt)
    return there - nxt.sigma * (math.expm1(h) - h) * slope
