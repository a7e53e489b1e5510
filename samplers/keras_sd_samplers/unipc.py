"""UniPC: a predictor, and a corrector that needs no evaluation of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from keras_sd.noise import Level, Levels, transfer
from keras_sd.sampler import Array, Denoise, Noise
from keras_sd_samplers._polynomial import weights


@dataclass(frozen=True)
class UniPC:
    """UniPC on the clean latent (Zhao et al. 2023). One evaluation a step: the one at its end
    corrects that step and begins the next.

    The first steps are of lower order, which holds the order of a whole run at 2.

    Args:
        solver_order: Of the predictor, 1 to 3; the corrector's is one more. 2 suits guidance.
        variant: ``"bh1"`` or ``"bh2"``, the paper's two functions B(h).

    Raises:
        ValueError: `solver_order` or `variant` is something else.
    """

    order: ClassVar[int] = 2

    solver_order: int = 2
    variant: str = "bh2"

    def __post_init__(self) -> None:
        if self.solver_order not in (1, 2, 3):
            raise ValueError(f"solver_order must be 1, 2 or 3, got {self.solver_order!r}.")
        if self.variant not in ("bh1", "bh2"):
            raise ValueError(f"variant must be 'bh1' or 'bh2', got {self.variant!r}.")

    def __call__(self, denoise: Denoise, x: Array, levels: Levels, noise: Noise) -> Iterator[Array]:
        past: list[tuple[Level, Array]] = []  # where there is alpha, the newest first
        used: list[tuple[Level, Array]] = []  # those that the last predictor used
        start = x
        for index, (now, nxt) in enumerate(pairwise(levels)):
            x0 = denoise(x, now)
            if used:
                x = transfer(start, self._ahead(used, now, x0), used[0][0], now)
            if now.alpha:
                past = [(now, x0), *past[: self.solver_order - 1]]
            # Fewer at the end, where nothing is left to correct the steps.
            used = past[: len(levels) - 1 - index]
            start = x
            x = transfer(x, self._ahead(used, nxt) if len(used) > 1 else x0, now, nxt)
            yield x

    def _ahead(self, past: list[tuple[Level, Array]], end: Level, newest: Array = None) -> Array:
        """The clean latent to believe from the newest of `past` to `end`, where it is `newest` if
        that is known.
        """
        (now, x0), *earlier = past
        h = math.log(now.ratio / end.ratio)
        nodes = [math.log(now.ratio / level.ratio) / h for level, _ in earlier]
        changes = [(other - x0) / node for node, (_, other) in zip(nodes, earlier, strict=True)]
        if newest is not None:
            nodes, changes = [*nodes, 1.0], [*changes, newest - x0]
        gain = -math.expm1(-h)
        scale = h if self.variant == "bh1" else gain
        if len(nodes) == 1:
            shares = [0.5]  # as good for this order, says the paper
        else:
            moments, phi, factorial = [], 1 - gain / h, 1.0
            for k in range(1, len(nodes) + 1):
                moments.append(phi * factorial / scale)
                factorial *= k + 1
                phi = 1 / factorial - phi / h
            shares = weights(nodes, moments)
        change = sum(share * change for share, change in zip(shares, changes, strict=True))
        return x0 + scale / gain * change
