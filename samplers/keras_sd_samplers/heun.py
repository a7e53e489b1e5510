"""Heun's method on the probability-flow ODE."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from keras_sd.noise import Level, Levels, denoised, epsilon, transfer
from keras_sd.sampler import Array, Denoise, Noise


@dataclass(frozen=True)
class Heun:
    """Each step with the mean of the noise estimates at both its ends (Karras et al. 2022,
    algorithm 1).

    Two evaluations a step, one where a step begins at alpha 0 or ends at sigma 0: that end has no
    noise estimate.
    """

    order: ClassVar[int] = 2

    def __call__(self, denoise: Denoise, x: Array, levels: Levels, noise: Noise) -> Iterator[Array]:
        for now, nxt in pairwise(levels):
            x = step(denoise, x, now, nxt)
            yield x


def step(denoise: Denoise, x: Array, now: Level, nxt: Level) -> Array:
    """The latent at `nxt`, from `x` at `now`."""
    x0 = denoise(x, now)
    ahead = transfer(x, x0, now, nxt)
    if not (now.alpha and nxt.sigma):
        return ahead
    eps = (epsilon(x, x0, now) + epsilon(ahead, denoise(ahead, nxt), nxt)) / 2
    return transfer(x, denoised(x, eps, now), now, nxt)
