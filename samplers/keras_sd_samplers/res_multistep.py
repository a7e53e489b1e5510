"""The multistep form of the refined exponential solver."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from keras_sd.noise import Levels, transfer
from keras_sd.sampler import Array, Denoise, Noise


@dataclass(frozen=True)
class RESMultistep:
    """RES of order 2 that looks back one step (Zhang, Song & Chen 2023, arXiv 2308.02157, section
    4): the clean latent is continued along its last change, with weights that hold for long steps
    too. One evaluation a step. It is `dpmpp_2m` with ``solver="heun"``, found another way.
    """

    order: ClassVar[int] = 2

    def __call__(self, denoise: Denoise, x: Array, levels: Levels, noise: Noise) -> Iterator[Array]:
        before, last = levels[0], None
        for now, nxt in pairwise(levels):
            x0 = ahead = denoise(x, now)
            if last is not None and before.alpha and nxt.sigma:
                h = math.log(now.ratio / nxt.ratio)
                phi1 = -math.expm1(-h) / h
                phi2 = (1 - phi1) / h
                back = math.log(now.ratio / before.ratio) / h  # c2 of the paper, below 0
                # b1 + b2 = phi1 is the weight of a clean latent that stays, as `transfer` has it.
                ahead = x0 + phi2 / (back * phi1) * (last - x0)
            x = transfer(x, ahead, now, nxt)
            before, last = now, x0
            yield x
