"""HDF5 files as Keras writes them: `.h5`, `.weights.h5`. Read here, not by the HDF5 library.

The library is not made for the files of strangers: of 6,000 files with a few changed bytes, 22 kept
it busy without an end, in C, where nothing can stop it. What Keras uses of the format is small:
groups, datasets of numbers, attributes of texts. All that the file says of itself is read and
checked first, within a bound; a dataset is then a view of the file, mapped into memory, or, where
it is in chunks, an object that is read at each use.

What Keras does not write is refused by name: links that are not to an object in the file, data in
other files, datasets that are put together from others, texts, records, references.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

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

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_NOWHERE = 2**64 - 1
"""The address of what is not there."""

_MAX_STRUCTURE = 32 * 2**20
"""Bytes that are read of all but the numbers. A full SD UNet in layers of Keras takes 2 million."""

_STEP = 64
"""Bytes that any step counts as, at the least: what it takes is time."""

_MAX_DEPTH = 64
_MAX_PATH = 1000
_SLACK = 16 * 2**20
"""Bytes of numbers that any file may have, however small it is: zeros compress well."""

# Types of messages in the header of an object.
_SPACE, _LINKS, _TYPE, _LINK, _EXTERNAL, _LAYOUT = 0x1, 0x2, 0x3, 0x6, 0x7, 0x8
_FILTERS, _ATTRIBUTE, _CONTINUATION, _TABLE, _ATTRIBUTES = 0xB, 0xC, 0x10, 0x11, 0x15

_KINDS = {
    2: "times",
    3: "texts",
    4: "bit fields",
    5: "opaque bytes",
    6: "records",
    7: "references",
    8: "enumerations",
    9: "values of variable length",
    10: "arrays",
}

_FLOATS = {
    # bytes: where sign and exponent are, bits of the exponent, of the mantissa, bias
    (2, 15, 10, 5, 0, 10, 15): np.dtype("<f2"),
    (2, 15, 7, 8, 0, 7, 127): np.dtype(ml_dtypes.bfloat16),
    (4, 31, 23, 8, 0, 23, 127): np.dtype("<f4"),
    (8, 63, 52, 11, 0, 52, 1023): np.dtype("<f8"),
}

_METADATA = ("keras_version", "backend")


@dataclass(frozen=True, slots=True)
class _Message:
    """One thing that the header of an object says; `start` is where its body is in the file."""

    kind: int
    shared: bool
    start: int
    body: bytes


@dataclass(frozen=True, slots=True)
class _Chunk:
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
    _chunks: tuple[_Chunk, ...]
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

    def _sizes(self, chunk: _Chunk) -> list[int]:
        return [size - at for size, at in zip(self.shape, chunk.corner, strict=True)]

    def _read(self, chunk: _Chunk) -> np.ndarray:
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


def read(path: str | os.PathLike[str]) -> TensorFile:
    """Opens an HDF5 file.

    Args:
        path: of the file. It must not be written to while the arrays are in use.

    Returns:
        Its datasets by path, without a slash before. Read-only arrays, mapped into memory; those in
        chunks are a `ChunkedArray`. The metadata are `keras_version` and `backend`, if they are
        there.

    Raises:
        WeightsError: the file is damaged, has what Keras does not write, or has no datasets.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    with _naming(path):
        file = _File(path)
        said = file.texts("")
    metadata = {name: said[name][0] for name in _METADATA if len(said.get(name, [])) == 1}
    return TensorFile(path, "hdf5", file.tensors, metadata)


def keras2_order(path: str | os.PathLike[str]) -> list[str]:
    """The datasets of an `.h5` file of Keras 2 in the order of the layers of the model.

    Such a file names its layers and the weights of each in attributes. A model is loaded from it by
    that order.

    Args:
        path: of the file, of weights or of a whole model.

    Returns:
        Names of tensors of `read(path)`.

    Raises:
        WeightsError: the file is damaged, or does not say an order, or says one of what it has not.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    with _naming(path):
        return _keras2_order(_File(path))


def _keras2_order(file: _File) -> list[str]:
    prefix = ""
    if _names(file, "", "layer_names") is None and "model_weights" in file.groups:
        prefix = "model_weights/"
    layers = _names(file, prefix.rstrip("/"), "layer_names")
    if layers is None:
        raise WeightsError("does not say the order of its layers: it has no attribute layer_names")
    # Weights of the model itself, which belong to no layer, come last.
    top = f"{prefix}top_level_model_weights"
    order: dict[str, None] = {}
    for group in [prefix + layer for layer in layers] + [top] * (top in file.groups):
        weights = _names(file, group, "weight_names") if group in file.groups else None
        if weights is None:
            raise WeightsError(f"has no group {shown(group)} with an attribute weight_names")
        for weight in weights:
            name = f"{group}/{weight}"
            if name not in file.tensors:
                raise WeightsError(f"has no {shown(name)}, which its attributes name")
            if name in order:
                raise WeightsError(f"names {shown(name)} twice in its attributes")
            order[name] = None
    return list(order)


def _names(file: _File, group: str, attribute: str) -> list[str] | None:
    """A list of names that is an attribute, or several where it was too long for one."""
    said = file.texts(group)
    if attribute in said:
        return said[attribute]
    if f"{attribute}0" not in said:
        return None
    names: list[str] = []
    index = 0
    while (part := said.get(f"{attribute}{index}")) is not None:
        names += part
        index += 1
    return names


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Says of which file an error is, and in words, where the file ends within something."""
    try:
        yield
    except (struct.error, IndexError):
        raise WeightsError(f"{path} is damaged: what it says of itself ends too early") from None
    except UnicodeDecodeError:
        raise WeightsError(f"{path} is damaged: a name in it is no text") from None
    except WeightsError as error:
        raise WeightsError(f"{path} {error}") from None


class _File:
    """An HDF5 file: its groups and what their headers say, its datasets, both by path."""

    def __init__(self, path: Path) -> None:
        with open_file(path) as opened:
            start = opened.read(len(_SIGNATURE))
        if start != _SIGNATURE:
            raise WeightsError(f"begins with {start!r}, which is no HDF5 file")
        self.path = path
        self.data = mapped(path)
        self.size = size = len(self.data)
        self.left = _MAX_STRUCTURE
        self.seen: set[int] = set()
        self.total = 0
        self.heaps: dict[int, dict[int, tuple[int, int]]] = {}
        self.groups: dict[str, list[_Message]] = {}
        self.attributes: dict[str, dict[str, list[str]]] = {}
        self.tensors: dict[str, np.ndarray] = {}
        self.walk("", self.root(), 0)
        if not self.tensors:
            raise WeightsError("has no datasets")
        if self.total > 4 * size + _SLACK:
            raise WeightsError(
                f"would have {self.total} bytes of numbers in {size} bytes of file: either they "
                "are compressed far more than weights can be, or used again and again"
            )

    # Bytes of the file, within bounds.

    def spend(self, count: int) -> None:
        self.left -= max(count, _STEP)
        if self.left < 0:
            raise WeightsError(f"says more than {_MAX_STRUCTURE} bytes of itself")

    def at(self, address: int, count: int) -> bytes:
        if address + count > self.size:
            raise WeightsError(
                f"is damaged: it has {self.size} bytes and refers to byte {address + count}"
            )
        self.spend(count)
        return bytes(self.data[address : address + count])

    def once(self, address: int, what: str) -> None:
        """Nothing is to be found twice: it would be a loop, or a way to make much of little."""
        if address in self.seen:
            raise WeightsError(f"is damaged: the {what} at byte {address} is in two places")
        self.seen.add(address)

    def signed(self, address: int, count: int, signature: bytes, version: int) -> bytes:
        found = self.at(address, count)
        if not found.startswith(signature) or found[4] != version:
            raise WeightsError(
                f"is damaged: there is no {signature.decode()} of version {version} at {address}"
            )
        return found

    # Groups.

    def root(self) -> int:
        version = self.at(8, 1)[0]
        if version in (0, 1):
            sizes = self.at(13, 2)
            place = 24 if version == 0 else 28
            base, _, end, _ = struct.unpack("<4Q", self.at(place, 32))
            (root,) = struct.unpack("<Q", self.at(place + 40, 8))
        elif version in (2, 3):
            sizes = self.at(9, 2)
            base, _, end, root = struct.unpack("<4Q", self.at(12, 32))
        else:
            raise WeightsError(f"is an HDF5 file of version {version}; 0 to 3 are read")
        if sizes != b"\x08\x08" or base != 0:
            raise WeightsError("is an HDF5 file with addresses that are not 8 bytes from its start")
        if end > self.size:
            raise WeightsError(f"has {self.size} bytes of {end}: it is cut off")
        return cast(int, root)

    def walk(self, path: str, address: int, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise WeightsError(f"has groups in groups, {_MAX_DEPTH} deep")
        if len(self.groups) + len(self.tensors) > 4 * MAX_TENSORS:  # a few groups to a dataset
            raise WeightsError(f"has more than {4 * MAX_TENSORS:,} groups and datasets")
        messages = self.header(address)
        kinds = {message.kind for message in messages}
        if _LAYOUT in kinds and path:
            self.tensors[path] = self.dataset(path, messages)
        elif kinds & {_TABLE, _LINKS}:
            self.once(address, "group")
            self.groups[path] = messages
            for name, child in self.members(path, messages):
                if not name or "/" in name:
                    raise WeightsError(f"has an object with the name {shown(name)}")
                inner = f"{path}/{name}" if path else name
                if len(inner) > _MAX_PATH:
                    raise WeightsError(f"has a name of more than {_MAX_PATH} letters")
                if inner in self.groups or inner in self.tensors:
                    raise WeightsError(f"has two objects with the name {shown(inner)}")
                self.walk(inner, child, depth + 1)
        else:
            raise WeightsError(f"has {shown(path)}, which is neither a group nor a dataset")

    def members(self, path: str, messages: list[_Message]) -> Iterator[tuple[str, int]]:
        for message in messages:
            if message.kind == _TABLE:
                tree, heap = struct.unpack_from("<2Q", message.body)
                yield from self.old_members(path, tree, heap)
            elif message.kind == _LINK:
                yield self.link(path, message.body)
            elif message.kind == _LINKS:
                place = 10 if message.body[1] & 1 else 2
                heap, tree = struct.unpack_from("<2Q", message.body, place)
                if heap != _NOWHERE:
                    for record in self.records(tree, 5):
                        yield self.link(path, self.heap_object(heap, record[4:]))

    def old_members(self, path: str, tree: int, heap: int) -> Iterator[tuple[str, int]]:
        head = self.signed(heap, 32, b"HEAP", 0)
        size, _, start = struct.unpack_from("<3Q", head, 8)
        names = self.at(start, size)
        for node, _ in self.tree(tree, 0, 8):
            self.once(node, "table")
            count = struct.unpack_from("<H", self.signed(node, 8, b"SNOD", 1), 6)[0]
            entries = self.at(node + 8, 40 * count)
            for index in range(count):
                self.spend(_STEP)
                name, child, cached = struct.unpack_from("<2QL", entries, 40 * index)
                if cached == 2:
                    raise WeightsError(f"has a symbolic link in {shown(path)}; Keras writes none")
                end = names.find(b"\0", name, name + _MAX_PATH)
                if end < 0:
                    raise WeightsError(f"is damaged: a name in {shown(path)} has no end")
                yield names[name:end].decode(), child

    def link(self, path: str, body: bytes) -> tuple[str, int]:
        version, flags = struct.unpack_from("<2B", body)
        place = 2
        if version != 1:
            raise WeightsError(f"has a link of version {version}")
        if flags & 8:
            if body[place] != 0:
                kind = {1: "a symbolic", 64: "an external"}.get(body[place], "another")
                raise WeightsError(f"has {kind} link in {shown(path)}; Keras writes none")
            place += 1
        place += 8 * (flags >> 2 & 1) + (flags >> 4 & 1)
        width = 1 << (flags & 3)
        size = int.from_bytes(body[place : place + width], "little")
        place += width
        (child,) = struct.unpack_from("<Q", body, place + size)
        return body[place : place + size].decode(), child

    # Headers of objects.

    def header(self, address: int) -> list[_Message]:
        start = self.at(address, 6)
        if start[:4] == b"OHDR":
            return self.new_header(address, start)
        if start[0] != 1:
            raise WeightsError(f"is damaged: there is no object at byte {address}")
        (size,) = struct.unpack("<L", self.at(address + 8, 4))
        return self.messages([(address + 16, size)], "<HHB3x", b"")

    def new_header(self, address: int, start: bytes) -> list[_Message]:
        version, flags = start[4:]
        if version != 2:
            raise WeightsError(f"has an object of version {version}")
        place = address + 6 + 16 * (flags >> 5 & 1) + 4 * (flags >> 4 & 1)
        width = 1 << (flags & 3)
        size = int.from_bytes(self.at(place, width), "little")
        layout = "<BHB2x" if flags & 4 else "<BHB"
        return self.messages([(place + width, size)], layout, b"OCHK")

    def messages(
        self, blocks: list[tuple[int, int]], layout: str, signature: bytes
    ) -> list[_Message]:
        """What the header of an object says, in the blocks that it is in."""
        found = []
        head = struct.calcsize(layout)
        first = True
        while blocks:
            start, size = blocks.pop()
            block = self.at(start, size)
            place, end = 0, size
            if signature and not first:  # these have a signature before and a checksum after
                place, end = 4, size - 4
                if not block.startswith(signature):
                    raise WeightsError(f"is damaged: an object does not go on at byte {start}")
            first = False
            while place + head <= end:
                kind, length, flags = struct.unpack_from(layout, block, place)
                place += head
                body = block[place : place + length]
                if place + length > end:
                    raise WeightsError(f"is damaged: an object ends before byte {start + place}")
                self.spend(_STEP)
                if kind == _CONTINUATION:
                    following = struct.unpack_from("<2Q", body)
                    self.once(following[0], "part of an object")
                    blocks.append(following)
                elif kind:
                    found.append(_Message(kind, bool(flags & 2), start + place, body))
                place += length
        return found

    # Datasets.

    def dataset(self, path: str, messages: list[_Message]) -> np.ndarray:
        try:
            return self.array(path, messages)
        except WeightsError as error:
            raise WeightsError(f"has dataset {shown(path)}, which {error}") from None

    def array(self, path: str, messages: list[_Message]) -> np.ndarray:
        parts: dict[int, _Message] = {}
        for message in messages:
            if message.kind in (_SPACE, _TYPE, _LAYOUT, _FILTERS):
                if message.kind in parts or message.shared:
                    raise WeightsError("shares what it is with other objects")
                parts[message.kind] = message
            elif message.kind == _EXTERNAL:
                raise WeightsError("has its numbers in other files")
        if not parts.keys() >= {_SPACE, _TYPE, _LAYOUT}:
            raise WeightsError("does not say its shape and type")
        shape = _shape(parts[_SPACE].body)
        dtype = self.dtype(parts[_TYPE].body, messages)
        size = math.prod(shape) * dtype.itemsize
        layout = parts[_LAYOUT]
        version, kind = struct.unpack_from("<2B", layout.body)
        if version not in (3, 4):
            raise WeightsError(f"has a layout of version {version}")
        if kind == 2:
            filters = parts[_FILTERS].body if _FILTERS in parts else None
            return self.chunked(path, shape, dtype, layout.body, filters)
        if kind not in (0, 1):
            raise WeightsError("is put together from other datasets")
        if _FILTERS in parts:
            raise WeightsError("has filters, but no chunks")
        if kind == 0:
            (length,) = struct.unpack_from("<H", layout.body, 2)
            start = layout.start + 4
        else:
            start, length = struct.unpack_from("<2Q", layout.body, 2)
        return self.plain(shape, dtype, size, start, length)

    def plain(
        self, shape: tuple[int, ...], dtype: np.dtype, size: int, start: int, length: int
    ) -> np.ndarray:
        if size == 0:
            return _empty(shape, dtype)
        if start == _NOWHERE:
            raise WeightsError("has no numbers: none were written")
        if length != size or start + size > self.size:
            raise WeightsError(
                f"takes {size} bytes from byte {start}; {length} are set aside, and the file has "
                f"{self.size}"
            )
        self.total += size
        return np.ndarray(shape, dtype, buffer=self.data, offset=start)

    def chunked(
        self,
        path: str,
        shape: tuple[int, ...],
        dtype: np.dtype,
        layout: bytes,
        pipeline: bytes | None,
    ) -> np.ndarray:
        if layout[0] != 3:
            raise WeightsError(
                "has its chunks in a form of libver='latest'; written without that, it is read"
            )
        rank = layout[2] - 1
        if rank != len(shape) or not rank:
            raise WeightsError("has chunks that do not fit its shape")
        (tree,) = struct.unpack_from("<Q", layout, 3)
        *sizes, itemsize = struct.unpack_from(f"<{rank + 1}L", layout, 11)
        if itemsize != dtype.itemsize or 0 in sizes:
            raise WeightsError("has chunks that do not fit its shape")
        if 0 in shape:
            return _empty(shape, dtype)
        if tree == _NOWHERE:
            raise WeightsError("has no numbers: none were written")
        filters = () if pipeline is None else _filters(pipeline)
        size = math.prod(sizes) * itemsize
        expected = math.prod(-(-n // c) for n, c in zip(shape, sizes, strict=True))
        self.total += expected * size
        chunks: dict[tuple[int, ...], _Chunk] = {}
        for start, key in self.tree(tree, 1, 8 + 8 * (rank + 1)):
            stored, mask, *corner = struct.unpack(f"<2L{rank + 1}Q", key)
            corner.pop()  # within an element
            place = tuple(corner)
            if any(at >= n or at % c for at, n, c in zip(place, shape, sizes, strict=True)):
                raise WeightsError(f"has a chunk at {place}, where there is none")
            if place in chunks:
                raise WeightsError(f"has two chunks at {place}")
            if start + stored > self.size:
                raise WeightsError(f"has a chunk at {place} that is not in the file")
            inflates = "deflate" in filters and not mask >> filters.index("deflate") & 1
            if not inflates and stored != size:
                raise WeightsError(f"has a chunk of {stored} bytes at {place}, not {size}")
            chunks[place] = _Chunk(place, start, start + stored, mask)
        if len(chunks) != expected:
            raise WeightsError(f"has {len(chunks)} of {expected} chunks")
        source = f"{self.path}: {path}"
        array = ChunkedArray(
            shape, dtype, source, self.data, tuple(sizes), tuple(chunks.values()), filters
        )
        return cast(np.ndarray, array)

    def dtype(self, body: bytes, messages: list[_Message]) -> np.dtype:
        kind = body[0] & 15
        order, sign = body[1], body[2]
        (size,) = struct.unpack_from("<L", body, 4)
        if kind == 5 and size == 2 and self.read_texts(messages).get("dtype") == ["bfloat16"]:
            return np.dtype(ml_dtypes.bfloat16)  # as Keras writes it
        if kind == 8 and size == 1:
            return np.dtype("i1")  # as h5py writes booleans
        if kind not in (0, 1):
            raise WeightsError(f"holds {_KINDS.get(kind, 'values of an unknown type')}, no numbers")
        if order & 0x41:
            raise WeightsError("holds big-endian numbers; only little-endian ones are read")
        if kind == 0:
            offset, precision = struct.unpack_from("<2H", body, 8)
            if size not in (1, 2, 4, 8) or (offset, precision) != (0, 8 * size):
                raise WeightsError(f"holds whole numbers of {precision} bits")
            return np.dtype(f"<{'i' if order & 8 else 'u'}{size}")
        offset, precision, *parts, bias = struct.unpack_from("<2H4BL", body, 8)
        dtype = _FLOATS.get((size, sign, *parts, bias))
        if dtype is None or (offset, precision) != (0, 8 * size):
            raise WeightsError(f"holds floating-point numbers of {precision} bits of another kind")
        return dtype

    # Attributes.

    def texts(self, group: str) -> dict[str, list[str]]:
        """The attributes of a group that are a text or texts, or that have no elements."""
        if group not in self.attributes:
            self.attributes[group] = self.read_texts(self.groups[group])
        return self.attributes[group]

    def read_texts(self, messages: list[_Message]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        bodies = []
        for message in messages:
            if message.kind == _ATTRIBUTE and not message.shared:
                bodies.append(message.body)
            elif message.kind == _ATTRIBUTES:
                place = 4 if message.body[1] & 1 else 2
                heap, tree = struct.unpack_from("<2Q", message.body, place)
                if heap != _NOWHERE:
                    bodies += [self.heap_object(heap, r[:8]) for r in self.records(tree, 8)]
        for body in bodies:
            name, value = self.attribute(body)
            if value is not None:
                found[name] = value
        return found

    def attribute(self, body: bytes) -> tuple[str, list[str] | None]:
        version, flags, *lengths = struct.unpack_from("<2B3H", body)
        if version not in (1, 2, 3):
            raise WeightsError(f"has an attribute of version {version}")
        place = 9 if version == 3 else 8
        parts = []
        for length in lengths:
            parts.append(body[place : place + length])
            place += -(-length // 8) * 8 if version == 1 else length
        name, kind, space = parts
        text = name.split(b"\0")[0].decode()
        if version > 1 and flags & 3:  # the type is that of another object
            return text, None
        try:
            shape = _shape(space)
        except WeightsError:
            return text, None
        count = math.prod(shape)
        (size,) = struct.unpack_from("<L", kind, 4)
        if count == 0:
            return text, []
        values = body[place:]
        if kind[0] & 15 not in (3, 9) or (kind[0] & 15 == 9 and kind[1] & 15 != 1):
            return text, None
        if size == 0 or count > len(values) // size:
            raise WeightsError(f"is damaged: attribute {shown(text)} is not whole")
        self.spend(_STEP * count)
        items = [values[i * size : (i + 1) * size] for i in range(count)]
        if kind[0] & 15 == 9:
            items = [self.long_text(item) for item in items]
        return text, [item.split(b"\0")[0].decode() for item in items]

    def long_text(self, reference: bytes) -> bytes:
        """A text that is not in the attribute, but in a collection of such."""
        length, address, index = struct.unpack("<LQL", reference)
        if length == 0:
            return b""
        if address not in self.heaps:
            head = self.signed(address, 16, b"GCOL", 1)
            end = address + struct.unpack_from("<Q", head, 8)[0]
            place = address + 16
            objects: dict[int, tuple[int, int]] = {}
            while place + 16 <= end:
                number, size = struct.unpack("<H6xQ", self.at(place, 16))
                if number == 0:
                    break
                objects[number] = (place + 16, size)
                place += 16 + -(-size // 8) * 8
            self.heaps[address] = objects
        start, size = self.heaps[address].get(index, (0, 0))
        if length > size:
            raise WeightsError("is damaged: a text of an attribute is not there")
        return self.at(start, length)

    # Trees and heaps.

    def tree(self, address: int, kind: int, key_size: int) -> Iterator[tuple[int, bytes]]:
        """What a tree (version 1) leads to: addresses, and the key before each."""
        stack: list[tuple[int, int | None]] = [(address, None)]
        while stack:
            node, expected = stack.pop()
            self.once(node, "tree")
            head = self.at(node, 24)
            found, level, count = struct.unpack_from("<2BH", head, 4)
            if head[:4] != b"TREE" or found != kind or expected not in (None, level):
                raise WeightsError(f"is damaged: there is no part of a tree at byte {node}")
            entries = self.at(node + 24, count * (key_size + 8))
            children = []
            for index in range(count):
                self.spend(_STEP)
                place = index * (key_size + 8)
                (child,) = struct.unpack_from("<Q", entries, place + key_size)
                children.append((child, entries[place : place + key_size]))
            if level == 0:
                yield from children
            else:
                stack += [(child, level - 1) for child, _ in reversed(children)]

    def records(self, address: int, kind: int) -> Iterator[bytes]:
        """The records of a tree of the later form (version 2)."""
        head = self.signed(address, 34, b"BTHD", 0)
        found, node_size, size, depth, root, count = struct.unpack_from("<BLHH2xQH", head, 5)
        if found != kind or depth > 8 or size < 11 or not size <= node_size <= 2**20:
            raise WeightsError(f"is damaged: there is no tree of links at byte {address}")
        # Numbers of records are as many bytes long as the largest needs.
        most = (node_size - 10) // size
        width = _width(most)
        totals = [0]
        for _ in range(depth):
            inner = (node_size - 10 - 8 - width - totals[-1]) // (size + 8 + width + totals[-1])
            most = (inner + 1) * most + inner
            totals.append(_width(most))
        stack = [(root, count, depth)]
        while stack:
            node, count, level = stack.pop()
            if root == _NOWHERE or (not count and level == 0):
                continue
            self.once(node, "tree")
            body = self.signed(node, 6 + count * size, b"BTIN" if level else b"BTLF", 0)
            for index in range(count):
                self.spend(_STEP)
                yield body[6 + index * size : 6 + (index + 1) * size]
            if level:
                step = 8 + width + totals[level - 1]
                pointers = self.at(node + 6 + count * size, (count + 1) * step)
                for place in range(0, len(pointers), step):
                    (child,) = struct.unpack_from("<Q", pointers, place)
                    inside = int.from_bytes(pointers[place + 8 : place + 8 + width], "little")
                    stack.append((child, inside, level - 1))

    def heap_object(self, address: int, identity: bytes) -> bytes:
        """An object of a heap of the later form, where links and attributes are kept."""
        head = self.signed(address, 142, b"FRHP", 0)
        filters, _, largest = struct.unpack_from("<HBL", head, 7)
        width, start, most, bits, _, block, rows = struct.unpack_from("<H2Q2HQH", head, 110)
        if filters or not 0 < bits <= 64 or not width or not 0 < start <= most:
            raise WeightsError("has names or attributes that are compressed or damaged")
        if start & (start - 1) or most & (most - 1) or width & (width - 1) or most >= 2**40:
            raise WeightsError(f"is damaged: the heap at byte {address} is none")
        if identity[0] & 0xF0:
            raise WeightsError("has a name or an attribute that is too long to be read")
        split = 1 + (bits + 7) // 8
        offset = int.from_bytes(identity[1:split], "little")
        length_end = split + min(_width(most), _width(largest))
        length = int.from_bytes(identity[split:length_end], "little")
        size = start
        if rows:
            block, offset, size = self.heap_block(block, rows, offset, width, start, most, bits)
        if offset + length > size:
            raise WeightsError(f"is damaged: an object of the heap at byte {address} is not in it")
        return self.at(block + offset, length)

    def heap_block(
        self, block: int, rows: int, offset: int, width: int, start: int, most: int, bits: int
    ) -> tuple[int, int, int]:
        """The block with an offset of a heap, the offset in it, and its size.

        A block of blocks has rows of `width`: two rows of the smallest size, then each row twice as
        large as the one before. Those larger than `most` are blocks of blocks again.
        """
        for _ in range(bits):
            head = 13 + (bits + 7) // 8
            self.signed(block, head, b"FHIB", 0)
            row, size, before = 0, start, 0
            while offset >= before + width * size:
                before += width * size
                size *= 2 if row else 1
                row += 1
            if row >= rows:
                raise WeightsError("is damaged: a heap ends before an object that is in it")
            column, offset = divmod(offset - before, size)
            (block,) = struct.unpack("<Q", self.at(block + head + 8 * (row * width + column), 8))
            if size <= most:
                return block, offset, size
            rows = (size // (start * width)).bit_length()
        raise WeightsError("is damaged: a heap has no end")


def _shape(body: bytes) -> tuple[int, ...]:
    version, rank, flags, kind = struct.unpack_from("<4B", body)
    if version not in (1, 2) or (version == 2 and kind == 2) or rank > 32 or flags > 3:
        raise WeightsError("has no shape")
    shape = struct.unpack_from(f"<{rank}Q", body, 8 if version == 1 else 4)
    # NumPy counts in 64 bits, also where one of the sizes is 0.
    if math.prod(max(n, 1) for n in shape) >= 2**50:
        raise WeightsError("has a shape that no file can hold")
    return shape


def _filters(body: bytes) -> tuple[str, ...]:
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


def _width(number: int) -> int:
    """Bytes that HDF5 takes for numbers up to this one."""
    return max(number.bit_length() - 1, 0) // 8 + 1


def _empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    empty = np.zeros(shape, dtype)
    empty.flags.writeable = False
    return empty
