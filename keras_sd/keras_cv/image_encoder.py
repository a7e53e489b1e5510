"""KerasCV's `ImageEncoder`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras

from keras_sd.config import SD_1, AutoencoderConfig
from keras_sd.keras_cv.parts import PRESET, KerasCVPart, PartSource, building
from keras_sd.networks.autoencoder import NO_ENCODER, Encoder
from keras_sd.networks.layers import build_parts, rows
from keras_sd.networks.network import Network


class ScaledMean(keras.layers.Layer):
    """Moments of a latent -> their mean, scaled."""

    def __init__(self, scale: float, name: str, **kwargs: Any):
        super().__init__(name=name, **kwargs)
        self.scale = scale

    def call(self, moments):
        return moments[..., : moments.shape[-1] // 2] * self.scale

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], input_shape[-1] // 2)


@keras.saving.register_keras_serializable(package="keras_sd.models")
class ImageEncoder(KerasCVPart, Network):
    """Images `(batch, height, width, 3)` in [-1, 1] -> scaled latents, the mean of what the
    encoder gives. Height and width are any multiples of 8.

    `layers[-2].output` is the mean and the logarithm of the variance, not scaled, of which
    `keras.Model(encoder.input, encoder.layers[-2].output)` is a model.

    Args:
        given: what KerasCV's versions took by place: `download_weights`, or in 0.4
            `img_height, img_width, download_weights`. The sizes are not needed.
        img_height: see `given`.
        img_width: likewise.
        download_weights: loads the weights of the preset, which is fetched once, where it is not
            on this machine. Without, the weights are random.
        name: of the Keras model.
        preset: the model it is the image encoder of, as in `StableDiffusion`.
        weights: likewise.
        compat: likewise.
        dtype: the name of its dtype policy; None is the global one.

    Raises:
        ValueError: the model has no image encoder, and more as `StableDiffusion`.
    """

    of = "autoencoder"
    kind = "encoder"
    sequential = True
    config_class = AutoencoderConfig

    def __init__(
        self,
        *given: Any,
        img_height: int | None = None,
        img_width: int | None = None,
        download_weights: bool = True,
        name: str | None = None,
        preset: str | Path | PartSource | None = None,
        weights: str | Path | None = None,
        compat: str | None = None,
        dtype: str | None = None,
    ):
        if given:
            *sizes, last = given if isinstance(given[-1], bool) else (*given, download_weights)
            if len(sizes) not in (0, 2) or any(type(size) is not int for size in sizes):
                raise TypeError(
                    "By place an ImageEncoder takes download_weights, or img_height, img_width and "
                    f"download_weights as in KerasCV 0.4; not {given}"
                )
            download_weights = last
        source = PartSource.of(PRESET, SD_1, preset, weights, compat)
        if not source.config.autoencoder.encoder:
            raise ValueError(NO_ENCODER)
        with building(self, dtype, source, download_weights):
            super().__init__(name=name or "image_encoder")
            self.config = source.config.autoencoder
            self.encoder = Encoder(self.config, "encoder")
            self.mean = ScaledMean(self.config.scale, "mean")
            self.build()

    def build(self, input_shape=None):
        build_parts(self)

    def call(self, images):
        return self.mean(self.encoder(images))

    def draw(self) -> tuple[Any, Any]:
        network = self.encoder
        images = keras.Input((None, None, 3), dtype="float32", name="images")
        x = network.conv_in(images)
        for level, row in enumerate(rows(network.levels, network.blocks)):
            for block in row:
                x = block(x)
            if level < len(network.downsamples):
                x = network.downsamples[level](x)
        middle = network.middle
        x = middle.residual2(middle.attention(middle.residual1(x)))
        x = network.moments(network.conv_out(self._silu(network.norm_out(x))))
        return images, self.mean(x)
