"""DPM-Solver++(2S) with noise drawn anew at each step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from keras_sd.noise import Levels, transfer
from keras_sd.sampler import Array, Denoise, Noise
from keras_sd_samplers._split import Stochastic, ancestral


@dataclass(frozen=True)
class DPMpp2SAncestral(Stochastic):
    """A midpoint method on the clean latent (Lu et al. 2022b, algorithm 1 with r = 1/2), to less
    noise than asked for, then fresh noise. Two evaluations a step, one where it ends at sigma 0.

    Args:
        eta: Share of the noise that is drawn anew, in [0, 1]; 0 is DPM-Solver++(2S) itself.
        s_noise: Weight of the fresh noise.

    Raises:
        ValueError: `eta` is outside [0, 1], or `s_noise` negative.
    """

    order: ClassVar[int] = 2

    def __call__(self, denoise: Denoise, x: Array, levels: Levels, noise: Noise) -> Iterator[Array]:
        for now, nxt in pairwise(levels):
            down, fresh = ancestral(now, nxt, self.eta)
            x0 = denoise(x, now)
            if down.sigma:
                middle = levels.between(now, down, 0.5)
                x0 = denoise(transfer(x, x0, now, middle), middle)
            x = transfer(x, x0, now, down)
            if fresh:
                x = x + self.s_noise * fresh * noise(now, nxt)
            yield x
