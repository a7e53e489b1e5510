"""Sampling of trajectory consistency models."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from keras_sd.noise import Levels, transfer
from keras_sd.sampler import Array, Denoise, Noise
from keras_sd_samplers._split import forward


@dataclass(frozen=True)
class TCD:
    """Strategic stochastic sampling (Zheng et al. 2024): past the next level to a timestep nearer
    to the clean latent, and back up with fresh noise. For models, or LoRAs, that were distilled for
    it; any number of steps.

    Args:
        eta: How far past, in [0, 1]: to the timestep ``floor((1 - eta) * t)``, the paper's gamma.
            0 is DDIM, 1 goes to the model's first timestep. Above 0 no order of convergence is
            promised: an ordinary model has no use for the method.

    Raises:
        ValueError: `eta` is outside [0, 1].
    """

    eta: float = 0.3

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], got {self.eta!r}.")

    @property
    def order(self) -> int:
        return 0 if self.eta else 1

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def __call__(self, denoise: Denoise, x: Array, levels: Levels, noise: Noise) -> Iterator[Array]:
        for now, nxt in pairwise(levels):
            t = math.floor((1 - self.eta) * nxt.t)
            past = levels.at_timestep(t) if self.eta and nxt.sigma and t < nxt.t else nxt
            x = transfer(x, denoise(x, now), now, past)
            if past is not nxt:
                x = nxt.alpha / past.alpha * x + forward(past, nxt) * noise(now, nxt)
            yield x
