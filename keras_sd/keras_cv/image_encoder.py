"""KerasCV's `ImageEncoder`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras

from keras_sd.config import SD_1
from keras_sd.keras_cv.parts import PRESET, KerasCVPart, Source, building
from keras_sd.networks.autoencoder import NO_ENCODER, Encoder


class ScaledMean(keras.layers.Layer):
    """Moments of a latent -> their mean, scaled."""

    def __init__(self, scale: float, name: str, **kwargs: Any):
        super().__init__(name=name, **kwargs)
        self.scale = scale

    def call(self, moments):
        return moments[..., : moments.shape[-1] // 2] * self.scale

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], input_shape[-1] // 2)


class ImageEncoder(KerasCVPart, keras.Model):
    """Images `(batch, height, width, 3)` in [-1, 1] -> scaled latents, the mean of what the
    encoder gives. Height and width are any multiples of 8.

    `layers[-2].output` is the mean and the logarithm of the variance, not scaled, of which
    `keras.Model(encoder.input, encoder.layers[-2].output)` is a model.

    Args:
        download_weights: loads the weights of the preset, which is fetched once, where it is not
            on this machine. Without, the weights are random.
        img_height: of KerasCV 0.4, and not needed.
        img_width: likewise.
        preset: the model it is the image encoder of, as in `StableDiffusion`.
        weights: likewise.
        compat: likewise.
        dtype: the name of its dtype policy; None is the global one.

    Raises:
        ValueError: the model has no image encoder, and more as `StableDiffusion`.
    """

    of = "autoencoder"
    kind = "encoder"

    def __init__(
        self,
        download_weights: bool = True,
        *sizes: int,
        img_height: int | None = None,
        img_width: int | None = None,
        preset: str | Path | Source | None = None,
        weights: str | Path | None = None,
        compat: str | None = None,
        dtype: str | None = None,
    ):
        if sizes or not isinstance(download_weights, bool):
            raise TypeError(
                f"download_weights is True or False, not {download_weights!r}, and nothing else is "
                "known by its place: the sizes of KerasCV 0.4 are img_height= and img_width= here"
            )
        source = Source.of(PRESET, SD_1, preset, weights, compat)
        config = source.config.autoencoder
        if not config.encoder:
            raise ValueError(NO_ENCODER)
        name = "image_encoder"
        with building(self, dtype, source, download_weights):
            # The paths of the variables begin with the model's name, as those of the other parts.
            with keras.name_scope(name):
                encoder = Encoder(config, "encoder")
                encoder.build()
            images = keras.Input((None, None, 3), dtype="float32", name="images")
            latents = ScaledMean(config.scale, "mean")(encoder(images))
            super().__init__(images, latents, name=name)
            self.config = config
