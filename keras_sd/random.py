"""Host-side noise: the same seed gives the same bits on every backend, device and batch size.

Raw bits come from NumPy's Philox (Salmon et al. 2011), a counter-based generator whose output is
keyed by (seed, image, step), so that no number depends on what was drawn before it. They become
normal numbers by Box-Muller in float64, rounded once to float32. NumPy promises stability for the
bits, not for its own normal distribution; and its cosine and sine took half of the time, so that
they are ours too.
"""

from __future__ import annotations

import functools
import math
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_sd.checks import whole
from keras_sd.noise import Level

__all__ = ["BrownianPath", "batch_normal", "normal"]

_BLOCK = 8192
"""Pairs of numbers that are made at a time: their arrays stay in the second cache, and the 30 calls
of NumPy for a block are a small part of its time."""

_CENTRES = np.arange(math.ceil(2 * math.pi * 128) + 1) / 128
_COSINES, _SINES = np.cos(_CENTRES), np.sin(_CENTRES)
"""At each 128th of a radian of a turn."""

_TO_CENTRE = 1.5 * 2.0**45
"""Float64 has steps of 1/128 there: what is added to it is rounded to a centre, whose number is in
the last bits."""


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
    numbers = np.empty(((count + 1) // 2, 2), np.float32)
    for start in range(0, len(numbers), _BLOCK):
        _box_muller(philox, numbers[start : start + _BLOCK])
    return numbers.reshape(-1)[:count].reshape(shape)


def _box_muller(philox: np.random.Philox, pairs: NDArray[np.float32]) -> None:
    """Fills pairs with independent normal numbers; in place, as new arrays are new pages."""
    bits = philox.random_raw(pairs.size)
    bits >>= np.uint64(11)
    whole = bits.view(np.int64)  # processors convert signed numbers faster
    radius, angle = whole[0::2].astype(np.float64), whole[1::2].astype(np.float64)
    radius *= -(2.0**-53)
    radius += 1.0  # a number in (0, 1]
    np.log(radius, out=radius)
    radius *= -2.0
    np.sqrt(radius, out=radius)
    angle *= 2.0 * np.pi * 2.0**-53

    # The angle is the nearest centre and a rest of at most 1/256, both exactly. Cosine and sine of
    # the rest are polynomials: the terms left out are less than 1e-17 of it.
    centre = angle + _TO_CENTRE
    place = centre.view(np.int64) & 1023
    centre -= _TO_CENTRE
    rest = np.subtract(angle, centre, out=angle)
    square = np.multiply(rest, rest, out=centre)
    sine = square * (1 / 120)
    sine -= 1 / 6
    sine *= square
    sine *= rest
    sine += rest
    cosine = np.multiply(square, 1 / 24, out=rest)
    cosine -= 0.5
    cosine *= square
    cosine += 1.0

    # The sum of the two angles, times the radius. All places are in the tables, and to NumPy "wrap"
    # is the fastest way to look up.
    cosine *= radius
    sine *= radius
    table = np.take(_COSINES, place, out=radius, mode="wrap")
    first = np.multiply(table, cosine, out=square)
    second = np.multiply(table, sine, out=table)
    table = np.take(_SINES, place, mode="wrap")
    sine *= table
    cosine *= table
    first -= sine
    second += cosine
    pairs[:, 0] = first
    pairs[:, 1] = second


_THREAD = threading.local()
"""Its generator: a new one asks the system for entropy, which takes half as long as the bits of a
path's node and their look-up."""


def _philox(key: tuple[int, int], step: int) -> np.random.Philox:
    """This thread's generator, at the start of a step's stream. Its next call ends this use."""
    if not hasattr(_THREAD, "philox"):
        _THREAD.philox = np.random.Philox(0)
    # Philox counts up from the low word of its 256-bit counter; the step is the high word, so that
    # the streams of two steps are 2**192 blocks apart. Place 4 of the buffer is its end.
    counter = np.array([0, 0, 0, step], dtype=np.uint64)
    _THREAD.philox.state = {
        "bit_generator": "Philox",
        "state": {"counter": counter, "key": np.array(key, dtype=np.uint64)},
        "buffer": counter,
        "buffer_pos": 4,
        "has_uint32": 0,
        "uinteger": 0,
    }
    return _THREAD.philox


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

    A point of the path is the sum of some eight nodes' numbers that nobody has asked for yet, so
    these are simpler than those of `normal`: 16 of Philox's bits say which of 65,536 points of a
    table is the pair's. The points lie as the seeds of a sunflower do, as evenly as can be, but as
    thin towards the outside as two normal numbers have it.

    Args:
        seed: In [0, 2**64): one for all images, or one an image.
        images: Which images of a run.
        shape: The shape of one image's latent, without the batch axis.
    """

    _DEPTH = 14
    """Of the tree: two levels are told apart from 9.6e-5 rad on, a quarter of the shortest training
    timestep of Stable Diffusion. One more costs one more node at each step; with one less,
    `seeds_3` no longer comes nearer from 64 steps to 128 as the kit has it.
    """

    _FINE = 32
    """As `_DEPTH`, for what tells noise apart that is inside of one tick."""

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
            inside = max(self._tick(now, self._FINE), self._tick(nxt, self._FINE))
            return self._draw(2 * 2**self._FINE + inside)
        increment = self._at(start) - self._at(end)
        scale = math.copysign(math.sqrt(2**self._DEPTH / abs(start - end)), start - end)
        return increment * np.float32(scale)

    def _tick(self, level: Level, depth: int = _DEPTH) -> int:
        return round(math.atan2(level.sigma, level.alpha) / (math.pi / 2) * 2**depth)

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
        pairs = np.empty((len(self._keys), (count + 1) // 2), np.complex64)
        for row, key in zip(pairs, self._keys, strict=True):
            bits = _philox(key, self._FIRST_NODE + node).random_raw((len(row) + 3) // 4)
            places = bits.astype("<u8", copy=False).view("<u2")[: len(row)]
            # NumPy looks up fastest by places of its own type, and where it need not complain.
            np.take(_sunflower(), places.astype(np.intp), out=row, mode="wrap")
        return pairs.view(np.float32)[:, :count].reshape(-1, *self._shape)


@functools.cache
def _sunflower() -> NDArray[np.complex64]:
    """2**16 pairs of numbers of the normal distribution, as complex numbers. Half of them are the
    others' negatives; either number's mean is 0 and its variance 1, and they have no correlation.
    """
    # The distances from 0 are at the middles of equal probabilities; from one to the next it is the
    # golden section of half a turn on.
    index = np.arange(2**15)
    radius = np.sqrt(-2 * np.log((index + 0.5) / 2**15))
    angle = np.pi * (index * ((math.sqrt(5) - 1) / 2) % 1)
    first, second = radius * np.cos(angle), radius * np.sin(angle)
    first /= np.sqrt(np.mean(first**2))
    second -= first * np.mean(first * second)
    second /= np.sqrt(np.mean(second**2))
    half = first + 1j * second
    return np.concatenate([half, -half]).astype(np.complex64)


def _uint64(name: str, value: Any) -> int:
    return whole(name, value, 0, 2**64 - 1)
