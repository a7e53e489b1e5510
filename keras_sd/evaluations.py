"""How often a run asks its UNet, counted: the sampler walks over the run's levels, and is given
numbers in place of a model's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from keras_sd import registry, sampling
from keras_sd.conditioning import REFINE_AT
from keras_sd.config import ModelConfig
from keras_sd.guidance import Guidance
from keras_sd.guides import CFG
from keras_sd.levels import make_levels
from keras_sd.noise import Level
from keras_sd.refining import Handed, first_of_refiner
from keras_sd.request import Request
from keras_sd.sampler import Parts

__all__ = ["Evaluations", "evaluations_of"]


@dataclass(frozen=True)
class Evaluations:
    """Of one model in a run.

    Attributes:
        calls: of the UNet.
        rows: a picture, of all of them together: with guidance a call has two.
        most: rows a picture of one call at most.
    """

    calls: int
    rows: int
    most: int


@dataclass
class _Counting:
    """A denoiser that notes how many rows a picture each call of the UNet would have. Its clean
    latents are those of normal numbers, so that what adapts its steps finds an easy problem.
    """

    guidance: Guidance
    rows: list[int] = field(default_factory=list)

    def __call__(self, x: Any, level: Level) -> Any:
        return self._seen(x, level, self.guidance.guides(level))

    def parts(self, x: Any, level: Level) -> Parts:
        x0 = self._seen(x, level, self.guidance.includes(level))
        return Parts(x0, x0, x0)

    def _seen(self, x: Any, level: Level, both: bool) -> Any:
        self.rows.append(1 + both)
        if both and "perturbed" in getattr(self.guidance.guide, "needs", ()):
            self.rows.append(1)
        return x * (level.alpha / (level.alpha**2 + level.sigma**2))


def evaluations_of(
    request: Request, config: ModelConfig, refiner: ModelConfig | None = None
) -> tuple[Evaluations, ...]:
    """How often a run asks its UNet, and the refiner's.

    A sampler that adapts its steps to the model (`dpm_adaptive`) is counted on an easy problem.

    Args:
        request: resolved, of a run that begins at noise.
        config: of the model.
        refiner: of the model that ends the run; None is none.

    Raises:
        ValueError: the steps do not fit the schedule, or the schedule the model.
    """
    own = request.schedule == config.defaults.schedule or isinstance(request.schedule, tuple)
    levels = make_levels(
        request.schedule if request.schedule is not None else "leading",
        config.noise.table(),
        request.num_steps,
        final_sigma=config.noise.final_sigma if own else "zero",
        size=request.size,
    )
    sampler: Any = registry.get_sampler(request.sampler)
    at = len(levels) - 1
    if refiner is not None:
        part = REFINE_AT if request.refine_at is None else request.refine_at
        at = first_of_refiner(levels, part, config.noise.num_train_timesteps)
        sampler = Handed(sampler, at)
    counting = _Counting(_guidance(request, config))
    x, ends = np.full((1, 1, 1, 1), 0.5, np.float32), [0]
    for _ in sampling.sample(sampler, counting, x, levels, lambda now, nxt: 0.1 * np.ones_like(x)):
        ends.append(len(counting.rows))
    ends[-1] = len(counting.rows)
    turns = [counting.rows[: ends[at]], counting.rows[ends[at] :]]
    return tuple(_summed(rows) for rows in turns[: 1 if refiner is None else 2])


def _summed(rows: list[int]) -> Evaluations:
    return Evaluations(len(rows), sum(rows), max(rows, default=0))


def _guidance(request: Request, config: ModelConfig) -> Guidance:
    if config.unet.guidance_width:  # it is told the scale
        return Guidance(1.0)
    method, scale = request.guidance_method, request.guidance_scale
    guide = None if method is None else registry.get_guidance(method)
    assert scale is not None  # the request is resolved
    return Guidance(
        scale, 0.0, request.guidance_interval, None if type(guide) is CFG else guide, None
    )
