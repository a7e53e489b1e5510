"""Images: [-1, 1] to uint8 and back, and PNG files that know how they were made."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

_KEY = "keras_sd"


def to_uint8(x: np.ndarray) -> np.ndarray:
    """Turn decoded images into pixels.

    Args:
        x: Float array of any shape; -1 is black, 1 is white, values beyond are clipped.

    Returns:
        uint8 array of the same shape, rounded to the nearest value.

    Raises:
        ValueError: `x` holds NaN or infinity.
    """
    x = np.asarray(x, np.float32)
    bad = x.size - int(np.isfinite(x).sum())
    if bad:
        raise ValueError(
            f"The image has {bad} of {x.size} values that are NaN or infinite: the model "
            "overflowed. With 16-bit weights or inputs far out of range, try float32."
        )
    return np.rint(np.clip(x * 127.5 + 127.5, 0, 255)).astype(np.uint8)


def from_uint8(image: np.ndarray) -> np.ndarray:
    """Turn pixels into what the autoencoder reads.

    Args:
        image: uint8 array of any shape.

    Returns:
        float32 array of the same shape in [-1, 1]; `to_uint8` gives the same pixels back.

    Raises:
        TypeError: `image` is not uint8.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8:
        raise TypeError(f"Pixels are uint8, 0 to 255; these are {image.dtype}.")
    return image.astype(np.float32) / np.float32(127.5) - np.float32(1)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Find out, before minutes are spent on an image, whether it can be saved.

    Args:
        path: Where the PNG file shall be. A file that is there already will be replaced.

    Raises:
        ValueError: The name does not end in .png.
        FileNotFoundError: The folder does not exist.
        NotADirectoryError: The folder is a file.
        IsADirectoryError: `path` is a folder.
        OSError: No file can be made in that folder, or not one of that name.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path} does not end in .png; images are saved as PNG.")
    folder = path.parent
    if not os.path.exists(folder):
        raise FileNotFoundError(f"Cannot write {path}: the folder {folder} does not exist.")
    if not folder.is_dir():
        raise NotADirectoryError(f"Cannot write {path}: {folder} is a file, not a folder.")
    try:
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        if path.exists() and not path.is_file():
            raise OSError("it exists and is not a plain file")
        # Permission bits do not tell (root, read-only mounts, long names): make a file, briefly.
        probe = _temporary(path) if path.exists() else path
        probe.open("xb").close()
        probe.unlink()
    except OSError as error:
        raise type(error)(f"Cannot write {path}: {error.strerror or error}.") from error


def save_png(
    path: str | os.PathLike[str], image: np.ndarray, metadata: Mapping[str, Any] | None = None
) -> Path:
    """Save an image and how it was made, completely or not at all.

    The file holds two PNG texts: `keras_sd`, the metadata as JSON for `read_metadata`, and
    `parameters`, the same for people: prompt, negative prompt, then the settings in one line.

    Args:
        path: A name that ends in .png, in a folder that exists.
        image: uint8 array of shape (height, width, 3).
        metadata: Anything JSON can hold, usually prompt, seed and settings.

    Returns:
        The path.

    Raises:
        ValueError: The array is not an image, the name not a PNG's, or the metadata not JSON.
        OSError: See `check_writable`.
    """
    path = Path(path)
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(
            f"An image is a uint8 array (height, width, 3), not {image.dtype} {image.shape}."
        )
    texts = PngImagePlugin.PngInfo()
    if metadata is not None:
        try:
            texts.add_text(_KEY, json.dumps(dict(metadata), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ValueError(f"The metadata cannot be written as JSON: {error}.") from error
        texts.add_text("parameters", _readable(metadata))
    check_writable(path)
    temporary = _temporary(path)
    try:
        with temporary.open("xb") as file:
            Image.fromarray(image).save(file, format="PNG", pnginfo=texts)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read how an image was made.

    Args:
        path: A PNG file that `save_png` wrote.

    Returns:
        The metadata.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no image, or holds no metadata of keras_sd.
    """
    try:
        with Image.open(path) as image:
            image.load()
            text = image.info.get(_KEY)
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is not an image that can be read: {error}.") from error
    try:
        metadata = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        metadata = None
    if isinstance(metadata, dict):
        return metadata
    raise ValueError(f"{path} has no metadata of keras_sd: it was not made by it, or was edited.")


def _temporary(path: Path) -> Path:
    return path.with_name(f".keras_sd-{secrets.token_hex(8)}.tmp")


def _readable(metadata: Mapping[str, Any]) -> str:
    rest = dict(metadata)
    lines = [str(rest.pop("prompt"))] if "prompt" in rest else []
    if negative := rest.pop("negative_prompt", None):
        lines.append(f"Negative prompt: {negative}")
    settings = {key.replace("_", " ").capitalize(): value for key, value in rest.items()}
    lines.append(", ".join(f"{k}: {v}" for k, v in settings.items() if v is not None))
    # A PNG text ends at a zero byte, and the command line can hand over bytes that are not UTF-8.
    text = "\n".join(line for line in lines if line).replace("\0", "\ufffd")
    return text.encode("utf-8", "replace").decode("utf-8")
