"""Ancestral sampling of the diffusion model itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from keras_sd.noise import Levels, transfer
from keras_sd.sampler import Array, Denoise, Noise
from keras_sd_samplers._split import ancestral, forward


@dataclass(frozen=True)
class DDPM:
    """Ancestral sampling (Ho et al. 2020, algorithm 2) between any two levels.

    Args:
        variance: Of the fresh noise: ``"small"`` is the spread of the latent given the one before
            and the clean one (their beta tilde; DDIM's with eta 1), ``"large"`` that given the one
            before alone (their beta), which needs more steps.

    Raises:
        ValueError: `variance` is something else.
    """

    stochastic: ClassVar[bool] = True

    variance: str = "small"

    def __post_init__(self) -> None:
        if self.variance not in ("small", "large"):
            raise ValueError(f"variance must be 'small' or 'large', got {self.variance!r}.")

    def __call__(self, denoise: Denoise, x: Array, levels: Levels, noise: Noise) -> Iterator[Array]:
        for now, nxt in pairwise(levels):
            down, fresh = ancestral(now, nxt, 1.0)
            x = transfer(x, denoise(x, now), now, down)
            if fresh:
                large = self.variance == "large"
                x = x + (forward(nxt, now) if large else fresh) * noise(now, nxt)
            yield x
