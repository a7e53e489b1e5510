"""How strongly a prompt counts, and the contract of guidance: what makes one clean latent of the
model's with the prompt and without.

A guidance is a frozen dataclass of settings, called as ``guidance(seen, scale, memory)``. The usual
one, whole::

    @dataclass(frozen=True)
    class CFG:
        '''Ho & Salimans 2022, equation 6.'''

        def __call__(self, seen, scale, memory):
            return seen.unconditional + scale * (seen.conditional - seen.unconditional)

The clauses, which the conformance kit (`keras_sd.testing`) cites by number:

1. **seen** is `Seen`: clean latents, and what they were predicted of. **scale** is the run's, a
   Python float. Where the prompt makes no difference, neither does the scale.
2. **The result** is the clean latent that the sampler is given: shaped like those that are seen, of
   the same dtype.
3. **A picture knows nothing of its batch.** Rows are pictures; ``seen.dot(a, b)`` is the one thing
   that goes over all numbers of a row.
4. **What is remembered from one evaluation to the next lies in memory**, a dict of the run, empty
   at first: never in the guidance itself, since runs interleave.
5. **Plain arithmetic only** (``+ - * / ** abs``, Python numbers) beside ``seen.dot``, out of place,
   so that NumPy, torch, jax and TensorFlow arrays all work. Branch on levels, never on tensors.
6. **Settings** are checked in ``__post_init__`` and show in the repr.

A guidance may declare, as class attributes:

* ``needs`` (default none): ``("perturbed",)`` asks for one more prediction, ``seen.perturbed``;
* ``scales`` (default all): the lowest and the highest scale it is made for; a run with another says
  so in a log line;
* ``default_scale`` (default None): the scale where none is asked for; None is the model's;
* ``unconditional_noise`` (default False): it is for samplers that declare the same, as CFG++'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import Any, Protocol, runtime_checkable

from keras_sd.checks import SettingError, real
from keras_sd.noise import Level
from keras_sd.sampler import label

__all__ = [
    "NEEDS",
    "Guidance",
    "Guide",
    "Seen",
    "check_interval",
    "check_rescale",
    "check_scale",
    "embedded",
]

NEEDS = ("perturbed",)
"""What a guidance can ask for beside both halves."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What a guidance sees of one evaluation. All arrays are `(pictures, ...)`.

    Attributes:
        conditional: The clean latent with the prompt.
        unconditional: Likewise with the negative prompt.
        x: The noisy latent that both were predicted of.
        level: Its noise level. With it a clean latent x0 is the noise ``(x - alpha * x0) / sigma``.
        dot: ``dot(a, b)`` is the sum of the products of two arrays' numbers, one a picture, shaped
            so that it multiplies them: `(pictures, 1, ...)`.
        perturbed: The clean latent with the prompt of a UNet whose middle attends to nothing, where
            the guidance asks for it.
    """

    conditional: Any
    unconditional: Any
    x: Any
    level: Level
    dot: Callable[[Any, Any], Any]
    perturbed: Any = None


@runtime_checkable
class Guide(Protocol):
    """A callable that makes one clean latent of two; see this module for the contract."""

    def __call__(self, seen: Seen, scale: float, memory: dict[str, Any]) -> Any:
        """The guided clean latent.

        Args:
            seen: What the model said.
            scale: How strongly the prompt counts.
            memory: Of the run, for what is remembered.
        """
        ...


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
        guide: what makes one of both; None is the formula above, which is compiled with the model.
        until: the cosine of both predictions from which on there is no guidance, see
            `keras_sd.adaptive.Adaptive`. None is never.

    Raises:
        ValueError: one of them is out of its range, or `rescale` is asked for with a `guide` or
            with `until`.
    """

    scale: float
    rescale: float = 0.0
    interval: tuple[float, float] | None = None
    guide: Guide | None = None
    until: float | None = None

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            "scale": check_scale("guidance_scale", self.scale),
            "rescale": check_rescale("guidance_rescale", self.rescale),
        }
        if self.interval is not None:
            checked["interval"] = check_interval("guidance_interval", self.interval)
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if self.guide is not None and self.rescale:
            raise SettingError(
                "guidance_rescale", "is for the guidance 'cfg' alone: leave one of both out"
            )
        if self.until is not None and self.rescale:
            raise SettingError(
                "guidance_rescale", "does not go with adaptive_guidance: leave one of both out"
            )

    def includes(self, level: Level) -> bool:
        """Whether this level is in the interval."""
        if self.interval is None:
            return True
        low, high = self.interval
        return low <= level.ratio <= high

    def guides(self, level: Level) -> bool:
        """Whether this level's prediction is guided."""
        return (self.scale != 1 or self.guide is not None) and self.includes(level)

    def unusual(self) -> str | None:
        """Why the guide was not made for the scale, in one sentence for a log line; None where it
        was.
        """
        scales = getattr(self.guide, "scales", None)
        if scales is None or scales[0] <= self.scale <= scales[1]:
            return None
        return (
            f"The guidance {label(self.guide)} is made for scales from {scales[0]:g} to "
            f"{scales[1]:g}, and guidance_scale is {self.scale:g}."
        )


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
