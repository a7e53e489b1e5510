"""Sampling of latent consistency models."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from keras_sd.noise import Levels
from keras_sd.sampler import Array, Denoise, Noise


@dataclass(frozen=True)
class LCM:
    """Multistep consistency sampling (Luo et al. 2023, algorithm 3): to the clean latent, and back
    up with fresh noise. For models, or LoRAs, that were distilled for it; 4 to 8 steps.

    Args:
        timestep_scaling: Of the boundary condition by which such a model leaves the latent alone at
            timestep 0; 10 in distillation, where it gives the latent a weight below 1e-4 at every
            timestep that is run.

    Raises:
        ValueError: `timestep_scaling` is not above 0.
    """

    stochastic: ClassVar[bool] = True
    consistency: ClassVar[bool] = True

    timestep_scaling: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.timestep_scaling < math.inf:
            raise ValueError(f"timestep_scaling must be above 0, got {self.timestep_scaling!r}.")

    def __call__(self, denoise: Denoise, x: Array, levels: Levels, noise: Noise) -> Iterator[Array]:
        for now, nxt in pairwise(levels):
            scaled = now.t * self.timestep_scaling / 0.5  # the data's spread is taken to be 0.5
            skip = 1 / (scaled**2 + 1)
            x = nxt.alpha * (skip * x + scaled * math.sqrt(skip) * denoise(x, now))
            if nxt.sigma:
                x = x + nxt.sigma * noise(now, nxt)
            yield x
