"""The levels of a run, from whatever a user may call a schedule, and of a part of a run."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from keras_sd.noise import Levels, NoiseTable
from keras_sd.registry import get_schedule
from keras_sd.schedules import FinalSigma, Schedule, checked_steps, from_timesteps

__all__ = ["StepsMode", "make_levels"]

StepsMode = Literal["run", "schedule"]


def make_levels(
    schedule: str | Mapping[str, Any] | Schedule | Sequence[float] | Levels,
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
        schedule: A name of `keras_sd.registry.list_schedules`, with settings or without, a
            callable ``(table, num_steps) -> Levels``, a falling list of timesteps, or levels, which
            are run as they are.
        table: The model's training noise.
        num_steps: The number of steps; may be left out for a list and for levels.
        final_sigma: ``"zero"`` or ``"first"``, see `keras_sd.schedules`. It is given to a callable
            that has an argument of this name, not bound already; others decide for themselves.
        strength: In (0, 1]; 1 is the whole schedule.
        steps_mode: ``"run"`` or ``"schedule"``. A list and levels are run whole or by
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
    if isinstance(schedule, str | Mapping):
        schedule = get_schedule(schedule)
    if not callable(schedule):
        levels = _listed(schedule, table, num_steps, final_sigma)
        if strength < 1 and steps_mode == "run":
            raise ValueError(
                "A list of timesteps says itself where a run begins: give strength=1, or "
                f"steps_mode='schedule' for the last {strength:g} of it."
            )
        return _last(levels, strength)
    if num_steps is None:
        raise ValueError("num_steps is needed, unless the schedule is a list of timesteps.")
    if steps_mode == "schedule":
        return _last(_whole(schedule, table, num_steps, final_sigma), strength)
    if strength == 1:
        return _whole(schedule, table, num_steps, final_sigma)
    return _lowest(schedule, table, num_steps, final_sigma, strength)


def _last(levels: Levels, strength: float) -> Levels:
    """The last part of a run's steps, at least one."""
    return levels[-max(1, int((len(levels) - 1) * strength)) - 1 :]


def _lowest(
    schedule: Schedule,
    table: NoiseTable,
    num_steps: int,
    final_sigma: FinalSigma,
    strength: float,
) -> Levels:
    """A whole schedule over the lowest part of the timesteps."""
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


def _can(schedule: Schedule, table: NoiseTable, num_steps: int, final_sigma: FinalSigma) -> bool:
    try:
        _whole(schedule, table, num_steps, final_sigma)
    except ValueError:
        return False
    return True


def _listed(
    schedule: Sequence[float] | Levels,
    table: NoiseTable,
    num_steps: int | None,
    final_sigma: FinalSigma,
) -> Levels:
    if isinstance(schedule, Levels):
        levels = schedule
    else:
        levels = from_timesteps(table, list(schedule), final_sigma=final_sigma)
    if num_steps is not None and num_steps != len(levels) - 1:
        raise ValueError(
            f"num_steps is {num_steps}, but the list has {len(levels) - 1} timesteps: leave "
            "num_steps out."
        )
    return levels


def _whole(
    schedule: Schedule, table: NoiseTable, num_steps: int, final_sigma: FinalSigma
) -> Levels:
    num_steps = checked_steps(table, num_steps)
    end = {"final_sigma": final_sigma} if _asks_for_the_end(schedule) else {}
    levels = schedule(table, num_steps, **end)
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


def _asks_for_the_end(schedule: Schedule) -> bool:
    """Whether a schedule takes `final_sigma`, and does not have it bound."""
    if isinstance(schedule, functools.partial) and "final_sigma" in schedule.keywords:
        return False
    try:
        return "final_sigma" in inspect.signature(schedule).parameters
    except (TypeError, ValueError):  # it has none to read, so it is not ours
        return False
