"""Files of `torch.save`: what is in them, and what is refused before it has an effect."""

from __future__ import annotations

import struct
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
from fuzz import (
    FIXTURES,
    archive,
    bounded,
    integer,
    nothing_executed,
    sizes,
    state,
    storage,
    tensor,
    text,
)

from keras_sd.weights.readers import WeightsError, pickles, torch_file


def read(tmp_path, data):
    path = tmp_path / "x.ckpt"
    path.write_bytes(data)
    with bounded(), nothing_executed():
        return torch_file.read(path).tensors


def refused(tmp_path, data, match):
    with pytest.raises(WeightsError, match=match) as caught:
        read(tmp_path, data)
    assert "x.ckpt" in str(caught.value)
    assert len(str(caught.value)) < 1000


# Files of torch.


def expected(file):
    """Tensors by name, as `make_torch_files.py` had them: dtype and numbers."""
    found = {}
    with np.load(FIXTURES / "torch_files.npz") as arrays:
        for key in arrays:
            name_of_file, name, dtype = key.split(":")
            if name_of_file == file:
                found[name] = (dtype, arrays[key])
    return found


@pytest.mark.parametrize(
    "file",
    [
        "torch_kinds.ckpt",
        "torch_kinds_legacy.ckpt",
        "torch_lightning.ckpt",
        "torch_lightning_legacy.ckpt",
        "torch_protocol4.ckpt",
        "torch_flat.ckpt",
    ],
)
def test_files_of_torch(file):
    with nothing_executed():
        read = torch_file.read(FIXTURES / file)
    wanted = expected(file)
    assert read.format == "torch"
    assert read.path == FIXTURES / file
    assert list(read.tensors) == list(wanted)
    for name, (dtype, numbers) in wanted.items():
        array = read.tensors[name]
        assert str(array.dtype) == dtype
        assert not array.flags.writeable
        np.testing.assert_array_equal(array.astype(numbers.dtype), numbers, err_msg=name)
        assert array.shape == numbers.shape


def test_neither_torch_nor_h5py_is_needed():
    code = (
        "import sys; from keras_sd.weights.readers import torch_file, hdf5, pickles\n"
        f"torch_file.read({str(FIXTURES / 'torch_kinds.ckpt')!r})\n"
        "print(sorted({'torch', 'keras', 'h5py', 'tensorflow', 'jax'} & set(sys.modules)),"
        "[m for m in (torch_file, pickles, hdf5) if hasattr(m, 'pickle')])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["[]", "[]"]


def test_tensors_are_views_of_the_file(tmp_path):
    path = tmp_path / "x.ckpt"
    path.write_bytes(archive(state(a=tensor())))
    array = torch_file.read(path).tensors["a"]
    base = array
    while not isinstance(base, np.memmap):
        base = base.base
    assert base.nbytes == path.stat().st_size
    assert base.mode == "r"


def test_opening_is_fast(tmp_path):
    """A full checkpoint with its EMA weights has 2,000 tensors and is opened in a moment."""
    count = 2000
    names = {
        f"model.diffusion_model.block.{i}.weight": tensor(of=storage(str(i))) for i in range(count)
    }
    entries = {f"data/{i}": np.full(12, i, "<f4").tobytes() for i in range(count)}
    path = tmp_path / "x.ckpt"
    path.write_bytes(archive(state(**names), entries))
    start = time.process_time()
    tensors = torch_file.read(path).tensors
    assert time.process_time() - start < 2  # 0.1 s on a slow core
    assert [array[0, 0] for array in tensors.values()] == list(range(count))


# Which tensors.


def test_the_state_dict_and_all_else(tmp_path):
    inner = b"}(" + text("w") + tensor() + text("steps") + integer(3) + b"u"
    nested = state(epoch=integer(2), other=tensor(), state_dict=inner)
    assert list(read(tmp_path, archive(nested))) == ["w"]
    flat = state(epoch=integer(2), w=tensor(), optimizer=inner)
    assert list(read(tmp_path, archive(flat))) == ["w"]
    # A tensor of that name is no nesting.
    assert list(read(tmp_path, archive(state(state_dict=tensor())))) == ["state_dict"]


PARAMETERS = b"ctorch.nn.modules.container\nParameterDict\n)\x81"
NAMED = b"}" + text("*") + tensor() + b"s"


def test_embeddings_of_textual_inversion_have_their_tensors_one_level_down(tmp_path):
    given = {"string_to_token": b"}", "string_to_param": NAMED, "name": text("a")}
    data = archive(state(**given, other=tensor(), step=integer(7), sd_checkpoint=b"N"))
    assert list(read(tmp_path, data)) == ["string_to_param.*"]
    assert torch_file.read(tmp_path / "x.ckpt").metadata == {"name": "a", "step": "7"}
    # torch 1 has them in a module.
    kept = b"}" + text("_parameters") + NAMED + b"s"
    module = PARAMETERS + kept + b"b"
    found = read(tmp_path, archive(state(string_to_param=module)))
    assert found["string_to_param.*"].shape == (3, 4)
    assert torch_file.read(tmp_path / "x.ckpt").metadata == {}


def test_only_that_module_is_made_and_only_its_attributes_are_kept(tmp_path):
    for params in (PARAMETERS, PARAMETERS + b"}b", PARAMETERS + b"Nb", tensor(), b"N"):
        refused(tmp_path, archive(state(string_to_param=params)), "string_to_param, not a dict")
    empty = PARAMETERS + b"}" + text("_parameters") + b"}sb"
    refused(tmp_path, archive(state(string_to_param=empty)), "no tensors by name")
    made = PARAMETERS.replace(b")", b"(" + integer(1) + b"t")
    refused(tmp_path, archive(state(a=made)), "makes an object of torch.nn.modules.container.Par")
    refused(tmp_path, archive(state(a=b"ctorch\nSize\n)\x81")), "makes an object of torch.Size")
    items = PARAMETERS + text("a") + tensor() + b"s"
    refused(tmp_path, archive(state(a=items)), "sets items of State")


def test_no_tensors_by_name(tmp_path):
    refused(tmp_path, archive(state(epoch=integer(2))), "no tensors by name; there is: 'epoch'")
    refused(tmp_path, archive(b"\x80\x02" + tensor() + b"."), "holds _Tensor, not a dictionary")
    refused(tmp_path, archive(b"\x80\x02]."), "holds list, not a dictionary")
    numbered = b"\x80\x02}(" + integer(1) + tensor() + text("w") + tensor() + b"u."
    refused(tmp_path, archive(numbered), "a tensor whose name is no text")
    twice = b"\x80\x02}(" + (text("w") + tensor()) * 2 + b"u."
    refused(tmp_path, archive(twice), "'w' twice")


# Pickles that do more than data.

SYSTEM = {
    "reduce": b"cos\nsystem\n" + text("touch x") + b"\x85R",
    "posix": b"cposix\nsystem\n" + text("touch x") + b"\x85R",
    "eval": b"c__builtin__\neval\n" + text("1") + b"\x85R",
    "getattr": b"cbuiltins\ngetattr\n)R",
    "stack global": text("os") + text("system") + b"\x93" + text("touch x") + b"\x85R",
    "global alone": b"csubprocess\nPopen\n",
    "dotted": text("torch") + text("serialization.os.system") + b"\x93",
    "inst": b"(" + text("touch x") + b"ios\nsystem\n",
    "load_from_bytes": b"ctorch.storage\n_load_from_bytes\n" + b"C\x01x\x85R",
    "class of lightning": b"cpytorch_lightning.callbacks\nTimer\n)\x81",
}


@pytest.mark.parametrize("kind", SYSTEM)
def test_every_other_name_is_refused_by_name(kind, tmp_path):
    name = {
        "reduce": "os.system",
        "posix": "posix.system",
        "eval": "__builtin__.eval",
        "getattr": "builtins.getattr",
        "stack global": "os.system",
        "global alone": "subprocess.Popen",
        "dotted": "torch.serialization.os.system",
        "inst": "os.system",
        "load_from_bytes": "torch.storage._load_from_bytes",
        "class of lightning": "pytorch_lightning.callbacks.Timer",
    }[kind]
    message = f"asks for {name}, which is no part of a tensor file; nothing was executed"
    before = set(sys.modules)
    refused(tmp_path, archive(state(w=tensor(), bad=SYSTEM[kind])), message)
    # Also where nobody would look, and where the pickle goes on wrongly.
    refused(tmp_path, archive(b"\x80\x04" + SYSTEM[kind] + b"0" + state(w=tensor())), message)
    assert set(sys.modules) == before


ORDERED = b"ccollections\nOrderedDict\n"
LIGHTNING = b"cpytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint\n"


@pytest.mark.parametrize(
    ("pickle", "match"),
    [
        (b"(" + ORDERED + text("x") + b"o", "instruction b'o', which makes an object"),
        (b"(icollections\nOrderedDict\n", "instruction b'i', which makes an object"),
        (ORDERED + b")\x81", "makes an object of collections.OrderedDict; nothing"),
        (ORDERED + b")}\x92", "which makes an object"),
        (b"\x82\x01", "the registry of extensions"),
        (b"\x83\x01\x00", "the registry of extensions"),
        (b"\x84\x01\x00\x00\x00", "the registry of extensions"),
        (b"Pid\n", "which is none that torch writes"),
        (b"S'x'\n", "which is none that torch writes"),
        (b"\x97", "which is none that torch writes"),
        (LIGHTNING + b")R", "calls pytorch_lightning.*ModelCheckpoint; nothing was executed"),
        (LIGHTNING + b"}b", "sets the state of pytorch_lightning.*; nothing was executed"),
        (tensor() + b"}" + text("__setstate__") + LIGHTNING + b"sb", "sets the state of _Tensor"),
        (b"]}b", "sets the state of list"),
        (text("os") + b")R", "calls 'os'"),
        (tensor() + b")R", "calls _Tensor"),
        (ORDERED + b"]R", "calls collections.OrderedDict with list, not a tuple"),
        (ORDERED + b"]\x85R", "OrderedDict that is not made empty"),
        (b"ctorch\nFloatStorage\n)R", "calls torch.FloatStorage"),
        (
            b"ctorch._tensor\n_rebuild_from_type_v2\n(" + LIGHTNING + b")))tR",
            "is made by pytorch_l",
        ),
        (integer(1) + integer(2) + b"\x93", "a name that is no text"),
        (b"cos\x1b[31m\nsystem\n", r"asks for 'os\\x1b\[31m.system'"),
    ],
)
def test_what_makes_objects_is_refused(pickle, match, tmp_path):
    refused(tmp_path, archive(state(w=tensor(), bad=pickle)), match)


@pytest.mark.parametrize(
    ("pickle", "match"),
    [
        (b"\x8e" + struct.pack("<Q", 2**60) + b"x", "wants 1152921504606846976 bytes"),
        (b"\x8d" + struct.pack("<Q", 2**60) + b"x", "wants 1152921504606846976 bytes"),
        (b"\x96" + struct.pack("<Q", 2**63) + b"x", "wants 9223372036854775808 bytes"),
        (b"X" + struct.pack("<L", 2**32 - 1) + b"x", "wants 4294967295 bytes"),
        (b"\x95" + struct.pack("<Q", 2**60), "a frame that goes on after its end"),
        (b"\x8a\xff" + b"\x01" * 255, "an integer of 255 bytes"),
        (b"\x8b" + struct.pack("<L", 2**31 - 1), "which is none that torch writes"),
        (b"]" * 1_100_000, "more than 1,000,000 instructions"),
        (b"h\x07", "is damaged at byte"),
        (b"\x87", "is damaged at byte"),
        (b"u", "is damaged at byte"),
        (b"c" + b"x" * 1000, "an endless name"),
        (b"\x80\x06", "of protocol 6; torch writes 2 to 5"),
        (b"X\x01\x00\x00\x00\xff", "is damaged at byte"),
        (b"K\x01K\x01K\x01s", "sets items of 1"),
        (b"K\x01K\x01a", "appends to 1"),
        (b"}(K\x01u", "sets items of Dict"),
    ],
)
def test_sizes_are_bounded_before_anything_is_made(pickle, match, tmp_path):
    path = tmp_path / "x.ckpt"
    path.write_bytes(archive(b"\x80\x02" + pickle + b"."))
    with bounded(memory=2**28), nothing_executed(), pytest.raises(WeightsError, match=match):
        torch_file.read(path)


def test_bombs_of_few_bytes(tmp_path):
    """A large index of the memo, deep nesting, and lists of lists of the same lists are no harm."""
    good = text("w") + tensor()
    memo = b"]r\xff\xff\xff\x7f0"
    deep = b"]" * 100_000 + b"a" * 99_999 + b"0"
    tuples = b")" + b"\x85" * 100_000 + b"0"
    dicts = b"}" + (text("a") + b"}") * 20_000 + b"s" * 20_000 + b"0"
    laughs = b"]q\x00" + b"".join(
        b"](" + b"h" + bytes([i]) + (b"h" + bytes([i])) * 9 + b"eq" + bytes([i + 1])
        for i in range(200)
    )
    for bomb in (memo, deep, tuples, dicts, laughs):
        assert list(read(tmp_path, archive(b"\x80\x02" + bomb + b"}" + good + b"s."))) == ["w"]
    # As a key, as what is called, as what is shown.
    key = b")q\x00" + b"h\x00h\x00\x86q\x00" * 200
    pickle = b"\x80\x02}(" + key + integer(1) + good + b"u."
    assert list(read(tmp_path, archive(pickle))) == ["w"]
    refused(tmp_path, archive(state(w=tensor(), bad=key + b")R")), "calls tuple")
    refused(tmp_path, archive(b"\x80\x02" + key + b"."), "holds tuple, not a dictionary")


def test_one_tensor_under_many_names(tmp_path):
    """What uses the same numbers again and again would be read again and again."""
    of = storage(size=2**20)
    first = tensor((2**20,), (1,), of=of) + b"q\x00"
    rest = b"".join(text(f"w{i}") + b"h\x00" for i in range(1000))
    pickle = b"\x80\x02}(" + text("w") + first + rest + b"u."
    refused(tmp_path, archive(pickle, {"data/0": bytes(2**22)}), "again and again")


def rebuilt(function, last):
    arguments = storage() + integer(0) + sizes((3,)) + sizes((1,)) + b"\x89N" + last
    return b"ctorch._utils\n" + function + b"\n(" + arguments + b"tR"


def typed(kind):
    arguments = b"(" + storage() + integer(0) + sizes((3,)) + sizes((1,)) + b"t"
    function = b"ctorch._utils\n_rebuild_tensor_v2\n"
    return b"ctorch._tensor\n_rebuild_from_type_v2\n(" + function + kind + arguments + b"}tR"


def test_other_ways_to_say_a_tensor(tmp_path):
    pickle = state(
        bits=rebuilt(b"_rebuild_tensor_v3", b"ctorch\nint32\n"),
        typed=typed(b"ctorch\nTensor\n"),
        parameter=b"ctorch._utils\n_rebuild_parameter\n" + tensor() + b"\x88N\x87R",
    )
    tensors = read(tmp_path, archive(pickle))
    assert tensors["bits"].tolist() == np.arange(3, dtype="f4").view("i4").tolist()
    assert tensors["typed"].tolist() == [0, 1, 2]
    assert tensors["parameter"].shape == (3, 4)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (tensor((3, 5), (5, 1)), "15 elements in a storage of 48 bytes"),
        (tensor((3, 4), (4, 1), 1), "up to element 12 of a storage of 48"),
        (tensor((2, 2), (11, 1)), "up to element 12"),
        (tensor((2,), (2**59,)), "up to element"),
        (tensor((13,), (0,)), "13 elements in a storage"),
        (tensor((1,), (1,), 2**59), "up to element"),
        (tensor((2**30, 2**30), (0, 0)), "sizes that no file can hold"),
        (tensor((2**59, 0), (1, 1)), "sizes that no file can hold"),
        (tensor((-1,), (1,)), "no whole numbers"),
        (tensor((2,), (-1,)), "no whole numbers"),
        (tensor((2,), (1,), -1), "no whole numbers"),
        (tensor((1,) * 33, (1,) * 33), "no whole numbers"),
        (tensor((2, 2), (1,)), "2 sizes and 1 strides"),
        (tensor(of=storage(size=13)), "in a storage of 52 bytes, of which 48 are there"),
        (tensor(of=storage(size=-1)), "a reference that is no storage"),
        (tensor(of=storage("1")), "no storage '1', which a tensor asks for"),
        (tensor(of=storage("../../etc/passwd")), "no storage '../../etc/passwd'"),
        (tensor(of=storage(kind=b"collections\nOrderedDict")), "a storage of type collections"),
        (tensor(of=storage(kind=b"torch\nQInt8Storage")), "asks for torch.QInt8Storage"),
        (tensor(of=text("x")), "a tensor of 'x', not of a storage"),
        (text("x") + b"Q", "a reference that is no storage"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n)R", "a tensor of 0 arguments"),
        (b"ctorch._utils\n_rebuild_parameter\n)R", "a parameter that is no tensor"),
        (b"ctorch\nSize\n)R", "a torch.Size that is not made of a tuple"),
        # Tensors of another dtype than their storage, and of a type.
        (rebuilt(b"_rebuild_tensor_v3", text("f4")), "a tensor whose dtype is 'f4'"),
        (rebuilt(b"_rebuild_tensor_v3", ORDERED), "a tensor whose dtype is collections"),
        (typed(ORDERED), "a tensor of type collections.OrderedDict"),
        (typed(b"N"), "a tensor of type NoneType"),
        (b"ctorch._tensor\n_rebuild_from_type_v2\n)R", "a type of 0 arguments"),
        # The numbers would be others than those in the file.
        (
            rebuilt(b"_rebuild_tensor_v2", b"}" + text("conj") + b"\x88s"),
            "a tensor with 'conj' set",
        ),
    ],
)
def test_tensors_stay_in_their_storage(value, match, tmp_path):
    refused(tmp_path, archive(state(w=value)), match)


def test_strides_along_one_element_are_never_used(tmp_path):
    array = read(tmp_path, archive(state(w=tensor((1, 3, 1), (2**50, 4, 2**59), 2))))["w"]
    assert array.tolist() == [[[2.0], [6.0], [10.0]]]


# The archive.


def test_archives_that_torch_does_not_write(tmp_path):
    good = state(w=tensor())
    numbers = np.arange(12, dtype="<f4").tobytes()
    bomb = archive(good, {"data/0": bytes(10_000_000)}, zipfile.ZIP_DEFLATED)
    refused(tmp_path, bomb, "is compressed")
    refused(tmp_path, archive(good, {"data/0": numbers, "byteorder": b"big"}), "byte order b'big'")
    refused(tmp_path, archive(good, {"data/0": numbers, "constants.pkl": b""}), "TorchScript")
    refused(tmp_path, archive(good, {"data/0": numbers, "../evil": b""}), "which leaves it")
    refused(tmp_path, archive(good, {"data/0": numbers, "data\\1": b""}), "which leaves it")
    refused(tmp_path, archive(good, {"data/0": numbers, "/y": b""}), "which leaves it")
    refused(tmp_path, archive(good, {"data/0": numbers, "data.pkl": good}), "twice")
    refused(tmp_path, archive(good, {"data/0": numbers, "y" * 600: b""}), "directory is damaged")
    large = archive(good + bytes(pickles.MAX_BYTES))
    refused(tmp_path, large, "33554432 are read")
    other = archive(good).replace(b"x/data.pkl", b"x/dato.pkl")
    refused(tmp_path, other, "no data.pkl")


def test_damaged_archives(tmp_path):
    whole = archive(state(w=tensor()))
    assert list(read(tmp_path, whole)) == ["w"]
    directory = whole.find(b"PK\x01\x02")
    end = whole.find(b"PK\x05\x06")

    def changed(at, form, value):
        return whole[:at] + struct.pack(form, value) + whole[at + struct.calcsize(form) :]

    storage_entry = whole.find(b"PK\x01\x02", directory + 1)
    local = whole.find(b"x/data/0") - 30
    for data, match in (
        (whole[:-1], "bytes after its end|no directory|no whole"),
        (whole + b"x", "bytes after its end"),
        (whole[:end], "no directory at its end"),
        (changed(end + 16, "<L", directory + 1), "directory is not in the file"),
        (changed(end + 10, "<H", 4), "directory is not in the file"),
        (changed(end + 4, "<H", 1), "one part of a zip archive"),
        (changed(storage_entry + 8, "<H", 1), "encrypted"),
        (changed(storage_entry + 24, "<L", 2**31), "compressed"),
        (changed(storage_entry + 42, "<L", 0), "is another one in its own header"),
        (changed(storage_entry + 42, "<L", 2**31), "is not in the file"),
        (changed(local + 18, "<L", 8), "another one"),
        (changed(local + 26, "<H", 2000), "not in the file"),
        (changed(local + 28, "<H", 40), "overlaps another|not in the file"),
        (whole.replace(b"x/data/0", b"x/data/1", 1), "another one in its own header"),
        (whole.replace(b"_rebuild", b"_rebuilt"), "checksum"),
    ):
        refused(tmp_path, data, match)


def zip_64(whole, count=None, start=0):
    """The same archive with its directory said in 64 bits, and the last entry's sizes too."""
    end = whole.find(b"PK\x05\x06")
    entry = whole.rfind(b"PK\x01\x02")
    size, place = struct.unpack("<20xL18xL", whole[entry : entry + 46])
    head = bytearray(whole[entry : entry + 46])
    struct.pack_into("<2L", head, 20, 2**32 - 1, 2**32 - 1)
    struct.pack_into("<H", head, 30, 40)
    struct.pack_into("<L", head, 42, 2**32 - 1)
    extra = struct.pack("<2H8x2H3Q", 9, 8, 1, 24, size, size, place + start)
    whole = whole[:entry] + head + whole[entry + 46 : end] + extra + whole[end:]
    end += len(extra)
    fields = struct.unpack("<4s4H2LH", whole[end:])
    directory = (count or fields[3], count or fields[4], fields[5] + len(extra), fields[6])
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, *directory)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1)
    last = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 2**32 - 1, 2**32 - 1, 0)
    return whole[:end] + record + locator + last


def test_archives_in_64_bits(tmp_path):
    numbers = np.arange(12, dtype="<f4").tobytes()
    whole = archive(state(w=tensor()), {"data/0": numbers})
    assert read(tmp_path, zip_64(whole))["w"].sum() == 66
    refused(tmp_path, zip_64(whole, start=2**40), "'x/data/0' is not in the file")
    refused(tmp_path, zip_64(whole, 1), "more in its directory than its entries")
    refused(tmp_path, zip_64(whole, 3), "directory ends too early")
    refused(tmp_path, zip_64(whole, 2**40), "1099511627776 entries")
    unsaid = zip_64(whole).replace(struct.pack("<2H", 1, 24), struct.pack("<2H", 1, 16))
    refused(tmp_path, unsaid, "whose size is not said")
    other = zip_64(whole).replace(struct.pack("<2H", 0xFFFF, 0xFFFF), struct.pack("<2H", 1, 1))
    refused(tmp_path, other, "contradict each other")


def test_overlapping_entries(tmp_path):
    """The second of two entries begins within the first: its header is the data of the other."""
    inner = archive(b"", {"data/1": bytes(48)})
    inner = inner[inner.find(b"PK\x03\x04", 1) : inner.find(b"PK\x01\x02")]
    whole = archive(state(w=tensor()), {"data/0": inner, "data/1": bytes(48)})
    assert list(read(tmp_path, whole)) == ["w"]
    entry = whole.rfind(b"PK\x01\x02")
    within = struct.pack("<L", whole.find(inner))
    refused(tmp_path, whole[: entry + 42] + within + whole[entry + 46 :], "'x/data/1' overlaps")


# The older form.

LEGACY = (FIXTURES / "torch_lightning_legacy.ckpt").read_bytes()


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (LEGACY[:15], "is damaged at byte 15"),
        (LEGACY.replace(b"M\xe9\x03", b"M\xe8\x03", 1), "has protocol 1000, not 1001"),
        (LEGACY.replace(b"endianq\x02\x88", b"endianq\x02\x89"), "no.* little-endian machine"),
        (LEGACY[:-1], "ends at byte|ends before"),
        (LEGACY + b"x", "1 bytes after its last storage"),
        (LEGACY.replace(b"ccollections\nOrdered", b"ccollections\nordered"), "collections.ordered"),
        (b"\x80\x02}.", "none that torch.save has written"),
        (b"\x93NUMPY\x01\x00v\x00{}      ", "which is no file of torch.save"),
        (b"", "which is no file of torch.save"),
    ],
)
def test_damaged_files_of_the_older_form(data, match, tmp_path):
    refused(tmp_path, data, match)


def legacy(pickle, keys, *storages):
    return (
        LEGACY[:15]
        + b"\x80\x02M\xe9\x03."
        + state(little_endian=b"\x88")
        + pickle
        + b"\x80\x02]("
        + b"".join(map(text, keys))
        + b"e."
        + b"".join(struct.pack("<Q", len(s) // 4) + s for s in storages)
    )


def test_storages_of_the_older_form(tmp_path):
    numbers = np.arange(12, dtype="<f4").tobytes()
    good = state(w=tensor())
    assert read(tmp_path, legacy(good, ["0"], numbers))["w"].sum() == 66
    # A part of a storage, as torch wrote it before 0.4: its own key, first element and size.
    part = storage()[:-2] + b"(" + text("9") + integer(4) + integer(3) + b"ttQ"
    viewed = state(w=tensor((3,), (1,), of=part))
    assert read(tmp_path, legacy(viewed, ["0"], numbers))["w"].tolist() == [4, 5, 6]
    outside = storage()[:-2] + b"(" + text("9") + integer(10) + integer(3) + b"ttQ"
    refused(
        tmp_path, legacy(state(w=tensor((3,), (1,), of=outside)), ["0"], numbers), "past its end"
    )
    no_view = state(w=tensor((3,), (1,), of=storage()[:-2] + b")tQ"))
    refused(tmp_path, legacy(no_view, ["0"], numbers), "a view of storage '0' that is no offset")
    refused(tmp_path, legacy(good, []), "no storage '0', which a tensor asks for")
    refused(
        tmp_path, legacy(good, [], b"").replace(b"\x80\x02](e.", b"\x80\x02}."), "no list of texts"
    )
    refused(tmp_path, legacy(good, ["0", "0"], numbers, numbers), "not asked for once")
    refused(tmp_path, legacy(good, ["0", "1"], numbers, numbers), "not asked for once")
    refused(tmp_path, legacy(good, ["0"], numbers[:-4]), "11 elements in storage '0', not 12")
    both = state(w=tensor(), v=tensor((1,), (1,), of=storage(size=2**40)))
    refused(tmp_path, legacy(both, ["0"], numbers), "in two sizes")
    huge = state(w=tensor(of=storage(size=2**40)))
    claims = legacy(huge, ["0"]) + struct.pack("<Q", 2**40)
    refused(tmp_path, claims, "ends at byte")
