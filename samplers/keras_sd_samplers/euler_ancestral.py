"""Euler's method with noise drawn anew at each step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from keras_sd.noise import Levels, transfer
from keras_sd.sampler import Array, Denoise, Noise
from keras_sd_samplers._split import Stochastic, ancestral


@dataclass(frozen=True)
class EulerAncestral(Stochastic):
    """Euler steps to less noise than asked for, then fresh noise ("Euler a" of k-diffusion; the
    rule is DDIM's, Song et al. 2021, equation 16).

    Args:
        eta: Share of the noise that is drawn anew, in [0, 1]; 0 is plain Euler.
        s_noise: Weight of the fresh noise; above 1 it adds detail that the model lost.

    Raises:
        ValueError: `eta` is outside [0, 1], or `s_noise` negative.
    """

    def __call__(self, denoise: Denoise, x: Array, levels: Levels, noise: Noise) -> Iterator[Array]:
        for now, nxt in pairwise(levels):
            down, fresh = ancestral(now, nxt, self.eta)
            x = transfer(x, denoise(x, now), now, down)
            if fresh:
                x = x + self.s_noise * fresh * noise(now, nxt)
            yield x
