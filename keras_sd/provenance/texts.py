"""The texts in a picture's file that programs say in how they made it.

A file may be anybody's. So nothing is unpacked before it is known to be wanted, nothing is unpacked
beyond a bound, and what is damaged is said and left out. Pixels are decoded only where no text is
found, since some programs hide it in their lowest bits.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from keras_sd.checks import MAX_AREA
from keras_sd.provenance.origin import parsed

__all__ = ["MAX_TEXT", "MAX_TEXTS", "NAMES", "read_texts"]

MAX_TEXT = 2**22
"""The most bytes of one text, packed or unpacked."""

MAX_TEXTS = 2**24
"""The most bytes of all texts of a file."""

NAMES = (
    "keras_sd",
    "parameters",
    "prompt",
    "workflow",
    "invokeai_metadata",
    "sd-metadata",
    "Dream",
    "Software",
    "Source",
    "Description",
    "Comment",
)
"""The names of the texts that are read."""

_PNG = b"\x89PNG\r\n\x1a\n"
_MOST_PARTS = 2**18  # of a file: chunks or segments

# EXIF's numbers; ComfyUI's WebP files have "prompt:" and "workflow:" in front of their texts there.
_EXIF, _USER_COMMENT, _DESCRIPTION, _MAKE, _MODEL = 0x8769, 0x9286, 0x010E, 0x010F, 0x0110
_PREFIXED = ("prompt", "workflow")


def read_texts(
    source: str | os.PathLike[str] | bytes, max_pixels: int = MAX_AREA
) -> tuple[dict[str, str], list[str]]:
    """The texts of a PNG, JPEG or WebP file that are in `NAMES`, and sentences about what could not
    be read. A comment of EXIF is `parameters`, as A1111's web UI writes it.

    Args:
        source: path of a file, or the bytes of one.
        max_pixels: of a picture with more, none is looked at for a text that is hidden in them.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be opened.
        ValueError: it is no PNG, JPEG or WebP file.
    """
    if isinstance(source, bytes):
        return _read(io.BytesIO(source), "The file", max_pixels)
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"There is no image {path}.")
    if not path.is_file():
        raise ValueError(f"{path} is {'a folder' if path.is_dir() else 'no plain file'}.")
    with path.open("rb") as file:
        return _read(file, str(path), max_pixels)


def _read(file: IO[bytes], name: str, max_pixels: int) -> tuple[dict[str, str], list[str]]:
    found = _Found()
    start = file.read(12)
    if start.startswith(_PNG):
        _read_png(file, found)
    elif start.startswith(b"\xff\xd8"):
        for data in _exif_of_jpeg(file, found):
            _read_exif(data, found)
    elif start.startswith(b"RIFF") and start[8:] == b"WEBP":
        for data in _exif_of_webp(file, found):
            _read_exif(data, found)
    else:
        raise ValueError(f"{name} is no PNG, JPEG or WebP file.")
    if not found.texts.keys() - {"Software", "Source", "Description"} and start[:1] != b"\xff":
        _read_hidden(file, found, max_pixels)
    return found.texts, found.unread


class _Found:
    """The texts that were found, by name: the first of a name counts."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.unread: list[str] = []
        self.left = MAX_TEXTS

    def wants(self, name: str) -> bool:
        if name in self.texts:
            self.miss(f"The file has the text {name} twice: the second is left out")
        return name in NAMES and name not in self.texts

    def take(self, name: str, data: str) -> None:
        # A decoder may make four bytes a character of it.
        self.left -= len(data)
        if self.left < 0:
            self.miss(f"The texts of the file have more than {MAX_TEXTS} bytes: {name} is left out")
        else:
            self.texts[name] = data

    def miss(self, sentence: str) -> None:
        if sentence not in self.unread and len(self.unread) < 100:
            self.unread.append(sentence)


# --- PNG ------------------------------------------------------------------------------


def _read_png(file: IO[bytes], found: _Found) -> None:
    file.seek(len(_PNG))
    for _ in range(_MOST_PARTS):
        head = file.read(8)
        if len(head) < 8:
            return
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IEND":
            return
        if kind not in (b"tEXt", b"zTXt", b"iTXt", b"eXIf"):
            file.seek(length + 4, os.SEEK_CUR)
            continue
        if length > MAX_TEXT:
            found.miss(f"A text of the file has more than {MAX_TEXT} bytes: it is left out")
            file.seek(length + 4, os.SEEK_CUR)
            continue
        data, check = file.read(length), file.read(4)
        if len(data) < length or check != struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))):
            found.miss("A text of the file is damaged: its checksum differs")
        elif kind == b"eXIf":
            _read_exif(data, found)
        else:
            _read_chunk(kind, data, found)
    found.miss(f"The file has more than {_MOST_PARTS} parts: the rest of them is left out")


def _read_chunk(kind: bytes, data: bytes, found: _Found) -> None:
    word, _, rest = data.partition(b"\0")
    name = word.decode("latin-1")
    if not found.wants(name):
        return
    packed = kind == b"zTXt"
    if packed:
        rest = rest[1:]  # the method, of which there is one
    elif kind == b"iTXt":
        packed = rest[:1] == b"\1"
        language_and_more = rest[2:].split(b"\0", 2)
        rest = language_and_more[-1] if len(language_and_more) == 3 else b""
    if packed:
        unpacked = _unpacked(name, rest, found, zlib.MAX_WBITS)
        if unpacked is None:
            return
        rest = unpacked
    found.take(name, _decoded(rest))


def _unpacked(name: str, data: bytes, found: _Found, bits: int) -> bytes | None:
    unpacker = zlib.decompressobj(bits)
    try:
        unpacked = unpacker.decompress(data, MAX_TEXT + 1)
    except zlib.error as error:
        found.miss(f"The text {name} is damaged: {error}")
        return None
    if len(unpacked) > MAX_TEXT:
        found.miss(f"The text {name} has more than {MAX_TEXT} bytes unpacked: it is left out")
        return None
    if not unpacker.eof:
        found.miss(f"The text {name} is damaged: it ends too early")
        return None
    return unpacked


def _decoded(data: bytes) -> str:
    """Text that is UTF-8, as in iTXt and, against the rule, in many a tEXt, else Latin-1."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


# --- EXIF -----------------------------------------------------------------------------


def _exif_of_jpeg(file: IO[bytes], found: _Found) -> Iterator[bytes]:
    file.seek(2)
    for _ in range(_MOST_PARTS):
        head = file.read(4)
        if len(head) < 4 or head[0] != 0xFF or head[1] == 0xDA:  # here the pixels begin
            return
        length = max(struct.unpack(">H", head[2:])[0] - 2, 0)
        if head[1] != 0xE1:
            file.seek(length, os.SEEK_CUR)
            continue
        data = file.read(length)
        if data.startswith(b"Exif\0\0"):
            yield data[6:]
    found.miss(f"The file has more than {_MOST_PARTS} parts: the rest of them is left out")


def _exif_of_webp(file: IO[bytes], found: _Found) -> Iterator[bytes]:
    for _ in range(_MOST_PARTS):
        head = file.read(8)
        if len(head) < 8:
            return
        kind, length = struct.unpack("<4sI", head)
        if kind != b"EXIF":
            file.seek(length + length % 2, os.SEEK_CUR)
        elif length > MAX_TEXT:
            found.miss(f"A text of the file has more than {MAX_TEXT} bytes: it is left out")
            return
        else:
            yield file.read(length + length % 2)[:length].removeprefix(b"Exif\0\0")
    found.miss(f"The file has more than {_MOST_PARTS} parts: the rest of them is left out")


def _read_exif(data: bytes, found: _Found) -> None:
    from PIL import Image

    exif = Image.Exif()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other entries, which are nothing to us
            exif.load(b"Exif\0\0" + data)
            tags: dict[int, Any] = {tag: exif.get(tag) for tag in (_DESCRIPTION, _MAKE, _MODEL)}
            comment = exif.get_ifd(_EXIF).get(_USER_COMMENT)
    except Exception as error:  # Pillow raises anything on what is damaged.
        found.miss(f"The file's EXIF is damaged: {error}")
        return
    for value in tags.values():
        name, colon, rest = value.partition(":") if isinstance(value, str) else ("", "", "")
        name = name.strip().lower()
        if colon and name in _PREFIXED and found.wants(name):
            found.take(name, rest.strip("\0 "))
    if isinstance(comment, bytes) and comment and found.wants("parameters"):
        found.take("parameters", _user_comment(comment))
    elif isinstance(comment, str) and found.wants("parameters"):
        found.take("parameters", comment.rstrip("\0"))


def _user_comment(data: bytes) -> str:
    """The comment: eight bytes that name its encoding, then the text."""
    kind, rest = data[:8], data[8:]
    if kind == b"UNICODE\0":
        # Which of the two orders, EXIF leaves to the file; what is mostly ASCII tells.
        zeros = rest[0::2].count(0) - rest[1::2].count(0)
        order = "utf-16-be" if zeros >= 0 else "utf-16-le"
        made = rest.decode(order, "replace").removeprefix("\ufeff")
    else:
        known = kind in (b"ASCII\0\0\0", b"\0" * 8)
        made = _decoded(rest if known else data)
    return made.rstrip("\0")


# --- hidden ---------------------------------------------------------------------------

_SIGNATURES = {
    b"stealth_pnginfo": ("A", False),
    b"stealth_pngcomp": ("A", True),
    b"stealth_rgbinfo": ("RGB", False),
    b"stealth_rgbcomp": ("RGB", True),
}


def _read_hidden(file: IO[bytes], found: _Found, max_pixels: int) -> None:
    """What NovelAI, and a popular extension of web UIs, write into the lowest bits of the pixels:
    of alpha or of red, green and blue, column by column. There is a signature, the number of bits
    in 32 bits, and the text, packed with gzip or not.
    """
    import numpy as np
    from PIL import Image

    file.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a size that is checked here
            with Image.open(file, formats=("PNG", "WEBP")) as image:
                if image.mode not in ("RGB", "RGBA") or image.width * image.height > max_pixels:
                    return
                pixels = np.asarray(image)
    except Exception:  # What cannot be decoded hides nothing; who draws of it will say so.
        return

    def hidden(where: str, count: int) -> bytes:
        """So many of the first bytes there."""
        part = pixels[..., 3:] if where == "A" else pixels[..., :3]
        columns = -(-count * 8 // (part.shape[0] * max(part.shape[2], 1)))
        bits = part[:, :columns].swapaxes(0, 1).reshape(-1)[: count * 8] & 1
        return np.packbits(bits).tobytes()

    for signature, (where, packed) in _SIGNATURES.items():
        if where == "A" and pixels.shape[2] < 4:
            continue
        start = len(signature) + 4
        head = hidden(where, start)
        if not head.startswith(signature) or len(head) < start:
            continue
        length = struct.unpack(">I", head[-4:])[0] // 8
        if length > MAX_TEXT:
            found.miss(f"The hidden text has more than {MAX_TEXT} bytes: it is left out")
            return
        data: bytes | None = hidden(where, start + length)[start:]
        if data is None or len(data) < length:
            found.miss("The hidden text is damaged: the picture is too small for it")
            return
        if packed:
            data = _unpacked("in the pixels", data, found, zlib.MAX_WBITS | 16)
        if data is not None:
            _take_hidden(_decoded(data), found)
        return


def _take_hidden(content: str, found: _Found) -> None:
    """The texts of the file in an object of JSON, or that of a web UI as it is."""
    if not content.lstrip().startswith("{"):
        if found.wants("parameters"):
            found.take("parameters", content)
        return
    texts = parsed("The hidden text", content, found.unread)
    for name, value in texts.items() if isinstance(texts, dict) else ():
        if isinstance(value, str) and found.wants(name):
            found.take(name, value)
