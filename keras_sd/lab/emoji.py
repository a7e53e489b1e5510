"""Fidelity against steps on the embedded model: a real network, with guidance."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

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
from keras_sd.sampler import Sampler
from keras_sd.sampling import Step
from keras_sd.schedules import Schedule

__all__ = ["EMOJI_SCHEDULES", "EMOJI_STEPS", "emoji_fidelity"]

EMOJI_SCHEDULES = ("trailing", "karras")
EMOJI_STEPS = (3, 6, 12)

# What the runs are compared with: second order, and many more steps.
_CONVERGED = ("dpmpp_2m", "exponential", 200)
_EVERY = 8  # of the subjects, 13 are drawn
_SEED = 0


def emoji_fidelity(
    samplers: Iterable[str | Sampler] | None = None,
    schedules: Iterable[str | Schedule] = EMOJI_SCHEDULES,
    steps: Sequence[int] = EMOJI_STEPS,
    *,
    font: str | Path | None = None,
    done: Done | None = None,
) -> list[Row]:
    """Runs samplers on the embedded model, with its own guidance: 13 prompts, one seed.

    Every run has a row ``"subject"``: the share of pictures in which
    `keras_sd.training.measure.subjects` sees the subject that was asked for. Of a sampler that
    draws no noise there is one more, ``"latent"``: the root mean square distance of its last
    latents from those of 200 steps of DPM-Solver++(2M) from the same noise, over the root mean
    square of those.

    Args:
        samplers: Names, those of `keras_sd.aliases` too, or instances; None is every one that is
            installed.
        schedules: Names likewise, or functions. All of them end where the model's own runs do.
        steps: Numbers of steps.
        font: NotoColorEmoji.ttf, which the subjects are recognised by; None looks in the usual
            places.
        done: Called with the name of each sampler that has been measured.

    Returns:
        Rows; a run that raised, or gave a number that is not finite, says so in its own.

    Raises:
        FileNotFoundError: There is no such font.
        LookupError: There is no such sampler or schedule.
        ValueError: The same, for a name that several distributions claim; or a sampler's name has a
            schedule in it.
    """
    from keras_sd.backend import to_numpy
    from keras_sd.pipeline import StableDiffusion
    from keras_sd.training.measure import backgrounds, subjects
    from keras_sd.training.pictures import COLOURS, SUBJECTS, Pictures, caption

    scales, chosen = chosen_schedules(schedules), chosen_samplers(samplers)
    source = Pictures(font)
    names = list(SUBJECTS)[::_EVERY]
    prompts = [caption(*pair) for pair in zip(names, itertools.cycle(COLOURS), strict=False)]
    pipeline = StableDiffusion.from_preset("emoji")

    def run(sampler: str | Sampler, schedule: str | Schedule, count: int) -> tuple[Step, Any]:
        """The last step and its latents."""
        # Left to itself, the pipeline would end the model's own schedule elsewhere than others.
        ended = partial(make_levels, schedule, final_sigma=pipeline.config.noise.final_sigma)
        steps = pipeline.stream(
            prompts, seed=_SEED, sampler=sampler, schedule=ended, num_steps=count
        )
        last = last_step(steps, to_numpy)
        return last, to_numpy(last.latent)

    _, converged = run(*_CONVERGED)
    rows: list[Row] = []
    drawn: list[tuple[Row, Any]] = []
    for name, sampler in chosen:
        for (scale, schedule), count in itertools.product(scales, steps):
            made = Row(name, scale, count, 0, "subject", math.nan)
            try:
                if isinstance(sampler, Exception):
                    raise sampler
                last, latents = run(sampler, schedule, count)
                picture = np.asarray(last.image())
            except Exception as error:  # of a stranger's code; the other runs go on
                rows.append(replace(made, failure=reason(error)))
                continue
            made = replace(made, evaluations=last.evaluations)
            drawn.append((made, picture))
            if not is_stochastic(sampler):
                away = math.sqrt(np.mean((latents - converged) ** 2) / np.mean(converged**2))
                rows.append(replace(made, measure="latent", value=away))
        if done is not None:
            done(name)
    if drawn:  # all at once: the renderings that they are compared with take a while
        pictures = np.concatenate([picture for _, picture in drawn])
        seen = np.reshape(subjects(pictures, backgrounds(pictures), source), (len(drawn), -1))
        for (made, _), shown in zip(drawn, seen, strict=True):
            rows.append(replace(made, value=float(np.mean(shown == np.array(names)))))
    return rows
