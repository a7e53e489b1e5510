"""Images: read from files and arrays, brought to a size, [-1, 1] to uint8 and back, and PNG files
that know how they were made.
"""

from __future__ import annotations

import io
import json
import os
import re
import secrets
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin

from keras_sd.checks import MAX_AREA
from keras_sd.files import checked_path, replace_file
from keras_sd.start import Resize

_KEY = "keras_sd"

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
"""The file formats that are read, as Pillow calls them."""

MAX_PIXELS = MAX_AREA
"""The most pixels that an image to be read may have: 8192 x 8192."""

# EXIF's orientation -> what brings the picture upright; 1 is upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# A grey mask may have gone through a format that knows only colours, with loss.
_GREY_TOLERANCE = 8


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


def read_image(
    source: str | os.PathLike[str] | Image.Image | Any, *, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Read one picture.

    A picture that its camera held sideways is turned upright. Transparent parts are laid on white.
    Colours are taken as sRGB; 16-bit grey is brought to 8 bits.

    Args:
        source: The path of a PNG, JPEG, WEBP, BMP or TIFF file, a Pillow image, or a uint8 array of
            shape (height, width, 3). Nothing is fetched: a URL is an error.
        max_pixels: Of a picture with more, nothing is decoded; nor is a file with more than Pillow
            reads (twice `PIL.Image.MAX_IMAGE_PIXELS`).

    Returns:
        uint8 array of shape (height, width, 3); an array is not copied.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: The file cannot be opened.
        ValueError: The file is no image of those formats, is damaged, has more than `max_pixels` or
            more than one frame; the array has another dtype or shape.
        TypeError: `source` is something else.
    """
    if isinstance(source, str | os.PathLike | Image.Image):
        return _on_white(*_open(source, max_pixels))
    pixels = _array(source, "an image")
    if pixels.dtype != np.uint8:
        raise ValueError(
            f"An image array is uint8, 0 to 255; this one is {pixels.dtype}. From 0 to 1, it is "
            "(x * 255).round().astype('uint8'); from -1 to 1, keras_sd.image.to_uint8(x)."
        )
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"An image array is (height, width, 3), not {pixels.shape}.")
    _check_size(pixels.shape, max_pixels, "The image")
    return pixels


def read_mask(
    source: str | os.PathLike[str] | Image.Image | Any, *, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Read the mask of a picture.

    Whole numbers of which none is above 1 are 0 and 1, others 0 to 255; that goes for files and
    images as well, which programs write either way.

    Args:
        source: A path or Pillow image as for `read_image`, without colours or transparent parts,
            whose meaning would be a guess; or an array of shape (height, width), (height, width, 1)
            or (1, height, width): bool, whole numbers, or floats from 0 to 1.
        max_pixels: Of a mask with more, nothing is decoded.

    Returns:
        float32 array of shape (height, width): 0 is black, 1 is white.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: The file cannot be opened.
        ValueError: As for `read_image`; the mask has colours or transparent parts; an array has
            another shape, or values that are none of a mask.
        TypeError: `source` is something else.
    """
    if isinstance(source, str | os.PathLike | Image.Image):
        return _mask_of(*_open(source, max_pixels))
    values = _array(source, "a mask")
    shape = values.shape
    if len(shape) == 3 and shape[2] == 1:
        values = values[..., 0]
    elif len(shape) == 3 and shape[0] == 1:
        values = values[0]
    if values.ndim != 2:
        raise ValueError(
            "A mask array is (height, width), (height, width, 1) or (1, height, width), not "
            f"{shape}."
        )
    _check_size(values.shape, max_pixels, "The mask")
    return _mask_values(values, "The mask", 255)


def resize(image: np.ndarray, height: int, width: int, how: Resize) -> np.ndarray:
    """Bring a picture to a size.

    Args:
        image: uint8 array of shape (height, width, 3).
        height: In pixels.
        width: Likewise.
        how: `"stretch"` distorts it; `"crop"` keeps the middle of it; `"pad"` keeps all of it, in
            the middle, and repeats its outermost pixels around it.

    Returns:
        uint8 array of shape (height, width, 3); a picture that has the size already is as it was.

    Raises:
        ValueError: Another `how`.
    """
    box, (inner_height, inner_width), around = _fit(image.shape[:2], height, width, how)
    size = (inner_width, inner_height)
    made = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS, box)
    return np.pad(np.asarray(made), (*around, (0, 0)), mode="edge")


def resize_mask(mask: np.ndarray, height: int, width: int, how: Resize) -> np.ndarray:
    """Bring a mask to a size, as `resize` brings its picture there.

    Args:
        mask: float32 array of shape (height, width), 0 to 1.
        height: In pixels.
        width: Likewise.
        how: As for `resize`; what `"pad"` adds is 0.

    Returns:
        float32 array of shape (height, width), 0 to 1; the edges of a mask become soft.

    Raises:
        ValueError: Another `how`.
    """
    box, (inner_height, inner_width), around = _fit(mask.shape, height, width, how)
    size = (inner_width, inner_height)
    made = Image.fromarray(mask).resize(size, Image.Resampling.BILINEAR, box)
    return np.pad(np.asarray(made), around)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Find out, before minutes are spent on an image, whether it can be saved.

    Args:
        path: Where the PNG file shall be. A file that is there already will be replaced.

    Raises:
        ValueError: The name does not end in .png.
        TypeError: `path` is no path.
        FileNotFoundError: The folder does not exist.
        NotADirectoryError: The folder is a file.
        IsADirectoryError: `path` is a folder.
        OSError: No file can be made in that folder, or not one of that name.
    """
    path = checked_path(path, "path")
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
        probe = path.with_name(f".{secrets.token_hex(8)}.{path.name}") if path.exists() else path
        probe.open("xb").close()
        probe.unlink()
    except OSError as error:
        raise type(error)(f"Cannot write {path}: {error.strerror or error}.") from error


def save_png(
    path: str | os.PathLike[str],
    image: np.ndarray,
    metadata: Mapping[str, Any] | None = None,
    parameters: str | None = None,
) -> Path:
    """Save an image and how it was made, completely or not at all.

    The file holds two PNG texts: `keras_sd`, the metadata as JSON for `read_metadata`, and
    `parameters`, which web UIs read.

    Args:
        path: A name that ends in .png, in a folder that exists.
        image: uint8 array of shape (height, width, 3).
        metadata: Anything JSON can hold, usually a request, the model and the version.
        parameters: The same as `keras_sd.infotext.infotext` writes it.

    Returns:
        The path.

    Raises:
        ValueError: The array is not an image, the name not a PNG's, or the metadata not JSON.
        TypeError: `path` is no path.
        OSError: See `check_writable`; or the file cannot be written, of which the message says why.
    """
    path = checked_path(path, "path")
    content = png_bytes(image, metadata, parameters)
    check_writable(path)
    replace_file(path, lambda at: at.write_bytes(content))
    return path


def png_bytes(
    image: np.ndarray, metadata: Mapping[str, Any] | None = None, parameters: str | None = None
) -> bytes:
    """What `save_png` writes; it has the arguments.

    Raises:
        ValueError: The array is not an image, or the metadata not JSON.
    """
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
    if parameters is not None:
        # A PNG text ends at a zero byte, and the command line can hand over bytes that are not
        # UTF-8.
        text = parameters.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")
        texts.add_text("parameters", text)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", pnginfo=texts)
    return buffer.getvalue()


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


# --- reading --------------------------------------------------------------------------


def _open(source: str | os.PathLike[str] | Image.Image, max_pixels: int) -> tuple[Image.Image, str]:
    """A picture of one frame, decoded and upright, and what messages call it."""
    # Pillow warns of a size that we check ourselves, and of metadata that are nothing to us.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if isinstance(source, Image.Image):
            return _decode(source, max_pixels, "The image"), "The image"
        path, name = Path(source), _existing(os.fspath(source))
        with path.open("rb") as file:
            if not file.peek(1):
                raise ValueError(f"{name} is empty.")
            try:
                image = Image.open(file, formats=FORMATS)
            except Image.UnidentifiedImageError as error:
                formats = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
                raise ValueError(f"{name} is no {formats} image.") from error
            except Image.DecompressionBombError as error:
                raise ValueError(f"{name}: {_too_large(max_pixels)}") from error
            except Exception as error:  # Pillow's readers raise anything on a damaged file.
                raise ValueError(f"{name} is damaged: {error}.") from error
            return _decode(image, max_pixels, name), name


def _existing(name: str) -> str:
    if not os.path.exists(name):
        short = name if len(name) < 200 else name[:200] + "..."
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/|data:", name):
            raise ValueError(f"{short} is a URL. Nothing is fetched here: give the path of a file.")
        raise FileNotFoundError(f"There is no image {short}.")
    if not os.path.isfile(name):
        raise ValueError(f"{name} is {'a folder' if os.path.isdir(name) else 'no plain file'}.")
    return name


def _decode(image: Image.Image, max_pixels: int, name: str) -> Image.Image:
    _check_size((image.height, image.width), max_pixels, name)
    try:
        # An MPO is a photograph with others behind it, for depth or brightness.
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        if frames == 1:
            image.load()
            orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception as error:
        raise ValueError(f"{name} is damaged: {error}.") from error
    if frames != 1:
        raise ValueError(f"{name} has {frames} frames: save the one you mean as a picture.")
    if image.mode == "La":  # premultiplied, which Pillow brings to LA alone
        image = image.convert("LA")
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _check_size(shape: tuple[int, ...], max_pixels: int, name: str) -> None:
    height, width, *_ = shape
    if height * width == 0:
        raise ValueError(f"{name} has no pixels: it is {width}x{height}.")
    if height * width > max_pixels:
        raise ValueError(f"{name} is {width}x{height}: {_too_large(max_pixels)}")


def _too_large(max_pixels: int) -> str:
    return f"more than the {max_pixels} pixels that are read. Make it smaller first."


def _on_white(image: Image.Image, name: str) -> np.ndarray:
    transparent = image.has_transparency_data
    if image.mode.startswith("I;16"):
        values = np.asarray(image)
        grey = np.rint(values / 257).astype(np.uint8)
        if transparent:
            grey[values == image.info["transparency"]] = 255
        return np.repeat(grey[..., None], 3, axis=2)
    _check_mode(image, name)
    if transparent:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.array(image.convert("RGB"))


def sheet(images: np.ndarray, columns: int) -> np.ndarray:
    """Images `(n, height, width, 3)` side by side, `columns` in a row; the last row is filled."""
    n, height, width, channels = images.shape
    rows = -(-n // columns)
    canvas = np.zeros((rows * columns, height, width, channels), images.dtype)
    canvas[:n] = images
    canvas = canvas.reshape(rows, columns, height, width, channels)
    return canvas.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)


def _mask_of(image: Image.Image, name: str) -> np.ndarray:
    sixteen_bits = image.mode.startswith("I;16")
    if image.has_transparency_data and (
        sixteen_bits or image.convert("RGBA").getchannel("A").getextrema()[0] != 255
    ):
        raise ValueError(
            f"{name} has transparent parts, and a mask says black or white: save it without. "
            "If they are the mask, it is image.getchannel('A') or its ImageOps.invert."
        )
    if sixteen_bits or image.mode in ("1", "L"):
        return _mask_values(np.asarray(image), name, 65535 if sixteen_bits else 255)
    _check_mode(image, name)
    colours = np.asarray(image.convert("RGB"))
    darkest, brightest = colours.min(axis=2), colours.max(axis=2)
    if (brightest - darkest).max() > _GREY_TOLERANCE:
        raise ValueError(f"{name} has colours, and a mask is black, white or grey.")
    return _mask_values(colours[..., 1], name, 255)


def _check_mode(image: Image.Image, name: str) -> None:
    if image.mode in ("I", "F"):
        raise ValueError(
            f"{name} has 32-bit numbers, in no range that is known: save 8 or 16 bits."
        )


def _array(source: Any, what: str) -> np.ndarray:
    if not hasattr(source, "__array__"):
        raise TypeError(f"{what} is a path, a Pillow image or an array, not {type(source)}.")
    return np.asarray(source)


def _mask_values(values: np.ndarray, name: str, white: int) -> np.ndarray:
    if values.dtype.kind not in "buif":
        raise ValueError(f"{name} holds {values.dtype}, not bool, whole numbers or floats.")
    low, high = values.min(), values.max()
    whole = values.dtype.kind != "f"
    top = white if whole else 1
    if not (low >= 0 and high <= top):  # NaN is neither
        raise ValueError(
            f"{name} has values from {low} to {high}; {'whole numbers' if whole else 'floats'} "
            f"are from 0 to {top}."
        )
    return values.astype(np.float32) / np.float32(white if whole and high > 1 else 1)


# --- sizes ----------------------------------------------------------------------------


def _fit(
    shape: tuple[int, ...], height: int, width: int, how: Resize
) -> tuple[tuple[float, float, float, float], tuple[int, int], list[tuple[int, int]]]:
    """The part of a picture that is taken, as Pillow's box; the height and width it is brought to;
    and what is added around it: (above, below), (left, right).
    """
    if how not in get_args(Resize):
        raise ValueError(f"resize is one of {', '.join(get_args(Resize))}, not {how!r}.")
    box = (0.0, 0.0, float(shape[1]), float(shape[0]))
    inner = (height, width)
    by = (height / shape[0], width / shape[1])
    if how == "crop":
        # No more than there is: the quotient may be off by a rounding.
        tall, wide = min(height / max(by), shape[0]), min(width / max(by), shape[1])
        top, left = (shape[0] - tall) / 2, (shape[1] - wide) / 2
        box = (left, top, shape[1] - left, shape[0] - top)
    elif how == "pad":
        inner = (max(1, round(shape[0] * min(by))), max(1, round(shape[1] * min(by))))
    missing = (height - inner[0], width - inner[1])
    return box, inner, [(each // 2, each - each // 2) for each in missing]
