"""Schedules: which noise levels a run visits. The schedule belongs to the run, never to the
sampler.

A schedule is any callable ``(path, num_steps) -> Levels`` with ``num_steps + 1`` levels. The path
is a `keras_sd.noise.NoisePath`: the noise that the model was trained with, and where the run ends,
``path.end``. That is the clean latent, sigma 0, or the model's first training level, ``abar[0]``,
as Stable Diffusion's own DDIM and PNDM configurations end (``set_alpha_to_one = false`` in their
files). A schedule that is equally spaced in something has its last point at the first level, and
takes one step more to end at 0.

Those here take settings by keyword, and one that all have: `final_sigma`, ``"zero"`` or
``"first"``, decides where the run ends, whatever the path says.

A run finds them by name, with those of other distributions: `keras_sd.registry`. What to choose,
and how to write one: ``docs/schedules.md``.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Literal, SupportsIndex

from keras_sd.noise import FinalSigma, Level, Levels, NoisePath, NoiseTable, for_run

__all__ = [
    "FinalSigma",
    "Schedule",
    "align_your_steps",
    "beta",
    "checked_steps",
    "ddim_uniform",
    "exponential",
    "from_ratios",
    "from_timesteps",
    "karras",
    "kl_optimal",
    "lcm",
    "leading",
    "linspace",
    "normal",
    "polyexponential",
    "sgm_uniform",
    "simple",
    "trailing",
]

Schedule = Callable[..., Levels]
"""``(path, num_steps) -> Levels``, settings by keyword."""

_ALIGN_YOUR_STEPS = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)
"""Sigma / alpha of ten steps of Stable Diffusion 1.5, published with Sabour et al. 2024."""


# Timesteps


def leading(
    path: NoisePath, num_steps: int, *, final_sigma: FinalSigma | None = None, steps_offset: int = 1
) -> Levels:
    """Every k-th timestep counted from the clean end, as Stable Diffusion's DDIM and PNDM run.

    It stops short of the noisiest timesteps (20 of 1000 steps start at 951, and a single step at
    `steps_offset`), see Lin et al. 2023, table 2. For very few steps use `trailing`.

    Args:
        path: The model's training noise.
        num_steps: From 1 to ``len(path)``.
        final_sigma: ``"zero"`` or ``"first"``, None as the path says; see this module.
        steps_offset: Added to every timestep; 1 in Stable Diffusion's configurations.

    Returns:
        ``num_steps + 1`` levels.

    Raises:
        ValueError: `num_steps` or `steps_offset` does not fit the table.
    """
    path = for_run(path, final_sigma=final_sigma)
    num_steps = checked_steps(path, num_steps)
    gap = len(path) // num_steps
    timesteps = [i * gap + steps_offset for i in reversed(range(num_steps))]
    if timesteps[0] >= len(path) or steps_offset < 0:
        raise ValueError(
            f"leading with {num_steps} steps and steps_offset {steps_offset} runs from timestep "
            f"{timesteps[0]} to {timesteps[-1]}, but the noise table has 0 to {len(path) - 1}: "
            "take fewer steps or 'trailing'."
        )
    return _timesteps(path, timesteps)


def ddim_uniform(
    path: NoisePath, num_steps: int, *, final_sigma: FinalSigma | None = None
) -> Levels:
    """Every k-th timestep from 1 up to the noisiest that is met, as the first code of DDIM and
    ComfyUI's ``ddim_uniform`` have it.

    Where `num_steps` divides the table this is `leading`. Where it does not, those programs run
    more steps than asked for (31 for 30); here the noisiest `num_steps` of them are run.

    Args:
        path: The model's training noise.
        num_steps: From 1 to ``len(path) - 1``.
        final_sigma: ``"zero"`` or ``"first"``, None as the path says; see this module.

    Returns:
        ``num_steps + 1`` levels.

    Raises:
        ValueError: `num_steps` does not fit the table.
    """
    path = for_run(path, final_sigma=final_sigma)
    num_steps = checked_steps(path, num_steps)
    timesteps = range(1, len(path), len(path) // num_steps)[::-1]
    if len(timesteps) < num_steps:
        raise ValueError(
            f"ddim_uniform leaves out timestep 0, so that {len(path)} timesteps give at most "
            f"{len(timesteps)} steps, not {num_steps}: take fewer steps or 'trailing'."
        )
    return _timesteps(path, timesteps[:num_steps])


def trailing(path: NoisePath, num_steps: int, *, final_sigma: FinalSigma | None = None) -> Levels:
    """Equal steps counted from the noisiest timestep, rounded (Lin et al. 2023, table 2).

    Args:
        path: The model's training noise.
        num_steps: From 1 to ``len(path)``.
        final_sigma: ``"zero"`` or ``"first"``, None as the path says; see this module.

    Returns:
        ``num_steps + 1`` levels.

    Raises:
        ValueError: `num_steps` does not fit the table.
    """
    path = for_run(path, final_sigma=final_sigma)
    num_steps = checked_steps(path, num_steps)
    size = len(path)
    timesteps = [round(size - i * (size / num_steps)) - 1 for i in range(num_steps)]
    return _timesteps(path, timesteps)


def simple(path: NoisePath, num_steps: int, *, final_sigma: FinalSigma | None = None) -> Levels:
    """Equal steps counted from the noisiest timestep, rounded up, as ComfyUI's ``simple``.

    It is `trailing` where `num_steps` divides the table, and at most one timestep off elsewhere.

    Args:
        path: The model's training noise.
        num_steps: From 1 to ``len(path)``.
        final_sigma: ``"zero"`` or ``"first"``, None as the path says; see this module.

    Returns:
        ``num_steps + 1`` levels.

    Raises:
        ValueError: `num_steps` does not fit the table.
    """
    path = for_run(path, final_sigma=final_sigma)
    num_steps = checked_steps(path, num_steps)
    gap = len(path) / num_steps
    timesteps = [len(path) - 1 - int(i * gap) for i in range(num_steps)]
    return _timesteps(path, timesteps)


def lcm(
    path: NoisePath, num_steps: int, *, final_sigma: FinalSigma | None = None, skip: int = 20
) -> Levels:
    """Equally spaced among the timesteps that a consistency model was distilled at, as
    diffusers' LCMScheduler.

    Those are every `skip`-th (the k of Luo et al. 2023, section 4.3), the noisiest among them;
    diffusers' ``original_inference_steps`` is their number. More steps than that are taken from a
    finer grid. A run of part of the noise keeps to the same timesteps.

    Args:
        path: The model's training noise.
        num_steps: From 1 to ``len(path)``; such models are made for 1 to 8.
        final_sigma: ``"zero"`` or ``"first"``, None as the path says; see this module.
        skip: From 1 to ``len(path)``; 20 of 1000 in the paper and in published models.

    Returns:
        ``num_steps + 1`` levels.

    Raises:
        ValueError: `num_steps` or `skip` does not fit the table.
    """
    path = for_run(path, final_sigma=final_sigma)
    num_steps = checked_steps(path, num_steps)
    if skip < 1:
        raise ValueError(f"skip must be a number of timesteps from 1 up, got {skip}.")
    gap = min(skip, len(path) // num_steps)
    distilled = range(gap - 1, len(path), gap)[::-1]
    timesteps = [distilled[i * len(distilled) // num_steps] for i in range(num_steps)]
    return _timesteps(path, timesteps)


def linspace(path: NoisePath, num_steps: int, *, final_sigma: FinalSigma | None = None) -> Levels:
    """Equal fractional timesteps from the noisiest to the first, as diffusers' Euler does by
    default.

    With ``final_sigma="first"`` the first training level is the end of the last step, so that no
    step stands still. One step starts at the noisiest level (diffusers' starts at timestep 0).

    Args:
        path: The model's training noise.
        num_steps: From 1 to ``len(path)``.
        final_sigma: ``"zero"`` or ``"first"``, None as the path says; see this module.

    Returns:
        ``num_steps + 1`` levels.

    Raises:
        ValueError: `num_steps` does not fit the table.
    """
    path = for_run(path, final_sigma=final_sigma)
    top = len(path) - 1
    timesteps = [top - f * top for f in _fractions(path, num_steps)]
    return _timesteps(path, timesteps)


def normal(path: NoisePath, num_steps: int, *, final_sigma: FinalSigma | None = None) -> Levels:
    """Equal fractional timesteps from the noisiest to the first, as k-diffusion's
    ``get_sigmas``, which web UIs call "Normal" and "Uniform".

    It is `linspace` but for what lies between two timesteps: here ``sigma / alpha`` is interpolated
    in its logarithm.

    Args:
        path: The model's training noise.
        num_steps: From 1 to ``len(path)``.
        final_sigma: ``"zero"`` or ``"first"``, None as the path says; see this module.

    Returns:
        ``num_steps + 1`` levels.

    Raises:
        ValueError: `num_steps` does not fit the table.
    """
    path = for_run(path, final_sigma=final_sigma)
    return _log_linspace(path, _fractions(path, num_steps))


def sgm_uniform(
    path: NoisePath, num_steps: int, *, final_sigma: FinalSigma | None = None
) -> Levels:
    """`normal` with one step more, of which the last starting point is left out, as Stability's
    generative-models has it.

    No step is spent between the first training level and the clean latent: the last one is as
    long as the others. With ``final_sigma="first"`` it is `normal`.

    Args:
        path: The model's training noise.
        num_steps: From 1 to ``len(path)``.
        final_sigma: ``"zero"`` or ``"first"``, None as the path says; see this module.

    Returns:
        ``num_steps + 1`` levels.

    Raises:
        ValueError: `num_steps` does not fit the table.
    """
    path = for_run(path, final_sigma=final_sigma)
    return _log_linspace(path, _fractions(path, num_steps, inside=True))


# Sigma / alpha


def karras(
    path: NoisePath, num_steps: int, *, final_sigma: FinalSigma | None = None, rho: float = 7.0
) -> Levels:
    """Equal steps in ``(sigma / alpha) ** (1 / rho)`` (Karras et al. 2022, equation 5).

    Args:
        path: The model's training noise, without zero terminal SNR.
        num_steps: From 1 to ``len(path)``.
        final_sigma: ``"zero"`` or ``"first"``, None as the path says; see this module.
        rho: How much shorter the steps get near the clean end, from 0.1 to 100; 7 in the paper.

    Returns:
        ``num_steps + 1`` levels.

    Raises:
        ValueError: `num_steps` or `rho` does not fit, or the table starts at alpha 0.
    """
    path = for_run(path, final_sigma=final_sigma)
    _check_setting("rho", rho)
    high, low = (ratio ** (1 / rho) for ratio in _ends("karras", path))
    fractions = _fractions(path, num_steps)
    ratios = [((1 - f) * high + f * low) ** rho for f in fractions]
    return from_ratios(path, ratios)


def exponential(
    path: NoisePath, num_steps: int, *, final_sigma: FinalSigma | None = None
) -> Levels:
    """Equal steps in ``log(sigma / alpha)``, the half log-SNR (Lu et al. 2022).

    Args:
        path: The model's training noise, without zero terminal SNR.
        num_steps: From 1 to ``len(path)``.
        final_sigma: ``"zero"`` or ``"first"``, None as the path says; see this module.

    Returns:
        ``num_steps + 1`` levels.

    Raises:
        ValueError: `num_steps` does not fit, or the table starts at alpha 0.
    """
    path = for_run(path, final_sigma=final_sigma)
    high, low = (math.log(ratio) for ratio in _ends("exponential", path))
    fractions = _fractions(path, num_steps)
    ratios = [math.exp((1 - f) * high + f * low) for f in fractions]
    return from_ratios(path, ratios)


def polyexponential(
    path: NoisePath, num_steps: int, *, final_sigma: FinalSigma | None = None, rho: float = 1.0
) -> Levels:
    """Steps in ``log(sigma / alpha)`` that fall off as a power, k-diffusion's
    ``get_sigmas_polyexponential``.

    Args:
        path: The model's training noise, without zero terminal SNR.
        num_steps: From 1 to ``len(path)``.
        final_sigma: ``"zero"`` or ``"first"``, None as the path says; see this module.
        rho: The power, from 0.1 to 100: 1 is `exponential`, more has longer steps at the noisy end.

    Returns:
        ``num_steps + 1`` levels.

    Raises:
        ValueError: `num_steps` or `rho` does not fit, or the table starts at alpha 0.
    """
    path = for_run(path, final_sigma=final_sigma)
    _check_setting("rho", rho)
    high, low = (math.log(ratio) for ratio in _ends("polyexponential", path))
    fractions = _fractions(path, num_steps)
    ratios = [math.exp(low + (1 - f) ** rho * (high - low)) for f in fractions]
    return from_ratios(path, ratios)


def kl_optimal(path: NoisePath, num_steps: int, *, final_sigma: FinalSigma | None = None) -> Levels:
    """Equal steps in ``atan(sigma / alpha)``: what is optimal for normally distributed data (Sabour
    et al. 2024, "Align Your Steps", theorem 3.1).

    Args:
        path: The model's training noise.
        num_steps: From 1 to ``len(path)``.
        final_sigma: ``"zero"`` or ``"first"``, None as the path says; see this module.

    Returns:
        ``num_steps + 1`` levels.

    Raises:
        ValueError: `num_steps` does not fit the table.
    """
    path = for_run(path, final_sigma=final_sigma)
    noisiest = path.noisiest.ratio
    high, low = math.atan(noisiest), math.atan(path.first.ratio)
    fractions = _fractions(path, num_steps)
    # The noisiest as it is: in floats, the tangent of the arctangent of infinity is finite.
    ratios = [math.tan((1 - f) * high + f * low) if f else noisiest for f in fractions]
    return from_ratios(path, ratios)


def beta(
    path: NoisePath,
    num_steps: int,
    *,
    final_sigma: FinalSigma | None = None,
    alpha: float = 0.6,
    beta: float = 0.6,
    over: Literal["ratios", "timesteps"] = "ratios",
) -> Levels:
    """At equal quantiles of a beta distribution, dense at both ends (Lee et al. 2024, "Beta
    Sampling is All You Need").

    Args:
        path: The model's training noise; without zero terminal SNR over ratios.
        num_steps: From 1 to ``len(path)``.
        final_sigma: ``"zero"`` or ``"first"``, None as the path says; see this module.
        alpha: Of the distribution, from 0.1 to 100; the smaller, the denser at the clean end.
        beta: The same for the noisy end.
        over: ``"ratios"`` lays the distribution over ``sigma / alpha`` from the noisiest level to
            the first, as diffusers, A1111 and Forge do. ``"timesteps"`` lays it over the timesteps
            and leaves out the first, as the paper and ComfyUI do; they round to whole timesteps
            and drop those that come twice, here they are fractional.

    Returns:
        ``num_steps + 1`` levels.

    Raises:
        ValueError: `num_steps` or a setting does not fit, or the table starts at alpha 0.
    """
    path = for_run(path, final_sigma=final_sigma)
    _check_setting("alpha", alpha)
    _check_setting("beta", beta)
    if over == "timesteps":
        fractions = _fractions(path, num_steps, inside=True)
        falling = [1 - _beta_quantile(1 - f, alpha, beta) for f in fractions]
        return _log_linspace(path, falling)
    if over != "ratios":
        raise ValueError(f"over must be 'ratios' or 'timesteps', got {over!r}.")
    high, low = _ends("beta", path)
    fractions = _fractions(path, num_steps)
    ratios = [low + _beta_quantile(1 - f, alpha, beta) * (high - low) for f in fractions]
    return from_ratios(path, ratios)


def align_your_steps(
    path: NoisePath, num_steps: int, *, final_sigma: FinalSigma | None = None
) -> Levels:
    """The levels that NVIDIA found best for Stable Diffusion 1.5 (Sabour et al. 2024, "Align Your
    Steps"): ten published steps, for other numbers interpolated log-linearly as published.

    Args:
        path: Stable Diffusion's training noise, or its less noisy part.
        num_steps: From 1 to ``len(path)``; found for 10.
        final_sigma: ``"zero"`` or ``"first"``, None as the path says; see this module.

    Returns:
        ``num_steps + 1`` levels.

    Raises:
        ValueError: `num_steps` does not fit, or the noise is not Stable Diffusion's, for which
            the numbers mean nothing; `kl_optimal` is of the same paper and holds for any path.
    """
    path = for_run(path, final_sigma=final_sigma)
    fractions = _fractions(path, num_steps, inside=True)
    theirs = NoiseTable.scaled_linear().ratios[: len(path)]
    ours = [path.level(path.first.t + i).ratio for i in range(len(theirs))]
    same = (math.isclose(a, b, rel_tol=1e-3) for a, b in zip(ours, theirs, strict=True))
    if len(theirs) < len(path) or not all(same):
        raise ValueError(
            "The schedule 'align_your_steps' was found for the training noise of Stable Diffusion, "
            f"sigma / alpha from {theirs[0]:.3g} up, scaled_linear to 0.012, which this model does "
            "not have: use 'kl_optimal'."
        )
    logs = [math.log(ratio) for ratio in _ALIGN_YOUR_STEPS]
    # Where on the way from the first to the last of them the table begins.
    top = min(math.log(path.noisiest.ratio), logs[0])
    segment = next(i for i, (a, b) in enumerate(pairwise(logs)) if b < top)
    start = segment + (logs[segment] - top) / (logs[segment] - logs[segment + 1])
    if math.isclose(top, logs[0], abs_tol=1e-4):
        start = 0.0  # 14.615 is the table's highest, rounded
    ratios = []
    for f in fractions:
        place = start + f * (len(logs) - 1 - start)
        low = math.floor(place)
        ratios.append(math.exp(logs[low] + (place - low) * (logs[low + 1] - logs[low])))
    return from_ratios(path, ratios)


# Lists


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


def _fractions(path: NoisePath, num_steps: int, inside: bool = False) -> list[float]:
    """Where each step starts, in equal fractions from 0 towards 1: of the way from the path's
    noisiest level to its first. With `inside` none starts at the first, as if the run ended there.
    """
    num_steps = checked_steps(path, num_steps)
    gaps = num_steps if inside or path.end.sigma else num_steps - 1
    return [i / gaps if gaps else 0.0 for i in range(num_steps)]


def _timesteps(path: NoisePath, places: Iterable[float]) -> Levels:
    """The levels at places on the path, counted in timesteps from its first."""
    return from_timesteps(path, [path.first.t + place for place in places])


def _log_linspace(path: NoisePath, fractions: Iterable[float]) -> Levels:
    """The levels at fractions of the way down the timesteps, sigma / alpha interpolated in its
    logarithm."""
    top, first = path.noisiest.t, path.first.t

    def level(t: float) -> Level:
        low = math.floor(t)
        if low == t or math.isinf(above := path.level(low + 1).ratio):
            return path.level(t)
        below = path.level(low).ratio
        return path.at_ratio(below * (above / below) ** (t - low))

    return _finished(path, (level(top - f * (top - first)) for f in fractions))


def _check_setting(name: str, value: float) -> None:
    # Beyond, powers leave the range of floats or fall together.
    if not 0.1 <= value <= 100:
        raise ValueError(f"{name} must be from 0.1 to 100, got {value}.")


def _ends(name: str, path: NoisePath) -> tuple[float, float]:
    if not path.noisiest.alpha:
        raise ValueError(
            f"The schedule {name!r} needs a finite sigma / alpha, but this model starts at alpha 0 "
            "(zero terminal SNR): use 'trailing', 'sgm_uniform' or 'kl_optimal'."
        )
    return path.noisiest.ratio, path.first.ratio


def _finished(path: NoisePath, levels: Iterable[Level]) -> Levels:
    return Levels([*levels, path.end], path=path.at_ratio)


# The beta distribution


def _beta_quantile(p: float, a: float, b: float) -> float:
    """The x below which a part `p` of a beta distribution lies, by bisection."""
    if p > 0.5:  # at 1 floats are too far apart
        return 1 - _beta_quantile(1 - p, b, a)
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
