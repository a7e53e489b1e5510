"""A model whose parts are loaded when they are first used, as those of KerasCV's pipeline were."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any, ClassVar

import numpy as np

from keras_sd.model import Model


class LazyParts(MutableMapping[str, Any]):
    """The parts of a pipeline that come when they are asked for."""

    _NAMES: ClassVar[dict[str, str]] = {
        "text_encoder": "text_encoder",
        "unet": "diffusion_model",
        "autoencoder": "autoencoder",
    }

    def __init__(self, owner: Any):
        self._owner = owner

    def __getitem__(self, name: str) -> Any:
        return getattr(self._owner, self._NAMES[name])

    def __setitem__(self, name: str, part: Any) -> None:
        setattr(self._owner, {"unet": "_diffusion_model"}.get(name, name), part)

    def with_encoder(self) -> None:
        """Loads the image encoder, which pictures of a prompt do without."""
        if self._owner.config.autoencoder.encoder:
            self._owner._image_encoder = self._owner.image_encoder

    def __delitem__(self, name: str) -> None:
        raise TypeError("A model has all of its parts; set another in its place")

    def __iter__(self) -> Iterator[str]:
        return iter(self._NAMES)

    def __len__(self) -> int:
        return len(self._NAMES)


class LazyTokenizers(LazyParts):
    """The tokenizer of a pipeline, likewise."""

    _NAMES: ClassVar[dict[str, str]] = {"text_encoder": "tokenizer"}


class LazyModel(Model):
    """A model whose image encoder is loaded when the first image is encoded."""

    parts: LazyParts

    def save_preset(self, *args: Any, **options: Any) -> None:
        self.parts.with_encoder()
        super().save_preset(*args, **options)

    def save_checkpoint(self, *args: Any, **options: Any) -> None:
        self.parts.with_encoder()
        super().save_checkpoint(*args, **options)

    def latents(self, pixels: np.ndarray, *noise: Any) -> Any:
        self.parts.with_encoder()
        return super().latents(pixels, *noise)
