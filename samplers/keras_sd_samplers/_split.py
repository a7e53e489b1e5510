"""How a step divides the noise it ends with: what is kept, and what is drawn anew."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from keras_sd.noise import Level


def forward(low: Level, high: Level) -> float:
    """The weight of the fresh noise that takes a latent, times ``high.alpha / low.alpha``, from
    `low` back up to `high`.
    """
    return high.sigma * math.sqrt(1 - _left(high, low) ** 2)


def ancestral(now: Level, nxt: Level, eta: float) -> tuple[Level, float]:
    """The split of DDIM (Song et al. 2021, equation 16) and of the ancestral samplers.

    Args:
        now: The level of the latent.
        nxt: The level to go to.
        eta: 0 draws nothing; 1 draws the spread of the latent at `nxt`, given those at `now` and at
            sigma 0.

    Returns:
        The level to walk to, `nxt` with less noise, and the weight of the fresh noise that makes it
        `nxt` again: their squares add up to ``nxt.sigma ** 2``.
    """
    if not eta or not nxt.sigma:
        return nxt, 0.0
    left = _left(now, nxt)
    kept = nxt.sigma * math.sqrt(1 - eta**2 + (eta * left) ** 2)
    return replace(nxt, sigma=kept), eta * nxt.sigma * math.sqrt(1 - left**2)


def diffusion(now: Level, nxt: Level, eta: float) -> tuple[Level, float]:
    """The split of the reverse diffusion whose noise is scaled by `eta` (Lu et al. 2022b): its
    exact solution if the clean latent is the believed one.

    Arguments and result are those of `ancestral`, and with eta 1 it is the same split.
    """
    if not eta or not nxt.sigma:
        return nxt, 0.0
    left = _left(now, nxt) ** eta
    return replace(nxt, sigma=nxt.sigma * left), nxt.sigma * math.sqrt(1 - left**2)


def _left(now: Level, nxt: Level) -> float:
    """The ratio sigma / alpha of `nxt` in units of that of `now`, which may be infinite."""
    # Not the difference of two squares, which has no digits left where a step is long; nor does it
    # assume alpha**2 + sigma**2 = 1.
    return nxt.sigma * now.alpha / (nxt.alpha * now.sigma)


@dataclass(frozen=True)
class Stochastic:
    """What samplers that draw noise anew have in common.

    Args:
        eta: The share of it, in [0, 1]; 0 draws nothing.
        s_noise: Weight of the fresh noise; other than 1 it leaves the right spread on purpose.

    Raises:
        ValueError: `eta` is outside [0, 1], or `s_noise` negative.
    """

    eta: float = 1.0
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], got {self.eta!r}.")
        if not 0 <= self.s_noise < math.inf:
            raise ValueError(f"s_noise must be a finite number from 0 up, got {self.s_noise!r}.")

    @property
    def stochastic(self) -> bool:
        return self.eta > 0


@dataclass(frozen=True)
class Brownian(Stochastic):
    """Those whose noise is that of one Brownian path."""

    @property
    def brownian(self) -> bool:
        return self.eta > 0
