"""Files of weights, read without running anything and without trusting them.

Each format is a module with `read(path) -> TensorFile`; `read_file` picks it by the first bytes.
"""

from __future__ import annotations

import hashlib
import importlib
import mmap
import os
import re
import reprlib
import stat
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

_EXPONENTS = {
    np.dtype(np.float16): np.uint16(0x7C00),
    np.dtype(ml_dtypes.bfloat16): np.uint16(0x7F80),
}
"""Of the numbers in 16 bits: the bits that are all set in a NaN or an infinity and in no other."""

_WITHOUT_COPIES = np.int32(-0x70000001)
"""The bits that a float16 has in a float32: all but those from 28 to 30."""


MAX_TENSORS = 50_000
"""Of a file, of any format. A full SD checkpoint with its optimizer has 3,200; what is made of each
takes time and memory, though it may have no numbers at all."""

_START = 1024
"""Bytes that tell what a file is."""


class WeightsError(ValueError):
    """A file of weights is damaged or is not the one it should be; the message names both."""


@dataclass(frozen=True)
class TensorFile:
    """A file of weights, opened and checked; its numbers are not read before they are used.

    Attributes:
        path: of the file.
        format: `"safetensors"`, `"torch"` or `"hdf5"`.
        tensors: read-only arrays by name, mapped into memory where the format allows that;
            elsewhere objects with `shape`, `dtype` and `__array__`, read at each use.
        metadata: what the file says of itself.
    """

    path: Path
    format: str
    tensors: Mapping[str, np.ndarray]
    metadata: Mapping[str, str]


def read_file(path: str | os.PathLike[str]) -> TensorFile:
    """Opens a file of weights of any format that we know.

    Args:
        path: of a `.safetensors`, `.ckpt`, `.pt`, `.bin`, `.h5` or `.weights.h5` file. What it is
            is told by its first bytes, not by its name.

    Raises:
        WeightsError: the file is damaged, is of no format that we know (a Git LFS pointer, a web
            page), or asks for something that a file of weights has no need of.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    with open_file(path) as file:
        start = file.read(_START)
    module = importlib.import_module(f"{__name__}.{_module(path, start)}")
    found: TensorFile = module.read(path)
    return found


def open_file(path: str | os.PathLike[str]) -> BufferedReader:
    """Opens a regular file for reading. A pipe would be waited for without an end, and a device may
    have none.

    Raises:
        WeightsError: there is something else at the path.
        FileNotFoundError: there is nothing.
    """

    def opener(name: str, flags: int) -> int:
        # Not to wait for whoever writes to a pipe, should there be one by now.
        return os.open(name, flags | _AT_ONCE)

    # Looked at before it is opened, for opening a device may do something, and after, for what is
    # at a path can change.
    _check_regular(path, os.stat(path))
    with ExitStack() as stack:
        file = stack.enter_context(open(os.fspath(path), "rb", opener=opener))
        _check_regular(path, os.fstat(file.fileno()))
        stack.pop_all()
        return file


_AT_ONCE = getattr(os, "O_NONBLOCK", 0)  # not on Windows

_OTHERS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def _check_regular(path: str | os.PathLike[str], found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        what = _OTHERS.get(stat.S_IFMT(found.st_mode), "something else")
        raise WeightsError(f"{os.fspath(path)} is {what}, not a file")


def mapped(path: str | os.PathLike[str]) -> np.ndarray:
    """The bytes of a file, mapped into memory, read-only; raises what `open_file` does."""
    with open_file(path) as file:
        return np.asarray(np.memmap(file, np.uint8, "r"))


def instead(start: bytes) -> str | None:
    """What a file is that was fetched in place of another; None where it is none of these.

    Args:
        start: its first bytes, a hundred or more if it has so many.

    Returns:
        What it is and what to do: the rest of a sentence that begins with the file's name.
    """
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"version https://git-lfs"):
        size = re.search(rb"\nsize (\d{1,20})", start)
        stands = f" that stands for {int(size[1])} bytes" if size else ""
        return (
            f"is a Git LFS pointer{stands}: the repository was cloned without git-lfs. `git lfs "
            "install` and then `git lfs pull` in it fetch the file; or download the file itself"
        )
    for page, what in _PAGES.items():
        if text.startswith(page):
            return (
                f"is {what}, not weights: what was downloaded is the answer of a server, such as a "
                "page to sign in at or an error. Download it again by the link to the file itself"
            )
    return None


_PAGES = {
    b"<!doctype html": "a web page (HTML)",
    b"<html": "a web page (HTML)",
    b"<head": "a web page (HTML)",
    b"<?xml": "an XML document",
    b"<error": "an XML document",
    b"<!--": "a web page (HTML)",
}


def shown(value: Any) -> str:
    """A value of a file for a message, however long or deep it is."""
    text = repr(value[:80]) if isinstance(value, (str, bytes)) else reprlib.repr(value)
    return text if len(text) <= 80 else text[:80] + "..."


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_finite(array: np.ndarray) -> bool:
    """Whether no number is a NaN or an infinity."""
    exponent = _EXPONENTS.get(array.dtype)
    if exponent is None:
        return bool(np.isfinite(array).all())
    # Four times as fast as NumPy's own way: it has no instructions for these.
    bits = array.view(np.uint16)
    return not bool(((bits & exponent) == exponent).any())


def fill(into: np.ndarray, numbers: np.ndarray) -> bool:
    """Writes numbers into an array of their shape, which may have another dtype.

    16 bits become 32 by arithmetic on whole numbers, in about a third of the time that NumPy takes.

    Returns:
        Whether all of them are finite, as they are and in the other dtype; where not, what the
        array holds is of no use.
    """
    if into.dtype != np.float32 or numbers.dtype not in _EXPONENTS:
        with np.errstate(over="ignore"):
            numbers = numbers.astype(into.dtype, copy=False)
        into[...] = numbers
        return is_finite(numbers)
    # The passes over it are several, so they go as it lies in memory.
    order = np.argsort([-stride for stride in into.strides], kind="stable")
    laid = into.transpose(order)
    made = laid if laid.flags.c_contiguous else np.empty(laid.shape, laid.dtype)
    bits = made.view(np.int32)
    bits[...] = numbers.transpose(order).view(np.int16)
    if numbers.dtype == np.float16:
        bits <<= 13  # sign, exponent and fraction to where float32 has them, ...
        bits &= _WITHOUT_COPIES  # without the copies of the sign that came in between
        made *= np.float32(2**112)  # ... whose exponent counts from another number
    else:
        bits <<= 16
    if made is not laid:
        laid[...] = made
    return is_finite(numbers)


def release(array: np.ndarray) -> None:
    """Gives back the memory that a mapped array has taken; it is read again at the next use.

    A file that is used once from end to end would otherwise be in memory twice: as it is mapped,
    and as what was made of it.
    """
    base: Any = array
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    mapped = getattr(base, "_mmap", None)
    if isinstance(mapped, mmap.mmap) and hasattr(mapped, "madvise"):  # not on Windows
        first = array.__array_interface__["data"][0] - base.__array_interface__["data"][0]
        first += base.offset % mmap.ALLOCATIONGRANULARITY
        start = first // mmap.PAGESIZE * mmap.PAGESIZE
        mapped.madvise(mmap.MADV_DONTNEED, start, first + array.nbytes - start)


def _module(path: Path, start: bytes) -> str:
    if not start:
        raise WeightsError(f"{path} is empty: it has 0 bytes")
    if said := instead(start):
        raise WeightsError(f"{path} {said}")
    # Eight letters are no length of a header: that would be 2 ** 53 bytes or more.
    if start[:1] in b"{[" and re.fullmatch(rb"[\t\n\r -~]{1,8}", start[:8]):
        raise WeightsError(
            f"{path} is a JSON text, not weights, and begins with {shown(start)}: it may be a "
            "server's error, or settings that belong to weights. Download the file itself"
        )
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return "hdf5"
    # A zip archive, or the pickle that older files begin with.
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06", b"\x80")) and start[8:9] != b"{":
        return "torch_file"
    # The length of the header in 8 bytes, then JSON. A damaged file of this name is named as such.
    if start[8:9] == b"{" or path.suffix == ".safetensors":
        return "safetensors"
    raise WeightsError(
        f"{path} begins with {start[:8]!r}; it is no .safetensors, .ckpt, .pt, .bin or .h5 file"
    )
