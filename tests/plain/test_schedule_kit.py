"""The kit for schedules, on schedules that each have one defect and on all that are installed."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from keras_sd.noise import FlowPath, Levels, NoiseTable, for_run
from keras_sd.registry import list_schedules
from keras_sd.schedules import from_timesteps
from keras_sd.testing import ContractViolation, check_schedule, parametrize_schedules_with_checks

TABLE = NoiseTable.scaled_linear()
DRAWN = itertools.count()


def quadratic(path, num_steps, *, power=2.0):
    """Song et al. 2021, appendix D.2."""
    top, first = path.noisiest.t, path.first.t
    fractions = [(i / num_steps) ** power for i in range(num_steps, 0, -1)]
    return from_timesteps(path, [first + f * (top - first) for f in fractions])


def a_list(path, num_steps):
    return list(quadratic(path, num_steps))


def one_less(path, num_steps):
    return quadratic(path, num_steps)[1:]


def always_to_zero(path, num_steps):
    return quadratic(for_run(path, final_sigma="zero"), num_steps)


def of_another_model(path, num_steps):
    return quadratic(replace(path, num_train_timesteps=10), num_steps)


def other_levels(path, num_steps):
    levels = [replace(level, t=level.t + 3) for level in quadratic(path, num_steps)[:-1]]
    return Levels([*levels, path.end])


def of_a_whole_run(path, num_steps):
    return quadratic(for_run(TABLE, final_sigma="first" if path.end.sigma else "zero"), num_steps)


def at_random(path, num_steps):
    return quadratic(path, num_steps, power=1 + next(DRAWN) / 1e6)


def refuses(path, num_steps):
    raise ValueError("not today")


def breaks(path, num_steps):
    return path.no_such_name


def flow_only(path, num_steps):
    if not isinstance(path, FlowPath):
        raise ValueError("made for flow models")
    return quadratic(path, num_steps)


@pytest.mark.parametrize("schedule", [quadratic, flow_only, "karras", "trailing"])
def test_a_good_schedule_passes(schedule):
    check_schedule(schedule)


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        (a_list, "returned list, not keras_sd.noise.Levels"),
        (one_less, "gave 1 levels for 1 steps"),
        (always_to_zero, "whose end is"),
        (of_another_model, "raised TypeError"),
        (other_levels, "which on Stable Diffusion's path is"),
        (of_a_whole_run, "follow the path that is given"),
        (at_random, "gave other levels the second time"),
        (refuses, "runs on no path: not today"),
        (breaks, "raised AttributeError"),
    ],
)
def test_a_schedule_with_a_defect_is_seen(schedule, said):
    with pytest.raises(ContractViolation, match=f"Schedule {schedule.__name__} .*{said}"):
        check_schedule(schedule)


@parametrize_schedules_with_checks([info.qualified_name for info in list_schedules()])
def test_every_installed_schedule_passes(schedule, check):
    check(schedule)
