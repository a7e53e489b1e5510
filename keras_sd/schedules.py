"""Schedules: which noise levels a run visits. The schedule belongs to the run, never to the
sampler.

A schedule is any callable ``(table, num_steps) -> Levels`` with ``num_steps + 1`` levels. Those
here take one more argument, `final_sigma`: where the last step ends. ``"zero"`` is the clean
latent, sigma 0; ``"first"`` is the model's first training level, ``abar[0]``, as Stable Diffusion's
own DDIM and PNDM configurations end (``set_alpha_to_one = false`` in their files).
"""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, SupportsIndex, get_args

from keras_sd.noise import Level, Levels, NoiseTable

__all__ = [
    "FinalSigma",
    "Schedule",
    "StepsMode",
    "exponential",
    "from_timesteps",
    "get_schedule",
    "karras",
    "leading",
    "linspace",
    "list_schedules",
    "make_levels",
    "trailing",
]

FinalSigma = Literal["zero", "first"]
StepsMode = Literal["run", "schedule"]
Schedule = Callable[[NoiseTable, int], Levels]


def leading(
    table: NoiseTable, num_steps: int, *, final_sigma: FinalSigma = "zero", steps_offset: int = 1
) -> Levels:
    """Every k-th timestep counted from the clean end, as Stable Diffusion's DDIM and PNDM run.

    It stops short of the noisiest timesteps (20 of 1000 steps start at 951, and a single step at
    `steps_offset`), see Lin et al. 2023, table 2. For very few steps use `trailing`.

    Args:
        table: The model's training noise.
        num_steps: From 1 to ``len(table)``.
        final_sigma: ``"zero"`` or ``"first"``, see this module.
        steps_offset: Added to every timestep; 1 in Stable Diffusion's configurations.

    Returns:
        ``num_steps + 1`` levels.

    Raises:
        ValueError: `num_steps` or `steps_offset` does not fit the table.
    """
    num_steps = _checked(table, num_steps)
    ratio = len(table) // num_steps
    timesteps = [i * ratio + steps_offset for i in reversed(range(num_steps))]
    if timesteps[0] >= len(table) or steps_offset < 0:
        raise ValueError(
            f"leading with {num_steps} steps and steps_offset {steps_offset} runs from timestep "
            f"{timesteps[0]} to {timesteps[-1]}, but the noise table has 0 to {len(table) - 1}: "
            "take fewer steps or 'trailing'."
        )
    return from_timesteps(table, timesteps, final_sigma=final_sigma)


def trailing(table: NoiseTable, num_steps: int, *, final_sigma: FinalSigma = "zero") -> Levels:
    """Equal steps counted from the noisiest timestep (Lin et al. 2023, table 2).

    Args:
        table: The model's training noise.
        num_steps: From 1 to ``len(table)``.
        final_sigma: ``"zero"`` or ``"first"``, see this module.

    Returns:
        ``num_steps + 1`` levels.

    Raises:
        ValueError: `num_steps` does not fit the table.
    """
    num_steps = _checked(table, num_steps)
    size = len(table)
    timesteps = [round(size - i * (size / num_steps)) - 1 for i in range(num_steps)]
    return from_timesteps(table, timesteps, final_sigma=final_sigma)


def linspace(table: NoiseTable, num_steps: int, *, final_sigma: FinalSigma = "zero") -> Levels:
    """Equal fractional timesteps from the noisiest to the first, as diffusers' Euler does by
    default.

    With ``final_sigma="first"`` the first training level is the end of the last step, so that no
    step stands still. One step starts at the noisiest level (diffusers' starts at timestep 0).

    Args:
        table: The model's training noise.
        num_steps: From 1 to ``len(table)`` (one fewer with ``final_sigma="first"``).
        final_sigma: ``"zero"`` or ``"first"``, see this module.

    Returns:
        ``num_steps + 1`` levels.

    Raises:
        ValueError: `num_steps` does not fit the table.
    """
    fractions = _fractions(table, num_steps, final_sigma)
    top = len(table) - 1
    levels = [table.level(top - f * top) for f in fractions]
    return _finish(table, levels, final_sigma)


def karras(
    table: NoiseTable, num_steps: int, *, final_sigma: FinalSigma = "zero", rho: float = 7.0
) -> Levels:
    """Equal steps in ``(sigma / alpha) ** (1 / rho)`` (Karras et al. 2022, equation 5).

    From the table's noisiest level to its first; with ``final_sigma="zero"`` one step more, to 0.

    Args:
        table: The model's training noise, without zero terminal SNR.
        num_steps: From 1 to ``len(table)``.
        final_sigma: ``"zero"`` or ``"first"``, see this module.
        rho: How much shorter the steps get near the clean end, > 0; 7 in the paper.

    Returns:
        ``num_steps + 1`` levels.

    Raises:
        ValueError: `num_steps` or `rho` does not fit, or the table starts at alpha 0.
    """
    if not (rho > 0 and math.isfinite(rho)):
        raise ValueError(f"rho must be a positive number, got {rho}.")
    fractions = _fractions(table, num_steps, final_sigma)
    high, low = (r ** (1 / rho) for r in _ends("karras", table))
    levels = [table.at_ratio((high + f * (low - high)) ** rho) for f in fractions]
    return _finish(table, levels, final_sigma)


def exponential(table: NoiseTable, num_steps: int, *, final_sigma: FinalSigma = "zero") -> Levels:
    """Equal steps in ``log(sigma / alpha)``, the half log-SNR (Lu et al. 2022).

    From the table's noisiest level to its first; with ``final_sigma="zero"`` one step more, to 0.

    Args:
        table: The model's training noise, without zero terminal SNR.
        num_steps: From 1 to ``len(table)``.
        final_sigma: ``"zero"`` or ``"first"``, see this module.

    Returns:
        ``num_steps + 1`` levels.

    Raises:
        ValueError: `num_steps` does not fit, or the table starts at alpha 0.
    """
    fractions = _fractions(table, num_steps, final_sigma)
    high, low = (math.log(r) for r in _ends("exponential", table))
    levels = [table.at_ratio(math.exp(high + f * (low - high))) for f in fractions]
    return _finish(table, levels, final_sigma)


def from_timesteps(
    table: NoiseTable, timesteps: Sequence[float], *, final_sigma: FinalSigma = "zero"
) -> Levels:
    """Timesteps of one's own, one step from each.

    Args:
        table: The model's training noise.
        timesteps: Strictly falling, inside the table, whole or fractional.
        final_sigma: ``"zero"`` or ``"first"``, see this module.

    Returns:
        ``len(timesteps) + 1`` levels.

    Raises:
        ValueError: The list is empty, does not fall, leaves the table, or its last timestep is 0
            with ``final_sigma="first"``, which would leave the last step nothing to do.
    """
    timesteps = [float(t) for t in timesteps]
    if not timesteps:
        raise ValueError("A run needs at least one timestep, got none.")
    for now, nxt in pairwise(timesteps):
        if not now > nxt:
            raise ValueError(
                f"Timesteps must fall without repeating, but {now:g} is followed by {nxt:g}."
            )
    if final_sigma == "first" and timesteps[-1] == 0:
        raise ValueError(
            "The last timestep is 0 already, so a run that ends at the model's first level has no "
            "last step: leave the 0 out, or use final_sigma='zero'."
        )
    return _finish(table, [table.level(t) for t in timesteps], final_sigma)


_SCHEDULES: dict[str, Schedule] = {
    f.__name__: f for f in (leading, trailing, linspace, karras, exponential)
}


def list_schedules() -> list[str]:
    """The names `get_schedule` knows."""
    return list(_SCHEDULES)


def get_schedule(name: str) -> Schedule:
    """The schedule of a name.

    Args:
        name: One of `list_schedules`.

    Returns:
        The schedule function.

    Raises:
        ValueError: There is no such schedule; the message has the closest name and the list.
    """
    if name in _SCHEDULES:
        return _SCHEDULES[name]
    close = difflib.get_close_matches(str(name).lower(), _SCHEDULES, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"No schedule {name!r}.{hint} There are: {', '.join(_SCHEDULES)}.")


def make_levels(
    schedule: str | Schedule | Sequence[float],
    table: NoiseTable,
    num_steps: int | None = None,
    *,
    final_sigma: FinalSigma = "zero",
    strength: float = 1.0,
    steps_mode: StepsMode = "run",
) -> Levels:
    """The levels of a run, from whatever a user may call a schedule.

    A run that begins at a picture begins below the top: `strength` is where. With the mode
    ``"run"`` the schedule is laid over the lowest `strength` of the timesteps, and `num_steps` are
    run. With ``"schedule"`` it is laid over all of them and its last ``int(num_steps * strength)``
    steps are run, at least one, which is diffusers' habit; on a schedule with steps of many sizes,
    such as `karras`, that is another noise than the same part of the timesteps. `leading` has whole
    gaps between its timesteps and stops short of the top, so it begins at up to a gap less noise.

    Args:
        schedule: A name of `list_schedules`, a callable ``(table, num_steps) -> Levels``, or a
            falling list of timesteps.
        table: The model's training noise.
        num_steps: The number of steps; may be left out for a list of timesteps.
        final_sigma: ``"zero"`` or ``"first"``, see this module; a callable decides for itself.
        strength: In (0, 1]; 1 is the whole schedule.
        steps_mode: ``"run"`` or ``"schedule"``. A list of timesteps is run whole or by
            ``"schedule"``.

    Returns:
        ``num_steps + 1`` levels; with ``"schedule"`` the last of them.

    Raises:
        ValueError: An unknown name, a number of steps that does not fit, a `strength` outside (0,
            1], or a callable's result that is not ``num_steps + 1`` levels of falling noise.
        TypeError: `num_steps` is not an integer, or a callable returned something else than levels.
    """
    if not isinstance(strength, int | float) or not 0 < strength <= 1:
        raise ValueError(
            f"strength must be above 0 (the picture stays as it is) and at most 1 (nothing of it "
            f"is left), got {strength!r}."
        )
    if steps_mode not in get_args(StepsMode):
        raise ValueError(f"steps_mode must be 'run' or 'schedule', got {steps_mode!r}.")
    if strength == 1:
        return _whole(schedule, table, num_steps, final_sigma)
    if steps_mode == "schedule":
        levels = _whole(schedule, table, num_steps, final_sigma)
        return levels[-max(1, int((len(levels) - 1) * strength)) - 1 :]
    if not isinstance(schedule, str) and not callable(schedule):
        raise ValueError(
            "A list of timesteps says itself where a run begins: give strength=1, or "
            f"steps_mode='schedule' for the last {strength:g} of it."
        )
    lowest = NoiseTable(table.alphas_cumprod[: max(2, round(strength * len(table)))])
    try:
        levels = _whole(schedule, lowest, num_steps, final_sigma)
    except ValueError:
        _whole(schedule, table, num_steps, final_sigma)  # raises what is wrong at any strength
        fit = (n for n in range(len(lowest), 0, -1) if _can(schedule, lowest, n, final_sigma))
        most = next(fit, None)
        if most is None:
            raise
        raise ValueError(
            f"Not more than {most} steps fit strength {strength:g}, which has {len(lowest)} of the "
            f"{len(table)} timesteps, got num_steps {num_steps}: take fewer, more strength, or "
            "steps_mode='schedule'."
        ) from None
    start, top = levels[0], lowest.level(len(lowest) - 1)
    if not top.t / 2 - 1 <= start.t <= top.t or start.ratio > top.ratio * (1 + 1e-6):
        raise ValueError(
            f"Strength {strength:g} is timestep {top.t:g}, but {num_steps} step(s) of this "
            f"schedule begin at {start.t:g}: take more steps, 'trailing', or "
            "steps_mode='schedule'. A schedule of one's own follows the table that it is given."
        )
    return levels


def _can(
    schedule: str | Schedule, table: NoiseTable, num_steps: int, final_sigma: FinalSigma
) -> bool:
    try:
        _whole(schedule, table, num_steps, final_sigma)
    except ValueError:
        return False
    return True


def _whole(
    schedule: str | Schedule | Sequence[float],
    table: NoiseTable,
    num_steps: int | None,
    final_sigma: FinalSigma,
) -> Levels:
    if not isinstance(schedule, str) and not callable(schedule):
        timesteps = list(schedule)
        if num_steps is not None and num_steps != len(timesteps):
            raise ValueError(
                f"num_steps is {num_steps}, but the list has {len(timesteps)} timesteps: leave "
                "num_steps out."
            )
        return from_timesteps(table, timesteps, final_sigma=final_sigma)
    if num_steps is None:
        raise ValueError("num_steps is needed, unless the schedule is a list of timesteps.")
    if isinstance(schedule, str):
        return get_schedule(schedule)(table, num_steps, final_sigma=final_sigma)  # type: ignore[call-arg]
    num_steps = _checked(table, num_steps)
    levels = schedule(table, num_steps)
    name = getattr(schedule, "__name__", repr(schedule))
    if not isinstance(levels, Levels):
        raise TypeError(
            f"Schedule {name} must return keras_sd.noise.Levels, but returned "
            f"{type(levels).__name__}."
        )
    if len(levels) != num_steps + 1:
        raise ValueError(
            f"Schedule {name} returned {len(levels)} levels for {num_steps} steps; "
            f"{num_steps} steps need {num_steps + 1}."
        )
    return levels


def _checked(table: NoiseTable, num_steps: SupportsIndex) -> int:
    try:
        if isinstance(num_steps, bool):
            raise TypeError
        number = operator.index(num_steps)
    except TypeError:
        raise TypeError(f"num_steps must be an integer, got {num_steps!r}.") from None
    if not 1 <= number <= len(table):
        raise ValueError(
            f"num_steps must be from 1 to {len(table)}, the number of timesteps the model was "
            f"trained on; got {number}."
        )
    return number


def _fractions(table: NoiseTable, num_steps: int, final_sigma: FinalSigma) -> list[float]:
    """Equal fractions from 0 towards 1: of the way from the table's noisiest level to its first."""
    num_steps = _checked(table, num_steps)
    # Ending at the first level, the last of the points is where the last step ends, not where it
    # starts.
    gaps = num_steps if final_sigma == "first" else num_steps - 1
    if gaps >= len(table):
        raise ValueError(
            f"{num_steps} steps that end at the model's first level need {num_steps + 1} "
            f"timesteps, but the noise table has {len(table)}: take fewer, or final_sigma='zero'."
        )
    return [i / gaps if gaps else 0.0 for i in range(num_steps)]


def _ends(name: str, table: NoiseTable) -> tuple[float, float]:
    if math.isinf(table.ratios[-1]):
        raise ValueError(
            f"The schedule {name!r} needs a finite sigma / alpha, but this model starts at alpha 0 "
            "(zero terminal SNR): use 'trailing' or 'linspace'."
        )
    return table.ratios[-1], table.ratios[0]


def _finish(table: NoiseTable, levels: list[Level], final_sigma: FinalSigma) -> Levels:
    if final_sigma == "zero":
        last = Level(0.0, 1.0, 0.0)
    elif final_sigma == "first":
        last = table.level(0)
    else:
        raise ValueError(f"final_sigma must be 'zero' or 'first', got {final_sigma!r}.")
    return Levels([*levels, last], path=table.at_ratio)
