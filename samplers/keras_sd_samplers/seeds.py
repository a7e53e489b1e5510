"""SEEDS: exponential solvers of the reverse diffusion in two and three stages."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from keras_sd.noise import Level, Levels, transfer
from keras_sd.sampler import Array, Denoise, Noise
from keras_sd_samplers._split import Brownian, diffusion


@dataclass(frozen=True)
class SEEDS2(Brownian):
    """SEEDS-2 on the clean latent (Gonzalez et al. 2023, "SEEDS: Exponential SDE Solvers for Fast
    High-Quality Sampling from Diffusion Models", arXiv 2305.14267): a level between is looked at
    along the way, and the noise that took the latent there is kept for the whole step. Two
    evaluations a step, one where it ends at sigma 0.

    Args:
        eta: Share of the reverse diffusion, in [0, 1]; 0 is the ODE and draws nothing.
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
            walk = Walk(x, now, noise, self.eta, self.s_noise)
            if nxt.sigma:
                middle = levels.between(now, nxt, self.r)
                x0 = x0 + (denoise(walk.to(middle, x0), middle) - x0) / (2 * self.r)
            x = walk.to(nxt, x0)
            yield x


@dataclass(frozen=True)
class SEEDS3(Brownian):
    """SEEDS-3 on the clean latent, with the weights of DPM-Solver++(3S) for three stages (Gonzalez
    et al. 2023, as `SEEDS2`). Three evaluations a step, one where it ends at sigma 0 or begins at
    alpha 0.

    Args:
        eta: Share of the reverse diffusion, in [0, 1]; 0 is the ODE and draws nothing.
        s_noise: Weight of the fresh noise.
        r1: Where the first level between lies, in (0, 1) of the way in log(sigma / alpha).
        r2: Where the second does, above `r1`.

    Raises:
        ValueError: `eta` is outside [0, 1], `s_noise` negative, or 0 < r1 < r2 < 1 does not hold.
    """

    order: ClassVar[int] = 2

    r1: float = 1 / 3
    r2: float = 2 / 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.r1 < self.r2 < 1:
            raise ValueError(f"0 < r1 < r2 < 1 must hold, got r1 {self.r1!r} and r2 {self.r2!r}.")

    def __call__(self, denoise: Denoise, x: Array, levels: Levels, noise: Noise) -> Iterator[Array]:
        for now, nxt in pairwise(levels):
            ahead = x0 = denoise(x, now)
            walk = Walk(x, now, noise, self.eta, self.s_noise)
            if now.alpha and nxt.sigma:
                h = (1 + self.eta) * math.log(now.ratio / nxt.ratio)
                first, second = (levels.between(now, nxt, r) for r in (self.r1, self.r2))
                change = denoise(walk.to(first, x0), first) - x0
                there = walk.to(second, x0 + _slope(self.r2 * h) * self.r2 / self.r1 * change)
                ahead = x0 + _slope(h) / self.r2 * (denoise(there, second) - x0)
            x = walk.to(nxt, ahead)
            yield x


def _slope(h: float) -> float:
    """The mean, over a step of this length, of what rises from 0 to 1 in it: phi2 over phi1."""
    return 1 / -math.expm1(-h) - 1 / h


class Walk:
    """A step over levels between, each reached from its beginning, along one path of noise.

    Args:
        x: The latent at the beginning.
        now: Its level.
        noise: The randomness.
        eta: Share of the reverse diffusion.
        s_noise: Weight of the fresh noise.
    """

    def __init__(self, x: Array, now: Level, noise: Noise, eta: float, s_noise: float) -> None:
        self._x, self._now, self._noise = x, now, noise
        self._eta, self._s_noise = eta, s_noise
        self._at = now  # how far the noise has come
        self._drawn: Array = None

    def to(self, nxt: Level, x0: Array) -> Array:
        """The latent at a level below those before, if the clean latent is `x0` all the way."""
        kept, fresh = diffusion(self._at, nxt, self._eta)
        if fresh:
            drawn = fresh * self._noise(self._at, nxt)
            if self._drawn is not None:
                drawn = drawn + kept.sigma / self._at.sigma * self._drawn
            self._at, self._drawn = nxt, drawn
        there = transfer(self._x, x0, self._now, diffusion(self._now, nxt, self._eta)[0])
        return there if not fresh else there + self._s_noise * self._drawn
