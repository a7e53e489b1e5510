"""KerasCV's `DiffusionModel` and `DiffusionModelV2`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import keras

from keras_sd import networks
from keras_sd.config import SD_1, SD_2_BASE, ModelConfig, check_size
from keras_sd.keras_cv.parts import PRESET, PRESET_V2, KerasCVPart, PartSource, building
from keras_sd.networks.layers import rows
from keras_sd.networks.unet import Level


@keras.saving.register_keras_serializable(package="keras_sd.models")
class DiffusionModel(KerasCVPart, networks.UNet):
    """The UNet of Stable Diffusion 1.x -> prediction, like the latent.

    Called with `[latent, timestep_embedding, context]` or a dict of them by these names: the
    embedding is `(batch, 320)`, cosines first; the context `(batch, tokens, 768)`. Or as our own
    UNet is, with a latent, timesteps `(batch,)` and a context.

    Args:
        img_height: of the images, in pixels, a multiple of 8. Any other size works too.
        img_width: likewise.
        max_text_length: tokens of the context; any number works.
        name: of the Keras model.
        download_weights: loads the weights of the preset, which is fetched once, where it is not
            on this machine. Without, the weights are random.
        preset: the model it is the UNet of, as in `StableDiffusion`.
        weights: likewise.
        compat: likewise.
        dtype: the name of its dtype policy; None is the global one.

    Raises:
        ValueError: a size that is no multiple of 8, and more as `StableDiffusion`.
    """

    of = kind = "unet"
    sizes = ("img_height", "img_width", "max_text_length")
    _preset: ClassVar[str] = PRESET
    _config: ClassVar[ModelConfig] = SD_1

    def __init__(
        self,
        img_height: int,
        img_width: int,
        max_text_length: int,
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
        source = PartSource.of(self._preset, self._config, preset, weights, compat)
        with building(self, dtype, source, download_weights):
            super().__init__(source.config.unet, name or "diffusion_model")
        self.img_height, self.img_width = img_height, img_width
        self.max_text_length = max_text_length
        self._factor = source.config.autoencoder.factor

    def call(
        self,
        latent,
        timesteps=None,
        context=None,
        residuals=None,
        perturbed=False,
        keeps=False,
        merging=0.0,
        **told,
    ):
        if isinstance(latent, dict):
            latent = [latent[name] for name in ("latent", "timestep_embedding", "context")]
        if isinstance(latent, list | tuple):
            return self.predict_at(*latent)
        flags = {"perturbed": perturbed, "keeps": keeps, "merging": merging}
        return super().call(latent, timesteps, context, residuals, **flags, **told)

    def draw(self) -> tuple[Any, Any]:
        config = self.config
        height, width = self.img_height // self._factor, self.img_width // self._factor
        latent, timestep, context = (
            keras.Input(shape, dtype="float32", name=name)
            for name, shape in (
                ("latent", (height, width, config.in_channels)),
                ("timestep_embedding", (config.widths[0],)),
                ("context", (self.max_text_length, config.context_width)),
            )
        )
        time = self.time2(self._silu(self.time1(timestep)))

        def run(block: Level, x: Any) -> Any:
            # A graph needs other names than a tree. The variables have their paths by now.
            block.residual.name = f"{block.name}_residual_block"
            x = block.residual(x, time)
            if not block.transformer:
                return x
            block.transformer.name = f"{block.name}_transformer"
            return block.transformer(x, context)

        x = self.conv_in(latent)
        skips = [x]
        for level, row in enumerate(rows(self.down, config.blocks)):
            for block in row:
                x = run(block, x)
                skips.append(x)
            if level < len(self.downsamples):
                x = self.downsamples[level](x)
                skips.append(x)
        x = self.middle_residual(run(self.middle, x), time)
        for level, row in enumerate(rows(self.up, config.blocks + 1)):
            for block in row:
                joined = keras.layers.Concatenate(dtype=self.dtype_policy)([x, skips.pop()])
                x = run(block, joined)
            if level < len(self.upsamples):
                x = self.upsamples[level](x, like=skips[-1])
        x = self.conv_out(self._silu(self.norm_out(x)))
        return [latent, timestep, context], self._float32(x)


@keras.saving.register_keras_serializable(package="keras_sd.models")
class DiffusionModelV2(DiffusionModel):
    """The UNet of Stable Diffusion 2.x base, whose context is `(batch, tokens, 1024)`.

    The arguments are those of `DiffusionModel`.
    """

    _preset = PRESET_V2
    _config = SD_2_BASE
