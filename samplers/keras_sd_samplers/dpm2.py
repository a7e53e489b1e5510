"""DPM-Solver-2 as k-diffusion runs it: the noise estimate in the middle of each step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from keras_sd.noise import Levels, denoised, epsilon, transfer
from keras_sd.sampler import Array, Denoise, Noise
from keras_sd_samplers._split import Stochastic, ancestral


@dataclass(frozen=True)
class DPM2(Stochastic):
    """A midpoint method, the middle taken in log(sigma / alpha) (after Lu et al. 2022, algorithm
    1). Two evaluations a step, one where a step begins at alpha 0 or ends at sigma 0.

    Args:
        eta: Share of the noise that is drawn anew, in [0, 1].
        s_noise: Weight of the fresh noise.

    Raises:
        ValueError: `eta` is outside [0, 1], or `s_noise` negative.
    """

    order: ClassVar[int] = 2

    eta: float = 0.0

    def __call__(self, denoise: Denoise, x: Array, levels: Levels, noise: Noise) -> Iterator[Array]:
        for now, nxt in pairwise(levels):
            down, fresh = ancestral(now, nxt, self.eta)
            x0 = denoise(x, now)
            if now.alpha and down.sigma:
                middle = levels.between(now, down, 0.5)
                there = transfer(x, x0, now, middle)
                eps = epsilon(there, denoise(there, middle), middle)
                x0 = denoised(x, eps, now)
            x = transfer(x, x0, now, down)
            if fresh:
                x = x + self.s_noise * fresh * noise(now, nxt)
            yield x


@dataclass(frozen=True)
class DPM2Ancestral(DPM2):
    """`DPM2` with all of the noise drawn anew, unless told otherwise."""

    eta: float = 1.0
