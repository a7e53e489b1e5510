"""How strongly a prompt counts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

from keras_sd.noise import Level

__all__ = ["Guidance"]


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance: how a run's two predictions, with the prompt and without, are one.

    Args:
        scale: w of Ho & Salimans 2022 as Stable Diffusion counts it, `unconditional + w *
            (conditional - unconditional)`. 1 is no guidance, and then the unconditional half is
            not computed.
        rescale: phi of Lin et al. 2023 (equations 15 and 16), from 0 to 1: how far a guided
            prediction is brought back to the spread that the conditional one has. Against colours
            that are too strong; 0.7 in the paper.
        interval: the lowest and the highest `sigma / alpha` with guidance (Kynkaanniemi et al.
            2024); at other levels there is none, and a step costs half. None is all levels.

    Raises:
        ValueError: one of them is out of its range.
    """

    scale: float
    rescale: float = 0.0
    interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not _is_number(self.scale) or not math.isfinite(self.scale):
            raise ValueError(f"A guidance scale is a finite number, not {self.scale!r}")
        if not _is_number(self.rescale) or not 0 <= self.rescale <= 1:
            raise ValueError(f"guidance_rescale is from 0 to 1, not {self.rescale!r}")
        if self.interval is None:
            return
        ends = self.interval
        pair = isinstance(ends, tuple | list) and len(ends) == 2 and all(map(_is_number, ends))
        if not pair or not 0 <= ends[0] < ends[1]:
            raise ValueError(
                "guidance_interval is the lowest and the highest sigma / alpha with guidance, as "
                f"(0.2, 5.0), not {self.interval!r}"
            )

    def guides(self, level: Level) -> bool:
        """Whether this level's prediction is guided."""
        if self.interval is None:
            return self.scale != 1
        low, high = self.interval
        return self.scale != 1 and low <= level.ratio <= high


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
