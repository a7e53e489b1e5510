"""DPM-Solver with steps as long as its own error allows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from keras_sd.noise import Level, Levels, epsilon, transfer
from keras_sd.sampler import Array, Denoise, Noise
from keras_sd_samplers._dpm import distance, walk

_SHORTEST = 1e-5  # in log(alpha / sigma); float32 latents know no change of less


@dataclass(frozen=True)
class DPMAdaptive:
    """DPM-Solver-12 or -23 (Lu et al. 2022, appendix C), its step length controlled as in
    k-diffusion. How many evaluations it takes is for the error to say. A step does not go past the
    end of an interval, so give few. The error and the length are the whole batch's, so that a
    picture is not quite the one that it is alone.

    Args:
        solver_order: 2 or 3, the evaluations of a try.
        rtol: The error that is allowed, relative to the latent.
        atol: The error that is allowed, absolute.
        h_init: The length of the first try in log(alpha / sigma).
        accept_safety: A try which asks to shrink the next below this share, at most 1, is done
            again.

    Raises:
        ValueError: `solver_order` is something else, or a number is out of its range.
        FloatingPointError: While it runs: the latent is not finite, or no step is short enough.
    """

    reads_tensors: ClassVar[bool] = True

    solver_order: int = 3
    rtol: float = 0.05
    atol: float = 0.0078
    h_init: float = 0.05
    accept_safety: float = 0.81

    def __post_init__(self) -> None:
        if self.solver_order not in (2, 3):
            raise ValueError(f"solver_order must be 2 or 3, got {self.solver_order!r}.")
        for name in ("rtol", "atol", "h_init", "accept_safety"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)!r}.")
        if self.accept_safety > 1:
            raise ValueError(
                f"accept_safety must be at most 1, or no try is good enough; got "
                f"{self.accept_safety!r}."
            )

    @property
    def order(self) -> int:
        return self.solver_order

    def __call__(self, denoise: Denoise, x: Array, levels: Levels, noise: Noise) -> Iterator[Array]:
        h, before = self.h_init, x
        for now, end in pairwise(levels):
            if not (now.alpha and end.sigma):  # no logarithm to measure a step in
                before = x = transfer(x, denoise(x, now), now, end)
                yield x
                continue
            eps: Array = None
            while now is not end:
                left = distance(now, end)
                h = min(h, left)
                nxt = end if h >= left * (1 - 1e-9) else levels.between(now, end, h / left)
                if eps is None:
                    eps = epsilon(x, denoise(x, now), now)
                low, high = self._tries(denoise, x, eps, now, nxt, levels)
                error = self._error(low, high, before, now, nxt)
                factor = 1 + math.atan(error ** (-1 / self.solver_order) - 1)
                if factor >= self.accept_safety:
                    before, x, now, eps = low, high, nxt, None
                elif h < _SHORTEST:
                    raise FloatingPointError(
                        f"No step from {now} is short enough for rtol {self.rtol:g} and atol "
                        f"{self.atol:g}: allow more error."
                    )
                h *= factor
            yield x

    def _tries(
        self, denoise: Denoise, x: Array, eps: Array, now: Level, nxt: Level, levels: Levels
    ) -> tuple[Array, Array]:
        """The latent at `nxt` by the method of an order less, and by the method."""

        def slope(x: Array, level: Level) -> Array:
            return (epsilon(x, denoise(x, level), level) - eps) / distance(now, level)

        third = self.solver_order == 3
        middle = levels.between(now, nxt, 1 / 3 if third else 1 / 2)
        change = slope(walk(x, eps, now, middle), middle)
        second = walk(x, eps + change * distance(now, nxt) / 2, now, nxt)
        if not third:
            return walk(x, eps, now, nxt), second
        later = levels.between(now, nxt, 2 / 3)
        change = slope(walk(x, eps, now, later, change), later)
        return second, walk(x, eps, now, nxt, change)

    def _error(self, low: Array, high: Array, before: Array, now: Level, nxt: Level) -> float:
        """How two tries differ, in units of what is allowed, over all numbers of all images. Read
        as a number: the one place where a tensor decides.
        """
        # Of latents over alpha, whose clean part is of the same size at every level.
        low, high, before = (
            _numbers(x) / level.alpha for x, level in ((low, nxt), (high, nxt), (before, now))
        )
        allowed = np.maximum(self.atol, self.rtol * np.maximum(abs(low), abs(before)))
        error = float(np.sqrt(np.mean(((low - high) / allowed) ** 2)))
        if not math.isfinite(error):
            raise FloatingPointError(
                f"The latent is not finite at {nxt}, so that no step is short enough."
            )
        return error + 1e-8  # never 0


def _numbers(x: Array) -> Any:
    # torch gives NumPy no tensor of a GPU unless it is told to.
    return np.asarray(x.cpu() if hasattr(x, "cpu") else x, np.float64)
