"""Datasets of HDF5 that lie in chunks, perhaps compressed."""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_sd.weights.readers import WeightsError


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a dataset: where it is in the dataset and in the file."""

    corner: tuple[int, ...]
    start: int
    stop: int
    mask: int


@dataclass(frozen=True)
class ChunkedArray:
    """A dataset in chunks, perhaps compressed, which is read from the file at each use.

    Attributes:
        shape: of the dataset.
        dtype: of its elements.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    _source: str
    _data: np.ndarray
    _chunk_shape: tuple[int, ...]
    _chunks: tuple[Chunk, ...]
    _filters: tuple[str, ...]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("a dataset in chunks cannot be had without a copy")
        array = np.empty(self.shape, self.dtype)
        for chunk in self._chunks:
            block = self._read(chunk)
            ends = tuple(
                min(size, part) for size, part in zip(self._sizes(chunk), block.shape, strict=True)
            )
            inside = tuple(slice(0, end) for end in ends)
            place = tuple(slice(at, at + end) for at, end in zip(chunk.corner, ends, strict=True))
            array[place] = block[inside]
        return array if dtype is None else array.astype(dtype)

    def _sizes(self, chunk: Chunk) -> list[int]:
        return [size - at for size, at in zip(self.shape, chunk.corner, strict=True)]

    def _read(self, chunk: Chunk) -> np.ndarray:
        raw = bytes(self._data[chunk.start : chunk.stop])
        size = math.prod(self._chunk_shape) * self.dtype.itemsize
        for index, name in reversed(list(enumerate(self._filters))):
            if chunk.mask >> index & 1:
                continue
            if name == "deflate":
                raw = self._inflated(raw, size)
            else:  # shuffle: the first bytes of all elements, then the second ones
                parts = np.frombuffer(raw, np.uint8, size).reshape(self.dtype.itemsize, -1)
                raw = parts.T.tobytes()
        return np.frombuffer(raw, self.dtype, math.prod(self._chunk_shape)).reshape(
            self._chunk_shape
        )

    def _inflated(self, raw: bytes, size: int) -> bytes:
        stream = zlib.decompressobj()
        try:
            out = stream.decompress(raw, size + 1)
        except zlib.error as error:
            raise WeightsError(f"{self._source} is damaged: {error}") from None
        if len(out) != size or not stream.eof:
            raise WeightsError(f"{self._source} has a chunk that is not {size} bytes long")
        return out


def filters_of(body: bytes) -> tuple[str, ...]:
    """The names of the filters that each chunk went through, the first one first."""
    version, count = struct.unpack_from("<2B", body)
    if version not in (1, 2):
        raise WeightsError(f"has filters of version {version}")
    place = 8 if version == 1 else 2
    names = []
    for _ in range(count):
        (number,) = struct.unpack_from("<H", body, place)
        place += 2
        length = 0
        if version == 1 or number >= 256:
            (length,) = struct.unpack_from("<H", body, place)
            place += 2
        _, values = struct.unpack_from("<2H", body, place)
        place += 4 + (-(-length // 8) * 8 if version == 1 else length)
        place += 4 * values + (4 if version == 1 and values % 2 else 0)
        known = {1: "deflate", 2: "shuffle"}
        if number not in known or known[number] in names:
            raise WeightsError(
                f"is written with filter {number}; gzip (1) and shuffle (2) are read"
            )
        names.append(known[number])
    if names == ["deflate", "shuffle"]:
        raise WeightsError("is written with gzip before shuffle; the other order is read")
    return tuple(names)
