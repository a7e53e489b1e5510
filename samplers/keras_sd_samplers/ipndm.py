"""Improved PNDM: the multistep rule of PNDM without its special start."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from keras_sd.noise import Levels, denoised, epsilon, transfer
from keras_sd.sampler import Array, Denoise, Noise
from keras_sd_samplers._polynomial import adams


@dataclass(frozen=True)
class IPNDM:
    """Adams-Bashforth on the noise estimate, from order 1 up to 4 as estimates come in (Zhang and
    Chen 2022, "iPNDM"; the rule is that of Liu et al. 2022, equation 9). One evaluation a step.

    The weights are those of equal steps, which no schedule has: a whole run is of order 2 at best,
    and it takes hundreds of steps to show. `LMS` has the weights of the steps that are taken.
    """

    def __call__(self, denoise: Denoise, x: Array, levels: Levels, noise: Noise) -> Iterator[Array]:
        past: list[Array] = []
        for now, nxt in pairwise(levels):
            x0 = denoise(x, now)
            if now.alpha:
                past = [epsilon(x, x0, now), *past[:3]]
                shares = adams(range(0, -len(past), -1), 1)
                eps = sum(share * eps for share, eps in zip(shares, past, strict=True))
                x0 = denoised(x, eps, now)
            x = transfer(x, x0, now, nxt)
            yield x
