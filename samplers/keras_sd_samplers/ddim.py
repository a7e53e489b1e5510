"""Denoising diffusion implicit models, from deterministic (eta 0) to ancestral (eta 1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from keras_sd.noise import Levels, transfer
from keras_sd.sampler import Array, Denoise, Noise
from keras_sd_samplers._split import ancestral


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
            down, fresh = ancestral(now, nxt, self.eta)
            x = transfer(x, denoise(x, now), now, down)
            if fresh:
                x = x + fresh * noise(now, nxt)
            yield x
