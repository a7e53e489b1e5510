"""HDF5 files: what h5py and Keras write is read as they read it; the rest is refused."""

from __future__ import annotations

import struct
import time
import zlib

import h5py
import keras
import numpy as np
import pytest
from fuzz import bounded, disordered, nothing_executed, whole_hdf5

from keras_sd.weights.readers import WeightsError, hdf5, hdf5_structure

FORMS = {
    "default": {},
    "v108": {"libver": ("v108", "v108")},
    "v110": {"libver": ("v110", "v110")},
    "latest": {"libver": "latest"},
    "track_order": {"track_order": True},
}
NUMBERS = np.arange(12, dtype="f4").reshape(4, 3)


def written(tmp_path, fill, **options):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w", **options) as file:
        fill(file)
    return path


def refused(path, match):
    with bounded(), nothing_executed(), pytest.raises(WeightsError, match=match) as caught:
        hdf5.read(path)
    assert path.name in str(caught.value)
    assert len(str(caught.value)) < 1000


def as_h5py(path):
    found = {}
    with h5py.File(path) as file:

        def visit(name, item):
            if isinstance(item, h5py.Dataset):
                kind = "bfloat16" if item.attrs.get("dtype") == "bfloat16" else item.dtype
                found[name] = np.array(item, kind)

        file.visititems(visit)
    return found


# Files of h5py and Keras.


@pytest.mark.parametrize("data", whole_hdf5(), ids=["default", "v108", "latest", "track_order"])
def test_all_kinds_of_datasets(data, tmp_path):
    path = tmp_path / "x.h5"
    path.write_bytes(data)
    with nothing_executed():
        read = hdf5.read(path)
    wanted = as_h5py(path)
    assert read.format == "hdf5"
    assert read.metadata == {"keras_version": "2.13.1", "backend": "tensorflow"}
    assert sorted(read.tensors) == sorted(wanted)
    for name, numbers in wanted.items():
        array = read.tensors[name]
        dtype = "int8" if numbers.dtype == bool else numbers.dtype
        assert array.shape == numbers.shape
        assert array.dtype == dtype
        np.testing.assert_array_equal(np.asarray(array), numbers)
        if name.startswith("chunks/"):
            assert array.nbytes == numbers.nbytes
            assert array.ndim == 2
            assert np.asarray(array, "f8").dtype == "f8"
        else:
            assert not array.flags.writeable


@pytest.mark.parametrize("count", [1, 8, 9, 50, 700])
@pytest.mark.parametrize("form", FORMS)
def test_groups_of_any_size_in_any_form(form, count, tmp_path):
    """The later forms keep many links in a heap with a tree of its own."""
    rng = np.random.default_rng(0)

    def fill(file):
        for index in range(count):
            file[f"layer_{index}_{'x' * (index % 40)}/vars/0"] = rng.normal(size=2).astype("f4")
        for index in range(12):  # so many attributes are in a heap too
            file.attrs[f"backend{index}"] = "no"
        file.attrs["backend"] = "jax"

    read = hdf5.read(path := written(tmp_path, fill, **FORMS[form]))
    wanted = as_h5py(path)
    assert sorted(read.tensors) == sorted(wanted)
    assert read.metadata == {"backend": "jax"}
    for name, numbers in wanted.items():
        np.testing.assert_array_equal(read.tensors[name], numbers)


def test_weights_of_keras(tmp_path):
    layers = [keras.layers.Dense(3, dtype=dtype) for dtype in ("float32", "bfloat16", "float16")]
    model = keras.Sequential([keras.Input((2,)), *layers, keras.layers.Dropout(0.5)])
    path = tmp_path / "x.weights.h5"
    model.save_weights(path)
    tensors = hdf5.read(path).tensors
    for name, layer in zip(("dense", "dense_1", "dense_2"), layers, strict=True):
        for index, variable in enumerate(layer.weights):
            array = tensors[f"layers/{name}/vars/{index}"]
            assert array.dtype.name == layer.variable_dtype
            value = keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32"))
            np.testing.assert_array_equal(array.astype("f4"), value)


def test_datasets_are_views_of_the_file(tmp_path):
    path = written(tmp_path, lambda file: file.create_dataset("a", data=NUMBERS))
    base = hdf5.read(path).tensors["a"]
    while not isinstance(base, np.memmap):
        base = base.base
    assert base.nbytes == path.stat().st_size
    assert base.mode == "r"


def test_chunks_are_read_when_they_are_used(tmp_path):
    def fill(file):
        file.create_dataset("a", data=NUMBERS, chunks=(2, 3), compression="gzip")

    path = written(tmp_path, fill)
    array = hdf5.read(path).tensors["a"]
    with h5py.File(path) as file:
        place = file["a"].id.get_chunk_info(1)
    with open(path, "r+b") as file:  # the same file: it is mapped
        file.seek(place.byte_offset)
        file.write(bytes(place.size))
    with pytest.raises(WeightsError, match=r"x.h5: a .*(damaged|chunk)"):
        np.asarray(array)
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(array, copy=False) if np.__version__ >= "2" else array.__array__(copy=False)


def test_opening_is_fast(tmp_path):
    def fill(file):
        for index in range(2000):
            file[f"model/block_{index}/conv/kernel:0"] = np.full(2, index, "f4")

    path = written(tmp_path, fill)
    start = time.process_time()
    assert len(hdf5.read(path).tensors) == 2000
    assert time.process_time() - start < 3  # 0.2 s on a slow core


# What Keras does not write.


def compound(file):
    file["a"] = np.zeros(3, [("x", "f4"), ("y", "i4")])


def virtual(file):
    file["real"] = NUMBERS
    layout = h5py.VirtualLayout((4, 3), "f4")
    layout[:] = h5py.VirtualSource(file["real"])
    file.create_virtual_dataset("a", layout)


def shared_type(file):
    file["t"] = np.dtype("f4")
    file.create_dataset("a", (4, 3), file["t"])[...] = 1


def linked_type(file):
    file["t"] = np.dtype("f4")


def loop(file):
    file["a/x"] = NUMBERS
    file["a/b"] = file["a"]


def deep(file):
    file["/".join(["g"] * 80)] = NUMBERS


@pytest.mark.parametrize("form", ["default", "v108"])
@pytest.mark.parametrize(
    ("fill", "match"),
    [
        (lambda f: f.__setitem__("a", h5py.SoftLink("/b")), "symbolic link"),
        (lambda f: f.__setitem__("a", h5py.SoftLink("/a")), "symbolic link"),
        (
            lambda f: f.__setitem__("a", h5py.ExternalLink("/etc/x.h5", "/b")),
            "(external|symbolic) link",
        ),
        (
            lambda f: f.create_dataset("a", (3,), "f4", external=[("/etc/passwd", 0, 12)]),
            "'a', which has its numbers in other files",
        ),
        (lambda f: f.__setitem__("a", "text"), "'a', which holds values of variable length"),
        (lambda f: f.__setitem__("a", np.array([b"text"])), "'a', which holds texts"),
        (lambda f: f.__setitem__("a", np.void(b"text")), "'a', which holds opaque bytes"),
        (lambda f: f.__setitem__("a", np.ones(2, "V2")), "'a', which holds opaque bytes"),
        (lambda f: f.__setitem__("a", f.ref), "'a', which holds references"),
        (compound, "'a', which holds records"),
        (lambda f: f.__setitem__("a", np.ones(2, ">f4")), "big-endian"),
        (lambda f: f.__setitem__("a", h5py.Empty("f4")), "'a', which has no shape"),
        (lambda f: f.__setitem__("a", np.ones(2, "c8")), "'a', which holds records"),
        (lambda f: f.__setitem__("a", np.ones(2, "g")), "floating-point numbers of 80 bits"),
        (lambda f: f.create_dataset("a", (2**20, 2**20), "f4"), "no numbers: none were written"),
        (lambda f: f.create_dataset("a", (2**30, 2**30), "f4"), "a shape that no file can hold"),
        (
            lambda f: f.create_dataset("a", (2**20, 2**20), "f4", chunks=(2**9, 2**9)),
            "0 of|none were",
        ),
        (
            lambda f: f.create_dataset("a", data=NUMBERS, chunks=(2, 3), compression="lzf"),
            "filter 32000",
        ),
        (
            lambda f: f.create_dataset("a", data=NUMBERS, chunks=(2, 3), fletcher32=True),
            "filter 3;",
        ),
        (lambda f: f.create_dataset("a", data=NUMBERS, chunks=(2, 3), scaleoffset=2), "filter 6;"),
        (shared_type, "shares what it is|neither a group nor a dataset"),
        (linked_type, "'t', which is neither a group nor a dataset"),
        (loop, "group at byte .* is in two places"),
        (deep, "groups in groups, 64 deep"),
        (lambda f: f.create_group("x" * 1100), "name of more than 1000 letters|has no end"),
        (lambda f: None, "has no datasets"),
    ],
)
def test_what_keras_does_not_write(fill, match, form, tmp_path):
    refused(written(tmp_path, fill, **FORMS[form]), match)


@pytest.mark.parametrize("form", ["default", "v108"])
def test_filters_in_another_order(form, tmp_path):
    def fill(file):
        disordered(file, "a", np.arange(600, dtype="f4").reshape(30, 20))

    refused(written(tmp_path, fill, **FORMS[form]), "'a', which is written with gzip before shuf")


def test_chunks_that_were_not_written(tmp_path):
    def fill(file):
        file.create_dataset("a", (4, 3), "f4", chunks=(2, 3))[:2] = 1

    refused(written(tmp_path, fill), "'a', which has 1 of 2 chunks")


def test_virtual_datasets(tmp_path):
    refused(written(tmp_path, virtual, libver="latest"), "put together from other datasets")


def test_chunks_of_the_latest_form(tmp_path):
    def fill(file):
        file.create_dataset("a", data=NUMBERS, chunks=(2, 3))

    refused(
        written(tmp_path, fill, libver="latest"), "'a', which has its chunks in a form of libver"
    )


def test_files_that_begin_with_something_else(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["a"] = NUMBERS
    refused(path, "no HDF5 file")
    path.write_bytes(path.read_bytes()[512:])
    refused(path, "addresses that are not 8 bytes from its start")
    path.write_bytes(b"")
    refused(path, "no HDF5 file")


def test_bombs(tmp_path):
    def compressed(file):
        file.create_dataset("a", (2**14, 2**10), "f4", chunks=(2**8, 2**10), compression="gzip")[
            ...
        ] = 0

    path = written(tmp_path, compressed)
    assert path.stat().st_size < 2**19
    refused(path, "would have 67108864 bytes of numbers")

    def again(file):
        file["a"] = np.zeros(2**20, "f4")
        for index in range(100):
            file[f"b{index}"] = file["a"]

    refused(written(tmp_path, again), "used again and again")


def test_structure_is_bounded(tmp_path, monkeypatch):
    """Of a file with nothing but structure, no more is read than any file of weights has."""

    def fill(file):
        for index in range(100):
            file.create_group(str(index))

    path = written(tmp_path, fill)
    refused(path, "has no datasets")
    monkeypatch.setattr(hdf5_structure, "MAX_STRUCTURE", 20_000)
    refused(path, "more than 20000 bytes of itself")


def test_two_names_of_one_dataset(tmp_path):
    def fill(file):
        file["a"] = NUMBERS
        file["b"] = file["a"]

    tensors = hdf5.read(written(tmp_path, fill)).tensors
    np.testing.assert_array_equal(tensors["a"], tensors["b"])


def patched(path, old, new):
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))
    return path


def test_numbers_lie_in_the_file(tmp_path):
    path = written(tmp_path, lambda file: file.create_dataset("a", data=NUMBERS))
    whole = path.read_bytes()
    with h5py.File(path) as file:
        place = file["a"].id.get_offset()
    layout = struct.pack("<2Q", place, 48)
    for address, size, match in (
        (len(whole) - 47, 48, "takes 48 bytes from byte"),
        (2**63, 48, "takes 48 bytes"),
        (2**64 - 2, 48, "takes 48 bytes"),
        (2**64 - 1, 48, "none were written"),
        (place, 47, "47 are set aside"),
        (place, 2**63, "9223372036854775808 are set aside"),
    ):
        path.write_bytes(whole)
        refused(patched(path, layout, struct.pack("<2Q", address, size)), match)
    for shape in ((2**40, 3), (5, 3), (2**62, 2**62), (0, 2**63)):
        path.write_bytes(whole)
        # Sizes, and the largest that they may become.
        patched(path, struct.pack("<4Q", 4, 3, 4, 3), struct.pack("<4Q", *shape, 4, 3))
        refused(path, "takes .* bytes from|no file can hold")
    path.write_bytes(whole[:-1])
    refused(path, "it is cut off")


def test_chunks_lie_in_the_file(tmp_path):
    def fill(file):
        file.create_dataset("a", data=NUMBERS, chunks=(2, 2))

    path = written(tmp_path, fill)
    whole = path.read_bytes()
    with h5py.File(path) as file:
        chunks = [file["a"].id.get_chunk_info(i) for i in range(4)]
    old = struct.pack("<2L3Q", 16, 0, 2, 2, 0) + struct.pack("<Q", chunks[3].byte_offset)
    for stored, corner, place, match in (
        (16, (2, 2), len(whole) - 8, "not in the file"),
        (15, (2, 2), chunks[3].byte_offset, "chunk of 15 bytes"),
        (16, (2, 1), chunks[3].byte_offset, "where there is none"),
        (16, (4, 2), chunks[3].byte_offset, "where there is none"),
        (16, (0, 0), chunks[3].byte_offset, "two chunks"),
    ):
        path.write_bytes(whole)
        new = struct.pack("<2L3Q", stored, 0, *corner, 0) + struct.pack("<Q", place)
        refused(patched(path, old, new), match)
    layout = struct.pack("<3L", 2, 2, 4)
    for sizes in ((0, 2, 4), (2, 2, 8), (2**32 - 1, 2**32 - 1, 4), (1, 1, 4)):
        path.write_bytes(whole)
        refused(patched(path, layout, struct.pack("<3L", *sizes)), "chunks|where there is none")


@pytest.mark.parametrize("numbers", [NUMBERS[:1], np.zeros((2**12, 3), "f4")], ids=["few", "many"])
def test_chunks_have_the_length_that_they_should(numbers, tmp_path):
    def fill(file):
        made = file.create_dataset("a", (4, 3), "f4", chunks=(4, 3), compression="gzip")
        made.id.write_direct_chunk((0, 0), zlib.compress(numbers.tobytes()))

    array = hdf5.read(written(tmp_path, fill)).tensors["a"]
    with pytest.raises(WeightsError, match="a chunk that is not 48 bytes long"):
        np.asarray(array)


@pytest.mark.parametrize(
    ("form", "old", "new", "match"),
    [
        ("default", b"\x1a\n\x00", b"\x1a\n\x07", "an HDF5 file of version 7"),
        ("default", b"SNOD\x01", b"SNOD\x02", "no SNOD of version 1"),
        ("default", b"HEAP\x00", b"HEAP\x01", "no HEAP of version 0"),
        ("default", b"TREE\x00", b"TREE\x01", "no part of a tree"),
        ("default", b"GCOL\x01", b"GCOL\x02", "no GCOL of version 1"),
        ("v108", b"OHDR\x02", b"OHDR\x03", "an object of version 3"),
        ("v108", b"BTHD\x00", b"BTHD\x01", "no BTHD of version 0"),
        ("v108", b"BTHD\x00\x05", b"BTHD\x00\x06", "no tree of links"),
        ("v108", b"BTLF\x00", b"BTLF\x01", "no BTLF of version 0"),
        ("v108", b"FRHP\x00", b"FRHP\x01", "no FRHP of version 0"),
        ("default", b"\x03\x01%(place)s", b"\x02\x01%(place)s", "a layout of version 2"),
        ("default", b"\x03\x01%(place)s", b"\x03\x03%(place)s", "put together from other"),
        ("default", b"\x03\x02\x03", b"\x03\x02\x04", "chunks that do not fit its shape"),
        ("default", b"\x03\x02\x03", b"\x03\x02\x00", "chunks that do not fit its shape"),
        ("v108", b"\x01\x00\x05many0", b"\x02\x00\x05many0", "a link of version 2"),
    ],
)
def test_versions_that_are_not_known(form, old, new, match, tmp_path):
    """What is said in a form that came later is not taken for the one that is known."""

    def fill(file):
        file.attrs["backend"] = "jax"
        file["a"] = NUMBERS
        file.create_dataset("c", data=NUMBERS, chunks=(2, 3))
        for index in range(20):
            file[f"b/many{index}"] = NUMBERS

    path = written(tmp_path, fill, **FORMS[form])
    with h5py.File(path) as file:
        place = struct.pack("<Q", file["a"].id.get_offset())
    assert len(hdf5.read(path).tensors) == 22
    data = path.read_bytes()
    old, new = (text.replace(b"%(place)s", place) for text in (old, new))
    assert old in data
    path.write_bytes(data.replace(old, new))
    refused(path, match)


def test_loops_in_trees(tmp_path):
    def fill(file):
        for index in range(100):
            file[f"{index}"] = NUMBERS

    data = written(tmp_path, fill).read_bytes()
    first, second = (data.find(b"SNOD"), data.find(b"SNOD", data.find(b"SNOD") + 4))
    path = tmp_path / "x.h5"
    path.write_bytes(data.replace(struct.pack("<Q", first), struct.pack("<Q", second)))
    refused(path, "the table at byte .* is in two places")


# The order of Keras 2.


def keras_2(file):
    """Layers in an order that is not that of their names, one in a group, one without weights."""
    layers = {
        "zeta": ["zeta/kernel:0", "zeta/bias:0"],
        "empty": [],
        "alpha": ["alpha/inner/beta:0", "alpha/inner/alpha:0"],
        "outer/inner": ["outer/inner/w:0"],
    }
    file.attrs["layer_names"] = np.array([name.encode() for name in layers])
    order = []
    for name, weights in layers.items():
        group = file.create_group(name)
        group.attrs["weight_names"] = np.array([weight.encode() for weight in weights])
        for weight in weights:
            group[weight] = NUMBERS
            order.append(f"{name}/{weight}")
    return order


def test_order_of_keras_2(tmp_path):
    orders = []
    path = written(tmp_path, lambda file: orders.append(keras_2(file)))
    assert hdf5.keras2_order(path) == orders[0]
    assert orders[0] != sorted(orders[0])
    assert set(hdf5.read(path).tensors) == set(orders[0])

    # A whole model keeps its weights in a group; texts of variable length are texts too.
    def model(file):
        order = keras_2(file.create_group("model_weights"))
        group = file["model_weights"]
        group.attrs["layer_names"] = [n.decode() for n in group.attrs["layer_names"]]
        top = group.create_group("top_level_model_weights")
        top.attrs["weight_names"] = [b"scale:0"]
        top["scale:0"] = NUMBERS
        order.append("top_level_model_weights/scale:0")
        orders.append([f"model_weights/{name}" for name in order])

    assert hdf5.keras2_order(written(tmp_path, model)) == orders[1]


def test_attributes_in_parts(tmp_path):
    """Keras 2 splits what is longer than an attribute may be."""

    def fill(file):
        names = [f"layer_{i}" for i in range(30)][::-1]
        for part in range(3):
            file.attrs[f"layer_names{part}"] = [
                n.encode() for n in names[part * 10 : part * 10 + 10]
            ]
        for name in names:
            file.create_group(name).attrs["weight_names"] = [b"w:0"]
            file[name]["w:0"] = NUMBERS

    order = hdf5.keras2_order(written(tmp_path, fill))
    assert order == [f"layer_{i}/w:0" for i in range(30)][::-1]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda f: f.attrs.pop("layer_names"), "no attribute layer_names"),
        (lambda f: f.attrs.__setitem__("layer_names", 3), "no attribute layer_names"),
        (lambda f: f.attrs.__setitem__("layer_names", [b"zeta", b"beta"]), "no group 'beta'"),
        (lambda f: f.attrs.__setitem__("layer_names", [b"zeta", b"zeta"]), "twice"),
        (lambda f: f["zeta"].attrs.pop("weight_names"), "'zeta' with an attribute weight_names"),
        (lambda f: f["zeta"].attrs.__setitem__("weight_names", [1.0]), "'zeta' with an attribute"),
        (lambda f: f["zeta"].attrs.__setitem__("weight_names", [b"x"]), "has no 'zeta/x'"),
        (
            lambda f: f["zeta"].attrs.__setitem__("weight_names", [b"\xff"]),
            "a name in it is no text",
        ),
    ],
)
def test_an_order_of_what_is_not_there(change, match, tmp_path):
    def fill(file):
        keras_2(file)
        change(file)

    path = written(tmp_path, fill)
    with pytest.raises(WeightsError, match=match) as caught:
        hdf5.keras2_order(path)
    assert "x.h5" in str(caught.value)
    # The datasets are there all the same.
    assert len(hdf5.read(path).tensors) == 5
