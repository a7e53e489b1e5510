"""Pseudo numerical methods for diffusion models, as Stable Diffusion runs them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from keras_sd.noise import Levels, denoised, epsilon, transfer
from keras_sd.sampler import Array, Denoise, Noise
from keras_sd_samplers._polynomial import adams


@dataclass(frozen=True)
class PNDM:
    """PNDM's linear multistep method, PLMS (Liu et al. 2022, equations 9 and 12).

    The first interval is walked twice in place of the paper's Runge-Kutta start, once to look and
    once with the mean of both noise estimates, as Stable Diffusion does: n steps cost n + 1
    evaluations. The weights are those of equal steps, which no schedule has, so the method is of
    order 2, not 4.
    """

    order: ClassVar[int] = 2

    def __call__(self, denoise: Denoise, x: Array, levels: Levels, noise: Noise) -> Iterator[Array]:
        history: list[Array] = []
        for now, nxt in pairwise(levels):
            x0 = denoise(x, now)
            if now.alpha == 0:
                # Pure noise holds no estimate worth remembering: the method starts at the next
                # level.
                x = transfer(x, x0, now, nxt)
                yield x
                continue
            history = [epsilon(x, x0, now), *history[:3]]
            if len(history) == 1 and nxt is not levels[-1]:
                ahead = transfer(x, x0, now, nxt)
                eps = (history[0] + epsilon(ahead, denoise(ahead, nxt), nxt)) / 2
            else:
                shares = adams(range(0, -len(history), -1), 1)
                eps = sum(share * past for share, past in zip(shares, history, strict=True))
            x = transfer(x, denoised(x, eps, now), now, nxt)
            yield x
