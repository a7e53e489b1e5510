from __future__ import annotations

import math
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from keras_sd.noise import Level, Levels, NoiseTable
from keras_sd.schedules import (
    exponential,
    from_timesteps,
    get_schedule,
    karras,
    leading,
    linspace,
    list_schedules,
    make_levels,
    trailing,
)

SD = NoiseTable.scaled_linear()
ALL = [leading, trailing, linspace, karras, exponential]
GOLDENS = np.load(Path(__file__).parent / "fixtures" / "sampler_goldens.npz")


def timesteps(levels: Levels) -> list[float]:
    return [level.t for level in levels[:-1]]


@pytest.mark.parametrize("schedule", ALL)
@pytest.mark.parametrize("final_sigma", ["zero", "first"])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 50])
def test_every_schedule_falls_to_its_end(schedule, final_sigma, num_steps):
    levels = schedule(SD, num_steps, final_sigma=final_sigma)
    assert isinstance(levels, Levels)
    assert len(levels) == num_steps + 1
    assert all(a.ratio > b.ratio and a.t > b.t - 1e-9 for a, b in pairwise(levels))
    expected = Level(0.0, 1.0, 0.0) if final_sigma == "zero" else SD.level(0)
    assert levels[-1] == expected
    assert all(0 <= level.t <= 999 for level in levels)
    middle = levels.between(*levels[:2], 0.5)
    assert levels[0].ratio > middle.ratio > levels[1].ratio


@pytest.mark.parametrize("schedule", [trailing, linspace, karras, exponential])
@pytest.mark.parametrize("num_steps", [1, 20])
def test_all_but_leading_start_at_the_noisiest_level(schedule, num_steps):
    assert schedule(SD, num_steps)[0].ratio == pytest.approx(SD.ratios[-1], rel=1e-12)


@pytest.mark.parametrize(
    ("schedule", "num_steps"),
    # One linspace step starts at timestep 0 in diffusers, at the noisiest here.
    [(leading, 1), (trailing, 1)]
    + [(s, n) for s in (leading, trailing, linspace) for n in (2, 3, 20, 50)],
)
def test_timesteps_equal_diffusers(schedule, num_steps):
    golden = GOLDENS[f"timesteps-{schedule.__name__}/{num_steps}"]  # float32
    np.testing.assert_allclose(timesteps(schedule(SD, num_steps)), golden, rtol=1e-7, atol=1e-4)


@pytest.mark.parametrize("schedule", [karras, exponential])
def test_levels_equal_diffusers(schedule):
    levels = schedule(SD, 20)
    ratios = [level.ratio for level in levels]
    # diffusers keeps them in float32, computed from a float32 table.
    np.testing.assert_allclose(ratios, GOLDENS[f"sigmas-{schedule.__name__}/20"], rtol=2e-5)
    golden = GOLDENS[f"timesteps-{schedule.__name__}/20"]
    np.testing.assert_allclose(timesteps(levels), golden, atol=0.02)


def test_known_values():
    assert timesteps(leading(SD, 4)) == [751, 501, 251, 1]
    assert timesteps(leading(SD, 4, steps_offset=0)) == [750, 500, 250, 0]
    assert timesteps(trailing(SD, 4)) == [999, 749, 499, 249]
    assert timesteps(linspace(SD, 4)) == [999, 666, 333, 0]
    assert timesteps(linspace(SD, 3, final_sigma="first")) == [999, 666, 333]
    ratios = [level.ratio for level in exponential(SD, 3)]
    assert ratios[0] / ratios[1] == pytest.approx(ratios[1] / ratios[2])
    flat = [level.ratio for level in karras(SD, 3, rho=1)]
    assert flat[0] - flat[1] == pytest.approx(flat[1] - flat[2])


@pytest.mark.parametrize("schedule", ALL)
def test_number_of_steps_is_checked(schedule):
    for number in (0, -1, 1001):
        with pytest.raises(ValueError, match=rf"from 1 to 1000.*got {number}"):
            schedule(SD, number)
    for number in (20.0, True, "20", None):
        with pytest.raises(TypeError, match="num_steps must be an integer"):
            schedule(SD, number)
    assert len(schedule(SD, np.int64(5))) == 6


@pytest.mark.parametrize("schedule", [trailing, linspace, karras, exponential])
def test_as_many_steps_as_timesteps(schedule):
    assert len(schedule(SD, 1000)) == 1001


def test_leading_that_leaves_the_table():
    assert len(leading(SD, 1000, steps_offset=0)) == 1001
    with pytest.raises(ValueError, match=r"runs from timestep 1000 to 1, .* 0 to 999.*'trailing'"):
        leading(SD, 1000)
    with pytest.raises(ValueError, match="steps_offset -1"):
        leading(SD, 10, steps_offset=-1)


@pytest.mark.parametrize("schedule", [linspace, karras, exponential])
def test_too_many_steps_down_to_the_first_level(schedule):
    assert len(schedule(SD, 999, final_sigma="first")) == 1000
    with pytest.raises(ValueError, match="need 1001 timesteps"):
        schedule(SD, 1000, final_sigma="first")


def test_final_sigma_is_checked():
    with pytest.raises(ValueError, match="'zero' or 'first', got 'last'"):
        leading(SD, 10, final_sigma="last")


@pytest.mark.parametrize("rho", [0, -1, float("nan"), float("inf")])
def test_rho_is_checked(rho):
    with pytest.raises(ValueError, match="rho"):
        karras(SD, 10, rho=rho)


def test_zero_terminal_snr():
    table = NoiseTable((*SD.alphas_cumprod[:-1], 0.0))
    assert trailing(table, 10)[0].alpha == 0
    assert linspace(table, 10)[0].alpha == 0
    for schedule in (karras, exponential):
        with pytest.raises(ValueError, match=f"'{schedule.__name__}' needs a finite"):
            schedule(table, 10)


def test_timesteps_of_ones_own():
    levels = from_timesteps(SD, [900, 500.5, 20], final_sigma="first")
    assert timesteps(levels) == [900, 500.5, 20]
    assert levels[-1] == SD.level(0)


@pytest.mark.parametrize(
    ("given", "final_sigma", "message"),
    [
        ([], "zero", "at least one timestep"),
        ([500, 500], "zero", "500 is followed by 500"),
        ([1, 500], "zero", "1 is followed by 500"),
        ([1000, 1], "zero", "Timestep 1000.0 is outside"),
        ([10, -1], "zero", "Timestep -1.0 is outside"),
        ([10, 0], "first", "last timestep is 0 already"),
    ],
)
def test_timesteps_of_ones_own_are_checked(given, final_sigma, message):
    with pytest.raises(ValueError, match=message):
        from_timesteps(SD, given, final_sigma=final_sigma)


def test_get_schedule():
    assert list_schedules() == ["leading", "trailing", "linspace", "karras", "exponential"]
    assert [get_schedule(name) for name in list_schedules()] == ALL
    with pytest.raises(ValueError, match=r"No schedule 'Karas'. Did you mean 'karras'\? There are"):
        get_schedule("Karas")
    with pytest.raises(ValueError, match="There are: leading, trailing, linspace, karras, expo"):
        get_schedule("zzz")


def test_make_levels_takes_names_callables_and_lists():
    assert make_levels("karras", SD, 5) == karras(SD, 5)
    assert make_levels("leading", SD, 5, final_sigma="first") == leading(SD, 5, final_sigma="first")
    assert make_levels([900, 100], SD, final_sigma="first")[-1] == SD.level(0)
    assert make_levels((900, 100), SD, 2) == make_levels(np.array([900, 100]), SD)

    def mine(table: NoiseTable, num_steps: int) -> Levels:
        return Levels([table.level(999 / (i + 1)) for i in range(num_steps + 1)])

    assert make_levels(mine, SD, 3) == mine(SD, 3)


def test_make_levels_checks_what_it_is_given():
    with pytest.raises(ValueError, match="num_steps is 3, but the list has 2"):
        make_levels([900, 100], SD, 3)
    with pytest.raises(ValueError, match="num_steps is needed"):
        make_levels("karras", SD)
    with pytest.raises(ValueError, match="Did you mean 'trailing'"):
        make_levels("traling", SD, 3)
    with pytest.raises(ValueError, match="num_steps must be from 1"):
        make_levels(lambda table, n: Levels(), SD, 0)


def test_make_levels_checks_what_a_callable_returns():
    def short(table: NoiseTable, num_steps: int) -> Levels:
        return karras(table, num_steps)[1:]

    with pytest.raises(ValueError, match="short returned 5 levels for 5 steps; 5 steps need 6"):
        make_levels(short, SD, 5)
    with pytest.raises(TypeError, match=r"keras_sd.noise.Levels, but returned list"):
        make_levels(lambda table, n: list(karras(table, n)), SD, 5)


# A part of a run


@pytest.mark.parametrize("final_sigma", ["zero", "first"])
@pytest.mark.parametrize("name", list_schedules())
@pytest.mark.parametrize("strength", [0.2, 0.75])
def test_the_steps_asked_for_begin_at_the_noise_of_the_strength(name, strength, final_sigma):
    levels = make_levels(name, SD, 20, final_sigma=final_sigma, strength=strength)
    whole = make_levels(name, SD, 20, final_sigma=final_sigma)
    assert len(levels) == 21
    assert levels[-1] == whole[-1]
    assert levels[0].t == pytest.approx(strength * whole[0].t, rel=0.03)
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


def test_strength_1_is_the_whole_schedule():
    for steps_mode in ("run", "schedule"):
        levels = make_levels("karras", SD, 7, strength=1.0, steps_mode=steps_mode)
        assert levels == make_levels("karras", SD, 7)
    assert len(make_levels([900, 5], SD, strength=1)) == 3


@pytest.mark.parametrize("final_sigma", ["zero", "first"])
@pytest.mark.parametrize("name", list_schedules())
def test_the_most_steps_that_fit_are_named_and_fit(name, final_sigma):
    options = {"final_sigma": final_sigma, "strength": 0.05}
    with pytest.raises(ValueError, match="Not more than") as caught:
        make_levels(name, SD, 51, **options)
    most = int(re.search(r"more than (\d+) steps", str(caught.value))[1])
    assert len(make_levels(name, SD, most, **options)) == most + 1
    with pytest.raises(ValueError, match=f"Not more than {most} steps"):
        make_levels(name, SD, most + 1, **options)


def ends_at_999(table, num_steps):
    return from_timesteps(table, [999 - i for i in range(num_steps)])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strength": 0}, "above 0"),
        ({"strength": 1.2}, "at most 1"),
        ({"strength": math.nan}, "got nan"),
        ({"strength": 0.5, "steps_mode": "all"}, "'run' or 'schedule'"),
        ({"strength": 0.5, "num_steps": 1001}, "from 1 to 1000"),
        ({"strength": 0.5, "schedule": [9, 5], "num_steps": None}, "strength=1"),
        ({"strength": 0.5, "schedule": ends_at_999}, "999.0 is outside the noise table"),
        ({"strength": 0.1, "schedule": lambda table, n: karras(SD, n)}, "follows the table"),
        ({"strength": 0.8, "num_steps": 1}, "begin at 1: take more steps"),
        ({"strength": "0.5"}, "got '0.5'"),
    ],
)
def test_parts_that_cannot_be(options, words):
    arguments = {"schedule": "leading", "table": SD, "num_steps": 20, **options}
    with pytest.raises(ValueError, match=words):
        make_levels(**arguments)
