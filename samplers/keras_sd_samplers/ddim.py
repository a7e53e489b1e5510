"""Denoising diffusion implicit models, from deterministic (eta 0) to ancestral (eta 1)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from keras_sd.noise import Levels, transfer
from keras_sd.sampler import Array, Denoise, Noise


@dataclass(frozen=True)
class DDIM:
    """DDIM (Song et al. 2021, equations 12 and 16), on any path of (alpha, sigma).

    Args:
        eta: How much of the noise is drawn anew at each step, in [0, 1]: 0 draws none, 1 is
            ancestral sampling (DDPM).

    Raises:
        ValueError: `eta` is outside [0, 1].
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], got {self.eta!r}.")

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def __call__(self, denoise: Denoise, x: Array, levels: Levels, noise: Noise) -> Iterator[Array]:
        for now, nxt in pairwise(levels):
            x0 = denoise(x, now)
            if self.eta and nxt.sigma:
                # Equation 16 without assuming alpha**2 + sigma**2 = 1: the spread of the latent at
                # nxt, given those at now and at sigma 0.
                added = now.sigma**2 - (now.alpha * nxt.sigma / nxt.alpha) ** 2
                fresh = self.eta * nxt.sigma / now.sigma * math.sqrt(max(added, 0.0))
                kept = math.sqrt(max(nxt.sigma**2 - fresh**2, 0.0))
                x = transfer(x, x0, now, replace(nxt, sigma=kept)) + fresh * noise(now, nxt)
            else:
                x = transfer(x, x0, now, nxt)
            yield x
