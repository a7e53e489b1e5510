"""First values of the weights, made on the host.

NumPy draws them, so they are the same on every backend after `keras.utils.set_random_seed`, and
jax does not compile a generator for every shape (which takes longer than the whole of a load).
"""

from __future__ import annotations

import math
import mmap
import random
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras
import ml_dtypes
import numpy as np

from keras_sd.backend import adopt, memory_order

_PAGES = 2**18
"""Bytes from which on an array has pages of its own."""

# Memory that processes share, which is mmap's habit, takes the system longer to give. Windows knows
# no such flags.
_OF_ITS_OWN: dict[str, int] = (
    {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
)

_WEIGHTS_FOLLOW = ContextVar("weights_follow", default=False)


@contextmanager
def weights_follow() -> Iterator[None]:
    """Networks built inside start as zeros, which costs nothing: their weights are loaded next."""
    token = _WEIGHTS_FOLLOW.set(True)
    try:
        yield
    finally:
        _WEIGHTS_FOLLOW.reset(token)


def host_zeros(shape: tuple[int, ...], dtype: str, linear: bool = False) -> np.ndarray:
    """An array of zeros in pages of its own, for what becomes the value of a variable. Its axes lie
    in memory as the backend has them fastest (`backend.memory_order`, which knows `linear`).

    Such pages take no memory before they are written to; jax and TensorFlow take them over without
    a copy, since they are aligned; and they go back to the system when the array is gone, where
    memory from the heap would stay with the process in pieces.
    """
    numpy_dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    order = memory_order(len(shape), linear)
    laid = [shape[axis] for axis in order]
    size = math.prod(shape) * numpy_dtype.itemsize
    if size < _PAGES:
        values = np.zeros(laid, numpy_dtype)
    else:
        values = np.frombuffer(mmap.mmap(-1, size, **_OF_ITS_OWN), numpy_dtype).reshape(laid)
    return values.transpose(np.argsort(order))


class HostInitializer(keras.initializers.Initializer):
    """An initializer whose values `draw(shape)` makes with NumPy, float32.

    Attributes:
        of_kernels: whether weights of two axes that it makes are kernels of linear maps.
    """

    of_kernels = False

    def draw(self, shape: tuple[int, ...]) -> np.ndarray:
        raise NotImplementedError

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        shape = tuple(int(size) for size in shape)
        dtype = keras.backend.standardize_dtype(dtype)
        values = host_zeros(shape, dtype, linear=self.of_kernels)
        if not _WEIGHTS_FOLLOW.get():
            values[...] = self.draw(shape)
        return adopt(values)


class HostUniform(HostInitializer):
    """Uniform in [-limit, limit].

    Args:
        limit: None is `sqrt(6 / (inputs + outputs))` (Glorot & Bengio 2010), where a kernel
            `(..., in, out)` counts its inputs and outputs at every position.
    """

    def __init__(self, limit: float | None = None):
        self.limit, self.of_kernels = limit, limit is None

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
