"""Pictures on their way in and out: base64, their pixels counted before they are decoded, and PNG
files in memory that know how they were made. No string of a client is ever a path or an address.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from keras_sd.image import FORMATS, png_bytes, read_image, read_mask
from keras_sd.infotext import infotext

if TYPE_CHECKING:
    from keras_sd.gallery import Images

__all__ = ["Budget", "PictureError", "decoded", "encoded", "mask_of", "png_of", "small_png"]

_PREFIX = re.compile(r"data:image/[a-z0-9.+-]{1,20};base64,", re.IGNORECASE)
_SPACE = re.compile(r"\s+")


class PictureError(ValueError):
    """A client's picture cannot be read."""


class Budget:
    """How many pixels a request's pictures may still have.

    Args:
        pixels: of all of them together.
    """

    def __init__(self, pixels: int):
        self.left = pixels

    def take(self, name: str, width: int, height: int) -> None:
        """Counts a picture.

        Raises:
            PictureError: it has more pixels than are left.
        """
        if width * height > self.left:
            raise PictureError(
                f"{name} is {width}x{height}, of which {self.left} pixels are allowed here"
            )
        self.left -= width * height

    def opened(self, name: str, data: bytes) -> Image.Image:
        """A picture of one frame, whose pixels are counted before any is decoded.

        Args:
            name: of the field, for errors.
            data: of a file.

        Raises:
            PictureError: it is no such file, is damaged, or has more pixels than are left.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                picture = Image.open(io.BytesIO(data), formats=FORMATS)
                self.take(name, picture.width, picture.height)
                if picture.format != "MPO" and getattr(picture, "n_frames", 1) != 1:
                    raise PictureError(f"{name} has several frames")
                picture.load()
        except PictureError:
            raise
        except Exception as error:  # Pillow's readers raise anything on a damaged file.
            raise PictureError(
                f"{name} is no picture that can be read: {', '.join(FORMATS)} are"
            ) from error
        return picture

    def picture(self, name: str, data: bytes) -> np.ndarray:
        """A picture as `keras_sd.image.read_image` gives it.

        Raises:
            PictureError: see `opened`.
        """
        opened = self.opened(name, data)
        try:
            return read_image(opened)
        except ValueError as error:
            raise PictureError(f"{name}: {error}") from error


def decoded(name: str, text: Any) -> bytes:
    """The bytes of a picture in base64, with or without `data:image/png;base64,` in front.

    Args:
        name: of the field, for errors.
        text: what the client sent.

    Raises:
        PictureError: it is something else. An address is not fetched.
    """
    if not isinstance(text, str) or not text:
        raise PictureError(f"{name} is a picture in base64")
    match = _PREFIX.match(text)
    body = text[match.end() :] if match else text
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]{0,20}:", body[:24]):
        raise PictureError(f"{name} is a URL; nothing is fetched: send the picture in base64")
    try:
        return base64.b64decode(_SPACE.sub("", body), validate=True)
    except (binascii.Error, ValueError) as error:
        raise PictureError(f"{name} is no base64") from error


def mask_of(name: str, picture: Image.Image) -> np.ndarray:
    """A mask as clients paint them: white is painted; of one with transparent parts, what is
    opaque, and of one with colours, what is bright.

    Args:
        name: of the field, for errors.
        picture: that was opened.

    Returns:
        float32 array `(height, width)`, 0 and 1 and between.

    Raises:
        PictureError: its pixels cannot be read.
    """
    try:
        if picture.has_transparency_data:
            alpha = picture.convert("RGBA").getchannel("A")
            if alpha.getextrema()[0] != 255:
                return (np.asarray(alpha) > 128).astype(np.float32)
            picture = picture.convert("RGB")
        if picture.mode not in ("1", "L") and not picture.mode.startswith("I;16"):
            picture = picture.convert("L")
        return read_mask(picture)
    except (ValueError, OSError) as error:
        raise PictureError(f"{name}: {error}") from error


def png_of(picture: Images, made: Mapping[str, Any]) -> tuple[bytes, str]:
    """A PNG file of one picture, and its settings as web UIs write them, which are in it.

    Args:
        picture: one of those that were drawn, which knows its request.
        made: what else the file says: `model`, `backend`, `version`, options about loading, and
            `weights` where they are known.
    """
    height, width = picture.shape[-3:-1]
    this = {"request": picture.request.to_dict(), **made}
    this |= {"width": int(width), "height": int(height)}
    text = infotext(this)
    return png_bytes(np.asarray(picture).reshape(height, width, 3), this, text), text


def small_png(pixels: np.ndarray) -> bytes:
    """A PNG file of a preview, uint8 `(height, width, 3)`, quick to make."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def encoded(data: bytes) -> str:
    """Base64 without a prefix."""
    return base64.b64encode(data).decode("ascii")
