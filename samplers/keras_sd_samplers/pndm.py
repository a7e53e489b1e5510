"""Pseudo numerical methods for diffusion models, as Stable Diffusion runs them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

from keras_sd.noise import Level, Levels, denoised, epsilon, transfer
from keras_sd.sampler import Array, Denoise, Noise
from keras_sd_samplers._polynomial import adams

Combined = Literal["noise", "v"]


@dataclass(frozen=True)
class PNDM:
    """PNDM's linear multistep method, PLMS (Liu et al. 2022, equations 9 and 12).

    The first interval is walked twice in place of the paper's Runge-Kutta start, once to look and
    once with the mean of both estimates, as Stable Diffusion does: n steps cost n + 1
    evaluations. The weights are those of equal steps, which no schedule has, so the method is of
    order 2, not 4.

    Args:
        combine: What is averaged over the past steps: ``"noise"``, as in the paper, whatever the
            model predicts, or ``"v"`` (Salimans and Ho 2022), for the pictures that diffusers makes
            with models that predict v. That is of order 1: v turns along a step by itself, and an
            average of v's has turned already. Its step to sigma 0 takes the model's clean latent.

    Raises:
        ValueError: `combine` is something else.
    """

    combine: Combined = "noise"

    def __post_init__(self) -> None:
        if self.combine not in get_args(Combined):
            raise ValueError(f"combine must be 'noise' or 'v', got {self.combine!r}.")

    @property
    def order(self) -> int:
        return 2 if self.combine == "noise" else 1

    def __call__(self, denoise: Denoise, x: Array, levels: Levels, noise: Noise) -> Iterator[Array]:
        of_noise = self.combine == "noise"
        estimate, clean = (epsilon, denoised) if of_noise else (velocity, of_velocity)
        history: list[Array] = []
        for now, nxt in pairwise(levels):
            x0 = denoise(x, now)
            # Pure noise holds no estimate of the noise worth remembering: the method starts at the
            # next level. An average of v's does not end at a clean latent.
            if (now.alpha if of_noise else nxt.sigma) == 0:
                x = transfer(x, x0, now, nxt)
                yield x
                continue
            history = [estimate(x, x0, now), *history[:3]]
            if len(history) == 1 and nxt is not levels[-1]:
                ahead = transfer(x, x0, now, nxt)
                mean = (history[0] + estimate(ahead, denoise(ahead, nxt), nxt)) / 2
            else:
                shares = adams(range(0, -len(history), -1), 1)
                mean = sum(share * past for share, past in zip(shares, history, strict=True))
            x = transfer(x, clean(x, mean, now), now, nxt)
            yield x


def velocity(x: Array, x0: Array, level: Level) -> Array:
    """The v of Salimans and Ho 2022, on a path of any length of (alpha, sigma): how the latent over
    that length changes with the angle ``atan2(sigma, alpha)``.
    """
    norm = math.hypot(level.alpha, level.sigma)
    return (level.alpha / norm * x - norm * x0) / level.sigma


def of_velocity(x: Array, v: Array, level: Level) -> Array:
    """The clean latent if the v of a latent is `v`."""
    norm = math.hypot(level.alpha, level.sigma)
    return (level.alpha / norm * x - level.sigma * v) / norm
