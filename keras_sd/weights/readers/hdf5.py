"""HDF5 files as Keras writes them: `.h5`, `.weights.h5`. Read here, not by the HDF5 library.

The library is not made for the files of strangers (docs/design.md has the measurement): of a
thousand files with a few changed bytes, three kept it busy without an end, in C, where nothing can
stop it, and three made it write or read where it must not. What Keras uses of the format is small:
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

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
from keras_sd.weights.readers.hdf5_chunks import Chunk, ChunkedArray, filters_of
from keras_sd.weights.readers.hdf5_structure import NOWHERE, STEP, Message, Structure

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_MAX_DEPTH = 64
_MAX_PATH = 1000
_SLACK = 16 * 2**20
"""Bytes of numbers that any file may have, however small it is: zeros compress well."""

# Types of messages in the header of an object.
_SPACE, _LINKS, _TYPE, _LINK, _EXTERNAL, _LAYOUT = 0x1, 0x2, 0x3, 0x6, 0x7, 0x8
_FILTERS, _ATTRIBUTE, _TABLE, _ATTRIBUTES = 0xB, 0xC, 0x11, 0x15

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


class _File(Structure):
    """An HDF5 file: its groups and what their headers say, its datasets, both by path."""

    def __init__(self, path: Path) -> None:
        with open_file(path) as opened:
            start = opened.read(len(_SIGNATURE))
        if start != _SIGNATURE:
            raise WeightsError(f"begins with {start!r}, which is no HDF5 file")
        super().__init__(mapped(path))
        size = self.size
        self.path = path
        self.total = 0
        self.groups: dict[str, list[Message]] = {}
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

    def members(self, path: str, messages: list[Message]) -> Iterator[tuple[str, int]]:
        for message in messages:
            if message.kind == _TABLE:
                tree, heap = struct.unpack_from("<2Q", message.body)
                yield from self.old_members(path, tree, heap)
            elif message.kind == _LINK:
                yield self.link(path, message.body)
            elif message.kind == _LINKS:
                place = 10 if message.body[1] & 1 else 2
                heap, tree = struct.unpack_from("<2Q", message.body, place)
                if heap != NOWHERE:
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
                self.spend(STEP)
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

    # Datasets.

    def dataset(self, path: str, messages: list[Message]) -> np.ndarray:
        try:
            return self.array(path, messages)
        except WeightsError as error:
            raise WeightsError(f"has dataset {shown(path)}, which {error}") from None

    def array(self, path: str, messages: list[Message]) -> np.ndarray:
        parts: dict[int, Message] = {}
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
        if start == NOWHERE:
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
        if tree == NOWHERE:
            raise WeightsError("has no numbers: none were written")
        filters = () if pipeline is None else filters_of(pipeline)
        size = math.prod(sizes) * itemsize
        expected = math.prod(-(-n // c) for n, c in zip(shape, sizes, strict=True))
        self.total += expected * size
        chunks: dict[tuple[int, ...], Chunk] = {}
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
            chunks[place] = Chunk(place, start, start + stored, mask)
        if len(chunks) != expected:
            raise WeightsError(f"has {len(chunks)} of {expected} chunks")
        source = f"{self.path}: {path}"
        array = ChunkedArray(
            shape, dtype, source, self.data, tuple(sizes), tuple(chunks.values()), filters
        )
        return cast(np.ndarray, array)

    def dtype(self, body: bytes, messages: list[Message]) -> np.dtype:
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

    def read_texts(self, messages: list[Message]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        bodies = []
        for message in messages:
            if message.kind == _ATTRIBUTE and not message.shared:
                bodies.append(message.body)
            elif message.kind == _ATTRIBUTES:
                place = 4 if message.body[1] & 1 else 2
                heap, tree = struct.unpack_from("<2Q", message.body, place)
                if heap != NOWHERE:
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
        self.spend(STEP * count)
        items = [values[i * size : (i + 1) * size] for i in range(count)]
        if kind[0] & 15 == 9:
            items = [self.long_text(item) for item in items]
        return text, [item.split(b"\0")[0].decode() for item in items]


def _shape(body: bytes) -> tuple[int, ...]:
    version, rank, flags, kind = struct.unpack_from("<4B", body)
    if version not in (1, 2) or (version == 2 and kind == 2) or rank > 32 or flags > 3:
        raise WeightsError("has no shape")
    shape = struct.unpack_from(f"<{rank}Q", body, 8 if version == 1 else 4)
    # NumPy counts in 64 bits, also where one of the sizes is 0.
    if math.prod(max(n, 1) for n in shape) >= 2**50:
        raise WeightsError("has a shape that no file can hold")
    return shape


def _empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    empty = np.zeros(shape, dtype)
    empty.flags.writeable = False
    return empty
