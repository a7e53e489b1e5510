"""KerasCV's `Decoder`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from keras_sd import networks
from keras_sd.config import SD_1, check_size
from keras_sd.keras_cv.parts import PRESET, KerasCVPart, Source, building


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

    def __init__(
        self,
        img_height: int,
        img_width: int,
        name: str | None = None,
        download_weights: bool = True,
        *,
        preset: str | Path | Source | None = None,
        weights: str | Path | None = None,
        compat: str | None = None,
        dtype: str | None = None,
    ):
        check_size("img_height", img_height)
        check_size("img_width", img_width)
        source = Source.of(PRESET, SD_1, preset, weights, compat)
        config = replace(source.config.autoencoder, encoder=False)
        with building(self, dtype, source, download_weights):
            super().__init__(config, name or "decoder")

    def call(self, latents):
        return self.decode(latents)
