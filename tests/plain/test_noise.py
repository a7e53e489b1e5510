from __future__ import annotations

import math
import pickle
from dataclasses import astuple, replace
from itertools import pairwise

import numpy as np
import pytest

from keras_sd.noise import (
    CLEAN,
    FlowPath,
    Level,
    Levels,
    NoisePath,
    NoiseTable,
    denoised,
    epsilon,
    for_run,
    transfer,
)

SD = NoiseTable.scaled_linear()


def vp(ratio: float) -> Level:
    norm = math.hypot(1, ratio)
    return Level(ratio, 1 / norm, ratio / norm)


def test_level_ratio():
    assert Level(0, 0.5, 0.25).ratio == 0.5
    assert Level(999, 0.0, 1.0).ratio == math.inf


def test_transfer_keeps_the_noise_and_changes_its_weight():
    now, nxt = Level(900, 0.3, 0.9), Level(500, 0.7, 0.2)
    x0, n = np.array([1.0, -2.0]), np.array([0.5, 3.0])
    x = now.alpha * x0 + now.sigma * n
    np.testing.assert_allclose(
        transfer(x, x0, now, nxt), nxt.alpha * x0 + nxt.sigma * n, rtol=1e-14
    )


def test_transfer_at_sigma_zero_and_at_alpha_zero():
    x, x0 = np.array([3.0]), np.array([0.25])
    assert transfer(x, x0, Level(1, 0.9, 0.4), Level(0, 1.0, 0.0)) == x0
    pure, nxt = Level(999, 0.0, 1.0), Level(900, 0.1, 0.99)
    np.testing.assert_allclose(transfer(x, x0, pure, nxt), nxt.alpha * x0 + nxt.sigma * x)


def test_transfer_keeps_float32():
    x = np.ones((2, 3), np.float32)
    assert transfer(x, x, SD.level(900), SD.level(10)).dtype == np.float32


def test_epsilon_and_denoised_are_inverse():
    level, x, x0 = Level(500, 0.7, 0.6), np.array([1.0, 2.0]), np.array([-0.5, 0.1])
    eps = epsilon(x, x0, level)
    np.testing.assert_allclose(level.alpha * x0 + level.sigma * eps, x)
    np.testing.assert_allclose(denoised(x, eps, level), x0)


@pytest.mark.parametrize(
    "entries",
    [
        [Level(2, 0.5, 0.8), Level(1, 0.5, 0.8)],  # twice the same
        [Level(1, 0.8, 0.5), Level(2, 0.5, 0.8)],  # rising
        [Level(2, 0.5, 0.0), Level(1, 1.0, 0.0)],  # sigma 0 before the last
        [Level(2, 0.0, 1.0), Level(1, 0.0, 0.5)],  # alpha 0 after the first
    ],
)
def test_levels_must_fall(entries):
    with pytest.raises(ValueError, match="must fall"):
        Levels(entries)


@pytest.mark.parametrize(
    "level",
    [Level(0, math.nan, 1), Level(0, 1, -0.1), Level(0, 0, 0), Level(math.inf, 1, 1)],
)
def test_a_level_must_be_a_level(level):
    with pytest.raises(ValueError, match="no noise level"):
        Levels([level])


def test_levels_are_a_tuple_and_a_slice_keeps_the_path():
    levels = Levels([vp(4), vp(2), vp(1)], path=vp)
    assert isinstance(levels, tuple)
    assert levels[0] == vp(4)
    assert isinstance(levels[1:], Levels)
    assert len(levels[1:]) == 2
    assert levels[1:].between(vp(2), vp(1), 0.5).ratio == pytest.approx(math.sqrt(2))
    assert pickle.loads(pickle.dumps(levels)) == levels


def test_between_halves_the_log_ratio_and_stays_on_the_path():
    levels = Levels([vp(8), vp(2)], path=vp)
    middle = levels.between(*levels, 0.5)
    assert middle.ratio == pytest.approx(4)
    assert middle.alpha**2 + middle.sigma**2 == pytest.approx(1)
    assert levels.between(*levels, 0) is levels[0]
    assert levels.between(*levels, 1) is levels[1]


def test_between_works_at_both_ends():
    top = NoiseTable((*SD.alphas_cumprod[:-1], 0.0))
    levels = Levels([top.level(999), SD.level(500), Level(0, 1, 0)], path=top.at_ratio)
    for now, nxt in pairwise(levels):
        middle = levels.between(now, nxt, 0.25)
        assert now.ratio > middle.ratio > nxt.ratio
        assert middle.alpha**2 + middle.sigma**2 == pytest.approx(1)


def test_between_says_what_is_wrong():
    with pytest.raises(ValueError, match=r"Levels\(levels, path="):
        Levels([vp(2), vp(1)]).between(vp(2), vp(1), 0.5)
    with pytest.raises(ValueError, match="fraction"):
        Levels([vp(2), vp(1)], path=vp).between(vp(2), vp(1), 1.5)


def test_at_timestep_is_the_level_of_the_table():
    levels = Levels([SD.level(999), SD.level(0)], path=SD.at_ratio)
    for t in (0, 1, 27, 500, 998, 999):
        found = levels.at_timestep(t)
        assert found.t == pytest.approx(t, abs=1e-9)
        assert found.ratio == pytest.approx(SD.level(t).ratio, rel=1e-13)
    assert levels.at_timestep(999) is levels[0]
    # Below the first timestep there is nothing that the model tells apart: it is the noisiest.
    assert levels.at_timestep(0.0).ratio == pytest.approx(SD.ratios[0], rel=1e-13)


def test_at_timestep_starts_at_alpha_zero_and_ends_at_sigma_zero():
    def path(ratio):
        return Level(math.atan(ratio), *(f(math.atan(ratio)) for f in (math.cos, math.sin)))

    levels = Levels([Level(math.pi / 2, 0.0, 1.0), path(0.1)], path=path)
    assert levels.at_timestep(math.pi / 2) is levels[0]
    assert levels.at_timestep(1.0).ratio == pytest.approx(math.tan(1.0), rel=1e-14)
    assert levels.at_timestep(0.0) == Level(0.0, 1.0, 0.0)


def test_at_timestep_says_what_is_wrong():
    levels = Levels([SD.level(900), SD.level(100)], path=SD.at_ratio)
    for t in (-1, 900.5, math.nan):
        with pytest.raises(ValueError, match=f"Timestep {t} is outside the path"):
            levels.at_timestep(t)
    with pytest.raises(ValueError, match="path="):
        Levels(levels).at_timestep(500)


def test_stable_diffusions_table():
    assert len(SD) == 1000
    # sqrt((1 - abar) / abar) of the ends, as k-diffusion prints them for Stable Diffusion 1.
    assert SD.ratios[0] == pytest.approx(0.0292, abs=5e-5)
    assert SD.ratios[-1] == pytest.approx(14.6146, abs=5e-5)
    assert SD.betas[0] == pytest.approx(0.00085, rel=1e-12)
    assert SD.betas[-1] == pytest.approx(0.012, rel=1e-12)
    assert math.sqrt(SD.betas[500]) == pytest.approx(
        math.sqrt(0.00085) + 500 / 999 * (math.sqrt(0.012) - math.sqrt(0.00085))
    )


def test_linear_table():
    table = NoiseTable.linear(num_train_timesteps=100)
    assert len(table) == 100
    assert table.betas[99] == pytest.approx(0.02)
    assert table.betas[1] - table.betas[0] == pytest.approx((0.02 - 1e-4) / 99)


def test_level_of_a_whole_timestep():
    level = SD.level(261)
    assert (level.t, level.alpha**2) == (261.0, pytest.approx(SD.alphas_cumprod[261]))
    assert level.alpha**2 + level.sigma**2 == pytest.approx(1)
    assert level.ratio == pytest.approx(SD.ratios[261])


def test_level_of_a_fractional_timestep_interpolates_the_ratio():
    level = SD.level(946.25)
    assert level.ratio == pytest.approx(0.75 * SD.ratios[946] + 0.25 * SD.ratios[947])
    assert level.alpha**2 + level.sigma**2 == pytest.approx(1)


@pytest.mark.parametrize("t", [-1, -0.5, 999.5, 1000, math.nan])
def test_level_outside_the_table(t):
    with pytest.raises(ValueError, match="outside the noise table, which has 0 to 999"):
        SD.level(t)


def test_timestep_of_a_ratio():
    for t in (0, 1, 500, 998, 999):
        assert SD.timestep(SD.ratios[t]) == pytest.approx(t, abs=1e-9)
    between = SD.timestep(math.sqrt(SD.ratios[400] * SD.ratios[401]))
    assert between == pytest.approx(400.5)
    assert (SD.timestep(0.0), SD.timestep(1e9), SD.timestep(math.inf)) == (0.0, 999.0, 999.0)
    assert SD.at_ratio(3.0).ratio == pytest.approx(3.0, rel=1e-14)


def test_zero_terminal_snr():
    table = NoiseTable((*SD.alphas_cumprod[:-1], 0.0))
    assert table.level(999) == Level(999.0, 0.0, 1.0)
    ratios = [table.level(998 + f).ratio for f in (0, 0.25, 0.5, 0.75, 1)]
    assert ratios == sorted(ratios)
    assert table.timestep(table.level(998.75).ratio) == pytest.approx(998.75)
    assert table.at_ratio(math.inf) == table.level(999)


def test_a_table_stretched_to_zero_terminal_snr():
    table = SD.zero_terminal_snr()
    roots, before = ([math.sqrt(a) for a in t.alphas_cumprod] for t in (table, SD))
    assert table.alphas_cumprod[-1] == 0
    assert roots[0] == pytest.approx(before[0], rel=1e-14)
    # A straight line of the old ones.
    assert roots[500] / roots[0] == pytest.approx(
        (before[500] - before[-1]) / (before[0] - before[-1])
    )
    again = table.zero_terminal_snr().alphas_cumprod
    assert again == pytest.approx(table.alphas_cumprod, rel=1e-12)


@pytest.mark.references
def test_zero_terminal_snr_equals_diffusers():
    import torch
    from diffusers.schedulers.scheduling_euler_discrete import rescale_zero_terminal_snr

    for table in (SD, NoiseTable.linear()):
        betas = rescale_zero_terminal_snr(torch.tensor(table.betas, dtype=torch.float64))
        ours = table.zero_terminal_snr()
        assert ours.betas == pytest.approx(betas.tolist(), rel=1e-9)
        theirs = torch.cumprod(1 - betas, 0).tolist()
        assert ours.alphas_cumprod == pytest.approx(theirs, rel=1e-10, abs=1e-30)


@pytest.mark.parametrize("table", [(), (0.5,), (0.5, 0.5), (0.2, 0.5), (1.0, 0.5), (0.5, -0.1)])
def test_a_table_must_fall(table):
    with pytest.raises(ValueError, match="fall strictly"):
        NoiseTable(table)


# Paths

PATHS = [SD, SD.zero_terminal_snr(), FlowPath(), FlowPath(top=250)]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_goes_from_its_noisiest_level_to_its_first(path):
    assert isinstance(path, NoisePath)
    assert path.noisiest.t - path.first.t == len(path) - 1
    assert path.noisiest == path.level(path.noisiest.t)
    assert (path.end, path.size) == (CLEAN, None)
    ratios = [path.level(path.first.t + i).ratio for i in range(len(path))]
    assert all(a < b for a, b in pairwise(ratios))
    for t in (path.first.t, path.first.t + 7):
        again = path.at_ratio(path.level(t).ratio)
        assert astuple(again) == pytest.approx(astuple(path.level(t)), rel=1e-9, abs=1e-9)
    for t in (path.first.t - 0.5, path.noisiest.t + 0.5):
        with pytest.raises(ValueError, match=r"outside"):
            path.level(t)


@pytest.mark.parametrize("path", PATHS)
def test_the_lowest_part_of_a_path(path):
    part = path.lowest(0.3)
    assert len(part) == round(0.3 * len(path))
    assert part.first == path.first
    assert part.noisiest == path.level(part.noisiest.t)
    assert len(path.lowest(1e-9)) == 2
    assert len(path.lowest(1.0)) == len(path)
    ended = for_run(path, final_sigma="first", size=(64, 32)).lowest(0.5)
    assert (ended.end, ended.size) == (path.first, (64, 32))


def test_a_path_of_a_run():
    run = for_run(SD, final_sigma="first", size=(512, 768))
    assert (run.end, run.size, run.alphas_cumprod) == (SD.level(0), (512, 768), SD.alphas_cumprod)
    assert for_run(run) == run
    assert for_run(run, final_sigma="zero", size=(8, 8)) == replace(SD, size=(8, 8))
    assert SD.end == CLEAN
    with pytest.raises(ValueError, match="'zero' or 'first', got 'last'"):
        for_run(SD, final_sigma="last")


def test_flow_levels_lie_on_a_line():
    path = FlowPath()
    assert path.noisiest == Level(1000.0, 0.0, 1.0) == path.at_ratio(math.inf)
    assert path.level(250) == Level(250.0, 0.75, 0.25)
    assert path.at_ratio(1.0) == Level(500.0, 0.5, 0.5)
    assert path.at_ratio(0.0) == CLEAN


@pytest.mark.parametrize("given", [(1,), (0,), (1000, 1), (1000, 1001)])
def test_a_flow_path_has_two_timesteps(given):
    with pytest.raises(ValueError, match="at least two timesteps"):
        FlowPath(*given)
