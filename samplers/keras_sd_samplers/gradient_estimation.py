"""Gradient estimation: DDIM along a noise estimate that is corrected by its last change."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from keras_sd.noise import Levels, denoised, epsilon, transfer
from keras_sd.sampler import Array, Denoise, Noise


@dataclass(frozen=True)
class GradientEstimation:
    """The second-order sampler of Permenter & Yuan 2023 ("Interpreting and Improving Diffusion
    Models from an Optimization Perspective", algorithm 2): the noise is ``gamma`` times the new
    estimate, less ``gamma - 1`` times the last one. One evaluation a step.

    Its weights do not follow the lengths of the steps, so that its order is 1. A step to sigma 0
    takes the model's clean latent.

    Args:
        gamma: 1 is DDIM; 2 in the paper.

    Raises:
        ValueError: `gamma` is below 1 or not finite.
    """

    gamma: float = 2.0

    def __post_init__(self) -> None:
        if not 1 <= self.gamma < math.inf:
            raise ValueError(f"gamma must be a finite number from 1 up, got {self.gamma!r}.")

    def __call__(self, denoise: Denoise, x: Array, levels: Levels, noise: Noise) -> Iterator[Array]:
        last: Array = None
        for now, nxt in pairwise(levels):
            x0 = denoise(x, now)
            if now.alpha:
                eps = epsilon(x, x0, now)
                if last is not None and nxt.sigma:
                    x0 = denoised(x, self.gamma * eps + (1 - self.gamma) * last, now)
                last = eps
            x = transfer(x, x0, now, nxt)
            yield x
