"""KerasCV's `Decoder`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import keras

from keras_sd import networks
from keras_sd.config import SD_1, check_size
from keras_sd.keras_cv.parts import PRESET, KerasCVPart, PartSource, building
from keras_sd.networks.layers import rows


@keras.saving.register_keras_serializable(package="keras_sd.models")
class Decoder(KerasCVPart, networks.Autoencoder):
    """Scaled latents `(batch, height / 8, width / 8, 4)` -> images, about [-1, 1], float32.

    Args:
        img_height: of the images, in pixels, a multiple of 8. Any other size works too.
        img_width: likewise.
        name: of the Keras model.
        download_weights: loads the weights of the preset, which is fetched once, where it is not
            on this machine. Without, the weights are random.
        preset: the model it is the decoder of, as in `StableDiffusion`.
        weights: likewise.
        compat: likewise.
        dtype: the name of its dtype policy; None is the global one.

    Raises:
        ValueError: a size that is no multiple of 8, and more as `StableDiffusion`.
    """

    of = "autoencoder"
    kind = "decoder"
    sizes = ("img_height", "img_width")
    sequential = True

    def __init__(
        self,
        img_height: int,
        img_width: int,
        name: str | None = None,
        download_weights: bool = True,
        *,
        preset: str | Path | PartSource | None = None,
        weights: str | Path | None = None,
        compat: str | None = None,
        dtype: str | None = None,
    ):
        check_size("img_height", img_height)
        check_size("img_width", img_width)
        source = PartSource.of(PRESET, SD_1, preset, weights, compat)
        config = replace(source.config.autoencoder, encoder=False)
        with building(self, dtype, source, download_weights):
            super().__init__(config, name or "decoder")
        self.img_height, self.img_width = img_height, img_width

    def call(self, latents):
        return self.decode(latents)

    def draw(self) -> tuple[Any, Any]:
        config, network, dtype = self.config, self.decoder, self.dtype_policy
        height, width = (size // config.factor for size in (self.img_height, self.img_width))
        latents = keras.Input(
            (height, width, config.latent_channels), dtype="float32", name="latents"
        )
        x = keras.layers.Rescaling(1 / config.scale, dtype=dtype)(latents)
        x = network.conv_in(network.latent(x))
        middle = network.middle
        x = middle.residual2(middle.attention(middle.residual1(x)))
        for level, row in enumerate(rows(network.levels, network.blocks)):
            for block in row:
                x = block(x)
            if level < len(network.upsamples):
                x = keras.layers.UpSampling2D(2, data_format="channels_last", dtype=dtype)(x)
                upsample = network.upsamples[level]
                # A graph needs other names than a tree. The variables have their paths by now.
                upsample.conv.name = f"{upsample.name}_conv"
                x = upsample.conv(x)
        return latents, self._float32(network.conv_out(self._silu(network.norm_out(x))))
