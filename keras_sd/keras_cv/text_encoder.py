"""KerasCV's `TextEncoder` and `TextEncoderV2`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import keras
from keras import ops

from keras_sd import networks
from keras_sd.config import SD_1, SD_2_BASE, ModelConfig
from keras_sd.keras_cv.parts import PRESET, PRESET_V2, KerasCVPart, PartSource, building
from keras_sd.networks.text_encoder import TextEmbedding


class CLIPEmbedding(TextEmbedding):
    """`keras_sd.networks.text_encoder.TextEmbedding` by KerasCV's names."""

    def build(self, input_shape=None):
        super().build(input_shape)
        # Its variables have their paths by now.
        self.name = "clip_embedding"

    @property
    def token_embedding(self) -> keras.layers.Embedding:
        return self.tokens

    @property
    def position_embedding(self) -> keras.layers.Embedding:
        return self.positions


@keras.saving.register_keras_serializable(package="keras_sd.models")
class TextEncoder(KerasCVPart, networks.TextEncoder):
    """CLIP's text transformer of Stable Diffusion 1.x: tokens -> `(batch, max_length, 768)`.

    Called with tokens `(batch, max_length)`, or with `[tokens, positions]` or `{"tokens": ...,
    "positions": ...}`, where the positions may be of one row for all. `layers[2]` has the
    `token_embedding` and the `position_embedding`.

    Args:
        max_length: tokens of a prompt.
        vocab_size: how many different ones.
        name: of the Keras model.
        download_weights: loads the weights of the preset, which is fetched once, where it is not
            on this machine. Without, the weights are random.
        preset: the model it is the text encoder of, as in `StableDiffusion`.
        weights: likewise.
        compat: likewise.
        dtype: the name of its dtype policy; None is the global one.

    Raises:
        ValueError: sizes that the weights do not have, and more as `StableDiffusion`.
    """

    of = kind = "text_encoder"
    sizes = ("max_length", "vocab_size")
    make_embedding = CLIPEmbedding
    _preset: ClassVar[str] = PRESET
    _config: ClassVar[ModelConfig] = SD_1

    def __init__(
        self,
        max_length: int,
        vocab_size: int = 49408,
        name: str | None = None,
        download_weights: bool = True,
        *,
        preset: str | Path | PartSource | None = None,
        weights: str | Path | None = None,
        compat: str | None = None,
        dtype: str | None = None,
    ):
        source = PartSource.of(self._preset, self._config, preset, weights, compat)
        known = source.config.text_encoder
        if download_weights and (max_length, vocab_size) != (known.max_length, known.vocab_size):
            raise ValueError(
                f"{source.place} has a text encoder of {known.max_length} tokens out of "
                f"{known.vocab_size}, not {max_length} out of {vocab_size}; a new one is made with "
                "download_weights=False"
            )
        config = replace(known, max_length=max_length, vocab_size=vocab_size)
        with building(self, dtype, source, download_weights):
            # Numbers of tokens are not cast, which would round them in half precision.
            super().__init__(config, name or "text_encoder", autocast=False)

    @property
    def max_length(self) -> int:
        return self.config.max_length

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    def draw(self) -> tuple[Any, Any]:
        shape = (self.config.max_length,)
        tokens, positions = (
            keras.Input(shape, dtype="int32", name=name) for name in ("tokens", "positions")
        )
        x = self.embedding(tokens, positions)
        for block in self.blocks:
            x = block(x)
        return [tokens, positions], self.norm(x)

    def call(self, tokens, positions=None, seen=None, skip=1, added=None, ends=None):
        if isinstance(tokens, dict):
            tokens, positions = tokens["tokens"], tokens["positions"]
        elif isinstance(tokens, list | tuple):
            tokens, positions = tokens
        if positions is not None:
            positions = ops.cast(positions, "int32")
        return super().call(ops.cast(tokens, "int32"), positions, seen, skip, added, ends)


@keras.saving.register_keras_serializable(package="keras_sd.models")
class TextEncoderV2(TextEncoder):
    """OpenCLIP's text transformer of Stable Diffusion 2.x: -> `(batch, max_length, 1024)`.

    The arguments are those of `TextEncoder`.
    """

    _preset = PRESET_V2
    _config = SD_2_BASE
