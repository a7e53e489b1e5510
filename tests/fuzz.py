"""Damaged files of weights: made from whole ones, by chance and on purpose.

`archive` and the functions above it put files of `torch.save` together by hand. `DAMAGE` has a
function a format that makes a damaged file from a generator of random numbers; `bounded` holds
whatever reads it to a time and an amount of memory.
"""

from __future__ import annotations

import importlib
import io
import json
import pickletools
import random
import signal
import struct
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import safetensors.numpy

# Imported here, so that no import is seen while a file is read.
for _name in ("hdf5", "safetensors", "torch_file"):
    importlib.import_module(f"keras_sd.weights.readers.{_name}")

FIXTURES = Path(__file__).parent / "fixtures"
GIANT = [2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31, 2**31 - 1, 2**32 - 1, 2**62, 2**63, 2**64 - 1]


# Pickles by hand.


def text(value: str) -> bytes:
    return b"X" + struct.pack("<L", len(value.encode())) + value.encode()


def integer(value: int) -> bytes:
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def sizes(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(integer, values)) + b"t"


def storage(key: str = "0", size: int = 12, kind: bytes = b"torch\nFloatStorage") -> bytes:
    return (
        b"("
        + text("storage")
        + b"c"
        + kind
        + b"\n"
        + text(key)
        + text("cpu")
        + integer(size)
        + b"tQ"
    )


def tensor(
    shape: tuple[int, ...] = (3, 4),
    strides: tuple[int, ...] = (4, 1),
    offset: int = 0,
    of: bytes | None = None,
) -> bytes:
    arguments = (of or storage()) + integer(offset) + sizes(shape) + sizes(strides)
    hooks = b"ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"\x89" + hooks + b"tR"


def state(**values: bytes) -> bytes:
    items = b"".join(text(name) + value for name, value in values.items())
    return b"\x80\x02}(" + items + b"u."


def archive(
    pickle: bytes, entries: Mapping[str, bytes] | None = None, method: int = zipfile.ZIP_STORED
) -> bytes:
    """A file of `torch.save` with this pickle; the entries default to one storage of 12 numbers."""
    if entries is None:
        entries = {"data/0": np.arange(12, dtype="<f4").tobytes(), "byteorder": b"little"}
    made = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(made, "w", method) as file:
        warnings.simplefilter("ignore")  # a name that is there twice
        file.writestr("x/data.pkl", pickle)
        for name, content in entries.items():
            file.writestr(f"x/{name}", content)
    return made.getvalue()


# Whole files.


@cache
def whole_safetensors() -> bytes:
    rng = np.random.default_rng(0)
    tensors = {f"layer.{i}.weight": rng.normal(size=(i, 3)).astype("f4") for i in range(1, 5)}
    return safetensors.numpy.save({**tensors, "half": np.ones(3, "f2")}, {"format": "pt"})


@cache
def whole_hdf5() -> tuple[bytes, ...]:
    """As h5py writes it by default, and in the forms of later versions of HDF5."""
    files = []
    for options in ({}, {"libver": ("v108", "v108")}, {"libver": "latest"}, {"track_order": True}):
        made = io.BytesIO()
        with h5py.File(made, "w", **options) as file:
            write_hdf5(file, chunks=options.get("libver") != "latest")
        files.append(made.getvalue())
    return tuple(files)


def write_hdf5(file: h5py.File, chunks: bool = True) -> None:
    """What Keras writes, and all else that the reader knows."""
    rng = np.random.default_rng(0)
    file.attrs["layer_names"] = np.array([b"dense", b"empty", b"norm"])  # texts of one length
    file.attrs["backend"] = "tensorflow"
    file.attrs["keras_version"] = b"2.13.1"
    for layer, names in (("dense", ("kernel:0", "bias:0")), ("empty", ()), ("norm", ("gamma:0",))):
        group = file.create_group(layer)
        group.attrs["weight_names"] = [f"{layer}/{name}".encode() for name in names]
        for name in names:
            group.create_dataset(f"{layer}/{name}", data=rng.normal(size=(4, 3)).astype("f4"))
    for index in range(12):
        file[f"many/{index}"] = np.full(5, index, "f4")
    for dtype in ("f2", "f8", "i1", "u2", "i4", "u8"):
        file[f"kinds/{dtype}"] = np.arange(4).astype(dtype)
    file["kinds/bool"] = np.array([True, False])
    file["kinds/scalar"] = np.float32(2.5)
    file["kinds/nothing"] = np.zeros((0, 3), "f4")
    half = file.create_dataset("kinds/bfloat16", data=np.arange(4, dtype="<u2").view("V2"))
    half.attrs["dtype"] = "bfloat16"
    if chunks:
        numbers = rng.normal(size=(20, 9)).astype("f4")
        file.create_dataset("chunks/gzip", data=numbers, chunks=(7, 4), compression="gzip")
        file.create_dataset(
            "chunks/shuffled", data=numbers, chunks=(7, 4), compression="gzip", shuffle=True
        )
        file.create_dataset("chunks/plain", data=numbers, chunks=(7, 4))


def disordered(file: h5py.File, name: str, numbers: np.ndarray) -> None:
    """A dataset whose bytes are compressed first and shuffled then, as h5py never does."""
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_chunk(tuple(-(-size // 2) for size in numbers.shape))
    made.set_deflate(4)
    made.set_shuffle()
    kind, space = h5py.h5t.py_create(numbers.dtype), h5py.h5s.create_simple(numbers.shape)
    dataset = h5py.h5d.create(file.id, name.encode(), kind, space, made)
    dataset.write(space, space, numbers)


@cache
def whole_disordered() -> bytes:
    made = io.BytesIO()
    with h5py.File(made, "w") as file:
        disordered(file, "a", np.arange(180, dtype="f4").reshape(20, 9))
    return made.getvalue()


# Damage.


def damaged(data: bytes, rng: random.Random, stop: int | None = None) -> bytes:
    """Some bytes changed, most of them before `stop`, where the structure is."""
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        limit = len(made) if stop is None or rng.random() < 0.2 else min(stop, len(made))
        place = rng.randrange(max(limit, 1))
        other = rng.randrange(max(limit, 1))
        length = rng.choice((1, 4, 8, 16, 40))
        kind = rng.randrange(8)
        if kind == 0:
            made[place : place + 1] = bytes([rng.randrange(256)])
        elif kind == 1 and place < len(made):
            made[place] ^= 1 << rng.randrange(8)
        elif kind == 2:
            width = rng.choice((1, 2, 4, 8))
            number = rng.choice((*GIANT, 0, 1, len(data), rng.randrange(len(data) + 1)))
            made[place : place + width] = (number % 2 ** (8 * width)).to_bytes(width, "little")
        elif kind == 3:
            made[place : place + length] = made[other : other + length]
        elif kind == 4:
            del made[place : place + length]
        elif kind == 5:
            made[place:place] = made[other : other + length]
        elif kind == 6:
            made[place : place + length] = bytes([rng.choice((0, 255))]) * length
        elif rng.random() < 0.3:  # seldom: not much is left of it
            del made[rng.randrange(len(made) + 1) :]
    return bytes(made)


def spliced(files: list[bytes], rng: random.Random) -> bytes:
    first, second = rng.choice(files), rng.choice(files)
    return first[: rng.randrange(len(first))] + second[rng.randrange(len(second)) :]


def damaged_safetensors(rng: random.Random) -> bytes:
    data = whole_safetensors()
    length = int.from_bytes(data[:8], "little")
    kind = rng.randrange(3)
    if kind == 0:
        return damaged(data, rng, 8 + length)
    if kind == 1:  # with a length that is right
        text = damaged(data[8 : 8 + length], rng)
        return len(text).to_bytes(8, "little") + text + data[8 + length :]
    header = json.loads(data[8 : 8 + length])
    wrong = [
        -1,
        2**63,
        2**64,
        1e308,
        True,
        None,
        "",
        [],
        {},
        [[1]],
        "F32",
        [0, 2**62],
        [3, 1],
        10**400,
    ]
    name = rng.choice(list(header))
    entry = header[name]
    field = rng.choice(list(entry))
    choice = rng.randrange(5)
    if choice == 0:
        header[name] = rng.choice(wrong)
    elif choice == 1 or not isinstance(entry[field], list):
        entry[field] = rng.choice(wrong)
    elif choice == 2 and entry[field]:
        entry[field][rng.randrange(len(entry[field]))] = rng.choice((*wrong, *range(60)))
    elif choice == 3:
        header[rng.choice(("", "../x", "a\0b", "x" * 10_000))] = entry
    else:
        entry[field] = header[rng.choice(list(header))].get(field, 0)
    text = json.dumps(header).encode()
    if rng.random() < 0.1:
        text = b'{"a":' * rng.randrange(100_000) + text
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


@cache
def whole_torch(legacy: bool) -> tuple[bytes, ...]:
    names = sorted(FIXTURES.glob("torch_*.ckpt"))
    return tuple(p.read_bytes() for p in names if ("legacy" in p.name) is legacy)


SNIPPETS = [
    b"cos\nsystem\n(X\x04\x00\x00\x00truetR",
    b"\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R",
    b"(S'true'\nios\nsystem\n",
    b"(cos\nsystem\nX\x04\x00\x00\x00trueo",
    b"ccollections\nOrderedDict\n)\x81}b",
    b"\x82\x01",
    b"(" * 5000,
    b"]" * 5000,
    b"}" + b"X\x01\x00\x00\x00a}" * 5000 + b"s" * 5000,
    b"]q\x00" + b"(h\x00h\x00h\x00h\x00t0" * 500,
    b"r\xff\xff\xff\x7f",
    b"\x8e\x00\x00\x00\x00\x00\x00\x00\x10",
    b"X\xff\xff\xff\x7f",
    b"\x8a\xff",
    b"\x8b\xff\xff\xff\x7f",
    tensor((2**20, 2**20), (0, 0)),
    tensor((3,), (2**59,)),
    tensor(offset=2**59),
]


def damaged_pickle(data: bytes, rng: random.Random, stop: int) -> bytes:
    """The pickle at the start of some bytes with other instructions in it."""
    if rng.random() < 0.3:
        return damaged(data, rng, stop)
    try:
        places = [place for _, _, place in pickletools.genops(data) if place is not None]
    except (ValueError, IndexError):
        places = []
    places = places or [0]
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.choice(places)
        kind = rng.randrange(4)
        if kind == 0:
            new = rng.choice(SNIPPETS)
        elif kind == 1:
            new = bytes([rng.choice(list(map(ord, pickletools.code2op)))])
        else:  # instructions from elsewhere in it
            start = rng.randrange(len(places))
            stop = min(start + rng.choice((1, 2, 8, 40)), len(places) - 1)
            new = data[places[start] : places[stop]]
        cut = rng.choice((0, 0, 1, len(new)))
        data = data[:place] + new + data[place + cut :]
    return data


def damaged_zip(rng: random.Random) -> bytes:
    data = rng.choice(whole_torch(legacy=False))
    kind = rng.randrange(4)
    if kind == 0:
        return damaged(data, rng)
    if kind == 1:  # the directory is at the end
        start = data.find(b"PK\x01\x02")
        return data[:start] + damaged(data[start:], rng)
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        entries = {name.split("/", 1)[1]: file.read(name) for name in file.namelist()}
    pickle = entries.pop("data.pkl")
    if kind == 2:
        return archive(damaged_pickle(pickle, rng, len(pickle)), entries)
    name = rng.choice(list(entries))
    choice = rng.randrange(7)
    if choice == 0:
        entries[rng.choice(("../x", "/x", "a//b", "data\\0", "./data/0", "x" * 60_000))] = b"0"
    elif choice == 1:
        entries[name] = entries[name][: rng.randrange(len(entries[name]) + 1)]
    elif choice == 2:
        del entries[name]
    elif choice == 3:
        entries["byteorder"] = rng.choice((b"big", b"", b"little\n", b"x" * 1000))
    elif choice == 4:
        entries[name] = bytes(2**20)
        return archive(pickle, entries, zipfile.ZIP_DEFLATED)
    elif choice == 5:
        entries["data.pkl"] = pickle
    else:
        return spliced([data, archive(pickle, entries)], rng)
    return archive(pickle, entries)


def damaged_legacy(rng: random.Random) -> bytes:
    files = whole_torch(legacy=True)
    data = rng.choice(files)
    kind = rng.randrange(8)
    if kind == 0:
        return spliced(list(files), rng)
    if kind == 1:
        return damaged(data, rng)
    # The magic number and the protocol are two pickles of 15 and 6 bytes; then the system, the
    # object and the keys.
    starts = [15]
    while len(starts) < 5:
        *_, (_, _, last) = pickletools.genops(data[starts[-1] :])
        starts.append(starts[-1] + last + 1)
    at = rng.choice(starts[:-1] + [starts[2]] * 4)
    end = starts[starts.index(at) + 1]
    return data[:at] + damaged_pickle(data[at:end], rng, end - at) + data[end:]


def damaged_hdf5(rng: random.Random) -> bytes:
    files = whole_hdf5()
    data = rng.choice(files)
    kind = rng.randrange(13)
    if kind == 0:
        return spliced(list(files), rng)
    if kind == 12:
        return damaged(whole_disordered(), rng)
    if kind < 6:
        return damaged(data, rng)
    made = bytearray(data)
    places = [
        at
        for at in range(0, len(data) - 8)
        if 0 < int.from_bytes(data[at : at + 8], "little") < len(data)
    ]
    for _ in range(rng.choice((1, 1, 2, 3))):  # addresses and sizes, most likely
        place = rng.choice(places)
        number = rng.choice((*GIANT, 0, 1, rng.randrange(len(data)), rng.choice(places)))
        made[place : place + 8] = (number % 2**64).to_bytes(8, "little")
    return bytes(made)


DAMAGE: dict[str, Callable[[random.Random], bytes]] = {
    "safetensors": damaged_safetensors,
    "torch_zip": damaged_zip,
    "torch_legacy": damaged_legacy,
    "hdf5": damaged_hdf5,
}


# Bounds.


@contextmanager
def bounded(seconds: float = 5.0, memory: int = 2**30) -> Iterator[None]:
    """An error where what is within takes more seconds of the processor, or more memory."""
    if not sys.platform.startswith("linux"):
        yield
        return
    import resource

    def too_long(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} seconds")

    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGPROF, too_long)
    resource.setrlimit(resource.RLIMIT_AS, (now + memory, limits[1]))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)
        resource.setrlimit(resource.RLIMIT_AS, limits)


_FORBIDDEN = ("exec", "compile", "import", "os.", "subprocess.", "pickle.", "socket.", "ctypes.")
_HARMLESS = ("os.listdir", "os.scandir")
_events: list[str] | None = None


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if _events is not None and event.startswith(_FORBIDDEN) and event not in _HARMLESS:
        _events.append(f"{event} {arguments!r:.80}")


sys.addaudithook(_watch)


@contextmanager
def nothing_executed() -> Iterator[None]:
    """An error where what is within imports, compiles, unpickles or starts something."""
    global _events
    _events = []
    try:
        yield
        assert _events == []
    finally:
        _events = None
