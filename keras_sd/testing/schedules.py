"""The kit for schedules: levels that fall, as many as asked for, on any path, down to its end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NoReturn

from keras_sd.noise import FlowPath, Level, Levels, NoisePath, NoiseTable, for_run
from keras_sd.registry import get_schedule
from keras_sd.sampler import label
from keras_sd.schedules import Schedule
from keras_sd.testing.running import ContractViolation, check_all

ScheduleCheck = Callable[[Schedule | str], None]

_TABLE = NoiseTable.scaled_linear()
_PATHS: dict[str, NoisePath] = {
    "Stable Diffusion's": _TABLE,
    "the linear": NoiseTable.linear(num_train_timesteps=300),
    "the zero terminal SNR": _TABLE.zero_terminal_snr(),
    "the flow": FlowPath(),
}
_STEPS = (1, 2, 3, 7, 20, 50)
_SIZE = (512, 768)
_ABOVE = 1.01


def all_schedule_checks() -> tuple[ScheduleCheck, ...]:
    """Every check, each a function of a schedule (a callable or a name)."""
    return (
        check_number_of_levels,
        check_where_a_run_ends,
        check_levels_on_the_path,
        check_lowest_part,
        check_same_levels_twice,
    )


def check_schedule(schedule: Schedule | str) -> None:
    """Run every check on a schedule.

    A schedule may refuse a path, or a number of steps on it, with a ValueError that says what would
    fit; one that refuses all of them fails.

    Args:
        schedule: A callable, or a name as `keras_sd.get_schedule` takes it.

    Raises:
        ContractViolation: At least one check failed; the message has all of them.
    """
    check_all(all_schedule_checks(), schedule)


def check_number_of_levels(schedule: Schedule | str) -> None:
    """N steps give `Levels`, n + 1 of them, for several n."""
    for name, _, num_steps, levels in _runs(schedule):
        if not isinstance(levels, Levels):
            _fail(schedule, f"returned {type(levels).__name__}, not keras_sd.noise.Levels")
        if len(levels) != num_steps + 1:
            _fail(schedule, f"gave {len(levels)} levels for {num_steps} steps on {name} path")


def check_where_a_run_ends(schedule: Schedule | str) -> None:
    """The last level is ``path.end``: the clean latent, or the first training level."""
    for name, path, num_steps, levels in _runs(schedule):
        if levels[-1] != path.end:
            _fail(
                schedule,
                f"ends at {levels[-1]} with {num_steps} steps on {name} path, whose end is "
                f"{path.end}; make levels with from_timesteps or from_ratios, or end at path.end",
            )


def check_levels_on_the_path(schedule: Schedule | str) -> None:
    """Every level is one that the model knows: on the path, not above its noisiest level by more
    than the percent that published lists are rounded by, with its own timestep, within one.
    """
    for name, path, _, levels in _runs(schedule):
        if levels[0].ratio > _ABOVE * path.noisiest.ratio:
            _fail(schedule, f"begins at {levels[0]} on {name} path, above {path.noisiest}")
        for level in levels[:-1]:
            own = path.at_ratio(level.ratio)
            if abs(own.t - level.t) > 1 or not _close(own, level):
                _fail(schedule, f"has {level}, which on {name} path is {own}")


def check_lowest_part(schedule: Schedule | str) -> None:
    """A run that begins at a picture is given the lowest part of a path, and stays in it."""
    for name, path, _, levels in _runs(schedule, strength=0.4):
        if levels[0].ratio > _ABOVE * path.noisiest.ratio:
            _fail(
                schedule,
                f"begins at {levels[0]} on the lowest part of {name} path, whose noisiest level is "
                f"{path.noisiest}: follow the path that is given",
            )


def check_same_levels_twice(schedule: Schedule | str) -> None:
    """The same path and steps give the same levels: a schedule has no randomness and no memory."""
    pairs = zip(_runs(schedule), _runs(schedule), strict=True)
    for (name, _, num_steps, first), (*_, second) in pairs:
        if first != second:
            _fail(schedule, f"gave other levels the second time, {num_steps} steps on {name} path")


def _runs(
    schedule: Schedule | str, strength: float = 1.0
) -> Iterator[tuple[str, NoisePath, int, Levels]]:
    made, refused = get_schedule(schedule), None
    ran = False
    for name, whole in _PATHS.items():
        for final_sigma in ("zero", "first"):
            path = for_run(whole, final_sigma=final_sigma, size=_SIZE)
            if strength < 1:
                path = path.lowest(strength)
            for num_steps in _STEPS:
                try:
                    levels = made(path, num_steps)
                except ValueError as error:
                    refused = error
                    continue
                except Exception as error:
                    raise ContractViolation(
                        f"Schedule {label(schedule)} raised {type(error).__name__} with "
                        f"{num_steps} steps on {name} path: {error}"
                    ) from error
                ran = True
                yield name, path, num_steps, levels
    if not ran:
        raise ContractViolation(
            f"Schedule {label(schedule)} runs on no path: {refused}"
        ) from refused


def _close(one: Level, other: Level) -> bool:
    return all(
        math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)
        for a, b in ((one.alpha, other.alpha), (one.sigma, other.sigma))
    )


def _fail(schedule: Schedule | str, what: str) -> NoReturn:
    raise ContractViolation(f"Schedule {label(schedule)} {what}.")
