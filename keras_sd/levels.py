"""The levels of a run, from whatever a user may call a schedule, and of a part of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any, get_args

from keras_sd.checks import choice, real
from keras_sd.noise import FinalSigma, Levels, NoisePath, Size, for_run
from keras_sd.registry import get_schedule
from keras_sd.sampler import label
from keras_sd.schedules import Schedule, checked_steps, from_timesteps
from keras_sd.start import StepsMode

__all__ = ["StepsMode", "make_levels"]


def make_levels(
    schedule: str | Mapping[str, Any] | Schedule | Sequence[float] | Levels,
    path: NoisePath,
    num_steps: int | None = None,
    *,
    final_sigma: FinalSigma | None = None,
    size: Size | None = None,
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
            callable ``(path, num_steps) -> Levels``, a falling list of timesteps, or levels, which
            are run as they are.
        path: The model's training noise, as a `keras_sd.noise.NoiseTable`.
        num_steps: The number of steps; may be left out for a list and for levels.
        final_sigma: Where the run ends, ``"zero"`` or ``"first"``; None is ``path.end``. A schedule
            finds it there, as ``path.end``.
        size: Height and width of the pictures in pixels; None is ``path.size``, where a schedule
            finds it.
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
    strength = real("strength", strength, most=1.0, above=0.0)
    steps_mode = choice("steps_mode", steps_mode, get_args(StepsMode))
    path = for_run(path, final_sigma=final_sigma, size=size)
    if isinstance(schedule, str | Mapping):
        schedule = get_schedule(schedule)
    if not callable(schedule):
        levels = _listed(schedule, path, num_steps)
        if strength < 1 and steps_mode == "run":
            raise ValueError(
                "A list of timesteps says itself where a run begins: give strength=1, or "
                f"steps_mode='schedule' for the last {strength:g} of it."
            )
        return _last(levels, strength)
    schedule = get_schedule(schedule)  # which checks that it can be called so
    if num_steps is None:
        raise ValueError("num_steps is needed, unless the schedule is a list of timesteps.")
    num_steps = checked_steps(path, num_steps)
    if steps_mode == "schedule":
        return _last(_whole(schedule, path, num_steps), strength)
    if strength == 1:
        return _whole(schedule, path, num_steps)
    return _lowest(schedule, path, num_steps, strength)


def _last(levels: Levels, strength: float) -> Levels:
    """The last part of a run's steps, at least one."""
    return levels[-max(1, int((len(levels) - 1) * strength)) - 1 :]


def _lowest(schedule: Schedule, path: NoisePath, num_steps: int, strength: float) -> Levels:
    """A whole schedule over the lowest part of the timesteps."""
    lowest = path.lowest(strength)
    few = (
        f"Strength {strength:g} has {len(lowest)} of the {len(path)} timesteps, in which "
        f"{num_steps} steps of this schedule do not fit: take fewer steps, more strength, or "
        "steps_mode='schedule'."
    )
    if num_steps > len(lowest):
        raise ValueError(few)
    try:
        levels = _whole(schedule, lowest, num_steps)
    except ValueError as error:
        _whole(schedule, path, num_steps)  # raises what is wrong at any strength
        raise ValueError(f"{few} {error}") from error
    start, top = levels[0], lowest.noisiest
    if not top.t / 2 - 1 <= start.t <= top.t or start.ratio > top.ratio * (1 + 1e-6):
        raise ValueError(
            f"Strength {strength:g} is timestep {top.t:g}, but {num_steps} step(s) of this "
            f"schedule begin at {start.t:g}: take more steps, 'trailing', or "
            "steps_mode='schedule'. A schedule of one's own follows the path that it is given."
        )
    return levels


def _listed(schedule: Sequence[float] | Levels, path: NoisePath, num_steps: int | None) -> Levels:
    if isinstance(schedule, Levels):
        levels = schedule
    else:
        levels = from_timesteps(path, _timesteps(schedule))
    if num_steps is not None and num_steps != len(levels) - 1:
        raise ValueError(
            f"num_steps is {num_steps}, but the list has {len(levels) - 1} timesteps: leave "
            "num_steps out."
        )
    return levels


def _timesteps(given: Any) -> list[float]:
    try:
        if isinstance(given, Set | bytes):
            raise TypeError
        return [float(t) for t in given]
    except (TypeError, ValueError):
        raise TypeError(
            "A schedule is a name, a callable (path, num_steps) -> Levels, levels, or a falling "
            f"list of timesteps, got {label(given)}."
        ) from None


def _whole(schedule: Schedule, path: NoisePath, num_steps: int) -> Levels:
    try:
        levels = schedule(path, num_steps)
    except TypeError as error:
        if not (given := getattr(schedule, "keywords", None)):
            raise
        settings = ", ".join(f"{key}={value!r}" for key, value in given.items())
        raise TypeError(
            f"Schedule {label(schedule)} cannot be run with {settings}: {error}."
        ) from error
    if not isinstance(levels, Levels):
        raise TypeError(
            f"Schedule {label(schedule)} must return keras_sd.noise.Levels, but returned "
            f"{type(levels).__name__}."
        )
    if len(levels) != num_steps + 1:
        raise ValueError(
            f"Schedule {label(schedule)} returned {len(levels)} levels for {num_steps} steps; "
            f"{num_steps} steps need {num_steps + 1}."
        )
    return levels if levels.path else Levels(levels, path=path.at_ratio)
