"""What KerasCV does otherwise than Stable Diffusion was trained and is run with, by its versions.

A pipeline with `get("keras_cv==0.9")` makes the pictures that KerasCV 0.9 made from the same
weights, prompt and seed; without it is the original model. All versions give every group norm an
epsilon of 1e-5, approximate the gates' gelu by tanh, fill short prompts with the end token in 2.x
too, and cut the decimals off of a pixel's value. What differs:

| version | timesteps of n steps | gelu of 2.x' text encoder | image encoder pads | a seed's key |
| --- | --- | --- | --- | --- |
| 0.4 | 1, 1 + 1000 // n, ... below 1000 | exact | both sides | (seed, seed) |
| 0.6 | as 0.4 | exact | right and bottom | (seed, seed) |
| 0.8.1 | as 0.4 | tanh | right and bottom | (seed, 0) |
| 0.9 | n from 0 to 999 | tanh | right and bottom | (seed, 0) |

The key is TensorFlow's. KerasCV 0.8.1 and 0.9 ran on other backends too, where a seed makes other
noise, and on Keras 2, where the key is (0, seed): give `stateless_normal((0, seed), shape)` as
`diffusion_noise` for a picture from there.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from keras_sd.config import AutoencoderConfig, ModelConfig, UNetConfig
from keras_sd.rules import Rules

_log = logging.getLogger(__name__)

_TIMESTEPS = 1000
"""Of the table that KerasCV has as a constant."""


@dataclass(frozen=True)
class KerasCV(Rules):
    """The rules of one version of KerasCV, as numbers.

    Attributes:
        version: "0.4", "0.6", "0.8.1" or "0.9": the last of those that computed alike.
        spacing: of the timesteps: `"arange"` counts up from 1 in whole steps and may need one step
            more than was asked for, `"linspace"` goes from 0 to 999.
        text_gelu: of the text encoder of 2.x.
        encoder_pad: rows of zeros before and after an image that the encoder halves.
        twice: whether a seed is both words of TensorFlow's key, or the first beside a 0.
    """

    version: str
    spacing: Literal["arange", "linspace"]
    text_gelu: Literal["gelu", "gelu_tanh"]
    encoder_pad: tuple[int, int]
    twice: bool

    def config(self, config: ModelConfig) -> ModelConfig:
        """The model computed as this version computes it, where that is not how it was trained."""
        text_encoder = config.text_encoder
        if text_encoder.activation in ("gelu", "gelu_tanh"):
            text_encoder = dataclasses.replace(text_encoder, activation=self.text_gelu)
        return dataclasses.replace(
            config,
            text_encoder=text_encoder,
            unet=dataclasses.replace(config.unet, transformer_epsilon=1e-5, gelu="tanh"),
            autoencoder=dataclasses.replace(
                config.autoencoder, epsilon=1e-5, encoder_pad=self.encoder_pad
            ),
            pad_token="end",
            defaults=dataclasses.replace(config.defaults, sampler="ddim"),
        )

    def timesteps(self, num_steps: int) -> list[int]:
        """The timesteps of a run, falling; its last step ends at sigma 0.

        Args:
            num_steps: from 1 to 1000. Some numbers give more steps up to 0.8.1, 30 for example 31.

        Raises:
            ValueError: there are no such steps.
        """
        if isinstance(num_steps, bool) or not 1 <= num_steps <= _TIMESTEPS:
            raise ValueError(f"num_steps is from 1 to {_TIMESTEPS}, not {num_steps!r}")
        if self.spacing == "arange":
            rising = range(1, _TIMESTEPS, _TIMESTEPS // num_steps)
            return list(reversed(rising))
        ratio = (_TIMESTEPS - 1) / (num_steps - 1) if num_steps > 1 else _TIMESTEPS
        return [round(i * ratio) for i in reversed(range(num_steps))]

    def first_noise(
        self, seed: int, numbers: Sequence[int], shape: Sequence[int]
    ) -> NDArray[np.float32]:
        """What a run on TensorFlow started from: the images were rows of one draw. See
        `Rules.first_noise`.
        """
        size, numbers = math.prod(shape), list(numbers)
        if not numbers or min(numbers) < 0:
            raise ValueError(f"numbers of images are 0 or more, at least one; not {numbers}")
        rows = [_normal(self._key(seed), number * size, size) for number in numbers]
        return np.stack(rows).reshape(len(rows), *shape)

    def _key(self, seed: int) -> tuple[int, int]:
        if not 0 <= seed < 2**64:
            raise ValueError(f"a seed is from 0 to 2**64 - 1, not {seed}")
        # Keras takes the rest here, for its seeds are wider than TensorFlow's.
        return (seed, seed) if self.twice else (seed % (2**31 - 2), 0)

    def to_uint8(self, images: Any) -> NDArray[np.uint8]:
        """Pixels from numbers in [-1, 1]: cut off, where others round.

        Args:
            images: floating, any shape; what is outside of the range is clipped.
        """
        return np.clip((np.asarray(images) + 1) / 2 * 255, 0, 255).astype(np.uint8)


_NEWEST = KerasCV("0.9", "linspace", "gelu_tanh", (0, 1), False)
_VERSIONS = {
    "keras_cv": _NEWEST,
    "keras_cv==0.9": _NEWEST,
    "keras_cv==0.8.1": KerasCV("0.8.1", "arange", "gelu_tanh", (0, 1), False),
    "keras_cv==0.6": KerasCV("0.6", "arange", "gelu", (0, 1), True),
    "keras_cv==0.4": KerasCV("0.4", "arange", "gelu", (1, 1), True),
}

NAMES = tuple(_VERSIONS)
"""What `get` knows; "keras_cv" is the newest."""


def get(name: str | None) -> KerasCV | None:
    """The version of a name.

    Args:
        name: one of `NAMES`; None is none.

    Raises:
        ValueError: there is no such name; the message lists them.
    """
    if name is None:
        return None
    if name not in _VERSIONS:
        names = ", ".join(map(repr, NAMES))
        raise ValueError(f"compat is one of {names} or None, not {name!r}")
    return _VERSIONS[name]


def without(config: ModelConfig, layout: str) -> ModelConfig:
    """The config as it was before a version of KerasCV changed its arithmetic, for a layout of
    files that has no place for that; the log says so where one did.

    Args:
        config: of any model.
        layout: for the log.
    """
    text_encoder = config.text_encoder
    if text_encoder.activation == "gelu_tanh":
        text_encoder = dataclasses.replace(text_encoder, activation="gelu")
    plain = dataclasses.replace(
        config,
        text_encoder=text_encoder,
        unet=dataclasses.replace(
            config.unet, transformer_epsilon=UNetConfig.transformer_epsilon, gelu=UNetConfig.gelu
        ),
        autoencoder=dataclasses.replace(
            config.autoencoder,
            epsilon=AutoencoderConfig.epsilon,
            encoder_pad=AutoencoderConfig.encoder_pad,
        ),
        pad_token="zero" if config.unet.linear_projection else "end",
    )
    for name, version in _VERSIONS.items():
        if version.config(plain) == config:
            _log.warning(
                "KerasCV computes with other epsilons and another gelu than Stable Diffusion was "
                "trained with, which the layout %s cannot say: only the weights are KerasCV's in "
                "it. Give compat=%r again to whatever loads it here.",
                layout,
                name,
            )
            return plain
    return config


# TensorFlow's random numbers


def stateless_normal(seed: tuple[int, int], shape: Sequence[int]) -> NDArray[np.float32]:
    """`tf.random.stateless_normal(shape, seed)`, on any machine.

    TensorFlow scrambles the seed by one block of Philox4x32-10 (Salmon et al. 2011) under a key of
    its own, which gives the key and the upper half of the counter of the blocks that follow. Two
    words of a block make two normal numbers (Box & Muller 1958).

    Args:
        seed: two numbers from 0 to 2**64 - 1.
        shape: of the result.

    Raises:
        ValueError: a number of the seed is out of range.
    """
    return _normal(seed, 0, math.prod(shape)).reshape(tuple(shape))


def _normal(seed: tuple[int, int], start: int, count: int) -> NDArray[np.float32]:
    """The numbers from `start` on of a draw that is long enough."""
    for word in seed:
        if not 0 <= word < 2**64:
            raise ValueError(f"a seed is from 0 to 2**64 - 1, not {word}")
    words = [word >> shift & 0xFFFFFFFF for word in seed for shift in (0, 32)]
    mixed = _philox(np.array([words], np.uint64), (0x3EC8F720, 0x02461E29))[0]
    index = np.arange(start // 4, -(-(start + count) // 4), dtype=np.uint64)
    counter = np.empty((len(index), 4), np.uint64)
    counter[:, 0], counter[:, 1] = index & _LOW, index >> _HALF
    counter[:, 2:] = mixed[2:]
    bits = _philox(counter, (int(mixed[0]), int(mixed[1]))).reshape(-1, 2).astype(np.uint32)

    # 23 bits are the mantissa of a float32 in [1, 2); all that follows is rounded as there.
    uniform = (bits & np.uint32(0x7FFFFF) | np.uint32(0x3F800000)).view(np.float32) - np.float32(1)
    log = np.log(np.maximum(uniform[:, :1], np.float32(1e-7)))
    radius = np.sqrt(np.float32(-2) * log)
    angle = (2 * np.pi * uniform[:, 1:].astype(np.float64)).astype(np.float32)
    pairs = radius * np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    skipped = start % 4
    return np.ascontiguousarray(pairs.reshape(-1)[skipped : skipped + count])


_HALF, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)
_ROUNDS = 10


def _philox(counters: NDArray[np.uint64], key: tuple[int, int]) -> NDArray[np.uint64]:
    """Philox4x32-10 of counters `(blocks, 4)`: 32-bit words in 64 bits, which hold a product."""
    a, b, c, d = counters.T
    for i in range(_ROUNDS):
        first, second = (
            np.uint64((word + i * weyl) & 0xFFFFFFFF)
            for word, weyl in zip(key, (0x9E3779B9, 0xBB67AE85), strict=True)
        )
        left, right = a * np.uint64(0xD2511F53), c * np.uint64(0xCD9E8D57)
        a, b, c, d = (
            right >> _HALF ^ b ^ first,
            right & _LOW,
            left >> _HALF ^ d ^ second,
            left & _LOW,
        )
    return np.stack([a, b, c, d], axis=1)
