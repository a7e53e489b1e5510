"""SA-Solver: stochastic Adams, with a corrector that needs no evaluation of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from keras_sd.noise import Level, Levels, transfer
from keras_sd.sampler import Array, Denoise, Noise
from keras_sd_samplers._polynomial import weights
from keras_sd_samplers._split import diffusion


@dataclass(frozen=True)
class SASolver:
    """SA-Predictor and SA-Corrector on the clean latent (Xue et al. 2023, "SA-Solver: Stochastic
    Adams Solver for Fast Sampling of Diffusion Models", sections 5.1 and 5.2): on the reverse
    diffusion whose noise is scaled by `tau`, the clean latent is continued by the polynomial in
    log(alpha / sigma) through its last values. One evaluation a step: the one at its end corrects
    that step, with the same noise, and begins the next.

    The first steps are of lower order, which holds the order of a whole run at 2.

    Args:
        tau: How much noise is drawn, from 0 (the ODE) up; 1 is the reverse diffusion. It scales the
            noise itself, so it counts squared where `eta` of other samplers counts once.
        predictor_order: Values that a step is predicted with, 1 to 4.
        corrector_order: Values that it is corrected with, the one at its end among them, 2 to 4; 1
            is no corrector.
        low: The lowest ``sigma / alpha`` at which a step draws noise.
        high: The highest; may be infinite.
        few_steps: Whether two values are weighed as the authors do for few steps: the change from
            one to the other counts with ``h / 2`` in place of its integral.

    Raises:
        ValueError: One of them is out of its range.
    """

    tau: float = 1.0
    predictor_order: int = 2
    corrector_order: int = 2
    low: float = 0.0
    high: float = math.inf
    few_steps: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.tau < math.inf:
            raise ValueError(f"tau must be a finite number from 0 up, got {self.tau!r}.")
        for name in ("predictor_order", "corrector_order"):
            if getattr(self, name) not in (1, 2, 3, 4):
                raise ValueError(f"{name} must be 1, 2, 3 or 4, got {getattr(self, name)!r}.")
        if not 0 <= self.low < self.high:
            raise ValueError(
                f"0 <= low < high must hold, got low {self.low!r} and high {self.high!r}."
            )

    @property
    def order(self) -> int:
        return min(max(self.predictor_order, self.corrector_order), 2)

    @property
    def stochastic(self) -> bool:
        return self.tau > 0

    @property
    def brownian(self) -> bool:
        # Between two ends, the part of a path that counts is another with each number of steps.
        return self.tau > 0 and (self.low, self.high) == (0.0, math.inf)

    @property
    def unsuited(self) -> dict[str, str]:
        if not self.tau or self.predictor_order == 1:
            return {}
        # Measured on normal data at 20 steps: 1.6 to 1.9 times as much spread as there should be
        # with two values, 3 to 6 times with three, or with `few_steps`.
        why = (
            "its last steps are so long that up to 6 times the noise that belongs there stays; "
            "take 'exponential' or 'karras'"
        )
        names = ("beta", "ddim_uniform", "kl_optimal", "leading", "linspace", "normal")
        return dict.fromkeys(names, why)

    def __call__(self, denoise: Denoise, x: Array, levels: Levels, noise: Noise) -> Iterator[Array]:
        past: list[tuple[Level, Array]] = []  # where there is alpha, the newest first
        start, drawn, before = x, 0.0, levels[0]
        for now, nxt in pairwise(levels):
            x0 = denoise(x, now)
            if past and self.corrector_order > 1:
                used = [(now, x0), *past[: self.corrector_order - 1]]
                speed = self._speed(before)
                down, _ = diffusion(before, now, speed)
                x = transfer(start, self._mean(used, before, now, speed), before, down) + drawn
            if now.alpha:
                past = [(now, x0), *past[:3]]
            speed = self._speed(now)
            down, fresh = diffusion(now, nxt, speed)
            ahead = x0
            if past and nxt.sigma:
                ahead = self._mean(past[: self.predictor_order], now, nxt, speed)
            start, drawn, before = x, fresh * noise(now, nxt) if fresh else 0.0, now
            x = transfer(start, ahead, now, down) + drawn
            yield x

    def _speed(self, now: Level) -> float:
        """How fast noise is drawn in a step from here, as `diffusion` counts it."""
        return self.tau**2 if self.low <= now.ratio <= self.high else 0.0

    def _mean(self, used: list[tuple[Level, Array]], now: Level, nxt: Level, speed: float) -> Array:
        """The clean latent to believe from `now` to `nxt`: the mean of the polynomial through those
        that are known, in which the end of the step counts most (equations 14 and 17).
        """
        h, scale = math.log(now.ratio / nxt.ratio), 1 + speed
        nodes = [math.log(now.ratio / level.ratio) for level, _ in used]
        gain = -math.expm1(-scale * h)
        moments = [1.0]
        for k in range(1, len(nodes)):
            moments.append(h**k / gain - k / scale * moments[-1])
        if self.few_steps and len(nodes) == 2:
            moments[1] = scale * h**2 / (2 * gain)
        shares = weights(nodes, moments)
        return sum(share * x0 for share, (_, x0) in zip(shares, used, strict=True))
