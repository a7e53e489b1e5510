"""DPM-Solver++(2M) and its stochastic form."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from keras_sd.noise import Levels, transfer
from keras_sd.sampler import Array, Denoise, Noise
from keras_sd_samplers._split import Brownian, diffusion


@dataclass(frozen=True)
class DPMpp2M(Brownian):
    """Multistep DPM-Solver++ of order 2: the clean latent is continued along its last change (Lu
    et al. 2022b, algorithm 2; with `eta` their SDE-DPM-Solver++(2M)). One evaluation a step.

    Args:
        eta: Share of the reverse diffusion, in [0, 1]; 0 is the ODE and draws nothing.
        s_noise: Weight of the fresh noise.
        solver: How the last change is weighed: ``"midpoint"`` or ``"heun"``.

    Raises:
        ValueError: `eta` is outside [0, 1], `s_noise` negative, or `solver` something else.
    """

    order: ClassVar[int] = 2

    eta: float = 0.0
    solver: str = "midpoint"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.solver not in ("midpoint", "heun"):
            raise ValueError(f"solver must be 'midpoint' or 'heun', got {self.solver!r}.")

    def __call__(self, denoise: Denoise, x: Array, levels: Levels, noise: Noise) -> Iterator[Array]:
        before, last = levels[0], None
        for now, nxt in pairwise(levels):
            x0 = ahead = denoise(x, now)
            if last is not None and nxt.sigma:
                # From alpha 0 the last step is infinite, and the change in it counts for nothing.
                h, h_last = math.log(now.ratio / nxt.ratio), math.log(before.ratio / now.ratio)
                weight = 1 / 2
                if self.solver == "heun":
                    h_eta = h * (1 + self.eta)
                    weight = 1 / -math.expm1(-h_eta) - 1 / h_eta
                ahead = x0 + weight * h / h_last * (x0 - last)
            down, fresh = diffusion(now, nxt, self.eta)
            x = transfer(x, ahead, now, down)
            if fresh:
                x = x + self.s_noise * fresh * noise(now, nxt)
            before, last = now, x0
            yield x


@dataclass(frozen=True)
class DPMpp2MSDE(DPMpp2M):
    """`DPMpp2M` on the whole reverse diffusion, unless told otherwise."""

    eta: float = 1.0
