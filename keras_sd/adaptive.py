"""Adaptive guidance: none any more, as soon as it makes no difference (Castillo et al. 2023,
"Adaptive Guidance: Training-free Acceleration of Conditional Diffusion Models").
"""

from __future__ import annotations

import numpy as np
from keras import ops

from keras_sd.backend import to_numpy
from keras_sd.noise import Level
from keras_sd.sampler import Array, Parts

__all__ = ["Adaptive"]


class Adaptive:
    """Which pictures of a run are past guidance: those whose predictions with and without the
    prompt have been parallel, nearly, in an evaluation before.

    Each picture is settled by itself, so that it is the one that it is alone. The evaluation that
    is spared is the one in which none needs guidance.

    Args:
        threshold: the least cosine of both predictions that is nearly parallel.
        kind: what the UNet predicts, see `keras_sd.denoiser.to_x0`: that is what is compared.
    """

    def __init__(self, threshold: float, kind: str):
        self._threshold, self._kind = threshold, kind
        self._past: np.ndarray | None = None

    @property
    def over(self) -> bool:
        """Whether no picture needs guidance any more."""
        return self._past is not None and bool(self._past.all())

    def settled(self, parts: Parts, x: Array, level: Level) -> Parts:
        """The same of an evaluation, but what is said with the prompt alone for pictures that were
        past guidance before it.

        Args:
            parts: clean latents, with both halves.
            x: the latent that they were predicted of.
            level: its noise level.
        """
        told, untold, guided = parts
        past = self._past
        now = self._parallel(*(self._predicted(each, x, level) for each in (told, untold)))
        self._past = now if past is None else past | now
        if past is None or not past.any():
            return parts
        mask = ops.convert_to_tensor(past.reshape(-1, *[1] * (len(x.shape) - 1)))
        return Parts(told, ops.where(mask, told, untold), ops.where(mask, told, guided))

    def _predicted(self, x0: Array, x: Array, level: Level) -> Array:
        """What the UNet gave, but for its length."""
        if self._kind == "x0":
            return x0
        if self._kind == "v":
            return level.alpha * x - x0
        return x - level.alpha * x0

    def _parallel(self, one: Array, other: Array) -> np.ndarray:
        pairs = ((one, other), (one, one), (other, other))
        axes = tuple(range(1, len(one.shape)))
        sums = to_numpy(ops.stack([ops.sum(a * b, axis=axes) for a, b in pairs]))
        between, *lengths = sums.astype(np.float64)
        return np.asarray(between >= self._threshold * np.sqrt(np.prod(lengths, axis=0)))
