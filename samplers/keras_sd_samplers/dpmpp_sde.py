"""DPM-Solver++ (SDE): a midpoint method on the reverse diffusion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from keras_sd.noise import Levels, transfer
from keras_sd.sampler import Array, Denoise, Noise
from keras_sd_samplers._split import Brownian, ancestral


@dataclass(frozen=True)
class DPMppSDE(Brownian):
    """Each step looks ahead to a level between, with noise, and weighs both clean latents (after
    Lu et al. 2022b, algorithm 1, on the reverse diffusion; first in k-diffusion). Two evaluations a
    step, one where it ends at sigma 0.

    Args:
        eta: Share of the noise that is drawn anew, in [0, 1].
        s_noise: Weight of the fresh noise.
        r: Where the level between lies, in (0, 1) of the way in log(sigma / alpha).

    Raises:
        ValueError: `eta` is outside [0, 1], `s_noise` negative, or `r` outside (0, 1).
    """

    order: ClassVar[int] = 2

    r: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.r < 1:
            raise ValueError(f"r must lie between 0 and 1, got {self.r!r}.")

    def __call__(self, denoise: Denoise, x: Array, levels: Levels, noise: Noise) -> Iterator[Array]:
        for now, nxt in pairwise(levels):
            x0 = denoise(x, now)
            if nxt.sigma:
                middle = levels.between(now, nxt, self.r)
                down, fresh = ancestral(now, middle, self.eta)
                there = transfer(x, x0, now, down)
                if fresh:
                    there = there + self.s_noise * fresh * noise(now, middle)
                x0 = x0 + (denoise(there, middle) - x0) / (2 * self.r)
            down, fresh = ancestral(now, nxt, self.eta)
            x = transfer(x, x0, now, down)
            if fresh:
                x = x + self.s_noise * fresh * noise(now, nxt)
            yield x
