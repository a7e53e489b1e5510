"""Noise levels: the one coordinate system that models, schedules and samplers share.

A latent is ``x = alpha * x0 + sigma * n`` with ``n`` standard normal. Variance-preserving models
(Stable Diffusion), Karras-style models (``alpha = 1``) and flow matching (``alpha = 1 - sigma``)
are all curves in the plane (alpha, sigma), so a sampler written for a `Level` serves every one of
them.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, Protocol, Self, SupportsIndex, TypeVar, overload, runtime_checkable

__all__ = [
    "CLEAN",
    "FinalSigma",
    "FlowPath",
    "Level",
    "Levels",
    "NoisePath",
    "NoiseTable",
    "Size",
    "denoised",
    "epsilon",
    "for_run",
    "transfer",
]

FinalSigma = Literal["zero", "first"]
"""Where a run ends: at the clean latent, or at the first training level."""

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class Level:
    """One noise level, in Python floats.

    Args:
        t: What the model is told: a training timestep, fractional where the schedule says so.
        alpha: Weight of the clean latent, >= 0. 0 is pure noise (zero terminal SNR).
        sigma: Weight of the noise, >= 0. 0 is the clean latent.
    """

    t: float
    alpha: float
    sigma: float

    @property
    def ratio(self) -> float:
        """``sigma / alpha``, infinite at alpha = 0: the "sigma" of Karras et al. 2022."""
        return self.sigma / self.alpha if self.alpha else math.inf


CLEAN = Level(0.0, 1.0, 0.0)
"""Where no noise is left: sigma 0."""

Path = Callable[[float], Level]


class Levels(tuple[Level, ...]):
    """The noise levels of one run: a tuple of `Level`, noise strictly falling.

    A slice is `Levels` again, so that image-to-image can run a suffix of a run.

    Args:
        levels: The levels, noisiest first. Only the last may have sigma 0, only the first alpha 0.
        path: Maps a finite ratio sigma / alpha to the `Level` the model knows there. Needed by
            `between` and `at_timestep`.

    Raises:
        ValueError: A level is not finite, or the noise does not fall from one to the next.
    """

    path: Path | None

    def __new__(cls, levels: Iterable[Level] = (), path: Path | None = None) -> Levels:
        self = super().__new__(cls, levels)
        self.path = path
        for level in self:
            finite = all(math.isfinite(v) for v in (level.t, level.alpha, level.sigma))
            if not finite or min(level.alpha, level.sigma) < 0 or level.alpha == level.sigma == 0:
                raise ValueError(
                    f"{level} is no noise level: t, alpha and sigma must be finite, alpha and "
                    "sigma not negative and not both 0."
                )
        for index, (now, nxt) in enumerate(pairwise(self)):
            # now.ratio > nxt.ratio without a division, so that alpha = 0 is an ordinary case.
            if not now.sigma * nxt.alpha > nxt.sigma * now.alpha:
                raise ValueError(
                    f"The noise must fall from level to level, but level {index} is {now} and "
                    f"level {index + 1} is {nxt}."
                )
        return self

    @overload
    def __getitem__(self, key: SupportsIndex) -> Level: ...
    @overload
    def __getitem__(self, key: slice) -> Levels: ...
    def __getitem__(self, key: SupportsIndex | slice) -> Level | Levels:
        if not isinstance(key, slice):
            return super().__getitem__(key)
        part = super().__new__(type(self), super().__getitem__(key))  # falling already
        part.path = self.path
        return part

    def between(self, now: Level, nxt: Level, fraction: float) -> Level:
        """The level a fraction of the way from one level to the next, for methods that look
        between.

        The way is measured in ``log(sigma / alpha)``, half the negative log-SNR, as DPM-Solver
        (Lu et al. 2022) does. Where one end has none (sigma 0 or alpha 0) it is measured in the
        angle ``atan2(sigma, alpha)``, which every level has.

        Args:
            now: The noisier level.
            nxt: The less noisy level.
            fraction: 0 gives `now`, 1 gives `nxt`.

        Returns:
            A `Level` on the path of the model.

        Raises:
            ValueError: `fraction` is outside [0, 1], or these levels were made without a path.
        """
        if not 0 <= fraction <= 1:
            raise ValueError(f"fraction must lie in [0, 1], got {fraction}.")
        if fraction in (0, 1):
            return nxt if fraction else now
        path = self._known_path()
        if now.alpha and nxt.sigma:
            start, end = math.log(now.ratio), math.log(nxt.ratio)
            return path(math.exp(start + fraction * (end - start)))
        start, end = math.atan2(now.sigma, now.alpha), math.atan2(nxt.sigma, nxt.alpha)
        return path(math.tan(start + fraction * (end - start)))

    def at_timestep(self, t: float) -> Level:
        """The level of a timestep, on the path of the model: the noisiest from the first of these
        down whose timestep is not above `t`.

        Args:
            t: What the model would be told, at most that of the first level.

        Returns:
            A `Level` whose ``t`` is `t`, or as little less as the path has.

        Raises:
            ValueError: `t` is above the first level's or below all of the path's, or these levels
                were made without a path.
        """
        path = self._known_path()
        # t rises with the noise: halve the angle until floats end.
        low, high = 0.0, math.atan2(self[0].sigma, self[0].alpha)
        for _ in range(64):
            middle = (low + high) / 2
            low, high = (middle, high) if path(math.tan(middle)).t <= t else (low, middle)
        found = self[0] if t == self[0].t else path(math.tan(low))
        if not found.t <= t <= self[0].t:
            raise ValueError(
                f"Timestep {t} is outside the path from {self[0]} down to {path(0.0)}."
            )
        return found

    def _known_path(self) -> Path:
        if self.path is None:
            raise ValueError(
                "These levels do not say what lies between them: make them with Levels(levels, "
                "path=...)."
            )
        return self.path


def transfer(x: Any, x0: Any, now: Level, nxt: Level) -> Any:
    """Move a latent to the next level, believing a clean latent.

    The noise in `x` is kept and only its weight changes: DDIM with eta = 0 (Song et al. 2021,
    equation 12), Euler's step and first-order DPM-Solver++ are all this formula. It has no
    logarithm and no division by alpha, so it holds at ``nxt.sigma == 0`` and at ``now.alpha == 0``.

    Args:
        x: The latent at `now`, of any array type and shape.
        x0: The clean latent to believe, shaped like `x`.
        now: The level of `x`; its sigma must not be 0.
        nxt: The level to go to.

    Returns:
        The latent at `nxt`, shaped like `x`.
    """
    r = nxt.sigma / now.sigma
    return r * x + (nxt.alpha - r * now.alpha) * x0


def epsilon(x: Any, x0: Any, level: Level) -> Any:
    """The noise in a latent if its clean latent is `x0`: ``(x - alpha * x0) / sigma``."""
    return (x - level.alpha * x0) / level.sigma


def denoised(x: Any, eps: Any, level: Level) -> Any:
    """The clean latent if the noise in `x` is `eps`: ``(x - sigma * eps) / alpha``."""
    return (x - level.sigma * eps) / level.alpha


@runtime_checkable
class NoisePath(Protocol):
    """What a schedule is given: a model's training noise, where a run ends, its pictures' size.

    `NoiseTable` and `FlowPath` are paths. Another is a frozen dataclass with these names, of which
    `end` and `size` are fields with the defaults CLEAN and None.
    """

    @property
    def noisiest(self) -> Level:
        """The noisiest level; its alpha may be 0. A whole run begins here."""
        ...

    @property
    def first(self) -> Level:
        """The least noisy level that the model was trained on."""
        ...

    @property
    def end(self) -> Level:
        """Where the last step ends: CLEAN, or `first`."""
        ...

    @property
    def size(self) -> Size | None:
        """Height and width of the pictures (not latents) in pixels; None where nobody said."""
        ...

    def __len__(self) -> int:
        """The number of training timesteps, one apart, from that of `first` to that of `noisiest`:
        the most steps that a run can have.
        """
        ...

    def level(self, t: float) -> Level:
        """The level of a timestep, whole or fractional, a ValueError outside the path."""
        ...

    def at_ratio(self, ratio: float) -> Level:
        """The level with this ``sigma / alpha``, of the timestep that the model knows there."""
        ...

    def lowest(self, strength: float) -> Self:
        """The part of the path with the lowest `strength` of its timesteps, for a run that begins
        at a picture; `strength` is in (0, 1].
        """
        ...


_Path = TypeVar("_Path", bound=NoisePath)


def for_run(
    path: _Path, *, final_sigma: FinalSigma | None = None, size: Size | None = None
) -> _Path:
    """A path as a run of a size has it.

    Args:
        path: A `NoisePath`.
        final_sigma: ``"zero"`` ends at the clean latent, ``"first"`` at the first training level,
            None where the path ends already.
        size: Height and width of the pictures in pixels, None is the path's own.

    Returns:
        A path of the same noise.

    Raises:
        ValueError: `final_sigma` is something else.
    """
    if final_sigma not in (None, "zero", "first"):
        raise ValueError(f"final_sigma must be 'zero' or 'first', got {final_sigma!r}.")
    end = {None: path.end, "zero": CLEAN, "first": path.first}[final_sigma]
    return replace(path, end=end, size=size or path.size)  # type: ignore[type-var]


@dataclass(frozen=True)
class NoiseTable:
    """The noise a model was trained with: ``abar[t]`` for every training timestep, as in DDPM. A
    `NoisePath`.

    Args:
        alphas_cumprod: ``abar[t]``, the squared alpha of timestep t, strictly falling inside [0,
            1). The last may be 0 (zero terminal SNR).
        end: Where the last step of a run ends, see `NoisePath`.
        size: Of a run's pictures, see `NoisePath`.

    Raises:
        ValueError: The values do not fall, or leave [0, 1).
    """

    alphas_cumprod: tuple[float, ...]
    end: Level = CLEAN
    size: Size | None = None

    def __post_init__(self) -> None:
        table = tuple(float(a) for a in self.alphas_cumprod)
        object.__setattr__(self, "alphas_cumprod", table)
        falling = all(a > b for a, b in pairwise(table))
        if len(table) < 2 or not falling or table[-1] < 0 or table[0] >= 1:
            raise ValueError(
                "alphas_cumprod must be at least two values that fall strictly inside [0, 1), "
                f"got {len(table)} from {table[:1]} to {table[-1:]}."
            )

    @classmethod
    def from_betas(cls, betas: Iterable[float]) -> NoiseTable:
        """The table of betas (Ho et al. 2020): ``abar[t]`` is the product of ``1 - beta``."""
        product, table = 1.0, []
        for beta in betas:
            product *= 1.0 - float(beta)
            table.append(product)
        return cls(tuple(table))

    @classmethod
    def linear(
        cls, beta_start: float = 1e-4, beta_end: float = 0.02, num_train_timesteps: int = 1000
    ) -> NoiseTable:
        """Betas in equal steps (Ho et al. 2020)."""
        return cls.from_betas(_linspace(beta_start, beta_end, num_train_timesteps))

    @classmethod
    def scaled_linear(
        cls, beta_start: float = 0.00085, beta_end: float = 0.012, num_train_timesteps: int = 1000
    ) -> NoiseTable:
        """Square roots of the betas in equal steps, as Stable Diffusion was trained."""
        roots = _linspace(math.sqrt(beta_start), math.sqrt(beta_end), num_train_timesteps)
        return cls.from_betas(root**2 for root in roots)

    def zero_terminal_snr(self) -> NoiseTable:
        """This table stretched to end in pure noise (Lin et al. 2023, algorithm 1): the square
        roots of ``abar`` are shifted to 0 at the last timestep and scaled to stay what they are
        at the first.
        """
        roots = [math.sqrt(abar) for abar in self.alphas_cumprod]
        first, last = roots[0], roots[-1]
        return NoiseTable(tuple(((r - last) * first / (first - last)) ** 2 for r in roots))

    def __len__(self) -> int:
        return len(self.alphas_cumprod)

    @property
    def noisiest(self) -> Level:
        """The level of the last timestep."""
        return self.level(len(self) - 1)

    @property
    def first(self) -> Level:
        """The level of timestep 0."""
        return self.level(0)

    def lowest(self, strength: float) -> NoiseTable:
        """The table of the lowest `strength` of the timesteps, at least two of them."""
        kept = max(2, round(strength * len(self)))
        return replace(self, alphas_cumprod=self.alphas_cumprod[:kept])

    @cached_property
    def betas(self) -> tuple[float, ...]:
        """``beta[t] = 1 - abar[t] / abar[t - 1]``."""
        before = (1.0, *self.alphas_cumprod)
        return tuple(1.0 - a / b for a, b in zip(self.alphas_cumprod, before, strict=False))

    @cached_property
    def ratios(self) -> tuple[float, ...]:
        """``sigma / alpha`` of every timestep, rising; infinite last at zero terminal SNR."""
        return tuple(math.sqrt((1 - a) / a) if a else math.inf for a in self.alphas_cumprod)

    def level(self, t: float) -> Level:
        """The level of a timestep.

        Args:
            t: In [0, len(table) - 1]. Between two integers ``sigma / alpha`` is interpolated
                linearly, as diffusers' Euler does (``alpha / sigma`` next to a zero terminal SNR).

        Returns:
            A variance-preserving `Level`: ``alpha**2 + sigma**2 == 1``.

        Raises:
            ValueError: `t` is outside the table.
        """
        if not 0 <= t <= len(self) - 1:
            raise ValueError(
                f"Timestep {t} is outside the noise table, which has 0 to {len(self) - 1}."
            )
        low = math.floor(t)
        if low == t:
            abar = self.alphas_cumprod[low]
            return Level(float(t), math.sqrt(abar), math.sqrt(1 - abar))
        below, above = self.ratios[low], self.ratios[low + 1]
        w = t - low
        ratio = below / (1 - w) if math.isinf(above) else (1 - w) * below + w * above
        return _variance_preserving(t, ratio)

    def timestep(self, ratio: float) -> float:
        """The fractional timestep at which ``sigma / alpha`` is `ratio`, clipped to the table.

        Interpolated in the logarithm, as k-diffusion and diffusers do for Karras levels; the model
        reads the result, so its convention is kept although `level` interpolates without one.
        """
        if ratio <= self.ratios[0]:
            return 0.0
        if ratio >= self.ratios[-1]:
            return float(len(self) - 1)
        high = bisect.bisect_right(self.ratios, ratio)
        below, above = self.ratios[high - 1], self.ratios[high]
        if math.isinf(above):
            return high - below / ratio
        return high - 1 + math.log(ratio / below) / math.log(above / below)

    def at_ratio(self, ratio: float) -> Level:
        """The level with this ``sigma / alpha`` exactly, its timestep by `timestep`."""
        return _variance_preserving(self.timestep(ratio), ratio)


@dataclass(frozen=True)
class FlowPath:
    """The noise of flow matching and rectified flow: ``alpha = 1 - sigma``, the timestep
    `num_train_timesteps` times sigma (Liu et al. 2022; Esser et al. 2024). A `NoisePath`.

    Args:
        num_train_timesteps: The timestep of pure noise.
        top: The noisiest timestep of this run, 1 up to `num_train_timesteps`; None is that one.
        end: Where the last step of a run ends, see `NoisePath`.
        size: Of a run's pictures, see `NoisePath`.

    Raises:
        ValueError: There is no noise, or `top` is not on the path.
    """

    num_train_timesteps: int = 1000
    top: int | None = None
    end: Level = CLEAN
    size: Size | None = None

    def __post_init__(self) -> None:
        if not 2 <= len(self) <= self.num_train_timesteps:
            raise ValueError(
                "A path needs at least two timesteps, and its top is one of them, got "
                f"num_train_timesteps {self.num_train_timesteps} and top {self.top}."
            )

    def __len__(self) -> int:
        return self.num_train_timesteps if self.top is None else self.top

    @property
    def noisiest(self) -> Level:
        """The level of the top; pure noise if it is the whole path's."""
        return self.level(len(self))

    @property
    def first(self) -> Level:
        """The level of timestep 1."""
        return self.level(1)

    def level(self, t: float) -> Level:
        """The level of a timestep.

        Args:
            t: In [1, len(path)].

        Returns:
            A `Level` with ``alpha + sigma == 1``.

        Raises:
            ValueError: `t` is outside the path.
        """
        if not 1 <= t <= len(self):
            raise ValueError(f"Timestep {t} is outside the path, which has 1 to {len(self)}.")
        sigma = t / self.num_train_timesteps
        return Level(float(t), 1 - sigma, sigma)

    def at_ratio(self, ratio: float) -> Level:
        """The level with this ``sigma / alpha``, of any timestep from 0 up."""
        sigma = 1.0 if math.isinf(ratio) else ratio / (1 + ratio)
        return Level(self.num_train_timesteps * sigma, 1 - sigma, sigma)

    def lowest(self, strength: float) -> FlowPath:
        """The path of the lowest `strength` of the timesteps, at least two of them."""
        return replace(self, top=max(2, round(strength * len(self))))


def _variance_preserving(t: float, ratio: float) -> Level:
    if math.isinf(ratio):
        return Level(float(t), 0.0, 1.0)
    norm = math.hypot(1.0, ratio)
    return Level(float(t), 1.0 / norm, ratio / norm)


def _linspace(start: float, stop: float, num: int) -> list[float]:
    if num == 1:
        return [start]
    return [start + (stop - start) * i / (num - 1) for i in range(num)]
