"""Host-side noise: the same seed gives the same bits on every backend, device and batch size.

Raw bits come from NumPy's Philox (Salmon et al. 2011), a counter-based generator whose output is
keyed by (seed, image, step), so that no number depends on what was drawn before it. They become
normal numbers by Box-Muller in float64, rounded once to float32. NumPy promises stability for the
bits, not for its own normal distribution.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_sd.checks import whole
from keras_sd.noise import Level

__all__ = ["BrownianPath", "batch_normal", "normal"]

_BLOCK = 4096
"""Quantiles that are looked up at a time: NumPy makes larger arrays of their places, in new pages
each time."""


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
    key = _uint64("seed", seed), _uint64("image", image)
    philox = _philox(key, _uint64("step", step))
    shape = tuple(int(n) for n in shape)
    count = math.prod(shape)
    bits = philox.random_raw(2 * ((count + 1) // 2))
    uniform = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53  # in [0, 1)
    radius = np.sqrt(-2.0 * np.log(1.0 - uniform[0::2]))  # of a number in (0, 1]
    angle = 2.0 * np.pi * uniform[1::2]
    numbers = np.empty(2 * len(radius), np.float32)
    numbers[0::2] = radius * np.cos(angle)
    numbers[1::2] = radius * np.sin(angle)
    return numbers[:count].reshape(shape)


def _philox(key: tuple[int, int], step: int) -> np.random.Philox:
    # Philox counts up from the low word of its 256-bit counter; the step is the high word, so that
    # the streams of two steps are 2**192 blocks apart.
    return np.random.Philox(
        key=np.array(key, dtype=np.uint64), counter=np.array([0, 0, 0, step], dtype=np.uint64)
    )


def batch_normal(
    seed: int | Sequence[int], images: Iterable[int], step: int, shape: Sequence[int]
) -> NDArray[np.float32]:
    """`normal` of several images, stacked: row i is what image ``images[i]`` gets alone.

    Args:
        seed: In [0, 2**64): one for all images, or one an image.
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
    numbers = list(images)
    if not numbers:
        raise ValueError("images must name at least one image.")
    seeds = seed if isinstance(seed, Sequence) else [seed] * len(numbers)
    if len(seeds) != len(numbers):
        raise ValueError(
            f"{len(seeds)} seeds for {len(numbers)} images; give one, or one an image."
        )
    pairs = zip(seeds, numbers, strict=True)
    return np.stack([normal(each, image, step, shape) for each, image in pairs])


class BrownianPath:
    """One Brownian path an image, for samplers of stochastic differential equations: the noise of
    an interval is the sum of the noises of its parts.

    So a run of more steps follows the same path, and comes to the same picture. The clock is the
    angle ``atan2(sigma, alpha)``, which every level has. The path is a tree: the ends first, then
    the middle of each half given its ends (Levy's construction), each node's numbers keyed by
    (seed, image, node), so that nothing depends on what was asked before. k-diffusion, which
    brought such noise to images, and torchsde (Li et al. 2020, "virtual Brownian tree") do so too;
    with other clocks and bits.

    A point of the path is the sum of some twelve nodes' numbers that nobody has asked for yet, so
    these are simpler than those of `normal`: each is one of 65,536 quantiles of the normal
    distribution, at the middle of equal probabilities, by 16 of Philox's bits.

    Args:
        seed: In [0, 2**64): one for all images, or one an image.
        images: Which images of a run.
        shape: The shape of one image's latent, without the batch axis.
    """

    _DEPTH = 16
    """Of the tree: two levels are told apart from 2.4e-5 rad on, a twentieth of a training
    timestep."""

    _FIRST_NODE = 2**63
    """Number of the draw that is the whole path's; draws of other noise count up from 0."""

    _KEPT = 2 * _DEPTH
    """Points that are remembered: a whole branch and the one beside it."""

    def __init__(self, seed: int | Sequence[int], images: Iterable[int], shape: Sequence[int]):
        self._shape, images = tuple(shape), list(images)
        seeds = seed if isinstance(seed, Sequence) else [seed] * len(images)
        self._keys = [
            (_uint64("seed", each), _uint64("image", image))
            for each, image in zip(seeds, images, strict=True)
        ]
        # Recently asked points, as the runs of samplers ask for their neighbours next.
        self._known: OrderedDict[int, NDArray[np.float32]] = OrderedDict()

    def __call__(self, now: Level, nxt: Level) -> NDArray[np.float32]:
        """The path's increment between two levels over its standard deviation: standard normal.

        Args:
            now: The noisier level.
            nxt: The other.

        Returns:
            A float32 array ``(images, *shape)``. Of levels too near to tell them apart, numbers of
            that place that belong to nothing else.
        """
        start, end = self._tick(now), self._tick(nxt)
        if start == end:
            return self._draw(2 * 2**self._DEPTH + start)
        increment = self._at(start) - self._at(end)
        scale = math.copysign(math.sqrt(2**self._DEPTH / abs(start - end)), start - end)
        return increment * np.float32(scale)

    def _tick(self, level: Level) -> int:
        return round(math.atan2(level.sigma, level.alpha) / (math.pi / 2) * 2**self._DEPTH)

    def _at(self, tick: int) -> NDArray[np.float32]:
        """The path at a tick of its clock; it is 0 at the clean end, and 1 is its variance at the
        other.
        """
        if tick == 0:
            return np.zeros((len(self._keys), *self._shape), np.float32)
        if tick in self._known:
            self._known.move_to_end(tick)
            return self._known[tick]
        if tick == 2**self._DEPTH:
            value = self._draw(0)
        else:
            half = tick & -tick  # the middle of a cell is an odd multiple of half its width
            node = (2**self._DEPTH + tick) // (2 * half)
            value = self._draw(node)  # in place from here on: a new array is new pages
            value *= np.float32(math.sqrt(half * 2 / 2**self._DEPTH))
            value += self._at(tick - half)
            value += self._at(tick + half)
            value *= np.float32(0.5)
        self._known[tick] = value
        if len(self._known) > self._KEPT:
            self._known.popitem(last=False)
        return value

    def _draw(self, node: int) -> NDArray[np.float32]:
        count = math.prod(self._shape)
        numbers = np.empty((len(self._keys), count), np.float32)
        for row, key in zip(numbers, self._keys, strict=True):
            bits = _philox(key, self._FIRST_NODE + node).random_raw((count + 3) // 4)
            places = bits.astype("<u8", copy=False).view("<u2")[:count]
            for start in range(0, count, _BLOCK):
                some = slice(start, start + _BLOCK)
                # All are in range, and NumPy looks up faster where it need not ask.
                np.take(_quantiles(), places[some], out=row[some], mode="clip")
        return numbers.reshape(-1, *self._shape)


@functools.cache
def _quantiles() -> NDArray[np.float32]:
    """Of the normal distribution, at the middles of 2**16 equal probabilities; their variance is
    1.
    """
    inverse = statistics.NormalDist().inv_cdf
    upper = np.array([inverse(0.5 + (i + 0.5) / 2**16) for i in range(2**15)])
    upper /= math.sqrt(np.mean(upper**2))
    return np.concatenate([-upper[::-1], upper]).astype(np.float32)


def _uint64(name: str, value: Any) -> int:
    return whole(name, value, 0, 2**64 - 1)
