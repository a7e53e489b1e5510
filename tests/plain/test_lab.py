"""The sampler lab: its exact solution is exact, its measurements are right, and it goes on when a
sampler fails.
"""

from __future__ import annotations

import csv
import math
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_sd import cli, lab
from keras_sd.cli import backends
from keras_sd.lab import errors, runs
from keras_sd.noise import Level, NoiseTable, transfer
from keras_sd.random import BrownianPath
from keras_sd.registry import SamplerInfo, SamplerNotFoundError
from keras_sd.schedules import exponential, karras

CLEAN = Level(0.0, 1.0, 0.0)
LEVEL = Level(0.0, 0.8, 0.6)
ONE = lab.Mixtures([[1.0]], [[0.3]], [[0.5]])


@dataclass(frozen=True)
class Euler:
    def __call__(self, denoise, x, levels, noise):
        for now, nxt in pairwise(levels):
            x = transfer(x, denoise(x, now), now, nxt)
            yield x


@dataclass(frozen=True)
class Twice(Euler):
    """Euler, but for evaluations that do nothing."""

    def __call__(self, denoise, x, levels, noise):
        for now, nxt in pairwise(levels):
            denoise(x, now)
            x = transfer(x, denoise(x, now), now, nxt)
            yield x


@dataclass(frozen=True)
class Ancestral:
    """At each step the noise is drawn anew: the distribution is right in the limit."""

    stochastic = True

    def __call__(self, denoise, x, levels, noise):
        for now, nxt in pairwise(levels):
            x0 = denoise(x, now)
            if nxt.sigma:
                added = 1 - (now.alpha * nxt.sigma / (nxt.alpha * now.sigma)) ** 2
                fresh = nxt.sigma * math.sqrt(added)
                kept = Level(0.0, nxt.alpha, math.sqrt(nxt.sigma**2 - fresh**2))
                x = transfer(x, x0, now, kept) + fresh * noise(now, nxt)
            else:
                x = x0
            yield x


@dataclass(frozen=True)
class Broken:
    what: str

    def __call__(self, denoise, x, levels, noise):
        for now, nxt in pairwise(levels):
            x = transfer(x, denoise(x, now), now, nxt)
            if self.what == "raises" and nxt is levels[-1]:
                raise RuntimeError("no more\n of this")
            yield x * math.nan if self.what == "nan" else x


# ---- the exact solution -------------------------------------------------------------------------


def test_the_ideal_denoiser_is_the_one_of_the_density():
    # Tweedie: E[x0 | x] = (x + sigma^2 d/dx log p(x)) / alpha, with p by differences of `below`.
    x, step = np.tile(np.linspace(-2, 2, 41), (3, 1)), 1e-3
    points = [errors.PROBLEM.below(x + k * step, LEVEL) for k in (-1.5, -0.5, 0.5, 1.5)]
    left, middle, right = np.diff(points, axis=0) / step
    score = (right - left) / (2 * step) / middle
    expected = (x + LEVEL.sigma**2 * score) / LEVEL.alpha
    np.testing.assert_allclose(errors.PROBLEM.denoise(x, LEVEL), expected, atol=1e-5)


def test_quantiles_are_the_inverse_of_the_probability_below():
    fractions = np.array([1e-6, 0.1, 0.5, 0.77, 1 - 1e-6])
    for level in (CLEAN, LEVEL, Level(0.0, 0.0, 1.0)):
        found = errors.PROBLEM.quantiles(fractions, level)
        np.testing.assert_allclose(errors.PROBLEM.below(found, level), [fractions] * 3, rtol=1e-9)


def test_quantiles_of_one_normal_are_the_known_ones():
    found = ONE.quantiles(np.array([0.5, 0.975]), LEVEL)
    spread = math.hypot(0.8 * 0.5, 0.6)
    np.testing.assert_allclose(found, [[0.24, 0.24 + 1.959963984540054 * spread]], rtol=1e-12)


def test_the_flow_takes_quantiles_to_quantiles():
    """Against the ODE itself, by many steps of the midpoint rule."""
    fractions = np.linspace(0.05, 0.95, 19)
    levels = exponential(NoiseTable.scaled_linear(), 400, final_sigma="first")
    x = errors.PROBLEM.quantiles(fractions, levels[0])
    for now, nxt in pairwise(levels):
        middle = levels.between(now, nxt, 0.5)
        ahead = transfer(x, errors.PROBLEM.denoise(x, now), now, middle)
        x = transfer(x, errors.PROBLEM.denoise(ahead, middle), now, nxt)
    np.testing.assert_allclose(x, errors.PROBLEM.quantiles(fractions, levels[-1]), atol=2e-4)


def test_samples_have_the_distribution():
    drawn = errors.PROBLEM.draw(np.random.default_rng(1), 20_000)
    fractions = errors.PROBLEM.below(np.sort(drawn, axis=1), CLEAN)
    assert np.abs(fractions - (np.arange(20_000) + 0.5) / 20_000).max() < 0.015


# ---- measuring ----------------------------------------------------------------------------------


def test_errors_of_a_first_order_method_halve_and_evaluations_are_counted():
    rows = lab.mixture_errors([Euler(), Twice()], [karras], [20, 40])
    assert [(row.sampler, row.schedule, row.steps, row.evaluations) for row in rows] == [
        ("Euler()", "karras", 20, 20),
        ("Euler()", "karras", 40, 40),
        ("Twice()", "karras", 20, 40),
        ("Twice()", "karras", 40, 80),
    ]
    assert {row.measure for row in rows} == {"rms"}
    assert 1.8 < rows[0].value / rows[1].value < 2.2
    assert rows[2].value == rows[0].value


def test_of_noise_the_distribution_is_measured():
    few, many = lab.mixture_errors([Ancestral()], [exponential], [10, 160])
    assert few.measure == "w2"
    assert lab.sampling_floor() < many.value < 3 * lab.sampling_floor() < few.value
    assert [row.value for row in lab.mixture_errors([Ancestral()], [exponential], [10])] == [
        few.value
    ]


def test_the_floor_is_that_of_so_many_samples(monkeypatch):
    floor = lab.sampling_floor()
    monkeypatch.setattr(errors, "_REPEATS", 1)
    errors.sampling_floor.cache_clear()
    try:
        assert 1.7 < lab.sampling_floor() / floor < 2.3  # of a quarter of the samples
    finally:
        errors.sampling_floor.cache_clear()


def test_a_brownian_sampler_is_given_one_path():
    drawn = {}

    class Asks:
        stochastic = brownian = True

        def __call__(self, denoise, x, levels, noise):
            for now, nxt in pairwise(levels):
                middle = levels.between(now, nxt, 0.5)
                pairs = [(now, nxt), (middle, nxt), (now, middle)]
                drawn[now] = [(noise(*pair), self.length(*pair)) for pair in pairs]
                x = transfer(x, denoise(x, now), now, nxt)
                yield x

        def length(self, now, nxt):
            return math.atan2(now.sigma, now.alpha) - math.atan2(nxt.sigma, nxt.alpha)

    lab.mixture_errors([Asks()], [exponential], [4])
    for whole, *parts in drawn.values():
        increments = [noise * math.sqrt(length) for noise, length in (whole, *parts)]
        np.testing.assert_allclose(increments[0], increments[1] + increments[2], atol=1e-12)
    numbers = np.array([noise for parts in drawn.values() for noise, _ in parts[1:]])
    flat = numbers.reshape(len(numbers), -1)
    np.testing.assert_allclose(np.cov(flat), np.eye(len(flat)), atol=0.02)


def lab_path(shape):
    return errors._Path(np.random.default_rng(3), shape)


def library_path(shape):
    return BrownianPath(3, range(shape[0]), shape[1:])


def level_at(angle):
    return Level(0.0, math.cos(angle), math.sin(angle))


@pytest.mark.parametrize("make", [lab_path, library_path])
def test_both_brownian_paths_have_one_distribution(make):
    path = make((3, 20_000))
    angles = [1.5, 0.9, 0.8, 0.3, 0.0]
    pairs = [(1.5, 0.3), (0.9, 0.0), (0.8, 0.3), (1.5, 0.9), (0.3, 0.0)]
    numbers = np.array([path(level_at(a), level_at(b)) for a, b in pairs], np.float64)
    found = np.cov(numbers.reshape(len(pairs), -1))
    # Of what two intervals share, over the geometric mean of their lengths.
    share = [
        [max(0.0, min(a, c) - max(b, d)) / math.sqrt((a - b) * (c - d)) for c, d in pairs]
        for a, b in pairs
    ]
    np.testing.assert_allclose(found, share, atol=0.02)
    assert np.abs(numbers.mean(axis=(1, 2))).max() < 0.02
    parts = [(a, b, path(level_at(a), level_at(b))) for a, b in pairwise(angles)]
    whole = path(level_at(1.5), level_at(0.0)) * math.sqrt(1.5)
    np.testing.assert_allclose(sum(n * math.sqrt(a - b) for a, b, n in parts), whole, atol=2e-3)


@pytest.mark.parametrize("make", [lab_path, library_path])
def test_a_brownian_path_gives_the_same_either_way(make):
    path, high, low = make((3, 100)), level_at(1.2), level_at(0.4)
    upwards = path(low, high)
    np.testing.assert_array_equal(path(high, low), upwards)
    assert 0.8 < np.std(upwards) < 1.2
    assert 0.8 < np.std(path(low, low)) < 1.2  # no interval: numbers that belong to nothing else


@pytest.mark.parametrize(
    ("what", "said"), [("raises", "RuntimeError: no more of this"), ("nan", "not finite")]
)
def test_a_sampler_that_fails_says_so_and_stops_no_other(what, said):
    done = []
    rows = lab.mixture_errors([Broken(what), Euler()], [karras], [5], done=done.append)
    assert said in rows[0].failure
    assert math.isnan(rows[0].value)
    assert not rows[0].evaluations
    assert not rows[1].failure
    assert done == [repr(Broken(what)), "Euler()"]


def test_a_schedule_that_fails_says_so():
    rows = lab.mixture_errors([Euler()], [karras], [2000, 5])
    assert ["2000" in row.failure for row in rows] == [True, False]


def test_every_installed_sampler_is_there_and_a_broken_one_stops_none(monkeypatch):
    points = [
        SamplerInfo("good", "acme", "1", f"{__name__}:Euler"),
        SamplerInfo("gone", "acme", "1", "no_such_module:Sampler"),
        SamplerInfo("twin", "acme", "1", f"{__name__}:Euler"),
        SamplerInfo("twin", "other", "1", f"{__name__}:Twice"),
    ]
    monkeypatch.setattr(runs, "list_samplers", lambda: points)
    made = {"good": Euler(), "acme:twin": Euler(), "other:twin": Twice()}
    monkeypatch.setattr(runs, "get_sampler", lambda name: made[name])
    rows = lab.mixture_errors(schedules=[karras], steps=[5])
    assert {row.sampler: bool(row.failure) for row in rows} == {
        "good": False,
        "gone": True,
        "acme:twin": False,
        "other:twin": False,
    }


def test_a_name_that_is_not_there_is_an_error():
    with pytest.raises(SamplerNotFoundError):
        lab.mixture_errors(["no-such-sampler"], [karras], [5])
    with pytest.raises(ValueError, match="no-such-schedule"):
        lab.mixture_errors([Euler()], ["no-such-schedule"], [5])


def test_names_of_other_programs_are_ours():
    rows = lab.mixture_errors(["Euler a", "DDIM", Euler()], ["Karras", "SGM Uniform"], [5])
    assert not any(row.failure for row in rows)
    assert {(row.sampler, row.schedule) for row in rows} == {
        (sampler, schedule)
        for sampler in ("euler_ancestral", "ddim", "Euler()")
        for schedule in ("karras", "sgm_uniform")
    }
    with pytest.raises(ValueError, match=r"'dpmpp_2m' with the schedule 'karras'.*--schedules"):
        lab.mixture_errors(["DPM++ 2M Karras"], [karras], [5])
    with pytest.raises(SamplerNotFoundError, match="DDIM Uniform"):
        lab.mixture_errors(["DDIM Uniform"], [karras], [5])


# ---- rows ---------------------------------------------------------------------------------------


def row(value=1.0, *, sampler="a", schedule="s", steps=5, evaluations=5, measure="rms", failure=""):
    return lab.Row(sampler, schedule, steps, evaluations, measure, value, failure)


def test_csv_has_every_row_in_full(tmp_path):
    rows = [row(1 / 3), row(math.nan, sampler='odd, "name"', failure="Error: x, y")]
    lab.write_csv(rows, tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert float(first["value"]) == 1 / 3
    assert (second["sampler"], second["failure"]) == ('odd, "name"', "Error: x, y")


def test_the_best_row():
    assert lab.best([row(2.0), row(1.0), row(math.nan, failure="x")]) == row(1.0)
    shares = [row(0.2, measure="subject"), row(0.9, measure="subject")]
    assert lab.best(shares) == shares[1]
    assert lab.best([row(math.nan, failure="x")]) is None


def test_between_two_runs_the_value_is_on_the_line_of_the_plot():
    rows = [row(1.0, evaluations=10), row(0.01, evaluations=40), row(math.nan, failure="x")]
    assert lab.at_budget(rows, 20) == pytest.approx(0.1)
    assert lab.at_budget(rows, 40) == 0.01
    assert math.isnan(lab.at_budget(rows, 41))
    assert math.isnan(lab.at_budget(rows, 9))


def test_plots_are_files_of_moderate_size(tmp_path):
    rows = lab.mixture_errors([Euler(), Ancestral(), Broken("nan")], [karras, exponential], [5, 30])
    for draw in (lab.plot, lab.plot_budget):
        draw(rows, tmp_path / "plot.png")
        with Image.open(tmp_path / "plot.png") as picture:
            assert 500 < picture.width < 1500
        os.remove(tmp_path / "plot.png")
        with pytest.raises(ValueError, match="no run worked"):
            draw([each for each in rows if each.failure], tmp_path / "plot.png")


def test_a_plot_shows_what_there_is(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    made = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, dpi: made.append(self))
    rows = [
        row(1.0),
        row(0.1, evaluations=20, steps=20),
        row(0.5, sampler="b", measure="w2"),
        row(math.nan, sampler="b", schedule="r", failure="x"),
        row(0.4, sampler="b", evaluations=20, steps=20, measure="w2"),
    ]
    lab.plot(rows, "x.png")
    lab.plot_budget([*rows, row(0.01, evaluations=40, steps=40)], "x.png")
    lab.plot_budget(rows, "x.png", 1000)
    grid, budget, beyond = made
    assert [panel.get_title() for panel in grid.axes if panel.get_visible()] == ["a", "b"]
    first, second = grid.axes[:2]
    own = [line for line in first.lines if line.get_marker() == "."]
    assert [list(line.get_xydata().ravel()) for line in own] == [[5, 1.0, 20, 0.1], []]
    assert not any(line.get_marker() == "x" for line in first.lines)
    assert any(line.get_marker() == "x" for line in second.lines)
    own = [line for line in second.lines if line.get_marker() == "."]
    assert [list(line.get_xdata()) for line in own] == [[5, 20], []]
    assert any(list(line.get_ydata()) == [lab.sampling_floor()] * 2 for line in second.lines)
    names = [text.get_text() for text in grid.legends[0].get_texts()]
    assert names == ["s", "r", "exact samples", "a run failed"]
    assert [label.get_text() for label in budget.axes[0].get_yticklabels()] == ["a", "b"]
    dots = [line.get_xydata()[0] for line in budget.axes[0].lines if line.get_marker() == "o"]
    assert dots[0] == pytest.approx([0.1, 0])  # of three numbers of steps, the middle one
    assert [text.get_text() for text in beyond.axes[0].texts] == ["not at so many"] * 2
    assert beyond.axes[0].get_xscale() == "linear"  # a logarithm of nothing is a warning


# ---- the command --------------------------------------------------------------------------------


@pytest.fixture
def two_samplers(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    made = {"euler": Euler(), "broken": Broken("nan"), "ancestral": Ancestral()}
    points = [SamplerInfo(name, "acme", "1", "x:Y") for name in made]
    monkeypatch.setattr(runs, "list_samplers", lambda: points)
    monkeypatch.setattr(runs, "get_sampler", lambda name: made[name])


def test_the_command_writes_plots_and_csv_and_prints_a_table(two_samplers, capsys):
    arguments = ["lab", "--schedules", "karras,exponential", "--steps", "8,4", "--output", "new"]
    assert cli.main(arguments) == 0
    assert sorted(os.listdir("new")) == ["mixtures-budget.png", "mixtures.csv", "mixtures.png"]
    with open("new/mixtures.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 3 * 2 * 2
    out, err = capsys.readouterr()
    lines = [line.split() for line in out.splitlines()]
    assert ["sampler", "evaluations", "4", "steps", "8", "steps"] in lines
    (euler,) = (words for words in lines if words[:1] == ["euler"])
    assert euler[1] == "4/8"
    assert {euler[3], euler[5]} <= {"karras", "exponential"}
    assert ["broken", "-/-", "failed", "failed"] in lines
    assert "broken failed in 4 runs: FloatingPointError" in err
    assert f"{lab.sampling_floor():.2g}" in out


def test_the_command_hands_on_what_the_embedded_model_needs(two_samplers, capsys, monkeypatch):
    handed = {}

    def fidelity(samplers, schedules, steps, **settings):
        handed.update(settings, samplers=samplers, schedules=schedules, steps=steps)
        return [
            row(0.1, sampler="euler", measure="latent"),
            row(1.0, sampler="euler", measure="subject"),
        ]

    monkeypatch.setattr(lab, "emoji_fidelity", fidelity)
    asked_for = []
    monkeypatch.setattr(backends, "select", asked_for.append)  # none is installed here
    Path("font.ttf").touch()
    asked = ["--samplers", "euler", "--steps", "2", "--font", "font.ttf", "--output", "new"]
    assert cli.main(["lab", "--emoji", "--schedules", "karras", *asked]) == 0
    assert asked_for == [None]
    assert handed.pop("done") is not None
    assert handed == {
        "samplers": ["euler"],
        "schedules": ["karras"],
        "steps": [2],
        "font": Path("font.ttf"),
    }
    made = {file for file in os.listdir("new") if file.startswith("emoji")}
    assert made == {
        "emoji.csv",
        "emoji-latent.png",
        "emoji-latent-budget.png",
        "emoji-subject.png",
        "emoji-subject-budget.png",
    }
    out = capsys.readouterr().out
    assert "share of pictures with the subject asked for" in out
    assert cli.main(["lab", "--emoji", "--font", "none.ttf"]) == 2
    assert "none.ttf" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--steps", "5,x"], "'x' is no number of steps"),
        (["--steps", "0"], "'0' is no number of steps"),
        (["--steps", "5,1001"], "1001 is more than the 1000 timesteps"),
        (["--samplers", "Euler Karras"], "--schedules"),
        (["--schedules", "karas"], "karas"),
        (["--samplers", ","], "names nothing"),
        (["--output", "here"], "here is there already"),
        (["--output", "file/new"], "file"),
    ],
)
def test_what_is_asked_is_checked_before_any_work(
    two_samplers, capsys, monkeypatch, arguments, said
):
    monkeypatch.setattr(lab, "mixture_errors", None)  # work would be a TypeError that says so
    os.mkdir("here")
    Path("file").touch()
    assert cli.main(["lab", *arguments]) in (1, 2)
    err = capsys.readouterr().err
    assert said in err
    assert "NoneType" not in err
    assert sorted(os.listdir()) == ["file", "here"]


@pytest.mark.parametrize("error", [RuntimeError("no more"), KeyboardInterrupt()])
def test_a_run_that_fails_leaves_no_empty_folder(two_samplers, monkeypatch, error):
    os.mkdir("here")

    def fails(*arguments, **settings):
        assert os.path.isdir("here/new/lab")
        raise error

    monkeypatch.setattr(lab, "mixture_errors", fails)
    with suppress(KeyboardInterrupt):
        assert cli.main(["lab", "--output", "here/new/lab"]) != 0
    assert os.listdir() == ["here"]
    assert not os.listdir("here")


def test_what_was_written_before_a_failure_stays(two_samplers, monkeypatch):
    def fails(rows, path):
        Path(path).touch()
        raise OSError("the disk is full")

    monkeypatch.setattr(lab, "write_csv", fails)
    assert cli.main(["lab", "--steps", "4", "--schedules", "karras", "--output", "new"]) == 1
    assert os.listdir("new") == ["mixtures.csv"]


def test_without_matplotlib_nothing_is_begun(two_samplers, capsys, monkeypatch):
    monkeypatch.setattr(sys.modules["keras_sd.cli.lab"], "find_spec", lambda name: None)
    assert cli.main(["lab"]) == 2
    assert 'pip install "keras-sd[plot]"' in capsys.readouterr().err
    assert not os.listdir()
