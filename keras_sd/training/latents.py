"""Latents of pictures, made once and kept on disk."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from keras_sd.backend import to_numpy
from keras_sd.files import replace_file
from keras_sd.image import from_uint8, resize
from keras_sd.model import Model
from keras_sd.networks.autoencoder import NO_ENCODER
from keras_sd.training.buckets import Buckets
from keras_sd.training.examples import Example
from keras_sd.weights.load import arrays_of

__all__ = ["CachedLatents", "cache_latents", "digest_of"]

_log = logging.getLogger("keras_sd")

_ABOUT = "keras_sd"
_TENSOR = "latents"


@dataclass(frozen=True)
class CachedLatents:
    """A picture's latents on disk.

    Attributes:
        path: of the file.
        size: height and width of the picture that was encoded.
        numbers: original height and width, top and left of what was kept, height and width: what
            SDXL is told of the picture.
    """

    path: Path
    size: tuple[int, int]
    numbers: tuple[float, ...]

    def read(self) -> np.ndarray:
        """The latents, float32 `(height, width, channels)`, scaled as the UNet knows them."""
        with safe_open(self.path, "numpy") as file:
            return np.array(file.get_tensor(_TENSOR))


def cache_latents(
    model: Model,
    examples: Sequence[Example],
    buckets: Buckets,
    folder: Path,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[CachedLatents]:
    """The latents of pictures, of which those are encoded that are not in a folder yet.

    A file's name is made of all that it depends on, the autoencoder's weights, the picture and the
    size, and it says so itself. It is there whole or not at all. The latents are the mean of what
    the encoder gives.

    Args:
        model: whose autoencoder encodes.
        examples: the pictures.
        buckets: what they are brought to, of which the middle is kept.
        folder: of the files; it is made where there is none.
        report: called with how many of how many are there.

    Raises:
        ValueError: the autoencoder has no encoder.
        FloatingPointError: a latent is not finite.
        OSError: a file cannot be written; the message names it.
    """
    if not model.config.autoencoder.encoder:
        raise ValueError(NO_ENCODER)
    encoder = digest_of(model.parts["autoencoder"])
    found = []
    for number, example in enumerate(examples):
        size = buckets.of(*example.size)
        about = {"autoencoder": encoder, "picture": example.sha256, "size": list(size)}
        text = json.dumps(about, sort_keys=True)
        path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"
        if not _is_of(path, text, model.latent_shape(*size)):
            pixels = resize(example.read(), *size, "crop")
            latents = to_numpy(model.latents(from_uint8(pixels)[None]))[0].astype(np.float32)
            tensors = {_TENSOR: np.ascontiguousarray(latents)}
            replace_file(path, partial(_save, tensors, text))
        by = max(side / own for side, own in zip(size, example.size, strict=True))
        crop = [(own * by - side) // 2 for side, own in zip(size, example.size, strict=True)]
        numbers = tuple(map(float, (*example.size, *crop, *size)))
        found.append(CachedLatents(path, size, numbers))
        report(number + 1, len(examples))
    return found


def _save(tensors: dict[str, np.ndarray], about: str, path: Path) -> None:
    save_file(tensors, path, {_ABOUT: about})


def _is_of(path: Path, about: str, shape: tuple[int, ...]) -> bool:
    """Whether a file is there, and is what its name says."""
    if not path.exists():
        return False
    try:
        with safe_open(path, "numpy") as file:
            said = (file.metadata() or {}).get(_ABOUT)
            if said == about and file.get_tensor(_TENSOR).shape == shape:
                return True
    except (OSError, SafetensorError) as error:
        _log.warning("%s is damaged (%s) and made anew", path, error)
        return False
    _log.warning("%s has other latents than its name says, and is made anew", path)
    return False


def digest_of(network: Any) -> str:
    """Of a network: its config, its weights and how it computes."""
    digest = hashlib.sha256(repr(network.config).encode())
    digest.update(network.dtype_policy.name.encode())
    for name, array in sorted(arrays_of({"": network}).items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()
