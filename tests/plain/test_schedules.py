from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from keras_sd import grids, schedules
from keras_sd.noise import Level, Levels, NoiseTable
from keras_sd.schedules import (
    align_your_steps,
    beta,
    ddim_uniform,
    exponential,
    from_ratios,
    from_timesteps,
    karras,
    kl_optimal,
    lcm,
    leading,
    linspace,
    normal,
    polyexponential,
    sgm_uniform,
    simple,
    trailing,
)

SD = NoiseTable.scaled_linear()
ZERO_SNR = SD.zero_terminal_snr()
FROM_THE_CLEAN_END = [leading, ddim_uniform]
WHOLE = [trailing, simple, lcm]
FRACTIONAL = [linspace, normal, sgm_uniform, kl_optimal]
FINITE = [karras, exponential, polyexponential, beta, align_your_steps]
FROM_THE_TOP = [*WHOLE, *FRACTIONAL, *FINITE]
ALL = [*FROM_THE_CLEAN_END, *FROM_THE_TOP]
GOLDENS = np.load(Path(__file__).parents[1] / "fixtures" / "sampler_goldens.npz")


def beta_timesteps(table, num_steps, **settings):
    return beta(table, num_steps, over="timesteps", **settings)


def timesteps(levels: Levels) -> list[float]:
    return [level.t for level in levels[:-1]]


def ratios(levels: Levels) -> list[float]:
    return [level.ratio for level in levels]


def test_here_are_all_of_them():
    lists = {"from_ratios", "from_timesteps", "checked_steps"}
    public = {name for name in schedules.__all__ if name.islower()} - lists
    assert public == {schedule.__name__ for schedule in ALL}


@pytest.mark.parametrize("schedule", [*ALL, beta_timesteps])
@pytest.mark.parametrize("final_sigma", ["zero", "first"])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 7, 50, 333, 600])
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


@pytest.mark.parametrize("schedule", [*FROM_THE_TOP, beta_timesteps])
@pytest.mark.parametrize("num_steps", [1, 20])
def test_all_but_two_start_at_the_noisiest_level(schedule, num_steps):
    start = schedule(SD, num_steps)[0]
    assert start.t == pytest.approx(999, abs=1e-9)
    # What was published is rounded.
    rel = 3e-5 if schedule is align_your_steps else 1e-12
    assert start.ratio == pytest.approx(SD.ratios[-1], rel=rel)


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
    # diffusers keeps them in float32, computed from a float32 table.
    np.testing.assert_allclose(ratios(levels), GOLDENS[f"sigmas-{schedule.__name__}/20"], rtol=2e-5)
    golden = GOLDENS[f"timesteps-{schedule.__name__}/20"]
    np.testing.assert_allclose(timesteps(levels), golden, atol=0.02)


def test_known_timesteps():
    assert timesteps(leading(SD, 4)) == [751, 501, 251, 1]
    assert timesteps(leading(SD, 4, steps_offset=0)) == [750, 500, 250, 0]
    assert timesteps(trailing(SD, 4)) == [999, 749, 499, 249]
    assert timesteps(trailing(SD, 7)) == [999, 856, 713, 570, 428, 285, 142]
    assert timesteps(simple(SD, 4)) == [999, 749, 499, 249]
    assert timesteps(simple(SD, 7)) == [999, 857, 714, 571, 428, 285, 142]
    assert timesteps(linspace(SD, 4)) == [999, 666, 333, 0]
    assert timesteps(linspace(SD, 3, final_sigma="first")) == [999, 666, 333]
    assert timesteps(normal(SD, 4)) == [999, 666, 333, 0]
    assert timesteps(sgm_uniform(SD, 3)) == [999, 666, 333]
    assert timesteps(normal(SD, 3, final_sigma="first")) == [999, 666, 333]


@pytest.mark.parametrize("num_steps", [1, 2, 4, 20, 50, 500])
def test_ddim_uniform_is_leading_where_the_steps_divide_the_table(num_steps):
    assert ddim_uniform(SD, num_steps) == leading(SD, num_steps)


def test_ddim_uniform_runs_the_noisiest_of_too_many():
    # Each 33rd from 1 up to 991 would be 31.
    assert timesteps(ddim_uniform(SD, 30)) == list(range(991, 1, -33))
    assert timesteps(ddim_uniform(SD, 999)) == list(range(999, 0, -1))
    with pytest.raises(ValueError, match="1000 timesteps give at most 999 steps, not 1000"):
        ddim_uniform(SD, 1000)


def test_lcm_keeps_to_the_timesteps_of_the_distillation():
    assert timesteps(lcm(SD, 4)) == [999, 759, 499, 259]
    assert timesteps(lcm(SD, 50)) == list(range(999, 0, -20))
    assert timesteps(lcm(SD, 2, skip=10)) == [999, 499]
    lowest = NoiseTable(SD.alphas_cumprod[:330])  # 16 of them lie in it
    assert timesteps(lcm(lowest, 4)) == [319, 239, 159, 79]
    assert len(lcm(lowest, 50)) == 51  # more than 16 are of a finer grid
    with pytest.raises(ValueError, match=r"skip must be .* from 1 up, got 0"):
        lcm(SD, 4, skip=0)


# Constants: the definitions in float64, with SciPy's beta distribution and NumPy's interp.


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        (normal(SD, 4), [14.6146412293, 2.91830711543, 0.932357966835, 0.0291671581517, 0]),
        (sgm_uniform(SD, 4), [14.6146412293, 4.08608107121, 1.61558026016, 0.695149519078, 0]),
        (
            beta(SD, 5),
            [14.6146412293, 12.0522596217, 7.32190419374, 2.59154876581, 0.0291671581517, 0],
        ),
        (
            kl_optimal(SD, 4, final_sigma="first"),
            [14.6146412293, 2.14274120969, 0.96158802693, 0.419836192564, 0.0291671581517],
        ),
        (kl_optimal(SD, 4), [14.6146412293, 1.59706618309, 0.572914228685, 0.0291671581517, 0]),
        (
            polyexponential(SD, 4, rho=2.0),
            [14.6146412293, 0.462218180908, 0.0581945539005, 0.0291671581517, 0],
        ),
        (
            align_your_steps(SD, 7),
            [
                *(14.615, 5.18810021609, 2.83883913051, 1.73065828398),
                *(1.07078018183, 0.607826711232, 0.229863721742, 0),
            ],
        ),
    ],
    ids=["normal", "sgm_uniform", "beta", "kl_first", "kl_zero", "polyexponential", "ays"],
)
def test_known_ratios(levels, expected):
    np.testing.assert_allclose(ratios(levels), expected, rtol=1e-11)


def test_align_your_steps_at_ten_steps_is_what_was_published():
    expected = [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152]
    np.testing.assert_allclose(ratios(align_your_steps(SD, 10))[:-1], expected, rtol=1e-12)


def test_align_your_steps_of_less_noise_is_the_rest_of_the_same_curve():
    # The table up to the timestep where the fifth published value lies.
    lowest = NoiseTable(SD.alphas_cumprod[: round(SD.timestep(1.886)) + 1])
    np.testing.assert_allclose(
        ratios(align_your_steps(lowest, 6))[:-1],
        [1.886, 1.396, 0.963, 0.652, 0.399, 0.152],
        rtol=2e-3,
    )


@pytest.mark.parametrize(
    "table",
    [
        ZERO_SNR,
        NoiseTable.linear(),
        NoiseTable.scaled_linear(beta_end=0.0125),
        NoiseTable.scaled_linear(num_train_timesteps=500),
        NoiseTable((*SD.alphas_cumprod, 0.001)),
    ],
)
def test_align_your_steps_is_for_stable_diffusions_noise(table):
    with pytest.raises(ValueError, match=r"'align_your_steps' was found for .* use 'kl_optimal'"):
        align_your_steps(table, 10)


def test_beta_over_timesteps():
    expected = [999, 876.201171292, 636.661710238, 362.338289762, 122.798828708]
    assert timesteps(beta_timesteps(SD, 5)) == pytest.approx(expected, rel=1e-9)
    assert beta_timesteps(SD, 5, final_sigma="first")[:-1] == beta_timesteps(SD, 5)[:-1]
    # Dense at the clean end with a small alpha, as over ratios.
    assert timesteps(beta_timesteps(SD, 9, alpha=0.3))[-1] < 2
    # ComfyUI rounds.
    rounded = [round(t) for t in timesteps(beta_timesteps(SD, 20))]
    assert rounded == [
        *(999, 986, 959, 922, 876, 823, 765, 703, 637, 569),
        *(500, 430, 362, 296, 234, 176, 123, 77, 40, 13),
    ]
    with pytest.raises(ValueError, match="over must be 'ratios' or 'timesteps', got 'sigmas'"):
        beta(SD, 5, over="sigmas")


@pytest.mark.parametrize(
    ("a", "b", "p", "expected"),  # scipy.stats.beta.ppf
    [
        (0.6, 0.6, 0.05, 0.012554456873611399),
        (0.6, 0.6, 0.5, 0.5),
        (0.5, 0.5, 0.01, 0.00024671981713422146),
        (2, 5, 0.3, 0.18180347131894917),
        (0.1, 100, 0.9, 0.0026699920253641335),
        (100, 3, 0.2, 0.958515545625995),
        (10, 10, 0.999, 0.8109628840952021),
        (1, 1, 0.25, 0.25),
    ],
)
def test_quantiles_of_the_beta_distribution(a, b, p, expected):
    assert grids.beta_quantile(p, a, b) == pytest.approx(expected, rel=1e-12)
    assert (grids.beta_quantile(0, a, b), grids.beta_quantile(1, a, b)) == (0, 1)


def test_the_shape_of_beta():
    # Dense at the clean end with a small alpha, at the noisy end with a small beta.
    clean, noisy = ratios(beta(SD, 9, alpha=0.3)), ratios(beta(SD, 9, beta=0.3))
    assert clean[7] - clean[8] < 0.1 < clean[0] - clean[1]
    assert noisy[0] - noisy[1] < 0.1 < noisy[6] - noisy[7]


def test_rho():
    flat = ratios(karras(SD, 3, rho=1))
    assert flat[0] - flat[1] == pytest.approx(flat[1] - flat[2])
    np.testing.assert_allclose(ratios(polyexponential(SD, 9)), ratios(exponential(SD, 9)), 1e-13)
    steep = [math.log(ratio) for ratio in ratios(polyexponential(SD, 3, rho=3))[:-1]]
    assert steep[0] - steep[1] == pytest.approx(7 * (steep[1] - steep[2]))


@pytest.mark.parametrize(
    ("schedule", "setting"),
    [(karras, "rho"), (polyexponential, "rho"), (beta, "alpha"), (beta, "beta")],
)
@pytest.mark.parametrize("value", [0, -1, 1e-3, 101, math.nan, math.inf])
def test_settings_are_checked(schedule, setting, value):
    with pytest.raises(ValueError, match=f"{setting} must be from 0.1 to 100, got {value}"):
        schedule(SD, 10, **{setting: value})
    for end in (0.1, 100):
        assert len(schedule(SD, 2, **{setting: end})) == 3


@pytest.mark.parametrize(
    ("schedule", "settings"), [(polyexponential, {"rho": 100}), (beta, {"alpha": 0.1})]
)
def test_settings_so_steep_that_levels_fall_together(schedule, settings):
    with pytest.raises(ValueError, match=r"fall without repeating, but 0.0291671582 is followed"):
        schedule(SD, 200, **settings)


@pytest.mark.parametrize("schedule", ALL)
def test_number_of_steps_is_checked(schedule):
    for number in (0, -1, 1001):
        with pytest.raises(ValueError, match=rf"from 1 to 1000.*got {number}"):
            schedule(SD, number)
    for number in (20.0, True, "20", None):
        with pytest.raises(TypeError, match="num_steps must be an integer"):
            schedule(SD, number)
    assert len(schedule(SD, np.int64(5))) == 6


@pytest.mark.parametrize("schedule", FROM_THE_TOP)
def test_as_many_steps_as_timesteps(schedule):
    assert len(schedule(SD, 1000)) == 1001
    if schedule in WHOLE:  # the last of a thousand whole timesteps is the first level
        with pytest.raises(ValueError, match="last timestep is 0 already"):
            schedule(SD, 1000, final_sigma="first")
    else:
        assert len(schedule(SD, 1000, final_sigma="first")) == 1001


@pytest.mark.parametrize("table", [NoiseTable(SD.alphas_cumprod[:n]) for n in (2, 3, 50)])
@pytest.mark.parametrize("final_sigma", ["zero", "first"])
@pytest.mark.parametrize("schedule", FROM_THE_TOP)
def test_the_smallest_tables(schedule, final_sigma, table):
    # Whole timesteps end at the first level, or round to it, before they are as many as those.
    most = len(table) // (2 if schedule in WHOLE and final_sigma == "first" else 1)
    for num_steps in {1, 2, most}:
        if num_steps <= most:
            assert len(schedule(table, num_steps, final_sigma=final_sigma)) == num_steps + 1


def test_leading_that_leaves_the_table():
    assert len(leading(SD, 1000, steps_offset=0)) == 1001
    with pytest.raises(ValueError, match=r"runs from timestep 1000 to 1, .* 0 to 999.*'trailing'"):
        leading(SD, 1000)
    with pytest.raises(ValueError, match="steps_offset -1"):
        leading(SD, 10, steps_offset=-1)


def test_final_sigma_is_checked():
    with pytest.raises(ValueError, match="'zero' or 'first', got 'last'"):
        leading(SD, 10, final_sigma="last")


# Zero terminal SNR


@pytest.mark.parametrize("schedule", [*WHOLE, *FRACTIONAL, beta_timesteps])
@pytest.mark.parametrize("final_sigma", ["zero", "first"])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 50, 600])
def test_zero_terminal_snr(schedule, final_sigma, num_steps):
    levels = schedule(ZERO_SNR, num_steps, final_sigma=final_sigma)
    assert len(levels) == num_steps + 1
    assert levels[0] == Level(999.0, 0.0, 1.0)
    assert all(level.alpha for level in levels[1:])


def test_next_to_alpha_0_the_timestep_tells_the_level():
    # With 1000 steps from 999 to 0 the second lies between the last two timesteps.
    for schedule in (normal, sgm_uniform):
        level = schedule(ZERO_SNR, 1000, final_sigma="first")[1]
        assert level == ZERO_SNR.level(level.t)
        assert 998 <= level.t < 999


@pytest.mark.parametrize("schedule", [karras, exponential, polyexponential, beta])
def test_what_cannot_start_at_alpha_0(schedule):
    with pytest.raises(ValueError, match=f"'{schedule.__name__}' needs a finite .* 'kl_optimal'"):
        schedule(ZERO_SNR, 10)


# Lists


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


def test_ratios_of_ones_own():
    levels = from_ratios(SD, [14.615, 3, 0.5], final_sigma="first")
    assert ratios(levels[:-1]) == pytest.approx([14.615, 3, 0.5], rel=1e-12)
    assert timesteps(levels) == pytest.approx([999, SD.timestep(3), SD.timestep(0.5)])
    assert levels[-1] == SD.level(0)
    assert from_ratios(SD, np.array([3, 0.01]))[1].t == 0
    assert from_ratios(ZERO_SNR, [math.inf, 300.0])[0] == Level(999.0, 0.0, 1.0)
    assert levels.between(*levels[:2], 0.5).ratio == pytest.approx(math.sqrt(3 * 14.615))


@pytest.mark.parametrize(
    ("given", "final_sigma", "message"),
    [
        ([], "zero", "at least one value"),
        ([5, 5], "zero", "5 is followed by 5"),
        ([1, 5], "zero", "1 is followed by 5"),
        ([5, math.nan], "zero", "5 is followed by nan"),
        ([5, 0], "zero", "above 0, got 0 at the end: leave a 0 out"),
        ([5, -1], "zero", "above 0, got -1"),
        ([math.nan], "zero", "above 0, got nan"),
        ([14.8, 5], "zero", "up to 14.6146, but the list begins with 14.8"),
        ([math.inf, 5], "zero", "begins with inf"),
        ([5, 0.029], "first", "0.029, is not above the model's first level, 0.0291672"),
    ],
)
def test_ratios_of_ones_own_are_checked(given, final_sigma, message):
    with pytest.raises(ValueError, match=message):
        from_ratios(SD, given, final_sigma=final_sigma)


# The code of diffusers, which keeps float32


@pytest.mark.references
@pytest.mark.parametrize("num_steps", [2, 3, 20, 50])
@pytest.mark.parametrize(
    "schedule", [karras, exponential, beta], ids=lambda schedule: schedule.__name__
)
def test_ratios_equal_diffusers(schedule, num_steps):
    from diffusers import EulerDiscreteScheduler

    theirs = EulerDiscreteScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        **{f"use_{schedule.__name__}_sigmas": True},
    )
    theirs.set_timesteps(num_steps)
    levels = schedule(SD, num_steps)
    np.testing.assert_allclose(ratios(levels), theirs.sigmas, rtol=2e-5)
    np.testing.assert_allclose(timesteps(levels), theirs.timesteps, atol=0.02)


@pytest.mark.references
def test_lcm_equals_diffusers():
    from diffusers import LCMScheduler

    theirs = LCMScheduler()
    for num_steps in range(1, 51):
        theirs.set_timesteps(num_steps)
        assert timesteps(lcm(SD, num_steps)) == theirs.timesteps.tolist()
    for strength in (0.2, 0.33, 0.5, 0.75):
        lowest = NoiseTable(SD.alphas_cumprod[: round(1000 * strength)])
        theirs.set_timesteps(5, strength=strength)
        assert timesteps(lcm(lowest, 5)) == theirs.timesteps.tolist()


@pytest.mark.references
def test_align_your_steps_equals_diffusers():
    from diffusers.schedulers import AysSchedules

    published = AysSchedules["StableDiffusionSigmas"]
    np.testing.assert_allclose(ratios(align_your_steps(SD, 10)), published, rtol=1e-12)
