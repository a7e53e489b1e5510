"""Gaussian mixtures in one dimension: the ideal denoiser and the exact solution, in closed form.

Noise turns a mixture into another one: at a level every component has the mean ``alpha * mean`` and
the variance ``alpha**2 * variance + sigma**2``. So the ideal denoiser ``E[x0 | x]`` is a weighted
mean of each component's own. The probability-flow ODE carries one marginal into the next, and in
one dimension paths cannot cross: it keeps quantiles. A start x at one level therefore ends at
another exactly where as much of the probability lies below.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_sd.noise import Level

_erf = np.frompyfunc(math.erf, 1, 1)  # NumPy has none
_ITERATIONS = 200  # halving alone needs 60


@dataclass(frozen=True)
class Mixtures:
    """Several one-dimensional Gaussian mixtures, one a row: of the clean data.

    Args:
        weights: Of the components, ``(mixtures, components)``; > 0; each row adds up to 1.
        means: Likewise.
        deviations: Likewise, > 0.
    """

    weights: ArrayLike
    means: ArrayLike
    deviations: ArrayLike

    def denoise(self, x: Any, level: Level) -> Any:
        """``E[x0 | x]``: what a perfectly trained model would give.

        Args:
            x: ``(mixtures, n)``.
            level: The level of `x`; its sigma must not be 0.

        Returns:
            An array shaped like `x`.
        """
        weights, means, variances = self._at(level)
        own = np.asarray(self.deviations)[..., None] ** 2
        believed = x[:, None] - means
        shares = believed * believed  # in place from here: this is most of the lab's time
        shares *= -0.5 / variances
        shares += np.log(weights / np.sqrt(variances))
        shares -= shares.max(axis=1, keepdims=True)
        np.exp(shares, out=shares)
        believed *= level.alpha * own / variances
        believed += np.asarray(self.means)[..., None]
        believed *= shares
        return believed.sum(axis=1) / shares.sum(axis=1)

    def below(self, x: Any, level: Level) -> NDArray[np.float64]:
        """The probability of what lies below `x` at a level; shapes as of `denoise`."""
        weights, means, variances = self._at(level)
        scaled = (x[:, None] - means) / np.sqrt(2 * variances)
        return (weights * (1 + _erf(scaled).astype(np.float64)) / 2).sum(axis=1)

    def quantiles(self, fractions: Any, level: Level) -> NDArray[np.float64]:
        """Where so much of the probability lies below: the inverse of `below`, by Newton steps
        inside of an interval that halves where they leave it.

        Args:
            fractions: In (0, 1), ``(n,)``.
            level: Any level.

        Returns:
            ``(mixtures, n)``, each row rising if `fractions` do.
        """
        weights, means, variances = self._at(level)
        reach = 40 * np.sqrt(variances)
        shape = (len(means), len(fractions))
        low = np.broadcast_to((means - reach).min(axis=1), shape).copy()
        high = np.broadcast_to((means + reach).max(axis=1), shape).copy()
        x = (low + high) / 2
        for _ in range(_ITERATIONS):
            excess = self.below(x, level) - fractions
            low, high = np.where(excess < 0, x, low), np.where(excess > 0, x, high)
            off = x[:, None] - means
            density = weights * np.exp(-(off**2) / (2 * variances)) / np.sqrt(variances)
            density = density.sum(axis=1) / math.sqrt(2 * math.pi)
            step = excess / np.maximum(density, 1e-300)
            newton = x - step
            inside = (low < newton) & (newton < high)
            moved = np.where(inside, newton, (low + high) / 2)
            if np.abs(moved - x).max() < 1e-12:
                return moved
            x = moved
        return x

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        """Clean data, ``(mixtures, count)``."""
        weights, means, deviations = map(np.asarray, (self.weights, self.means, self.deviations))
        rows = []
        for row in range(len(weights)):
            chosen = rng.choice(weights.shape[1], size=count, p=weights[row])
            normal = rng.standard_normal(count)
            rows.append(means[row, chosen] + deviations[row, chosen] * normal)
        return np.stack(rows)

    def _at(self, level: Level) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Weights, means and variances at a level, ``(mixtures, components, 1)``."""
        weights, means, deviations = (
            np.asarray(part, np.float64)[..., None]
            for part in (self.weights, self.means, self.deviations)
        )
        return weights, level.alpha * means, (level.alpha * deviations) ** 2 + level.sigma**2
