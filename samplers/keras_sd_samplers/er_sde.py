"""ER-SDE-Solver: the reverse diffusion with a noise that falls faster than the levels do."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

from keras_sd.noise import Level, Levels, transfer
from keras_sd.sampler import Array, Denoise, Noise

_PIECES = 64  # of the integrals, which then have 10 digits


@dataclass(frozen=True)
class ERSDE:
    """Extended reverse-time SDE solver (Cui et al. 2023, "Elucidating the Solution Space of
    Extended Reverse-Time SDE for Diffusion Models", arXiv 2309.06169, algorithms 1 to 3), with the
    paper's noise scale ``l * (exp(l ** 0.3) + 10)`` of ``l = sigma / alpha``. The clean latent is
    continued by its first and second change. One evaluation a step.

    Args:
        solver_order: The values that a step looks at, 1 to 3.
        s_noise: Weight of the fresh noise; other than 1 it leaves the right spread on purpose.

    Raises:
        ValueError: `solver_order` is something else, or `s_noise` negative.
    """

    stochastic: ClassVar[bool] = True
    brownian: ClassVar[bool] = True

    solver_order: int = 3
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        if self.solver_order not in (1, 2, 3):
            raise ValueError(f"solver_order must be 1, 2 or 3, got {self.solver_order!r}.")
        if not 0 <= self.s_noise < math.inf:
            raise ValueError(f"s_noise must be a finite number from 0 up, got {self.s_noise!r}.")

    @property
    def order(self) -> int:
        return min(self.solver_order, 2)

    def __call__(self, denoise: Denoise, x: Array, levels: Levels, noise: Noise) -> Iterator[Array]:
        # sigma / alpha, x0, and its slope, where there is alpha; the newest first.
        past: list[tuple[float, Array, Array]] = []
        for now, nxt in pairwise(levels):
            x0 = ahead = denoise(x, now)
            kept = self._kept(now, nxt)
            if now.alpha:
                slope: Array = None
                if past:
                    slope = (x0 - past[0][1]) / (now.ratio - past[0][0])
                past = [(now.ratio, x0, slope), *past[:2]]
                if nxt.sigma:
                    # `transfer` takes it times alpha * (1 - kept).
                    ahead = x0 + self._change(past, nxt) / (1 - kept)
            left = nxt.alpha * kept * now.ratio if kept else 0.0
            x = transfer(x, ahead, now, replace(nxt, sigma=left))
            if nxt.sigma:
                fresh = math.sqrt(nxt.sigma**2 - left**2)
                x = x + self.s_noise * fresh * noise(now, nxt)
            yield x

    def _kept(self, now: Level, nxt: Level) -> float:
        """What of a latent over alpha is kept by a step."""
        return _scale(nxt.ratio) / _scale(now.ratio) if now.alpha else 0.0

    def _change(self, past: list[tuple[float, Array, Array]], nxt: Level) -> Array:
        """What the slope of the clean latent, and the slope's own, add over alpha (the paper's
        equations 20 and 21).
        """
        here, _, slope = past[0]
        if slope is None or self.solver_order == 1:
            return 0.0
        step, end = nxt.ratio - here, nxt.ratio
        change = (step + _scale(end) * _integral(lambda ratio: 1.0, end, here)) * slope
        if self.solver_order == 3 and len(past) > 2:
            bend = (slope - past[1][2]) / ((here - past[2][0]) / 2)
            weight = step**2 / 2 + _scale(end) * _integral(lambda ratio: ratio - here, end, here)
            change = change + weight * bend
        return change


def _scale(ratio: float) -> float:
    """The noise scale of the paper; of no infinite latent it is infinite too."""
    return ratio * _growth(ratio)


def _growth(ratio: float) -> float:
    return math.exp(min(ratio**0.3, 700.0)) + 10.0


def _integral(of: Callable[[float], float], low: float, high: float) -> float:
    """Of a function over the noise scale, in the logarithm of ``sigma / alpha`` (Simpson)."""
    start, width = math.log(low), math.log(high / low) / _PIECES
    total = 0.0
    for index in range(_PIECES + 1):
        ratio = math.exp(start + index * width)
        share = 1 if index in (0, _PIECES) else 2 + 2 * (index % 2)
        total += share * of(ratio) / _growth(ratio)
    return total * width / 3
