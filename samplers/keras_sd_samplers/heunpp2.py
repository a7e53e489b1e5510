"""Heun++: Heun's method that looks two steps ahead."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from keras_sd.noise import Levels, denoised, epsilon, transfer
from keras_sd.sampler import Array, Denoise, Noise


@dataclass(frozen=True)
class HeunPP2:
    """Steps with the noise estimates at a level and at up to two after it, each of which weighs as
    much as its ``sigma / alpha`` has of that of the run's first level (Carzit's Heun++, published
    as code alone; ComfyUI's ``heunpp2``).

    Three evaluations a step, two in the last but one, one in the last. With such weights the order
    is 1.
    """

    def __call__(self, denoise: Denoise, x: Array, levels: Levels, noise: Noise) -> Iterator[Array]:
        top = next(level.ratio for level in levels if level.alpha)
        for index, (now, nxt) in enumerate(pairwise(levels)):
            x0 = denoise(x, now)
            if now.alpha:
                after = [each for each in levels[index + 1 : index + 3] if each is not levels[-1]]
                mean = eps = epsilon(x, x0, now)
                there, at, clean = x, now, x0
                for level in after:
                    there = transfer(there, clean, at, level)
                    at, clean = level, denoise(there, level)
                    weight = level.ratio / (top * (len(after) + 1))
                    mean = mean + weight * (epsilon(there, clean, level) - eps)
                x0 = denoised(x, mean, now)
            x = transfer(x, x0, now, nxt)
            yield x
