"""The door to KerasCV's files, which are read and written in `keras_sd.keras_cv.files`.

What is behind it is not loaded before there is such a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_sd.keras_cv.files import write_keras_cv
    from keras_sd.keras_cv.names import KnownPart
    from keras_sd.weights.checkpoint import Checkpoint
    from keras_sd.weights.readers import TensorFile

__all__ = ["CLASSES", "open_folder", "recognise", "write_keras_cv"]

CLASSES = {
    "text_encoder": "text encoder",
    "unet": "diffusion model",
    "encoder": "image encoder",
    "decoder": "decoder",
}
"""What one file holds, in KerasCV's words: the autoencoder is in two of them."""


def recognise(file: TensorFile) -> KnownPart:
    """See `keras_sd.keras_cv.files.recognise`."""
    from keras_sd.keras_cv import files

    return files.recognise(file)


def open_folder(folder: Path, paths: list[Path], given: Mapping[str, Path]) -> Checkpoint:
    """See `keras_sd.keras_cv.files.open_folder`."""
    from keras_sd.keras_cv import files

    return files.open_folder(folder, paths, given)


def __getattr__(name: str) -> Any:
    if name != "write_keras_cv":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from keras_sd.keras_cv import files

    return files.write_keras_cv
