from __future__ import annotations

import functools
import math

import numpy as np
import pytest

from keras_sd.levels import make_levels
from keras_sd.noise import CLEAN, Levels, NoiseTable, for_run
from keras_sd.registry import get_schedule, list_schedules
from keras_sd.schedules import from_ratios, from_timesteps, karras, leading

SD = NoiseTable.scaled_linear()
NAMES = [info.name for info in list_schedules() if info.distribution == "keras-sd"]


def test_make_levels_takes_names_callables_and_lists():
    assert make_levels("karras", SD, 5) == karras(SD, 5)
    assert make_levels("leading", SD, 5, final_sigma="first") == leading(SD, 5, final_sigma="first")
    assert make_levels([900, 100], SD, final_sigma="first")[-1] == SD.level(0)
    assert make_levels((900, 100), SD, 2) == make_levels(np.array([900, 100]), SD)

    def mine(table: NoiseTable, num_steps: int) -> Levels:
        return Levels([table.level(999 / (i + 1)) for i in range(num_steps + 1)])

    assert make_levels(mine, SD, 3) == mine(SD, 3)


def test_make_levels_runs_levels_as_they_are():
    levels = from_ratios(SD, [9, 3, 1])
    assert make_levels(levels, SD, final_sigma="first") == levels
    assert make_levels(levels, SD, 3) == levels
    assert make_levels(levels, SD, strength=0.7, steps_mode="schedule") == levels[-3:]
    with pytest.raises(ValueError, match="num_steps is 2, but the list has 3"):
        make_levels(levels, SD, 2)


def test_the_end_and_the_size_of_a_run_are_on_the_path():
    seen = []

    def mine(path, num_steps, low=1):
        seen.append((path.end, path.size))
        return from_timesteps(path, [9, low])

    assert make_levels(mine, SD, 2, final_sigma="first", size=(64, 48))[-1] == SD.level(0)
    assert make_levels(mine, for_run(SD, final_sigma="first", size=(8, 8)), 2)[-1] == SD.level(0)
    assert make_levels(mine, SD, 2)[-1] == CLEAN
    assert seen == [(SD.first, (64, 48)), (SD.first, (8, 8)), (CLEAN, None)]
    assert make_levels(karras, SD, 5, final_sigma="first")[-1] == SD.level(0)
    own = functools.partial(mine, low=2)
    assert make_levels(own, SD, 2, final_sigma="first")[-2:] == (SD.level(2), SD.level(0))
    assert make_levels(get_schedule("karras", rho=5), SD, 5) == karras(SD, 5, rho=5)
    assert make_levels("karras:rho=5", SD, 5) == karras(SD, 5, rho=5)
    assert make_levels({"name": "karras", "rho": 5}, SD, 5) == karras(SD, 5, rho=5)
    assert make_levels(get_schedule("karras", rho=5), SD, 5, final_sigma="first")[-1].sigma
    bound = get_schedule("karras", final_sigma="zero")
    assert make_levels(bound, SD, 5, final_sigma="first")[-1].sigma == 0
    with pytest.raises(ValueError, match="'zero' or 'first', got 'last'"):
        make_levels("karras", SD, 5, final_sigma="last")

    class Unreadable:
        __signature__ = 3

        def __call__(self, table, num_steps):
            return karras(table, num_steps)

    assert make_levels(Unreadable(), SD, 5) == karras(SD, 5)


def test_levels_of_a_schedule_without_a_path_get_the_models():
    levels = make_levels(lambda path, n: Levels([path.noisiest, path.end]), SD, 1)
    assert levels.between(levels[0], levels[1], 0.5) == karras(SD, 1).between(*levels, 0.5)


@pytest.mark.parametrize("final_sigma", ["zero", "first"])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 50])
@pytest.mark.parametrize("name", NAMES)
def test_every_name_makes_a_whole_run_and_the_end_of_one(name, num_steps, final_sigma):
    levels = make_levels(name, SD, num_steps, final_sigma=final_sigma)
    assert len(levels) == num_steps + 1
    part = make_levels(
        name, SD, num_steps, final_sigma=final_sigma, strength=0.6, steps_mode="schedule"
    )
    assert part == levels[-max(1, int(0.6 * num_steps)) - 1 :]
    if num_steps == 50 or name not in ("leading", "ddim_uniform"):
        # Those two begin a whole gap below the top, which is all of it for a few steps.
        part = make_levels(name, SD, num_steps, final_sigma=final_sigma, strength=0.6)
        assert len(part) == num_steps + 1
        assert 500 < part[0].t < 600


def test_make_levels_checks_what_it_is_given():
    with pytest.raises(ValueError, match="num_steps is 3, but the list has 2"):
        make_levels([900, 100], SD, 3)
    with pytest.raises(ValueError, match="num_steps is needed"):
        make_levels("karras", SD)
    with pytest.raises(ValueError, match="Did you mean 'trailing'"):
        make_levels("traling", SD, 3)
    with pytest.raises(ValueError, match="num_steps must be from 1"):
        make_levels(lambda table, n: Levels(), SD, 0)


@pytest.mark.parametrize("given", [{9, 5}, b"ab", 5, [[9, 5]], None, ["a"]])
def test_what_is_no_schedule(given):
    with pytest.raises(TypeError, match="A schedule is a name, a callable"):
        make_levels(given, SD)


def test_a_mapping_that_names_nothing_is_no_schedule():
    with pytest.raises(TypeError, match="A mapping says what it names"):
        make_levels({900: 1}, SD)


@pytest.mark.parametrize("schedule", ["karras:rho=x", "leading:steps_offset=x", "lcm:skip=None"])
def test_a_setting_of_another_type_is_named(schedule):
    name, setting = schedule.split(":")
    key, _, value = setting.partition("=")
    said = f"Schedule {name} cannot be run with {key}='?{value}'?: "
    with pytest.raises(TypeError, match=said):
        make_levels(schedule, SD, 5)


def test_a_number_of_numpy_is_a_strength():
    half = make_levels("karras", SD, np.int64(5), strength=np.float32(0.5))
    assert half == make_levels("karras", SD, 5, strength=0.5)


def test_make_levels_checks_what_a_callable_returns():
    def short(table: NoiseTable, num_steps: int) -> Levels:
        return karras(table, num_steps)[1:]

    with pytest.raises(ValueError, match="short returned 5 levels for 5 steps; 5 steps need 6"):
        make_levels(short, SD, 5)
    with pytest.raises(TypeError, match=r"keras_sd.noise.Levels, but returned list"):
        make_levels(lambda table, n: list(karras(table, n)), SD, 5)


# A part of a run


@pytest.mark.parametrize("final_sigma", ["zero", "first"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("strength", [0.2, 0.75])
def test_the_steps_asked_for_begin_at_the_noise_of_the_strength(name, strength, final_sigma):
    levels = make_levels(name, SD, 20, final_sigma=final_sigma, strength=strength)
    whole = make_levels(name, SD, 20, final_sigma=final_sigma)
    assert len(levels) == 21
    assert levels[-1] == whole[-1]
    assert levels[0].t == pytest.approx(strength * whole[0].t, rel=0.04)
    assert levels.between(levels[0], levels[1], 0.5).t < levels[0].t


@pytest.mark.parametrize("name", ["leading", "trailing"])
def test_half_a_run_is_the_end_of_one_of_twice_the_steps(name):
    half = make_levels(name, SD, 20, strength=0.5)
    assert half == make_levels(name, SD, 40)[-21:]


@pytest.mark.parametrize("schedule", ["leading", leading, [951 - 50 * i for i in range(19)]])
@pytest.mark.parametrize(
    ("strength", "kept"), [(0.3, {20: 6, 19: 5}), (0.999, {20: 19, 19: 18}), (0.01, {20: 1, 19: 1})]
)
def test_the_other_mode_is_the_end_of_the_schedule(schedule, strength, kept):
    steps = 19 if isinstance(schedule, list) else 20
    num_steps = None if isinstance(schedule, list) else 20
    whole = make_levels(schedule, SD, num_steps)
    part = make_levels(schedule, SD, num_steps, strength=strength, steps_mode="schedule")
    assert part == whole[-kept[steps] - 1 :]


def test_strength_times_timesteps_is_rounded_and_not_cut():
    for strength, lowest in ((0.2896, 290), (0.29, 290), (0.2894, 289)):
        assert make_levels("trailing", SD, 5, strength=strength)[0].t == lowest - 1


def test_strength_1_is_the_whole_schedule():
    for steps_mode in ("run", "schedule"):
        levels = make_levels("karras", SD, 7, strength=1.0, steps_mode=steps_mode)
        assert levels == make_levels("karras", SD, 7)
    assert len(make_levels([900, 5], SD, strength=1)) == 3


@pytest.mark.parametrize("name", NAMES)
def test_more_steps_than_fit_are_an_error(name):
    few = "Strength 0.05 has 50 of the 1000 timesteps, in which 51 steps"
    with pytest.raises(ValueError, match=few):
        make_levels(name, SD, 51, strength=0.05)
    assert len(make_levels(name, SD, 33, strength=0.05, final_sigma="first")) == 34


@pytest.mark.parametrize("num_steps", [20, 51])
def test_a_schedule_is_asked_at_most_twice_for_an_error(num_steps):
    calls = []

    def stranger(path, num_steps):
        calls.append(len(path))
        if len(path) < 1000:
            raise ValueError("not so few")
        return karras(path, num_steps)

    with pytest.raises(ValueError, match=r"Strength 0\.05 has 50 of the 1000"):
        make_levels(stranger, SD, num_steps, strength=0.05)
    assert calls == ([50, 1000] if num_steps == 20 else [])


def ends_at_999(table, num_steps):
    return from_timesteps(table, [999 - i for i in range(num_steps)])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strength": 0}, "above 0"),
        ({"strength": 1.2}, "at most 1"),
        ({"strength": math.nan}, "not nan"),
        ({"strength": 0.5, "steps_mode": "all"}, "'run', 'schedule'"),
        ({"strength": 0.5, "num_steps": 1001}, "from 1 to 1000"),
        ({"strength": 0.5, "schedule": [9, 5], "num_steps": None}, "strength=1"),
        ({"strength": 0.5, "schedule": ends_at_999}, "999.0 is outside the noise table"),
        ({"strength": 0.1, "schedule": lambda table, n: karras(SD, n)}, "follows the path"),
        ({"strength": 0.8, "num_steps": 1}, "begin at 1: take more steps"),
        ({"strength": "0.5"}, "not '0.5'"),
        ({"strength": True}, "not True"),
    ],
)
def test_parts_that_cannot_be(options, words):
    arguments = {"schedule": "leading", "path": SD, "num_steps": 20, **options}
    with pytest.raises(ValueError, match=words):
        make_levels(**arguments)
