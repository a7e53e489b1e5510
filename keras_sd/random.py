"""Host-side noise: the same seed gives the same bits on every backend, device and batch size.

Raw bits come from NumPy's Philox (Salmon et al. 2011), a counter-based generator whose output is
keyed by (seed, image, step), so that no number depends on what was drawn before it. They become
normal numbers by Box-Muller in float64, rounded once to float32. NumPy promises stability for the
bits, not for its own normal distribution.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_sd.checks import whole
from keras_sd.noise import Level

__all__ = ["BrownianPath", "batch_normal", "normal"]


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
    numbers = np.empty(2 * len(radius), np.float32)
    numbers[0::2] = radius * np.cos(angle)
    numbers[1::2] = radius * np.sin(angle)
    return numbers[:count].reshape(shape)


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

    Args:
        seed: In [0, 2**64): one for all images, or one an image.
        images: Which images of a run.
        shape: The shape of one image's latent, without the batch axis.
    """

    _DEPTH = 20
    """Of the tree: two levels are told apart from 1.5e-6 rad on, a thousandth of a training
    timestep."""

    _FIRST_NODE = 2**63
    """Number of the draw that is the whole path's; draws of other noise count up from 0."""

    _KEPT = 2 * _DEPTH
    """Points that are remembered: a whole branch and the one beside it."""

    def __init__(self, seed: int | Sequence[int], images: Iterable[int], shape: Sequence[int]):
        self._seed, self._images, self._shape = seed, list(images), tuple(shape)
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
            return np.zeros((len(self._images), *self._shape), np.float32)
        if tick in self._known:
            self._known.move_to_end(tick)
            return self._known[tick]
        if tick == 2**self._DEPTH:
            value = self._draw(0)
        else:
            half = tick & -tick  # the middle of a cell is an odd multiple of half its width
            node = (2**self._DEPTH + tick) // (2 * half)
            spread = np.float32(math.sqrt(half / 2 / 2**self._DEPTH))
            value = (self._at(tick - half) + self._at(tick + half)) / 2 + spread * self._draw(node)
        self._known[tick] = value
        if len(self._known) > self._KEPT:
            self._known.popitem(last=False)
        return value

    def _draw(self, node: int) -> NDArray[np.float32]:
        return batch_normal(self._seed, self._images, self._FIRST_NODE + node, self._shape)


def _uint64(name: str, value: Any) -> int:
    return whole(name, value, 0, 2**64 - 1)
