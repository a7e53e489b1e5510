"""A run that another model ends: base and refiner of SDXL (Podell et al. 2023, section 2.5)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from keras_sd import sampling
from keras_sd.noise import Levels
from keras_sd.sampler import Array, Denoise, Noise, Sampler

__all__ = ["Handed", "first_of_refiner"]


def first_of_refiner(levels: Levels, refine_at: float, num_train_timesteps: int) -> int:
    """The number of steps that come before the refiner's: those at timesteps above the part of the
    noise that is its own.

    Args:
        levels: of the run.
        refine_at: see `keras_sd.conditioning.Conditioning`.
        num_train_timesteps: of the model.
    """
    cutoff = round(num_train_timesteps - refine_at * num_train_timesteps)
    return sum(level.t >= cutoff for level in levels[:-1])


@dataclass(frozen=True, eq=False)
class Handed:
    """A sampler that begins anew where the refiner takes over: what it remembers is another
    model's.

    Args:
        sampler: that walks.
        at: steps before that.
    """

    sampler: Sampler
    at: int

    def __call__(self, denoise: Denoise, x: Array, levels: Levels, noise: Noise) -> Iterator[Array]:
        """The latents of both parts."""
        for part in (levels[: self.at + 1], levels[self.at :]):
            if len(part) > 1:
                for step in sampling.sample(self.sampler, denoise, x, part, noise):
                    x = step.latent
                    yield x

    def __getattr__(self, name: str) -> Any:  # what it declares, such as `needs_parts`
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.sampler, name)
