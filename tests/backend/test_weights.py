"""Names, files, strict loading, preset folders."""

from __future__ import annotations

import hashlib
import json
import random
import struct
from pathlib import Path

import keras
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from keras import ops

from keras_sd.config import (
    SD_1,
    AutoencoderConfig,
    Defaults,
    ModelConfig,
    TextEncoderConfig,
    UNetConfig,
)
from keras_sd.networks import Autoencoder, TextEncoder, UNet
from keras_sd.networks.initializers import weights_follow
from keras_sd.pipeline import StableDiffusion
from keras_sd.weights import names, presets, save
from keras_sd.weights.checkpoint import Part, read_preset
from keras_sd.weights.load import (
    arrays_of,
    build_networks,
    load_parts,
    load_state_dict,
    variables_of,
)
from keras_sd.weights.names import diffusers, own
from keras_sd.weights.presets import list_presets, locate
from keras_sd.weights.readers import WeightsError, read_file, sha256
from keras_sd.weights.readers.safetensors import read_header
from keras_sd.weights.save import save_preset

MERGES = ["c a", "ca t</w>", "d o", "do g</w>"]
TINY = ModelConfig(
    name="tiny",
    text_encoder=TextEncoderConfig(
        vocab_size=512 + len(MERGES) + 2, max_length=8, width=8, depth=1, heads=2, mlp_width=16
    ),
    unet=UNetConfig(
        widths=(8, 8), heads=(2, 2), depths=(0, 1), blocks=1, context_width=8, groups=4
    ),
    autoencoder=AutoencoderConfig(widths=(4, 8), blocks=1, groups=4),
    defaults=Defaults(height=16, width=16, num_steps=2),
)


def networks(config=TINY):
    return {
        "text_encoder": TextEncoder(config.text_encoder),
        "unet": UNet(config.unet),
        "autoencoder": Autoencoder(config.autoencoder),
    }


def same(a, b):
    assert a.keys() == b.keys()
    return all(np.array_equal(a[name], b[name]) for name in a)


# Names


@pytest.mark.parametrize(
    ("table", "network", "config"),
    [
        (diffusers.text_encoder, TextEncoder, TextEncoderConfig(99, 7, 8, 3, 2, 16)),
        (diffusers.unet, UNet, TINY.unet),
        (
            diffusers.unet,
            UNet,
            UNetConfig(4, 4, (4, 8, 8, 12), (1, 2, 2, 4), (1, 2, 0, 1), 2, 6, 4, True),
        ),
        (diffusers.unet, UNet, UNetConfig(9, 4, (4, 4), (2, 2), (0, 0), 3, 6, 2)),
        (diffusers.autoencoder, Autoencoder, TINY.autoencoder),
        (diffusers.autoencoder, Autoencoder, AutoencoderConfig(4, (4, 4, 8, 8), 2, 2)),
    ],
)
def test_a_table_has_every_variable_and_every_name_once(table, network, config):
    with weights_follow():
        variables = variables_of(network(config))
    entries = table(config)
    assert sorted(entry.path for entry in entries) == sorted(variables)
    assert len({entry.name for entry in entries}) == len(entries)
    for entry in entries:
        shape = tuple(variables[entry.path].shape)
        assert entry.shape == shape
        assert entry.layout == {"kernel": {2: "linear", 4: "conv"}.get(len(shape))}.get(
            entry.path.split("/")[-1], "same"
        )


def test_the_tables_of_stable_diffusion_have_the_sizes_known_of_its_files():
    assert len(diffusers.text_encoder(SD_1.text_encoder)) == 196
    assert len(diffusers.unet(SD_1.unet)) == 686
    assert len(diffusers.autoencoder(SD_1.autoencoder)) == 248


LAYOUTS = {
    "same": ((3, 4), (3, 4)),
    "linear": ((4, 3), (3, 4)),
    "conv": ((5, 4, 3, 2), (3, 2, 4, 5)),
    "pointwise": ((4, 3, 1, 1), (3, 4)),
    "keras_pointwise": ((1, 1, 3, 4), (3, 4)),
}


@pytest.mark.parametrize("part", [None, (0, 3), (2, 3)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, part):
    theirs, ours = LAYOUTS[layout]
    weight = names.Weight("a", "b", ours, layout, part)
    rows = theirs[0]
    whole = (rows * 3, *theirs[1:]) if part else theirs
    assert weight.file_shape == whole
    array = np.arange(np.prod(whole)).reshape(whole)
    assert weight.ours(array).shape == ours
    piece = array if part is None else array[part[0] * rows :][:rows]
    np.testing.assert_array_equal(weight.theirs(weight.ours(array)), piece)
    if layout == "conv":
        assert weight.ours(array)[2, 1, 3, 4] == piece[4, 3, 2, 1]
    elif layout in ("linear", "pointwise"):
        assert weight.ours(array)[1, 2] == piece[2, 1].item()


# Files


def arrays():
    return {
        "half": np.arange(6, dtype=np.float16).reshape(2, 3),
        "single": np.linspace(-1, 1, 5, dtype=np.float32),
        "double": np.array([[1e300]]),
        "brain": np.arange(4).astype(ml_dtypes.bfloat16),
        "number": np.array(7, np.int64),
        "byte": np.array([1, 2, 3], np.uint8),
        "truth": np.array([True, False]),
        "nothing": np.zeros((0, 4), np.float32),
    }


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "some.safetensors"
    safetensors.numpy.save_file(arrays(), path, {"format": "pt"})
    return path


def test_a_file_is_read_as_it_was_written(file):
    found, (header, metadata) = read_file(file), read_header(file)
    read = found.tensors
    assert (found.path, found.format) == (file, "safetensors")
    assert found.metadata == metadata == {"format": "pt"}
    assert read.keys() == header.keys() == arrays().keys()
    for name, array in arrays().items():
        assert read[name].dtype == array.dtype
        assert header[name].shape == array.shape
        np.testing.assert_array_equal(read[name], array)
    assert header["brain"].dtype == "BF16"


def test_tensors_are_views_of_the_file(file):
    tensor = read_file(file).tensors["half"]
    base = tensor
    while not isinstance(base, np.memmap):
        base = base.base
    assert base.filename == str(file)
    assert not tensor.flags.writeable


def test_sha256(file):
    assert sha256(file) == hashlib.sha256(file.read_bytes()).hexdigest()


def raw(header, data=b"\0" * 8):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "0 bytes"),
        (b"\1\0\0", "3 bytes"),
        (struct.pack("<Q", 2**63), "header would have"),
        (struct.pack("<Q", 100) + b"{}", "header would have 100 bytes, the file has 10"),
        (raw(b"{"), "header cannot be read"),
        (raw(b"\xff\xfe"), "header cannot be read"),
        (raw(b"[" * 100_000), "header cannot be read"),
        (raw(b'{"a": ' * 50_000), "header cannot be read"),
        (raw(b"[]"), "not a JSON object"),
        (raw(b'{"a": {}, "a": {}}'), "'a' is there twice"),
        (raw({"a": 3}), "'a'.*dtype, shape and data_offsets"),
        (raw({"a": entry(more=1)}), "'a'.*dtype, shape and data_offsets"),
        (raw({"a": entry("F8_E8M0")}), "'a'.*dtype 'F8_E8M0' is not one of F64, F32"),
        (raw({"a": entry([])}), r"'a'.*dtype \[\]"),
        (raw({"a": entry(shape=(-2,))}), r"'a'.*shape \[-2\]"),
        (raw({"a": entry(shape=(2.0,))}), r"'a'.*shape \[2.0\]"),
        (raw({"a": entry(shape=(True, 2))}), r"'a'.*shape \[True, 2\]"),
        (raw({"a": entry(shape=(2**62, 2**62, 0))}), "'a'.*is not a list of sizes"),
        (raw({"a": entry(shape=(1,) * 99)}), "'a'.*is not a list of sizes"),
        (raw({"a": entry(shape=(3,))}), "'a'.*takes 12 bytes, not 8"),
        (raw({"a": entry(offsets=(8, 0))}), "'a'.*not two rising positions"),
        (raw({"a": entry(offsets=(0, 4, 8))}), "'a'.*not two rising positions"),
        (raw({"a": entry(offsets=(0, "8"))}), "'a'.*not two rising positions"),
        (raw({"a": entry(offsets=(4, 12))}), "'a' begins at byte"),
        (raw({"a": entry(), "b": entry()}), "'b' begins at byte"),
        (raw({"a": entry()}, b"\0" * 7), "tensors end at byte"),
        (raw({"a": entry()}, b"\0" * 9), "tensors end at byte"),
        (raw({}), "tensors end at byte"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else None,
)
def test_a_file_that_is_not_whole_is_refused(tmp_path, content, words):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=words) as caught:
        read_file(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "none.safetensors")


def test_any_damage_is_a_weights_error_or_harmless(tmp_path, file):
    content, path, dice = file.read_bytes(), tmp_path / "mutated.safetensors", random.Random(0)
    refused = 0
    for _ in range(400):
        mutated = bytearray(content)
        for _ in range(dice.choice((1, 1, 2, 8))):
            mutated[dice.randrange(len(mutated))] = dice.randrange(256)
        if dice.random() < 0.2:
            del mutated[dice.randrange(len(mutated)) :]
        path.write_bytes(mutated)
        try:
            for tensor in read_file(path).tensors.values():
                tensor.sum()
        except WeightsError:
            refused += 1
    assert refused > 100


# Loading


def load(models, tensors, source="the weights"):
    """Loads tensors with our own names."""
    tables = own.tables(TINY)
    parts = {
        part: Part({n: t for n, t in tensors.items() if n.startswith(part)}, tables[part], source)
        for part in models
    }
    load_parts(models, parts, source=source)


@pytest.fixture(scope="module")
def models():
    keras.utils.set_random_seed(0)
    return networks()


def test_weights_load_into_every_variable(models):
    tensors = {name: value + 1 for name, value in arrays_of(models).items()}
    others = networks()
    load(others, tensors)
    assert same(arrays_of(others), tensors)


def test_everything_wrong_is_said_at_once_and_nothing_is_changed(models):
    before = arrays_of(models)
    tensors = {name: value + 1 for name, value in before.items()}
    tensors["unet/extra"] = tensors.pop("unet/conv_in/bias")
    tensors["unet/time1/bias"] = np.zeros(3, np.float32)
    tensors["autoencoder/encoder/conv_in/bias"] = np.zeros(4, np.int32)
    with pytest.raises(WeightsError) as caught:
        load(models, tensors, source="mine.safetensors")
    message = str(caught.value)
    assert message.startswith("mine.safetensors does not fit, nothing was loaded:")
    assert "1 unexpected: unet/extra" in message
    assert "1 missing: unet/conv_in/bias" in message
    assert "unet/time1/bias is (3,), not (32,) (time1/bias (32,))" in message
    assert "1 not floating: autoencoder/encoder/conv_in/bias (int32)" in message
    assert same(arrays_of(models), before)


def test_a_long_list_is_cut_but_counted(models):
    with pytest.raises(WeightsError, match=r"missing: .* and \d+ more$"):
        load(models, {})


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused_by_name(models, number):
    before = arrays_of(models)
    tensors = {name: value + 1 for name, value in before.items()}
    tensors["unet/middle/residual/conv1/kernel"][0, 1, 2, 3] = number
    with pytest.raises(WeightsError, match=r"1 not finite: unet/middle/residual/conv1/kernel$"):
        load(models, tensors)
    assert same(arrays_of(models), before)


def test_numbers_too_large_for_the_weights_dtype_are_refused():
    keras.config.set_dtype_policy("float16")
    try:
        encoder = TextEncoder(TINY.text_encoder)
    finally:
        keras.config.set_dtype_policy("float32")
    tensors = {name: np.ones(v.shape, "float32") for name, v in variables_of(encoder).items()}
    table = [names.Weight(name, name, tensor.shape) for name, tensor in tensors.items()]
    load_state_dict(encoder, tensors, table)
    tensors["norm/beta"][0] = 1e6
    with pytest.raises(WeightsError, match="1 not finite: norm/beta"):
        load_state_dict(encoder, tensors, table)
    assert variables_of(encoder)["norm/beta"].dtype == "float16"


@pytest.mark.parametrize("dtype", ["float16", "float64", ml_dtypes.bfloat16])
def test_other_precisions_load(models, dtype):
    tensors = {name: value.astype(dtype) for name, value in arrays_of(models).items()}
    others = networks()
    load(others, tensors)
    assert same(arrays_of(others), {name: v.astype("float32") for name, v in tensors.items()})


def test_what_was_loaded_is_not_the_file(tmp_path, models):
    path = tmp_path / "weights.safetensors"
    tensors = arrays_of(models)
    safetensors.numpy.save_file(tensors, path)
    others = networks()
    load(others, read_file(path).tensors)
    with open(path, "r+b") as file:
        file.seek(-4096, 2)
        file.write(b"\x7f" * 4096)
    assert same(arrays_of(others), tensors)


def test_foreign_names_and_layouts(models):
    table = diffusers.unet(TINY.unet)
    ours = variables_of(models["unet"])
    theirs = {
        entry.name: np.ascontiguousarray(entry.theirs(ops.convert_to_numpy(ours[entry.path].value)))
        for entry in table
    }
    other = UNet(TINY.unet)
    load_state_dict(other, theirs, table)
    assert same(arrays_of({"unet": other}), arrays_of({"unet": models["unet"]}))
    theirs["mid_block.resnets.0.conv1.weight"] = np.zeros((8, 8, 3), np.float32)
    with pytest.raises(WeightsError, match=r"conv1.weight is \(8, 8, 3\), not \(8, 8, 3, 3\)"):
        load_state_dict(other, theirs, table)


def test_a_table_for_another_network_is_refused(models):
    with pytest.raises(WeightsError, match="does not fit the model"):
        load_state_dict(models["unet"], {}, diffusers.unet(SD_1.unet))


# Preset folders


@pytest.fixture
def preset(tmp_path, models):
    folder = tmp_path / "preset"
    save_preset(
        folder, TINY, arrays_of(models), MERGES, ["dog", "cat"], dtype="float32", license="MIT"
    )
    return folder


def test_a_preset_comes_back_as_it_was(preset, models):
    found = read_preset(preset)
    assert found.config == TINY
    assert found.words == ("cat", "dog")
    assert found.license == "MIT"
    assert found.merges.read_text() == "".join(f"{line}\n" for line in MERGES)
    assert same(arrays_of(build_networks(found)), arrays_of(models))
    assert StableDiffusion.from_preset(preset).tokenizer.max_length == 8
    assert sorted(path.name for path in preset.iterdir()) == [
        "config.json",
        "merges.txt",
        "model.safetensors",
    ]


def test_float16_is_the_default_and_saving_again_writes_the_same(preset, models, tmp_path):
    save_preset(preset, TINY, arrays_of(models), preset / "merges.txt")
    assert {info.dtype for info in read_header(preset / "model.safetensors")[0].values()} == {"F16"}
    again = build_networks(read_preset(preset))
    half = {name: value.astype("float16") for name, value in arrays_of(models).items()}
    assert same({n: v.astype("float16") for n, v in arrays_of(again).items()}, half)
    save_preset(tmp_path / "again", TINY, arrays_of(again), MERGES)
    for path in preset.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_a_preset_folder_makes_pictures(preset):
    pipeline = StableDiffusion.from_preset(preset)
    images = pipeline.text_to_image("a cat", seed=0)
    assert images.shape == (1, 16, 16, 3)
    assert pipeline.unknown_words("dog and cat") == ["and"]


def edit(change):
    def apply(folder):
        data = json.loads((folder / "config.json").read_text())
        change(data)
        (folder / "config.json").write_text(json.dumps(data))

    return apply


def flip(name):
    def apply(folder):
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    return apply


def cut(name):
    def apply(folder):
        (folder / name).write_bytes((folder / name).read_bytes()[:-100])

    return apply


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (lambda folder: (folder / "config.json").unlink(), WeightsError, "no checkpoint"),
        (lambda folder: (folder / "merges.txt").unlink(), FileNotFoundError, "merges.txt"),
        (lambda folder: (folder / "model.safetensors").unlink(), FileNotFoundError, "model.safe"),
        (flip("model.safetensors"), WeightsError, "model.safetensors is damaged.*sha256"),
        (cut("model.safetensors"), WeightsError, "model.safetensors is damaged.*sha256"),
        (flip("merges.txt"), WeightsError, "merges.txt is damaged.*sha256"),
        (lambda folder: (folder / "config.json").write_text("{"), WeightsError, "is no JSON"),
        (lambda folder: (folder / "config.json").write_text("3"), WeightsError, "not a JSON ob"),
        (
            lambda folder: (folder / "config.json").write_text("[" * 100_000),
            WeightsError,
            "is no JSON",
        ),
        (edit(lambda data: data.pop("files")), WeightsError, "files must give the sha256"),
        (edit(lambda data: data["files"].pop("merges.txt")), WeightsError, "files must give"),
        (edit(lambda data: data["files"].update({"../x": ""})), WeightsError, "not the name of"),
        (edit(lambda data: data.update(format=2)), WeightsError, "format is 2.*reads 1"),
        (edit(lambda data: data.update(words=[1])), WeightsError, "words"),
        (edit(lambda data: data.update(colour=1)), WeightsError, "config.json: .*unknown colour"),
        (edit(lambda data: data["unet"].update(blocks="1")), WeightsError, "unet.blocks"),
    ],
)
def test_a_damaged_preset_is_named_before_anything_is_built(
    preset, damage, error, words, monkeypatch
):
    damage(preset)
    monkeypatch.setattr("keras_sd.weights.load.UNet", None)
    with pytest.raises(error, match=words):
        StableDiffusion.from_preset(preset)


def test_an_edited_config_does_not_fit_its_weights(preset):
    edit(lambda data: data["unet"].update(blocks=2))(preset)
    with pytest.raises(WeightsError, match=r"(?s)preset does not fit.*missing"):
        StableDiffusion.from_preset(preset)


def test_a_preset_that_is_not_there_is_an_error_that_helps(tmp_path, monkeypatch, preset):
    monkeypatch.setattr(presets, "PRESETS", tmp_path)
    assert list_presets() == ["preset"]
    assert locate("preset") == preset
    with pytest.raises(FileNotFoundError, match=r"'preste'. Did you mean 'preset'\?"):
        locate("preste")
    with pytest.raises(FileNotFoundError, match=r"Names: preset, sd-1.4, .*hf://owner/name"):
        locate(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"none is not complete: config.json is missing"):
        read_preset(tmp_path / "none")


def test_a_failed_save_leaves_the_old_preset(preset, models, monkeypatch):
    before = {path.name: path.read_bytes() for path in preset.iterdir()}

    def half(tensors, path):
        Path(path).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(save, "save_file", half)
    with pytest.raises(OSError, match="no space"):
        save_preset(preset, TINY, arrays_of(models), MERGES)
    assert {path.name: path.read_bytes() for path in preset.iterdir()} == before


def test_the_config_goes_first_and_comes_last(preset, models, monkeypatch):
    """Whatever a power cut leaves is the old preset, the new one, or none at all."""
    original, moved = Path.rename, []

    def rename(path, target):
        moved.append((path.parent == preset, path.name))
        original(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    save_preset(preset, TINY, arrays_of(models), MERGES)
    whole, *moved = moved  # first the new folder is said to be whole, by its name
    assert whole[0]
    assert whole[1].endswith(".new")
    assert len(moved) == 6
    assert moved[0] == (True, "config.json")
    assert moved[-1] == (False, "config.json")
    assert [old for old, _ in moved] == [True] * 3 + [False] * 3


def test_what_cannot_be_saved_is_refused(tmp_path, models):
    with pytest.raises(ValueError, match="float16, bfloat16, float32 or None, not 'int4'"):
        save_preset(tmp_path / "new", TINY, arrays_of(models), MERGES, dtype="int4")
    encoder = TextEncoder(TINY.text_encoder)
    variables_of(encoder)["norm/gamma"].assign(np.full(8, 1e6, "float32"))
    with pytest.raises(WeightsError, match="not finite as float16: text_encoder/norm/gamma"):
        save_preset(tmp_path / "new", TINY, arrays_of({**models, "text_encoder": encoder}), MERGES)
    assert not (tmp_path / "new").exists()
