"""Schedules: which noise levels a run visits. The schedule belongs to the run, never to the
sampler.

A schedule is any callable ``(path, num_steps) -> Levels`` with ``num_steps + 1`` levels. The path
is a `keras_sd.noise.NoisePath`: the noise that the model was trained with, and where the run ends,
``path.end``. That is the clean latent, sigma 0, or the model's first training level, ``abar[0]``,
as Stable Diffusion's own DDIM and PNDM configurations end (``set_alpha_to_one = false`` in their
files). A schedule that is equally spaced in something has its last point at the first level, and
takes one step more to end at 0.

Those here take settings by keyword, and one that all have: `final_sigma`, ``"zero"`` or
``"first"``, decides where the run ends, whatever the path says. Two more are diffusers'. `spacing`
``"leading"`` or ``"trailing"`` lays values of sigma / alpha over the noise that the timesteps of
that schedule have, ``"linspace"`` over all. With `whole` the model is told whole timesteps, the
``"nearest"`` or that ``"below"``.

A run finds them by name, with those of other distributions: `keras_sd.registry`. What to choose,
and how to write one: ``docs/schedules.md``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Literal

from keras_sd.grids import (
    Whole,
    beta_quantile,
    checked_setting,
    checked_steps,
    equal_fractions,
    finite_ends,
    from_ratios,
    from_timesteps,
    log_linspace,
    rounded,
    told,
)
from keras_sd.noise import FinalSigma, Levels, NoisePath, NoiseTable, for_run

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

Spacing = Literal["linspace", "leading", "trailing"]

_ALIGN_YOUR_STEPS = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)
"""Sigma / alpha of ten steps of Stable Diffusion 1.5, published with Sabour et al. 2024."""


# Timesteps


def leading(
    path: NoisePath,
    num_steps: int,
    *,
    final_sigma: FinalSigma | None = None,
    steps_offset: int = 1,
    inside: bool = False,
) -> Levels:
    """Every k-th timestep counted from the clean end, as Stable Diffusion's DDIM and PNDM run.

    It stops short of the noisiest timesteps (20 of 1000 steps start at 951, and a single step at
    `steps_offset`), see Lin et al. 2023, table 2. For very few steps use `trailing`.

    Args:
        path: The model's training noise.
        num_steps: From 1 to ``len(path)``.
        final_sigma: ``"zero"`` or ``"first"``, None as the path says; see this module.
        steps_offset: Added to every timestep; 1 in Stable Diffusion's configurations.
        inside: Of the timesteps for a step more the last is left out, as diffusers' multistep
            solvers do.

    Returns:
        ``num_steps + 1`` levels.

    Raises:
        ValueError: `num_steps` or `steps_offset` does not fit the table.
    """
    path = for_run(path, final_sigma=final_sigma)
    num_steps = checked_steps(path, num_steps)
    gap = len(path) // (num_steps + inside)
    timesteps = [(i + inside) * gap + steps_offset for i in reversed(range(num_steps))]
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


def linspace(
    path: NoisePath,
    num_steps: int,
    *,
    final_sigma: FinalSigma | None = None,
    inside: bool = False,
    whole: Whole = None,
) -> Levels:
    """Equal fractional timesteps from the noisiest to the first, as diffusers' Euler does by
    default.

    With ``final_sigma="first"`` the first training level is the end of the last step, so that no
    step stands still. One step starts at the noisiest level (diffusers' starts at timestep 0).

    Args:
        path: The model's training noise.
        num_steps: From 1 to ``len(path)``.
        final_sigma: ``"zero"`` or ``"first"``, None as the path says; see this module.
        inside: No step starts at the first timestep, as diffusers' multistep solvers have it.
        whole: ``"nearest"`` or ``"below"``: to which whole timestep each is rounded.

    Returns:
        ``num_steps + 1`` levels.

    Raises:
        ValueError: `num_steps` does not fit the table.
    """
    path = for_run(path, final_sigma=final_sigma)
    top = len(path) - 1
    timesteps = [top - f * top for f in equal_fractions(path, num_steps, inside)]
    return _timesteps(path, [rounded(t, whole) for t in timesteps])


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
    return log_linspace(path, equal_fractions(path, num_steps))


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
    return log_linspace(path, equal_fractions(path, num_steps, inside=True))


# Sigma / alpha


def karras(
    path: NoisePath,
    num_steps: int,
    *,
    final_sigma: FinalSigma | None = None,
    rho: float = 7.0,
    spacing: Spacing = "linspace",
    whole: Whole = None,
) -> Levels:
    """Equal steps in ``(sigma / alpha) ** (1 / rho)`` (Karras et al. 2022, equation 5).

    Args:
        path: The model's training noise, without zero terminal SNR.
        num_steps: From 1 to ``len(path)``.
        final_sigma: ``"zero"`` or ``"first"``, None as the path says; see this module.
        rho: How much shorter the steps get near the clean end, from 0.1 to 100; 7 in the paper.
        spacing: See this module.
        whole: See this module.

    Returns:
        ``num_steps + 1`` levels.

    Raises:
        ValueError: `num_steps` or a setting does not fit, or the table starts at alpha 0.
    """
    path = for_run(path, final_sigma=final_sigma)
    checked_setting("rho", rho)
    fractions, *ends = _laid("karras", path, num_steps, spacing)
    high, low = (ratio ** (1 / rho) for ratio in ends)
    ratios = [((1 - f) * high + f * low) ** rho for f in fractions]
    return told(from_ratios(path, ratios), whole)


def exponential(
    path: NoisePath,
    num_steps: int,
    *,
    final_sigma: FinalSigma | None = None,
    spacing: Spacing = "linspace",
    whole: Whole = None,
) -> Levels:
    """Equal steps in ``log(sigma / alpha)``, the half log-SNR (Lu et al. 2022).

    Args:
        path: The model's training noise, without zero terminal SNR.
        num_steps: From 1 to ``len(path)``.
        final_sigma: ``"zero"`` or ``"first"``, None as the path says; see this module.
        spacing: See this module.
        whole: See this module.

    Returns:
        ``num_steps + 1`` levels.

    Raises:
        ValueError: `num_steps` or a setting does not fit, or the table starts at alpha 0.
    """
    path = for_run(path, final_sigma=final_sigma)
    fractions, *ends = _laid("exponential", path, num_steps, spacing)
    high, low = map(math.log, ends)
    ratios = [math.exp((1 - f) * high + f * low) for f in fractions]
    return told(from_ratios(path, ratios), whole)


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
    checked_setting("rho", rho)
    high, low = (math.log(ratio) for ratio in finite_ends("polyexponential", path))
    fractions = equal_fractions(path, num_steps)
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
    fractions = equal_fractions(path, num_steps)
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
    spacing: Spacing = "linspace",
    whole: Whole = None,
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
        spacing: See this module.
        whole: See this module.

    Returns:
        ``num_steps + 1`` levels.

    Raises:
        ValueError: `num_steps` or a setting does not fit, or the table starts at alpha 0.
    """
    path = for_run(path, final_sigma=final_sigma)
    checked_setting("alpha", alpha)
    checked_setting("beta", beta)
    if over == "timesteps":
        fractions = equal_fractions(path, num_steps, inside=True)
        falling = [1 - beta_quantile(1 - f, alpha, beta) for f in fractions]
        return told(log_linspace(path, falling), whole)
    if over != "ratios":
        raise ValueError(f"over must be 'ratios' or 'timesteps', got {over!r}.")
    fractions, high, low = _laid("beta", path, num_steps, spacing)
    ratios = [low + beta_quantile(1 - f, alpha, beta) * (high - low) for f in fractions]
    return told(from_ratios(path, ratios), whole)


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
    fractions = equal_fractions(path, num_steps, inside=True)
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


def _timesteps(path: NoisePath, places: Iterable[float]) -> Levels:
    """The levels at places on the path, counted in timesteps from its first."""
    return from_timesteps(path, [path.first.t + place for place in places])


def _laid(
    name: str, path: NoisePath, num_steps: int, spacing: Spacing
) -> tuple[list[float], float, float]:
    """Where each step starts, as `equal_fractions`, and the values of sigma / alpha that it is
    of.
    """
    high, low = finite_ends(name, path)
    if spacing == "linspace":
        return equal_fractions(path, num_steps), high, low
    if spacing not in ("leading", "trailing"):
        raise ValueError(f"spacing must be 'linspace', 'leading' or 'trailing', got {spacing!r}.")
    levels = (leading if spacing == "leading" else trailing)(path, num_steps)
    gaps = len(levels) - 2
    return [i / gaps if gaps else 0.0 for i in range(gaps + 1)], levels[0].ratio, levels[-2].ratio
