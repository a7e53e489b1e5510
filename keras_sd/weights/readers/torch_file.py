"""Files of `torch.save`: `.ckpt`, `.pt`, `.pth`, `.bin`. No torch, and nothing in them is executed.

There are two forms. The one since torch 1.6 is a zip archive: a pickle, and beside it the bytes of
each storage, not compressed. The one before is a row of pickles with the storages after them. The
pickle is carried out by a machine that can make data and tensors only (see `pickles`); the tensors
are views of the storages, which are mapped into memory and read when they are used.

Which tensors those are: if the object in the file is a dictionary that has a dictionary as its
`"state_dict"`, the tensors that have a name there; otherwise the tensors that have a name in the
object itself. All else in it (numbers, texts, the state of an optimizer) is left out.

An embedding of textual inversion has its tensors in `"string_to_param"`, a dictionary or, from
torch 1, a module: they are named `string_to_param.` and their names there. What the file says of
itself beside them is in the metadata. An IP-Adapter has its tensors in two dictionaries: they are
named `image_proj.` or `ip_adapter.` and their names there.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from keras_sd.weights.readers import TensorFile, WeightsError, mapped, open_file
from keras_sd.weights.readers.pickles import (
    INERT,
    MAX_BYTES,
    Dict,
    Name,
    State,
    load,
    shown,
)
from keras_sd.weights.readers.zip_archive import entries_of

_LEGACY = bytes.fromhex("80028a0a6cfc9c46f920") + b"j\xa8P\x19."
"""The pickle of one number that the older form begins with."""

_LEGACY_PROTOCOL = 1001

_DTYPES = {
    name: np.dtype(dtype)
    for name, dtype in {
        "float64": "<f8",
        "float32": "<f4",
        "float16": "<f2",
        "bfloat16": ml_dtypes.bfloat16,
        "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
        "float8_e5m2": ml_dtypes.float8_e5m2,
        "complex64": "<c8",
        "complex128": "<c16",
        "int64": "<i8",
        "int32": "<i4",
        "int16": "<i2",
        "int8": "i1",
        "uint64": "<u8",
        "uint32": "<u4",
        "uint16": "<u2",
        "uint8": "u1",
        "bool": "?",
    }.items()
}

_STORAGES = {
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.ComplexFloatStorage": "complex64",
    "torch.ComplexDoubleStorage": "complex128",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
    "torch.UntypedStorage": "uint8",
    "torch.storage.UntypedStorage": "uint8",
}

_EMBEDDED = "string_to_param"
_IP_ADAPTER = ("image_proj", "ip_adapter")
_SAID = ("name", "step", "sd_checkpoint", "sd_checkpoint_name")
"""What a file of an embedding says of itself, where it does."""


@dataclass(frozen=True, slots=True)
class _Storage:
    """A storage, or a part of one, as the pickle tells of it.

    Attributes:
        key: of the storage in the file.
        dtype: of the elements.
        offset: of the first element of the part.
        size: elements.
    """

    key: str
    dtype: np.dtype
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A tensor as the pickle tells of it; `offset` and `strides` are in elements."""

    storage: _Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read(path: str | os.PathLike[str]) -> TensorFile:
    """Opens a file that `torch.save` has written.

    Args:
        path: of the file. It must not be written to while the arrays are in use.

    Returns:
        The tensors by name, see above which, as read-only arrays that are mapped into memory. They
        may be strided, and two that share a storage overlap.

    Raises:
        WeightsError: the file is damaged, asks for something that is no part of a tensor file, has
            tensors of a kind that we do not read, or has none.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    with open_file(path) as file:
        start = file.read(len(_LEGACY))
    try:
        if start.startswith(b"PK"):
            data = mapped(path)
            value, places = _read_zip(data)
        elif start == _LEGACY:
            data = mapped(path)
            value, places = _read_legacy(data)
        elif start.startswith(b"\x80"):
            raise WeightsError("is a pickle, but none that torch.save has written")
        else:
            raise WeightsError(f"begins with {start[:8]!r}, which is no file of torch.save")
        tensors = {name: _array(data, places, name, t) for name, t in _named(value).items()}
        total = sum(array.nbytes for array in tensors.values())
        if total > 4 * len(data):
            raise WeightsError(
                f"would have {total} bytes of tensors in {len(data)} bytes of file, by using the "
                "same ones again and again"
            )
    except WeightsError as error:
        raise WeightsError(f"{path} {error}") from None
    return TensorFile(path, "torch", tensors, _said(value))


def _named(value: Any) -> dict[str, _Tensor]:
    """The tensors that have a name, as the head of this module says."""
    if not isinstance(value, Dict):
        raise WeightsError(f"holds {shown(value)}, not a dictionary of tensors")
    nested = value.named.get("state_dict")
    state = nested if isinstance(nested, Dict) else value
    prefix = ""
    if _EMBEDDED in state.named:
        prefix, state = f"{_EMBEDDED}.", _embedded(state.named[_EMBEDDED])
    if any(isinstance(item, _Tensor) for item in state.unnamed):
        raise WeightsError("holds a tensor whose name is no text")
    tensors = {
        prefix + name: item for name, item in state.named.items() if isinstance(item, _Tensor)
    }
    for part in _IP_ADAPTER:
        if isinstance(inner := state.named.get(part), Dict):
            named = ((f"{part}.{name}", item) for name, item in inner.named.items())
            tensors |= {name: item for name, item in named if isinstance(item, _Tensor)}
    if not tensors:
        found = ", ".join(shown(name) for name in list(state.named)[:10])
        raise WeightsError(f"holds no tensors by name; there is: {found or 'nothing'}")
    return tensors


def _embedded(params: Any) -> Dict:
    """The embeddings of a file, by the words that they were trained for."""
    if isinstance(params, State):
        params = params.named.get("_parameters")
    if not isinstance(params, Dict):
        raise WeightsError(f"has {shown(params)} as its {_EMBEDDED}, not a dictionary of tensors")
    return params


def _said(value: Dict) -> dict[str, str]:
    """What the file of an embedding says of itself."""
    if _EMBEDDED not in value.named:
        return {}
    found = {name: value.named.get(name) for name in _SAID}
    return {name: str(v) for name, v in found.items() if type(v) is str or _is_size(v)}


def _array(
    data: np.ndarray, places: dict[str, tuple[int, int]], name: str, tensor: _Tensor
) -> np.ndarray:
    """The view of the file that a tensor is; `places` are where storages begin and end."""
    storage, itemsize = tensor.storage, tensor.dtype.itemsize
    start, stop = places[storage.key]
    first = start + storage.offset * storage.dtype.itemsize
    size = storage.size * storage.dtype.itemsize
    if first + size > stop:
        raise WeightsError(
            f"has tensor {shown(name)} in a storage of {first - start + size} bytes, of which "
            f"{stop - start} are there"
        )
    count = math.prod(tensor.shape)
    # Each size alone as well: NumPy counts in 64 bits, also where another size is 0.
    if math.prod(max(n, 1) for n in tensor.shape) >= 2**50:
        raise WeightsError(f"has tensor {shown(name)} with sizes that no file can hold")
    if count * itemsize > size:
        raise WeightsError(
            f"has tensor {shown(name)} with {count} elements in a storage of {size} bytes"
        )
    if count == 0:
        empty = np.zeros(tensor.shape, tensor.dtype)
        empty.flags.writeable = False
        return empty
    # A stride along a size of 1 is never used, and may be anything.
    strides = [s if n > 1 else 0 for n, s in zip(tensor.shape, tensor.strides, strict=True)]
    last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, strides, strict=True))
    if (last + 1) * itemsize > size:
        raise WeightsError(
            f"has tensor {shown(name)} up to element {last} of a storage of {size} bytes"
        )
    return np.ndarray(
        tensor.shape,
        tensor.dtype,
        buffer=data,
        offset=first + tensor.offset * itemsize,
        strides=[s * itemsize for s in strides],
    )


# What the pickle is made of.


def _persistent(pid: Any) -> _Storage:
    if not (
        isinstance(pid, tuple)
        and len(pid) in (5, 6)
        and pid[0] == "storage"
        and isinstance(pid[1], Name)
        and type(pid[2]) is str
        and _is_size(pid[4])
    ):
        raise WeightsError("has a pickle with a reference that is no storage")
    _, kind, key, _, size, *view = pid
    if kind.full not in _STORAGES:
        raise WeightsError(f"has a storage of type {kind.full}")
    if view and view[0] is not None:
        view = view[0]
        if not (isinstance(view, tuple) and len(view) == 3 and all(map(_is_size, view[1:]))):
            raise WeightsError(f"has a view of storage {shown(key)} that is no offset and size")
        if view[1] + view[2] > size:
            raise WeightsError(f"has a view of storage {shown(key)} that goes past its end")
        return _Storage(key, kind.value, view[1], view[2])
    return _Storage(key, kind.value, 0, size)


def _tensor(arguments: tuple[Any, ...]) -> _Tensor:
    if len(arguments) < 4:
        raise WeightsError(f"has a tensor of {len(arguments)} arguments")
    storage, offset, shape, strides = arguments[:4]
    if not isinstance(storage, _Storage):
        raise WeightsError(f"has a tensor of {shown(storage)}, not of a storage")
    if not (_is_size(offset) and _is_sizes(shape) and _is_sizes(strides)):
        raise WeightsError("has a tensor whose offset, sizes and strides are no whole numbers")
    if len(shape) != len(strides):
        raise WeightsError(f"has a tensor with {len(shape)} sizes and {len(strides)} strides")
    # Bits that change what the numbers mean: conjugated, negated.
    metadata = arguments[-1] if len(arguments) > 6 else None
    if isinstance(metadata, Dict) and metadata.named:
        raise WeightsError(f"has a tensor with {', '.join(map(shown, metadata.named))} set")
    return _Tensor(storage, storage.dtype, offset, shape, strides)


def _tensor_of_dtype(arguments: tuple[Any, ...]) -> _Tensor:
    tensor = _tensor(arguments)
    dtype = arguments[6] if len(arguments) > 6 else None
    if not isinstance(dtype, Name) or not isinstance(dtype.value, np.dtype):
        raise WeightsError(f"has a tensor whose dtype is {shown(dtype)}")
    return _Tensor(tensor.storage, dtype.value, tensor.offset, tensor.shape, tensor.strides)


def _parameter(arguments: tuple[Any, ...]) -> _Tensor:
    if not arguments or not isinstance(arguments[0], _Tensor):
        raise WeightsError("has a parameter that is no tensor")
    return arguments[0]


def _tensor_of_type(arguments: tuple[Any, ...]) -> _Tensor:
    if len(arguments) != 4:
        raise WeightsError(f"has a tensor with a type of {len(arguments)} arguments")
    function, kind, inner, _ = arguments
    if not isinstance(function, Name) or function.full not in _REBUILD:
        raise WeightsError(f"has a tensor that is made by {shown(function)}; nothing was executed")
    if not isinstance(kind, Name) or kind.full not in _TENSORS or not isinstance(inner, tuple):
        raise WeightsError(f"has a tensor of type {shown(kind)}")
    return _REBUILD[function.full](inner)


def _ordered_dict(arguments: tuple[Any, ...]) -> Dict:
    # Filled by instructions of its own, each of which counts.
    if arguments:
        raise WeightsError("has a collections.OrderedDict that is not made empty")
    return Dict()


def _size(arguments: tuple[Any, ...]) -> tuple[int, ...]:
    if len(arguments) != 1 or not isinstance(arguments[0], tuple):
        raise WeightsError("has a torch.Size that is not made of a tuple")
    return arguments[0]


def _refusal(what: str) -> Callable[[tuple[Any, ...]], Any]:
    def refuse(_: tuple[Any, ...]) -> Any:
        raise WeightsError(f"holds {what}, which is not read")

    return refuse


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**60


def _is_sizes(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) <= 32 and all(map(_is_size, value))


_REBUILD: dict[str, Callable[[tuple[Any, ...]], _Tensor]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
}

_CALLED: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    **_REBUILD,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _tensor_of_type,
    "collections.OrderedDict": _ordered_dict,
    "torch.Size": _size,
    # What training leaves beside the weights: numbers of NumPy, devices, sets.
    **dict.fromkeys(
        (
            "torch.device",
            "numpy.dtype",
            "numpy.core.multiarray.scalar",
            "numpy._core.multiarray.scalar",
            "numpy.core.multiarray._reconstruct",
            "numpy._core.multiarray._reconstruct",
            "_codecs.encode",
            "__builtin__.set",
            "__builtin__.frozenset",
            "builtins.set",
            "builtins.frozenset",
            "torch.serialization._get_layout",
        ),
        lambda _: INERT,
    ),
    # Tensors of other kinds, named for a better message.
    "torch._utils._rebuild_sparse_tensor": _refusal("a sparse tensor"),
    "torch._utils._rebuild_sparse_csr_tensor": _refusal("a sparse tensor"),
    "torch._utils._rebuild_nested_tensor": _refusal("a nested tensor"),
    "torch._utils._rebuild_meta_tensor_no_storage": _refusal("a tensor without numbers (meta)"),
}

_TENSORS = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.Parameter")

_NAMES: dict[str, Name] = {
    **{full: Name(full, call=call) for full, call in _CALLED.items()},
    **{full: Name(full, value=_DTYPES[dtype]) for full, dtype in _STORAGES.items()},
    **{f"torch.{name}": Name(f"torch.{name}", value=dtype) for name, dtype in _DTYPES.items()},
    # It has embeddings beside the words that they were trained for; a network has none.
    "torch.nn.modules.container.ParameterDict": Name(
        "torch.nn.modules.container.ParameterDict", state=True
    ),
    **{
        full: Name(full)
        for full in (
            *_TENSORS,
            "numpy.ndarray",
            # Lightning has the class of a callback as the key of its state.
            "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
            "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
        )
    },
}


# The two forms.


def _read_legacy(data: np.ndarray) -> tuple[Any, dict[str, tuple[int, int]]]:
    """The object of the older form, and where its storages begin and end."""
    head = bytes(data[:MAX_BYTES])
    storages: dict[str, int] = {}
    itemsizes: dict[str, int] = {}

    def persistent(pid: Any) -> _Storage | Name:
        if isinstance(pid, tuple) and len(pid) == 4 and pid[0] == "module" and type(pid[1]) is Name:
            return pid[1]  # a class, beside its source
        storage = _persistent(pid)
        key, itemsize, size = storage.key, storage.dtype.itemsize, pid[4]
        if (storages.setdefault(key, size), itemsizes.setdefault(key, itemsize)) != (
            size,
            itemsize,
        ):
            raise WeightsError(f"has storage {shown(key)} in two sizes")
        return storage

    def refuse(_: Any) -> Any:
        raise WeightsError("has a reference where none belongs")

    version, position = load(head, len(_LEGACY), _NAMES, refuse)
    if type(version) is not int or version != _LEGACY_PROTOCOL:
        raise WeightsError(f"has protocol {shown(version)}, not {_LEGACY_PROTOCOL}")
    system, position = load(head, position, _NAMES, refuse)
    if not isinstance(system, Dict) or system.named.get("little_endian") is not True:
        raise WeightsError("was not written by a little-endian machine")
    value, position = load(head, position, _NAMES, persistent)
    keys, position = load(head, position, _NAMES, refuse)
    if not isinstance(keys, list) or not all(type(key) is str for key in keys):
        raise WeightsError("has storages whose keys are no list of texts")

    places: dict[str, tuple[int, int]] = {}
    for key in keys:
        if key not in storages or key in places:
            raise WeightsError(f"has storage {shown(key)}, which is not asked for once")
        if position + 8 > len(data):
            raise WeightsError(f"ends before storage {shown(key)}")
        size = int.from_bytes(bytes(data[position : position + 8]), "little")
        if size != storages[key]:
            raise WeightsError(f"has {size} elements in storage {shown(key)}, not {storages[key]}")
        start = position + 8
        position = start + size * itemsizes[key]
        if position > len(data):
            raise WeightsError(
                f"ends at byte {len(data)}, its storage {shown(key)} at byte {position}"
            )
        places[key] = (start, position)
    if missing := [key for key in storages if key not in places]:
        raise WeightsError(f"has no storage {shown(missing[0])}, which a tensor asks for")
    if position != len(data):
        raise WeightsError(f"has {len(data) - position} bytes after its last storage")
    return value, places


def _read_zip(data: np.ndarray) -> tuple[Any, dict[str, tuple[int, int]]]:
    """The object of the zip form, and where its storages begin and end."""
    entries = entries_of(data)
    pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise WeightsError("is a zip archive with no data.pkl; torch.save writes one")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in entries:
        raise WeightsError("is a TorchScript program; only files of torch.save are read")
    if f"{folder}byteorder" in entries:
        start, stop, _ = entries[f"{folder}byteorder"]
        order = bytes(data[start : min(stop, start + 16)])
        if order != b"little":
            raise WeightsError(f"has its numbers in byte order {order!r}; only little is read")

    start, stop, checksum = entries[pickles[0]]
    if stop - start > MAX_BYTES:
        raise WeightsError(f"has a pickle of {stop - start} bytes; {MAX_BYTES} are read")
    pickle = bytes(data[start:stop])
    # torch can be told not to compute checksums; it writes 0 then.
    if checksum not in (0, zlib.crc32(pickle)):
        raise WeightsError("has a pickle whose checksum is not the one it was written with")

    places: dict[str, tuple[int, int]] = {}

    def persistent(pid: Any) -> _Storage:
        storage = _persistent(pid)
        if storage.key not in places:
            entry = entries.get(f"{folder}data/{storage.key}")
            if entry is None:
                raise WeightsError(f"has no storage {shown(storage.key)}, which a tensor asks for")
            places[storage.key] = entry[:2]
        return storage

    value, _ = load(pickle, 0, _NAMES, persistent)
    return value, places
