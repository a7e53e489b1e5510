"""Pictures to latents and back, whole or a strip at a time."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from functools import partial
from typing import Any

import numpy as np
from keras import ops

from keras_sd import precision
from keras_sd.backend import JitCompile, to_numpy
from keras_sd.checks import strip_side
from keras_sd.config import ModelConfig
from keras_sd.forms import as_float32, attach_pictures
from keras_sd.image import from_uint8
from keras_sd.inpainting import check_pictures, stacked
from keras_sd.low_memory import stranger
from keras_sd.networks.autoencoder import NO_ENCODER, Autoencoder
from keras_sd.rules import Rules
from keras_sd.tiling import InStrips, layers_of

__all__ = ["Latents"]


class Latents:
    """The part of a `Model` that is about its autoencoder."""

    config: ModelConfig
    parts: MutableMapping[str, Any]
    rules: Rules
    jit: JitCompile
    _current: Callable[..., Any]
    _tiled: int = 0

    @property
    def tiled(self) -> bool | int:
        """Whether the autoencoder takes larger pictures a strip at a time, see `InStrips`: of about
        as many pixels as a square of this side has; `True` is `keras_sd.checks.TILE`. The backend's
        memory is that of a strip, and the result that of the whole picture, up to rounding.
        """
        return self._tiled or False

    @tiled.setter
    def tiled(self, tiled: bool | int) -> None:
        self._tiled = strip_side(tiled, self.config.autoencoder.factor)

    def check_tiled(self) -> None:
        """That the autoencoder can be taken in strips, where it will be.

        Raises:
            TypeError: it is of somebody else.
        """
        other = stranger(self.parts, "autoencoder", Autoencoder) if self._tiled else None
        if other is not None:
            layers_of(other, "decode")

    def encode(self, images: Any, noise: Any = None) -> Any:
        """Latents of images, scaled as the UNet knows them; `decode` is about the inverse.

        Args:
            images: a path, a Pillow image or a uint8 array `(height, width, 3)`, or several of one
                size in a list or an array; heights and widths are multiples of 8.
            noise: unit normal numbers, like the latents, to draw them from the distribution that
                the encoder gives; None is its mean.

        Returns:
            float32 tensor `(images, height / factor, width / factor, channels)`.

        Raises:
            ValueError: these are no images, or the noise is of another shape.
            FloatingPointError: the result is not finite.
        """
        pixels = check_pictures(stacked("image", attach_pictures(images)))
        if not self.config.autoencoder.encoder:
            raise ValueError(NO_ENCODER)
        if noise is None:
            return self.latents(from_uint8(pixels))
        drawn = as_float32("noise", noise)
        shape = (len(pixels), *self.latent_shape(*pixels.shape[1:3]))
        if drawn.shape not in (shape[1:], shape):
            raise ValueError(f"noise is of shape {drawn.shape}; here it is {shape[1:]} or {shape}")
        return self.latents(from_uint8(pixels), np.broadcast_to(drawn, shape))

    def latents(self, pixels: np.ndarray, *noise: Any) -> Any:
        """`encode` of images `(images, height, width, 3)` in [-1, 1].

        Raises:
            FloatingPointError: the result is not finite.
        """
        return self._autoencoded("encode", pixels, *noise)

    def decode(self, latents: Any) -> np.ndarray:
        """Images of latents.

        Args:
            latents: `(images, height / factor, width / factor, channels)`, scaled as the UNet
                knows them.

        Returns:
            uint8 array `(images, height, width, 3)`.

        Raises:
            ValueError: another shape.
            TypeError: they are no numbers.
            FloatingPointError: the result is not finite.
        """
        channels = self.config.autoencoder.latent_channels
        array = as_float32("latents", latents, finite=False)
        if array.ndim != 4 or array.shape[-1] != channels or not array.size:
            raise ValueError(
                f"latents are (images, height, width, {channels}); these are of shape {array.shape}"
            )
        return self.rules.to_uint8(to_numpy(self._autoencoded("decode", array)))

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Height, width and channels of the latent of an image."""
        config = self.config.autoencoder
        return height // config.factor, width // config.factor, config.latent_channels

    def _autoencoded(self, method: str, *given: Any) -> Any:
        """What a method of the autoencoder gives: of all pictures at once, or of each in strips."""
        factor = 1 if method == "encode" else self.config.autoencoder.factor
        in_strips = self._tiled and max(given[0].shape[1:3]) * factor > self._tiled
        make = partial(InStrips, side=self._tiled) if in_strips else precision.whole
        step = self._current(
            "autoencoder",
            lambda autoencoder: precision.FiniteStep(autoencoder, method, self.jit, make),
            f"{method}, tiled {self._tiled}" if in_strips else method,
        )
        arrays = [ops.convert_to_tensor(array, "float32") for array in given]
        if not in_strips:
            return step(*arrays)
        pictures = (step(*(array[i : i + 1] for array in arrays)) for i in range(len(given[0])))
        return ops.convert_to_tensor(np.concatenate(list(pictures)))
