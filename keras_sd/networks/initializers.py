"""First values of the weights, made on the host.

NumPy draws them, so they are the same on every backend after `keras.utils.set_random_seed`, and
jax does not compile a generator for every shape (which takes longer than the whole of a load).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras
import numpy as np
from keras import ops

_WEIGHTS_FOLLOW = ContextVar("weights_follow", default=False)


@contextmanager
def weights_follow() -> Iterator[None]:
    """Networks built inside start as zeros, which costs nothing: their weights are loaded next."""
    token = _WEIGHTS_FOLLOW.set(True)
    try:
        yield
    finally:
        _WEIGHTS_FOLLOW.reset(token)


class HostInitializer(keras.initializers.Initializer):
    """An initializer whose values `draw(shape)` makes with NumPy, float32."""

    def draw(self, shape: tuple[int, ...]) -> np.ndarray:
        raise NotImplementedError

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        shape = tuple(int(size) for size in shape)
        follow = _WEIGHTS_FOLLOW.get()
        values = np.zeros(shape, np.float32) if follow else self.draw(shape)
        return ops.convert_to_tensor(values, dtype)


class HostUniform(HostInitializer):
    """Uniform in [-limit, limit].

    Args:
        limit: None is `sqrt(6 / (inputs + outputs))` (Glorot & Bengio 2010), where a kernel
            `(..., in, out)` counts its inputs and outputs at every position.
    """

    def __init__(self, limit: float | None = None):
        self.limit = limit

    def draw(self, shape: tuple[int, ...]) -> np.ndarray:
        limit = self.limit
        if limit is None:
            *positions, width_in, width = shape
            limit = math.sqrt(6 / (math.prod(positions) * (width_in + width)))
        # Python's generator is the one that `set_random_seed` sets on every backend.
        generator = np.random.default_rng(random.getrandbits(64))
        return np.float32(2 * limit) * generator.random(shape, np.float32) - np.float32(limit)

    def get_config(self) -> dict[str, Any]:
        return {"limit": self.limit}


class HostConstant(HostInitializer):
    """The same value everywhere."""

    def __init__(self, value: float):
        self.value = value

    def draw(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.full(shape, self.value, np.float32)

    def get_config(self) -> dict[str, Any]:
        return {"value": self.value}
