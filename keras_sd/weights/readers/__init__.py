"""Files of weights, read without running anything and without trusting them.

Each format is a module with `read(path) -> TensorFile`; `read_file` picks it by the first bytes.
"""

from __future__ import annotations

import hashlib
import importlib
import mmap
import os
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

_EXPONENTS = {
    np.dtype(np.float16): np.uint16(0x7C00),
    np.dtype(ml_dtypes.bfloat16): np.uint16(0x7F80),
}
"""Of the numbers in 16 bits: the bits that are all set in a NaN or an infinity and in no other."""


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
        WeightsError: the file is damaged, is of no format that we know, or asks for something that
            a file of weights has no need of.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    with open(path, "rb") as file:
        start = file.read(16)
    module = importlib.import_module(f"{__name__}.{_module(path, start)}")
    found: TensorFile = module.read(path)
    return found


def shown(value: Any) -> str:
    """A value of a file for a message, however long or deep it is."""
    text = repr(value[:80]) if isinstance(value, (str, bytes)) else reprlib.repr(value)
    return text if len(text) <= 80 else text[:80] + "..."


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_finite(array: np.ndarray) -> bool:
    """Whether no number is a NaN or an infinity."""
    exponent = _EXPONENTS.get(array.dtype)
    if exponent is None:
        return bool(np.isfinite(array).all())
    # Four times as fast as NumPy's own way: it has no instructions for these.
    bits = array.view(np.uint16)
    return not bool(((bits & exponent) == exponent).any())


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
