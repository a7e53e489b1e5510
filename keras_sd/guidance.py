"""How strongly a prompt counts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import Any

from keras_sd.checks import SettingError, real
from keras_sd.noise import Level

__all__ = ["Guidance", "check_interval", "check_rescale", "check_scale", "embedded"]


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
        checked: dict[str, Any] = {
            "scale": check_scale("guidance_scale", self.scale),
            "rescale": check_rescale("guidance_rescale", self.rescale),
        }
        if self.interval is not None:
            checked["interval"] = check_interval("guidance_interval", self.interval)
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def guides(self, level: Level) -> bool:
        """Whether this level's prediction is guided."""
        if self.interval is None:
            return self.scale != 1
        low, high = self.interval
        return self.scale != 1 and low <= level.ratio <= high


def embedded(scale: float, width: int) -> tuple[float, ...]:
    """A scale as a UNet is told it that needs no second evaluation: sinusoids of the scale less 1,
    in thousandths, sines first (Luo et al. 2023, "Latent Consistency Models", section 4.2).

    Args:
        scale: as for `Guidance`.
        width: features, even.
    """
    half = width // 2
    step = math.log(10000.0) / max(half - 1, 1)
    angles = [1000.0 * (scale - 1.0) * math.exp(-step * i) for i in range(half)]
    return *map(math.sin, angles), *map(math.cos, angles)


# The networks compute in float32, whose largest number is 3e38.
check_scale = partial(real, least=-1e6, most=1e6, what="finite number")
check_rescale = partial(real, least=0, most=1)


def check_interval(name: str, value: Any) -> tuple[float, float]:
    """The lowest and the highest `sigma / alpha` with guidance; the highest may be infinite.

    Raises:
        SettingError: it is no such pair.
    """
    try:
        low, high = value
        infinite = isinstance(high, Real) and high == math.inf
        ends = real(name, low, 0), math.inf if infinite else real(name, high, 0)
    except (TypeError, ValueError):
        ends = (1.0, 0.0)
    if not ends[0] < ends[1]:
        raise SettingError(
            name,
            "is the lowest and the highest sigma / alpha with guidance, as (0.2, 5.0), not "
            f"{value!r}",
        )
    return ends
