"""Heun's method for keras-sd."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from keras_sd.noise import denoised, epsilon, transfer


@dataclass(frozen=True)
class Heun:
    """Heun's second-order method on the probability-flow ODE (Karras et al. 2022, algorithm 1).

    In the variables x / alpha and sigma / alpha the slope is the noise estimate; Heun takes the
    mean of the one here and the one at the end of an Euler step. n steps cost up to 2 n
    evaluations.
    """

    order = 2

    def __call__(self, denoise, x, levels, noise):
        for now, nxt in pairwise(levels):
            x0 = denoise(x, now)
            if nxt.sigma > 0 and now.alpha > 0:
                ahead = transfer(x, x0, now, nxt)
                slope = (epsilon(x, x0, now) + epsilon(ahead, denoise(ahead, nxt), nxt)) / 2
                x0 = denoised(x, slope, now)
            x = transfer(x, x0, now, nxt)
            yield x
