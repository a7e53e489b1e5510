"""DPM-Solver++(3M) and its stochastic form."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from keras_sd.noise import Levels, transfer
from keras_sd.sampler import Array, Denoise, Noise
from keras_sd_samplers._split import Brownian, diffusion


@dataclass(frozen=True)
class DPMpp3M(Brownian):
    """Multistep DPM-Solver++ of order 3: the clean latent is continued by the parabola in
    log(sigma / alpha) through its last three values (after Lu et al. 2022b; with `eta` on the
    reverse diffusion, first in k-diffusion). One evaluation a step.

    The first two steps are of lower order, which holds the order of a whole run at 2. It is not
    declared, as it takes hundreds of steps to show.

    Args:
        eta: Share of the reverse diffusion, in [0, 1]; 0 is the ODE and draws nothing.
        s_noise: Weight of the fresh noise.

    Raises:
        ValueError: `eta` is outside [0, 1], or `s_noise` negative.
    """

    eta: float = 0.0

    @property
    def unsuited(self) -> dict[str, str]:
        if not self.eta:
            return {}
        # Measured on normal data at 20 steps: 1.5 to 2.6 times as much spread as there should be.
        why = (
            "its last steps are so long that up to 3 times the noise that belongs there stays; "
            "take 'exponential' or 'karras'"
        )
        return dict.fromkeys(("beta", "ddim_uniform", "leading", "linspace", "normal"), why)

    def __call__(self, denoise: Denoise, x: Array, levels: Levels, noise: Noise) -> Iterator[Array]:
        # -log(sigma / alpha) and x0, the newest first. At alpha 0 it is infinite, and a change
        # divided by it is none.
        past: list[tuple[float, Array]] = []
        for now, nxt in pairwise(levels):
            x0 = ahead = denoise(x, now)
            past = [(-math.log(now.ratio), x0), *past[:2]]
            if len(past) > 1 and nxt.sigma:
                step = -math.log(nxt.ratio) - past[0][0]
                h = step * (1 + self.eta)
                gain = -math.expm1(-h)  # the weight of the clean latent in the step
                phi2 = 1 - gain / h
                r0 = (past[0][0] - past[1][0]) / step
                slope = (x0 - past[1][1]) / r0
                if len(past) > 2:
                    r1 = (past[1][0] - past[2][0]) / step
                    bend = (slope - (past[1][1] - past[2][1]) / r1) / (r0 + r1)
                    slope = slope + (r0 - (1 / h - 1 / (2 * phi2))) * bend
                ahead = x0 + phi2 / gain * slope
            down, fresh = diffusion(now, nxt, self.eta)
            x = transfer(x, ahead, now, down)
            if fresh:
                x = x + self.s_noise * fresh * noise(now, nxt)
            yield x


@dataclass(frozen=True)
class DPMpp3MSDE(DPMpp3M):
    """`DPMpp3M` on the whole reverse diffusion, unless told otherwise."""

    eta: float = 1.0
