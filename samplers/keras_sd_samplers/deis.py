"""Diffusion exponential integrator sampler."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from keras_sd.noise import Levels, denoised, epsilon, transfer
from keras_sd.sampler import Array, Denoise, Noise
from keras_sd_samplers._polynomial import weights


@dataclass(frozen=True)
class DEIS:
    """Multistep on the noise estimate, continued by a polynomial in log(sigma / alpha) (Zhang and
    Chen 2022, their tAB-DEIS with the logarithm for t). One evaluation a step.

    The first steps are of lower order, which holds the order of a whole run at 2.

    Args:
        solver_order: The number of estimates, 1 to 3.

    Raises:
        ValueError: `solver_order` is something else.
    """

    solver_order: int = 3

    def __post_init__(self) -> None:
        if self.solver_order not in (1, 2, 3):
            raise ValueError(f"solver_order must be 1, 2 or 3, got {self.solver_order!r}.")

    @property
    def order(self) -> int:
        return min(self.solver_order, 2)

    def __call__(self, denoise: Denoise, x: Array, levels: Levels, noise: Noise) -> Iterator[Array]:
        past: list[tuple[float, Array]] = []
        for now, nxt in pairwise(levels):
            x0 = denoise(x, now)
            if now.alpha:
                log = math.log(now.ratio)
                past = [(log, epsilon(x, x0, now)), *past[: self.solver_order - 1]]
                if nxt.sigma:  # else its logarithm is without end, and the step is Euler's
                    h = math.log(nxt.ratio) - log
                    # The mean over the ratio of u**k, for u = log(ratio) from 0 to h.
                    moments = [1.0]
                    for k in range(1, len(past)):
                        moments.append(h**k / -math.expm1(-h) - k * moments[-1])
                    shares = weights([node - log for node, _ in past], moments)
                    eps = sum(share * eps for share, (_, eps) in zip(shares, past, strict=True))
                    x0 = denoised(x, eps, now)
            x = transfer(x, x0, now, nxt)
            yield x
