"""Levels from lists, which schedules are made with: timesteps, values of ``sigma / alpha``, and
equal fractions of the way.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal, SupportsIndex

from keras_sd.noise import FinalSigma, Level, Levels, NoisePath, for_run

__all__ = [
    "Whole",
    "beta_quantile",
    "checked_setting",
    "checked_steps",
    "equal_fractions",
    "finite_ends",
    "from_ratios",
    "from_timesteps",
    "log_linspace",
    "rounded",
    "told",
]

Whole = Literal["nearest", "below"] | None
"""Which whole timestep stands for a fractional one; None is none."""


def from_timesteps(
    path: NoisePath, timesteps: Sequence[float], *, final_sigma: FinalSigma | None = None
) -> Levels:
    """Timesteps of one's own, one step from each.

    Args:
        path: The model's training noise.
        timesteps: Strictly falling, inside the table, whole or fractional.
        final_sigma: ``"zero"`` or ``"first"``, None as the path says; see this module.

    Returns:
        ``len(timesteps) + 1`` levels.

    Raises:
        ValueError: The list is empty, does not fall, leaves the table, or its last timestep is 0
            with ``final_sigma="first"``, which would leave the last step nothing to do.
    """
    path = for_run(path, final_sigma=final_sigma)
    timesteps = [float(t) for t in timesteps]
    if not timesteps:
        raise ValueError("A run needs at least one timestep, got none.")
    for now, nxt in pairwise(timesteps):
        if not now > nxt:
            raise ValueError(
                f"Timesteps must fall without repeating, but {now:g} is followed by {nxt:g}."
            )
    if timesteps[-1] == path.end.t and path.end.sigma:
        raise ValueError(
            f"The last timestep is {path.end.t:g} already, so a run that ends at the model's first "
            f"level has no last step: leave the {path.end.t:g} out, or use final_sigma='zero'."
        )
    return _finished(path, (path.level(t) for t in timesteps))


def from_ratios(
    path: NoisePath, ratios: Sequence[float], *, final_sigma: FinalSigma | None = None
) -> Levels:
    """Values of ``sigma / alpha`` of one's own, one step from each: what k-diffusion and web UIs
    call sigmas.

    Args:
        path: The model's training noise.
        ratios: Strictly falling, above 0 and not above the table's highest by more than a percent,
            for published lists are rounded. Where the table starts at alpha 0 the first may be
            infinite. The 0 that such lists end with is `final_sigma`.
        final_sigma: ``"zero"`` or ``"first"``, None as the path says; see this module.

    Returns:
        ``len(ratios) + 1`` levels.

    Raises:
        ValueError: The list is empty, does not fall, leaves the table, or its last value is not
            above the table's first with ``final_sigma="first"``.
    """
    path = for_run(path, final_sigma=final_sigma)
    ratios = [float(ratio) for ratio in ratios]
    if not ratios:
        raise ValueError("A run needs at least one value of sigma / alpha, got none.")
    for now, nxt in pairwise(ratios):
        if not now > nxt:
            raise ValueError(
                f"Values of sigma / alpha must fall without repeating, but {now:.9g} is followed "
                f"by {nxt:.9g}."
            )
    if not ratios[-1] > 0:
        raise ValueError(
            f"Values of sigma / alpha must be above 0, got {ratios[-1]:g} at the end: leave a 0 "
            "out, final_sigma='zero' ends there."
        )
    noisiest = path.noisiest.ratio
    if ratios[0] > 1.01 * noisiest:
        raise ValueError(
            f"The model was trained on sigma / alpha up to {noisiest:.6g}, but the list "
            f"begins with {ratios[0]:.6g}."
        )
    if path.end.sigma and ratios[-1] <= path.end.ratio:
        raise ValueError(
            f"The last value, {ratios[-1]:.6g}, is not above the model's first level, "
            f"{path.end.ratio:.6g}, so a run that ends there has no last step: leave it out, or "
            "use final_sigma='zero'."
        )
    return _finished(path, map(path.at_ratio, ratios))


def checked_steps(path: NoisePath, num_steps: SupportsIndex) -> int:
    """`num_steps` as an int, if it is from 1 to the table's length.

    Raises:
        TypeError: It is no integer.
        ValueError: It is out of range.
    """
    try:
        if isinstance(num_steps, bool):
            raise TypeError
        number = operator.index(num_steps)
    except TypeError:
        raise TypeError(f"num_steps must be an integer, got {num_steps!r}.") from None
    if not 1 <= number <= len(path):
        raise ValueError(
            f"num_steps must be from 1 to {len(path)}, the number of timesteps the model was "
            f"trained on; got {number}."
        )
    return number


def equal_fractions(path: NoisePath, num_steps: int, inside: bool = False) -> list[float]:
    """Where each step starts, in equal fractions from 0 towards 1: of the way from the path's
    noisiest level to its first. With `inside` none starts at the first, as if the run ended there.
    """
    num_steps = checked_steps(path, num_steps)
    gaps = num_steps if inside or path.end.sigma else num_steps - 1
    return [i / gaps if gaps else 0.0 for i in range(num_steps)]


def log_linspace(path: NoisePath, fractions: Iterable[float]) -> Levels:
    """The levels at fractions of the way down the timesteps, sigma / alpha interpolated in its
    logarithm.
    """
    top, first = path.noisiest.t, path.first.t

    def level(t: float) -> Level:
        low = math.floor(t)
        if low == t or math.isinf(above := path.level(low + 1).ratio):
            return path.level(t)
        below = path.level(low).ratio
        return path.at_ratio(below * (above / below) ** (t - low))

    return _finished(path, (level(top - f * (top - first)) for f in fractions))


def told(levels: Levels, whole: Whole) -> Levels:
    """These levels, of which the model is told whole timesteps.

    Raises:
        ValueError: `whole` is something else.
    """
    steps = [replace(level, t=rounded(level.t, whole)) for level in levels[:-1]]
    return Levels([*steps, levels[-1]], path=levels.path)


def rounded(t: float, whole: Whole) -> float:
    """A timestep as a whole one.

    Raises:
        ValueError: `whole` is something else.
    """
    if whole not in (None, "nearest", "below"):
        raise ValueError(f"whole must be 'nearest', 'below' or None, got {whole!r}.")
    return t if whole is None else float(round(t) if whole == "nearest" else math.floor(t))


def checked_setting(name: str, value: float) -> None:
    """A setting that is a power or of a distribution: from 0.1 to 100. Beyond, powers leave the
    range of floats or fall together.

    Raises:
        ValueError: It is not.
    """
    if not 0.1 <= value <= 100:
        raise ValueError(f"{name} must be from 0.1 to 100, got {value}.")


def finite_ends(name: str, path: NoisePath) -> tuple[float, float]:
    """The ``sigma / alpha`` of the noisiest and of the first level.

    Raises:
        ValueError: The first of them is infinite; `name` is the schedule's, for the message.
    """
    if not path.noisiest.alpha:
        raise ValueError(
            f"The schedule {name!r} needs a finite sigma / alpha, but this model starts at alpha 0 "
            "(zero terminal SNR): use 'trailing', 'sgm_uniform' or 'kl_optimal'."
        )
    return path.noisiest.ratio, path.first.ratio


def _finished(path: NoisePath, levels: Iterable[Level]) -> Levels:
    return Levels([*levels, path.end], path=path.at_ratio)


# The beta distribution


def beta_quantile(p: float, a: float, b: float) -> float:
    """The x below which a part `p` of a beta distribution lies, by bisection."""
    if p > 0.5:  # at 1 floats are too far apart
        return 1 - beta_quantile(1 - p, b, a)
    if p == 0:
        return 0.0
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high and high - low > 1e-15 * high:
        if _beta_part(middle, a, b) < p:
            low = middle
        else:
            high = middle
    return high


def _beta_part(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function, by its continued fraction (DLMF 8.17.22)."""
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly
        return 1 - _beta_part(1 - x, b, a)
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    value = 1.0
    for m in range(10 + int(5 * math.sqrt(max(a, b))), -1, -1):  # deep enough for 1e-11
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        value = 1 + odd / value
        if m:
            even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
            value = 1 + even / value
    return math.exp(a * math.log(x) + b * math.log1p(-x) - log_beta) / (a * value)
