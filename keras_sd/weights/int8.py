"""Weights in a quarter of the memory: whole numbers of eight bits, a scale an output channel.

A matrix or kernel `w` becomes `q` of -127 to 127 and `s`, float16, one number for each index of its
last axis, so that `q * s` is `w` to half of `s`. In a file, the tensor keeps its name and has the
dtype int8, and its scales stand beside it under the name with `.scale` after it. Vectors stay as
they are. It is a form of the file alone: what is loaded are ordinary floating-point weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_sd.weights.readers import WeightsError

SCALE = ".scale"
"""What follows the name of a tensor in that of its scales."""

_MOST = 127


def stored(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of a file in this form.

    Args:
        tensors: by name, of any floating dtype.

    Raises:
        WeightsError: a number is not finite, or no float16 can hold it or its scale.
    """
    found: dict[str, np.ndarray] = {}
    damaged = []
    for name, tensor in tensors.items():
        numbers = np.asarray(tensor, "float32")
        with np.errstate(over="ignore"):
            if numbers.ndim < 2:
                halves = found[name] = numbers.astype("float16")
            else:
                halves = found[name + SCALE] = _scale(numbers)
        if not np.isfinite(halves).all():
            damaged.append(name)
        elif numbers.ndim > 1:
            steps = np.where(halves > 0, halves, np.float16(1)).astype("float32")
            found[name] = np.rint(numbers / steps).astype("int8")
    if damaged:
        raise WeightsError(f"Not saved, for these are not finite as int8: {', '.join(damaged)}")
    return found


def _scale(numbers: np.ndarray) -> np.ndarray:
    """The step of each channel: the largest number in it is 127 of them."""
    largest = np.abs(numbers).max(axis=tuple(range(numbers.ndim - 1)))
    scale = (largest / _MOST).astype("float16")
    # Among its least numbers float16 has few, and rounded down one would be too small by far.
    short = scale.astype("float32") * (_MOST + 0.5) <= largest
    return np.where(short & (largest > 0), np.nextafter(scale, np.float16(np.inf)), scale)


def expanded(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of a file, each that is stored in this form as an `Int8`; the others as they are.

    Args:
        tensors: as the file has them. Scales of another shape than their tensor's last axis stay
            beside it, as tensors that nothing needs.
    """
    found = dict(tensors)
    for name, tensor in tensors.items():
        scale = tensors.get(name + SCALE)
        if (
            scale is not None
            and tensor.dtype == np.int8
            and scale.dtype == np.float16
            and scale.shape == tensor.shape[-1:]
        ):
            found[name] = Int8(tensor, found.pop(name + SCALE))
    return found


class Int8:
    """A tensor that becomes float32 when its numbers are asked for, with `numpy.asarray`.

    Attributes:
        numbers: int8.
        scale: float16, `(shape[-1],)`.
        shape: of the tensor.
        dtype: of the numbers that one gets: float32.
    """

    dtype = np.dtype("float32")

    def __init__(self, numbers: np.ndarray, scale: np.ndarray) -> None:
        self.numbers, self.scale, self.shape = numbers, scale, tuple(numbers.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        with np.errstate(invalid="ignore"):  # an infinite scale is found by whoever looks for one
            found = np.asarray(self.numbers).astype("float32") * np.asarray(self.scale, "float32")
        return found if dtype is None else found.astype(dtype, copy=False)
