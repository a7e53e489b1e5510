"""Linear multistep: Adams-Bashforth with the exact weights of unequal steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from keras_sd.noise import Levels, denoised, epsilon, transfer
from keras_sd.sampler import Array, Denoise, Noise
from keras_sd_samplers._polynomial import adams


@dataclass(frozen=True)
class LMS:
    """Linear multistep in sigma / alpha: the noise estimates of the last steps are continued by a
    polynomial (Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, III.1; for
    diffusion first in k-diffusion). One evaluation a step.

    The first steps are of lower order, which holds the order of a whole run at 2.

    Args:
        solver_order: The number of estimates, 1 to 4.

    Raises:
        ValueError: `solver_order` is something else.
    """

    clean_end: ClassVar[bool] = False
    """Whether a step to sigma 0 takes the model's clean latent."""

    solver_order: int = 4

    def __post_init__(self) -> None:
        if self.solver_order not in (1, 2, 3, 4):
            raise ValueError(f"solver_order must be 1, 2, 3 or 4, got {self.solver_order!r}.")

    @property
    def order(self) -> int:
        return min(self.solver_order, 2)

    def __call__(self, denoise: Denoise, x: Array, levels: Levels, noise: Noise) -> Iterator[Array]:
        past: list[tuple[float, Array]] = []
        for now, nxt in pairwise(levels):
            x0 = denoise(x, now)
            if now.alpha:
                past = [(now.ratio, epsilon(x, x0, now)), *past[: self.solver_order - 1]]
                if nxt.sigma or not self.clean_end:
                    shares = adams([ratio for ratio, _ in past], nxt.ratio)
                    eps = sum(share * eps for share, (_, eps) in zip(shares, past, strict=True))
                    x0 = denoised(x, eps, now)
            x = transfer(x, x0, now, nxt)
            yield x
