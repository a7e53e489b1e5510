"""Euler's method on the probability-flow ODE."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from keras_sd.noise import Levels, transfer
from keras_sd.sampler import Array, Denoise, Noise


@dataclass(frozen=True)
class Euler:
    """Euler steps of the probability-flow ODE (Karras et al. 2022, algorithm 1 without its
    correction).

    The rule is DDIM's with eta = 0: the two are known apart by the levels they are usually given.
    """

    def __call__(self, denoise: Denoise, x: Array, levels: Levels, noise: Noise) -> Iterator[Array]:
        for now, nxt in pairwise(levels):
            x = transfer(x, denoise(x, now), now, nxt)
            yield x
