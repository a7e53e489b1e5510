"""Error against evaluations on Gaussian mixtures, where the solution is known exactly."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from keras_sd.lab.mixtures import Mixtures
from keras_sd.lab.rows import Row
from keras_sd.lab.runs import (
    Done,
    chosen_samplers,
    chosen_schedules,
    is_stochastic,
    last_step,
    reason,
)
from keras_sd.levels import make_levels
from keras_sd.noise import CLEAN, Level, Levels, NoiseTable
from keras_sd.sampler import Noise, Sampler
from keras_sd.sampling import sample
from keras_sd.schedules import Schedule

__all__ = ["PROBLEM", "SCHEDULES", "STEPS", "TABLE", "mixture_errors", "sampling_floor"]

PROBLEM = Mixtures(
    # Two modes; three of different widths; a broad one with two narrow ones upon it.
    weights=((0.48, 0.04, 0.48), (0.2, 0.5, 0.3), (0.7, 0.2, 0.1)),
    means=((-0.9, 0.0, 0.9), (-1.4, -0.1, 1.2), (-0.2, 1.0, -1.3)),
    deviations=((0.35, 0.35, 0.35), (0.25, 0.4, 0.2), (1.0, 0.2, 0.25)),
)
"""Three mixtures with a variance of about 1, which latents of Stable Diffusion have too."""

SCHEDULES = ("leading", "trailing", "karras", "exponential", "beta", "align_your_steps")
STEPS = (5, 10, 20, 40)
TABLE = NoiseTable.scaled_linear()
"""Stable Diffusion's."""

_FRACTIONS = (np.arange(2048) + 0.5) / 2048
_REPEATS = 4  # of each start, for samplers that draw noise


def mixture_errors(
    samplers: Iterable[str | Sampler] | None = None,
    schedules: Iterable[str | Schedule] = SCHEDULES,
    steps: Sequence[int] = STEPS,
    *,
    done: Done | None = None,
) -> list[Row]:
    """Runs samplers on three Gaussian mixtures, with Stable Diffusion's noise table, to sigma 0.

    A run starts at quantiles of the exact marginal of its first level, so that a schedule that
    begins below the top is not measured by what it leaves out. Of a sampler that draws no noise,
    the value is ``"rms"``: the root mean square distance between where each start ends and where
    the probability-flow ODE takes it. Of one that does it is ``"w2"``: the Wasserstein-2 distance
    between where they end and the exact distribution, which `sampling_floor` bounds from below.

    Args:
        samplers: Names, those of `keras_sd.aliases` too, or instances; None is every one that is
            installed.
        schedules: Names likewise, or functions.
        steps: Numbers of steps.
        done: Called with the name of each sampler that has been measured.

    Returns:
        One row a sampler, schedule and number of steps. A run that raised, or gave a number that is
        not finite, has a row that says so.

    Raises:
        LookupError: There is no such sampler or schedule.
        ValueError: The same, for a name that several distributions claim; or a sampler's name has a
            schedule in it.
    """
    scales = chosen_schedules(schedules)
    rows = []
    for name, sampler in chosen_samplers(samplers):
        for scale, schedule in scales:
            rows += [_row(name, sampler, scale, schedule, count) for count in steps]
        if done is not None:
            done(name)
    return rows


@cache
def sampling_floor() -> float:
    """The Wasserstein-2 distance that as many exact samples have, on average: what is below it
    cannot be told from exact.
    """
    exact, rng = np.repeat(_quantiles(CLEAN), _REPEATS, axis=1), np.random.default_rng(0)
    drawn = (np.sort(PROBLEM.draw(rng, exact.shape[1]), axis=1) for _ in range(16))
    return math.sqrt(np.mean([(samples - exact) ** 2 for samples in drawn]))


def _row(
    name: str, sampler: Sampler | Exception, scale: str, schedule: str | Schedule, count: int
) -> Row:
    measure = "w2" if is_stochastic(sampler) else "rms"
    try:
        if isinstance(sampler, Exception):
            raise sampler
        evaluations, value = _measured(sampler, make_levels(schedule, TABLE, count))
    except Exception as error:  # of a stranger's code; the other runs go on
        return Row(name, scale, count, 0, measure, math.nan, reason(error))
    return Row(name, scale, count, evaluations, measure, value)


def _measured(sampler: Sampler, levels: Levels) -> tuple[int, float]:
    """Evaluations and error."""
    repeats = _REPEATS if is_stochastic(sampler) else 1
    start = np.tile(_quantiles(levels[0]), repeats)
    with np.errstate(all="ignore"):  # what is not finite is reported as such
        run = sample(sampler, PROBLEM.denoise, start, levels, _noise(sampler, start.shape))
        last = last_step(run)
    ends = last.latent
    if is_stochastic(sampler):
        ends = np.sort(ends, axis=1)
    exact = np.repeat(_quantiles(levels[-1]), repeats, axis=1)
    return last.evaluations, math.sqrt(np.mean((ends - exact) ** 2))


@cache
def _quantiles(level: Level) -> NDArray[np.float64]:
    return PROBLEM.quantiles(_FRACTIONS, level)


def _noise(sampler: Sampler, shape: tuple[int, int]) -> Noise:
    rng = np.random.default_rng(0)
    if getattr(sampler, "brownian", False):
        return _Path(rng, shape)
    return lambda now, nxt: rng.standard_normal(shape)


class _Path:
    """A Brownian path of each sample, on the clock of `keras_sd.random.BrownianPath`.

    That one gives the same numbers in whatever order it is asked, for which it draws eight times
    as many. Here every run has a path of its own, which is drawn where it is asked for.
    """

    def __init__(self, rng: np.random.Generator, shape: tuple[int, int]):
        self._rng, self._clock = rng, [0.0]
        self._path = {0.0: np.zeros(shape)}

    def __call__(self, now: Level, nxt: Level) -> NDArray[np.float64]:
        # The same number whichever way it is asked, as there.
        low, high = sorted(math.atan2(level.sigma, level.alpha) for level in (now, nxt))
        if low == high:
            return self._rng.standard_normal(self._path[0.0].shape)
        return (self._at(high) - self._at(low)) / math.sqrt(high - low)

    def _at(self, time: float) -> NDArray[np.float64]:
        if time not in self._path:
            place = bisect.bisect(self._clock, time)
            low, later = self._clock[place - 1], self._clock[place:]
            value, spread = self._path[low], time - low
            if later:  # between two points that are known: given both of them
                part = (time - low) / (later[0] - low)
                value = (1 - part) * value + part * self._path[later[0]]
                spread *= 1 - part
            drawn = self._rng.standard_normal(value.shape)
            self._path[time] = value + math.sqrt(spread) * drawn
            self._clock.insert(place, time)
        return self._path[time]
