"""The objective of every training here: noise a latent, ask the UNet, and weigh its error.

With `x = alpha * x0 + sigma * noise`, a UNet predicts one of four targets. The formulas are plain
arithmetic, for NumPy's arrays and every backend's tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from keras import ops

from keras_sd.checks import choice, real
from keras_sd.config import NoiseConfig
from keras_sd.denoiser import predict
from keras_sd.noise import NoisePath

__all__ = [
    *("KINDS", "Kind", "Noising", "Objective"),
    *("levels_of", "noised", "spread", "target", "weight"),
]

Kind = Literal["epsilon", "v", "x0", "flow"]
"""What is predicted: the noise (Ho et al. 2020); `alpha * noise - sigma * x0` (Salimans & Ho 2022);
the clean latent; `noise - x0` (Liu et al. 2022, where `alpha = 1 - sigma`)."""

KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True)
class Noising:
    """The noise levels of a batch: a `keras_sd.noise.Level` of arrays, a number a row.

    Attributes:
        t: timesteps, `(batch,)` float32.
        alpha: weights of the clean latents, `(batch,)`.
        sigma: weights of the noise, `(batch,)`.
    """

    t: Any
    alpha: Any
    sigma: Any


def noised(latents: Any, noise: Any, alpha: Any, sigma: Any) -> Any:
    """`alpha * latents + sigma * noise`.

    Args:
        latents: x0, of any shape.
        noise: unit normal, shaped like `latents`.
        alpha: of the level, broadcast to them.
        sigma: likewise.
    """
    return alpha * latents + sigma * noise


def target(kind: str, latents: Any, noise: Any, alpha: Any, sigma: Any) -> Any:
    """What the UNet should predict, shaped like `latents`.

    Args:
        kind: one of `KINDS`.
        latents: x0.
        noise: that is in them, unit normal.
        alpha: of the level, broadcast to them.
        sigma: likewise.
    """
    match kind:
        case "epsilon":
            return noise
        case "v":
            return alpha * noise - sigma * latents
        case "x0":
            return latents
        case _:
            return noise - latents


def weight(kind: str, alpha: Any, sigma: Any, gamma: float, offset: float = 0.0) -> Any:
    """The min-SNR weight of a squared error (Hang et al. 2023).

    In x0 an error counts `min(SNR, gamma) + offset`, where `SNR = (alpha / sigma)**2`. An error of
    x0 is `sigma / alpha` times that of epsilon, and `sigma` times that of v and of a flow, so that
    theirs are weighted by the squares of these.

    Args:
        kind: one of `KINDS`.
        alpha: of the levels, a tensor; for epsilon not 0.
        sigma: likewise, for x0 not 0.
        gamma: the most that the ratio of signal to noise counts.
        offset: 0 is the paper's. With 0, pure noise (zero terminal SNR) counts nothing, and is not
            learned; with 1 a weight of v goes to 1 there.
    """
    signal, rest = alpha * alpha, sigma * sigma
    found = ops.minimum(signal, gamma * rest) + offset * rest
    match kind:
        case "epsilon":
            return found / signal
        case "x0":
            return found / rest
        case _:
            return found


@dataclass(frozen=True)
class Objective:
    """The squared error of a UNet's prediction, weighted.

    Attributes:
        kind: what it predicts, one of `KINDS`.
        gamma: of `weight`; None weighs every level alike.
        offset: of `weight`.

    Raises:
        keras_sd.checks.SettingError: another kind, or a number that does not fit.
    """

    kind: Kind = "epsilon"
    gamma: float | None = None
    offset: float = 0.0

    def __post_init__(self) -> None:
        choice("kind", self.kind, KINDS)
        if self.gamma is not None:
            real("gamma", self.gamma, above=0.0)
        real("offset", self.offset, 0.0)

    @classmethod
    def of(cls, noise: NoiseConfig, gamma: float | None = None) -> Objective:
        """The one that a model was trained with.

        Args:
            noise: of the model's config.
            gamma: of `weight`; None weighs every level alike. Where the table ends in pure noise,
                the offset is 1, so that this level is learned too.
        """
        return cls(noise.prediction, gamma, float(noise.zero_terminal_snr))

    def __call__(
        self,
        unet: Any,
        latents: Any,
        conditions: Mapping[str, Any],
        noise: Any,
        level: Noising,
        controls: Sequence[Any] = (),
    ) -> Any:
        """The loss of each row: the mean of its squared error, times its weight.

        Args:
            unet: the network, which is called as `keras_sd.denoiser.predict` does.
            latents: x0, `(batch, height, width, channels)` float32.
            conditions: what the UNet is told, see `keras_sd.conditions`.
            noise: unit normal, like `latents`.
            level: how much of it each row gets.
            controls: networks beside the UNet, see `keras_sd.denoiser.predict`.

        Returns:
            `(batch,)` float32.
        """
        alpha, sigma = (ops.reshape(each, (-1, 1, 1, 1)) for each in (level.alpha, level.sigma))
        x = noised(latents, noise, alpha, sigma)
        found = ops.cast(predict(unet, x, level.t, conditions, controls), "float32")
        return self.loss(found, target(self.kind, latents, noise, alpha, sigma), level)

    def loss(self, predicted: Any, wanted: Any, level: Noising) -> Any:
        """The loss of each row, where the prediction is there already.

        Args:
            predicted: by the UNet, `(batch, height, width, channels)`.
            wanted: see `target`.
            level: of each row.
        """
        error = ops.mean(ops.square(predicted - wanted), axis=(1, 2, 3))
        if self.gamma is None:
            return error
        return error * weight(self.kind, level.alpha, level.sigma, self.gamma, self.offset)


def spread(batch: int, rng: np.random.Generator) -> np.ndarray:
    """A place from each of `batch` equal slices of [0, 1), in any order: their mean is less noisy
    than that of places that know nothing of each other.

    Args:
        batch: how many.
        rng: where the chance comes from.

    Returns:
        `(batch,)` float64.
    """
    return rng.permutation((np.arange(batch) + rng.random(batch)) / batch)


def levels_of(path: NoisePath, places: Iterable[float]) -> Noising:
    """The levels of training timesteps.

    Args:
        path: the model's training noise, `config.noise.table()`.
        places: of each row, in [0, 1): 0 is the first training timestep, just below 1 the last.

    Returns:
        Float32 arrays of NumPy.
    """
    first = path.first.t
    found = [path.level(first + int(place * len(path))) for place in places]
    columns = zip(*((each.t, each.alpha, each.sigma) for each in found), strict=True)
    return Noising(*(np.array(column, np.float32) for column in columns))
