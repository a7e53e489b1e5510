"""Host-side noise: the same seed gives the same bits on every backend, device and batch size.

Raw bits come from NumPy's Philox (Salmon et al. 2011), a counter-based generator whose output is
keyed by (seed, image, step), so that no number depends on what was drawn before it. They become
normal numbers by Box-Muller in float64, rounded once to float32. NumPy promises stability for the
bits, not for its own normal distribution.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["batch_normal", "normal"]

_LIMIT = 2**64


def normal(seed: int, image: int, step: int, shape: Sequence[int]) -> NDArray[np.float32]:
    """Standard normal numbers for one image at one step.

    Args:
        seed: In [0, 2**64).
        image: Which image of a run, in [0, 2**64).
        step: 0 for the latent a run starts from, 1, 2, ... for what its sampler draws; in [0,
            2**64).
        shape: The shape of one image's latent, without a batch axis.

    Returns:
        A float32 array of that shape.

    Raises:
        TypeError: `seed`, `image` or `step` is no integer.
        ValueError: One of them is out of range.
    """
    key = [_uint64("seed", seed), _uint64("image", image)]
    # Philox counts up from the low word of its 256-bit counter; the step is the high word, so that
    # the streams of two steps are 2**192 blocks apart.
    counter = [0, 0, 0, _uint64("step", step)]
    shape = tuple(int(n) for n in shape)
    count = math.prod(shape)
    bits = np.random.Philox(
        key=np.array(key, dtype=np.uint64), counter=np.array(counter, dtype=np.uint64)
    ).random_raw(2 * ((count + 1) // 2))
    uniform = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53  # in [0, 1)
    radius = np.sqrt(-2.0 * np.log(1.0 - uniform[0::2]))  # of a number in (0, 1]
    angle = 2.0 * np.pi * uniform[1::2]
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return pairs.reshape(-1)[:count].astype(np.float32).reshape(shape)


def batch_normal(
    seed: int, images: Iterable[int], step: int, shape: Sequence[int]
) -> NDArray[np.float32]:
    """`normal` of several images, stacked: row i is what image ``images[i]`` gets alone.

    Args:
        seed: In [0, 2**64).
        images: Which images of a run, as in ``range(4)``; at least one.
        step: As in `normal`.
        shape: The shape of one image's latent, without the batch axis.

    Returns:
        A float32 array of shape ``(len(images), *shape)``.

    Raises:
        TypeError: `images` is not iterable, or an argument is no integer.
        ValueError: There is no image, or an argument is out of range.
    """
    if not isinstance(images, Iterable):
        raise TypeError(
            f"images must be the indices of the images, as in range(4), got {images!r}."
        )
    rows = [normal(seed, image, step, shape) for image in images]
    if not rows:
        raise ValueError("images must name at least one image.")
    return np.stack(rows)


def _uint64(name: str, value: Any) -> int:
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}.") from None
    if not 0 <= number < _LIMIT:
        raise ValueError(f"{name} must be from 0 to 2**64 - 1, got {number}.")
    return number
