"""`.safetensors` files.

The header is checked as a whole before one number of the data is looked at; the tensors are then
views of the file, mapped into memory, which are read when they are used.
"""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import ml_dtypes
import numpy as np

from keras_sd.weights.readers import (
    MAX_TENSORS,
    TensorFile,
    WeightsError,
    mapped,
    open_file,
    shown,
)

_MAX_HEADER = 25_000_000
"""Bytes. A full SD 1.x header has 150 kB; the format's own limit is 100 MB."""

_MAX_TEXTS = 6 * MAX_TENSORS
"""A tensor has five: its name, and those of three fields, and its dtype."""

_MAX_OUTSIDE = 100 * MAX_TENSORS
"""Bytes outside of texts. A tensor has about 40."""

_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)
"""A text in JSON; it also fits one without an end, so that none is looked for twice."""

DTYPES: dict[str, np.dtype] = {
    name: np.dtype(dtype)
    for name, dtype in {
        "F64": "<f8",
        "F32": "<f4",
        "F16": "<f2",
        "BF16": ml_dtypes.bfloat16,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
        "I64": "<i8",
        "I32": "<i4",
        "I16": "<i2",
        "I8": "i1",
        "U64": "<u8",
        "U32": "<u4",
        "U16": "<u2",
        "U8": "u1",
        "BOOL": "?",
    }.items()
}
"""The dtypes of the format that we read."""


class _UnreadError(WeightsError):
    """The file may be whole, but has numbers that we do not read."""


@dataclass(frozen=True)
class TensorInfo:
    """What a header says of a tensor.

    Attributes:
        dtype: a key of `DTYPES`.
        shape: of the tensor.
        start: first byte in the file.
        stop: byte after the last.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_header(path: str | os.PathLike[str]) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """What a `.safetensors` file holds, without reading the tensors.

    Args:
        path: of the file.

    Returns:
        The tensors by name, in the order of the file, and the file's `__metadata__`.

    Raises:
        WeightsError: the file is not whole or not of this format; the message says where.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)

    def refuse(reason: str) -> NoReturn:
        raise WeightsError(f"{path} is no whole .safetensors file: {reason}")

    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size < 8:
            refuse(f"it has {size} bytes, and the length of a header alone takes 8")
        length = int.from_bytes(file.read(8), "little")
        if length > min(_MAX_HEADER, size - 8):
            refuse(f"its header would have {length} bytes, the file has {size}")
        text = file.read(length)
    if _is_crowded(text):
        refuse(
            f"its header says more than {MAX_TENSORS:,} tensors need, which are all that is read"
        )
    try:
        header = json.loads(text.decode(), object_pairs_hook=_unrepeated)
    except (ValueError, RecursionError) as error:
        refuse(f"its header cannot be read ({error})")
    if not isinstance(header, dict):
        refuse("its header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str) for value in metadata.values()
    ):
        refuse("its __metadata__ is not an object of strings")

    if len(header) > MAX_TENSORS:
        refuse(f"it has {len(header):,} tensors; {MAX_TENSORS:,} are read")
    tensors = {}
    for name, entry in header.items():
        try:
            tensors[name] = _tensor_info(entry, 8 + length)
        except _UnreadError as error:
            raise WeightsError(f"{path}: tensor {shown(name)}: {error}") from None
        except WeightsError as error:
            refuse(f"tensor {shown(name)}: {error}")

    end = 8 + length
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        if info.start != end:
            refuse(
                f"tensor {shown(name)} begins at byte {info.start}, not at {end}, where the one "
                "before it ends"
            )
        end = info.stop
    if end != size:
        refuse(f"its tensors end at byte {end}, the file at {size}")
    return tensors, metadata


def read(path: str | os.PathLike[str]) -> TensorFile:
    """The tensors of a `.safetensors` file.

    Args:
        path: of the file. It must not be written to while the arrays are in use.

    Returns:
        Read-only arrays by name, mapped into memory: no number is read before it is used; and the
        file's `__metadata__`.

    Raises:
        WeightsError: see `read_header`.
        FileNotFoundError: there is no such file.
    """
    header, metadata = read_header(path)
    data = mapped(path)
    tensors = {
        name: data[info.start : info.stop].view(DTYPES[info.dtype]).reshape(info.shape)
        for name, info in header.items()
    }
    return TensorFile(Path(path), "safetensors", tensors, metadata)


def _tensor_info(entry: Any, offset: int) -> TensorInfo:
    """One entry of the header, checked; `offset` is where the data begins in the file."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise WeightsError("its entry is not dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if isinstance(dtype, str) and dtype.startswith("F8_") and dtype not in DTYPES:
        raise _UnreadError(
            f"dtype {shown(dtype)} is not one of {', '.join(DTYPES)}: such a float8 is not read"
        )
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise WeightsError(f"dtype {shown(dtype)} is not one of {', '.join(DTYPES)}")
    # NumPy counts in 64 bits, also where one of the sizes is 0.
    if not _is_sizes(shape) or math.prod(max(size, 1) for size in shape) >= 2**60:
        raise WeightsError(f"shape {shown(shape)} is not a list of sizes")
    if not _is_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise WeightsError(f"data_offsets {shown(offsets)} are not two rising positions")
    start, stop = offsets
    expected = math.prod(shape) * DTYPES[dtype].itemsize
    if stop - start != expected:
        raise WeightsError(
            f"{dtype} of shape {shown(shape)} takes {shown(expected)} bytes, not {stop - start}"
        )
    return TensorInfo(dtype, tuple(shape), offset + start, offset + stop)


def _is_crowded(text: bytes) -> bool:
    """Whether JSON would make more of a text than a header has; known before it makes anything."""
    if len(text) <= _MAX_OUTSIDE and text.count(b'"') <= 2 * _MAX_TEXTS:
        return False
    # The metadata may be few texts that are as long as they like.
    outside = end = 0
    for count, string in enumerate(_TEXT.finditer(text), 1):
        outside += string.start() - end
        end = string.end()
        if count > _MAX_TEXTS or outside > _MAX_OUTSIDE:
            return True
    return outside + len(text) - end > _MAX_OUTSIDE


def _is_sizes(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= 32
        and all(type(size) is int and 0 <= size < 2**60 for size in value)
    )


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{shown(name)} is there twice")
        found[name] = value
    return found
