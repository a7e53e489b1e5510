"""Tensors that a checkpoint has too many, twice, elsewhere, or in eight bits. No Keras."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from fuzz import archive
from tiny import MERGES, TINY, TINY_2

from keras_sd.weights.checkpoint import open_checkpoint
from keras_sd.weights.diffusers_folder.write import write_folder
from keras_sd.weights.inspection import inspect
from keras_sd.weights.names import diffusers, original, own
from keras_sd.weights.presets import open_preset
from keras_sd.weights.readers import WeightsError
from keras_sd.weights.save import save_checkpoint

CLIP = "cond_stage_model.transformer.text_model."
OTHER_CLIP = "cond_stage_model.transformer."


def random_arrays(config):
    rng = np.random.default_rng(7)
    return {
        entry.name: rng.standard_normal(entry.shape).astype("float32")
        for table in own.tables(config).values()
        for entry in table
    }


ARRAYS = random_arrays(TINY)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def tensors_of(path, config=TINY, arrays=None):
    save_checkpoint(path, config, ARRAYS if arrays is None else arrays)
    return safetensors.numpy.load_file(path)


def check(path, wanted=None, **options):
    """The checkpoint, which is whole and has these arrays."""
    found = open_checkpoint(path, **options)
    found.check()
    wanted, arrays = ARRAYS if wanted is None else wanted, found.arrays()
    assert arrays.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(np.asarray(arrays[name]), array, err_msg=name)
    return found


def refused(path, words, **options):
    with pytest.raises(WeightsError, match=words):
        open_checkpoint(path, **options).check()


def renamed(tensors, before, after, count=-1):
    return {name.replace(before, after, count): tensor for name, tensor in tensors.items()}


def written(table, part):
    """The tensors of a part in another layout."""
    arrays = {e.name: e.theirs(ARRAYS[f"{part}/{e.path}"]) for e in table}
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


# What nobody needs


STRAYS = [
    "global_step",
    "epoch",
    "denoiser.sigmas",
    "edm_vpred.sigma_max",
    "cond_stage_model.transformer.something.weight",
    "model.something",
    "model.diffusion_model.something.weight",
    "lora_te_text_model_encoder_layers_0_mlp_fc1.alpha",
    "first_stage_model.something",
    "",
]


@pytest.mark.parametrize("name", STRAYS)
def test_a_stray_tensor_is_left_out_and_named(name, path):
    tensors = tensors_of(path)
    safetensors.numpy.save_file({**tensors, name: np.array([7, 8])}, path)
    found = check(path)
    assert found.left_out == (name,)
    (note,) = found.notes
    assert note.startswith(f"{path}: 1 tensor is left out, which nothing here needs: {name}.")
    assert inspect(path).left_out == [name]
    assert inspect(path).good
    for open_it in (open_checkpoint, open_preset):
        with pytest.raises(WeightsError, match="1 unexpected: "):
            open_it(path, strict=True).check()
    assert inspect(path, strict=True).problems == {"unexpected": [name]}


@pytest.mark.parametrize(
    "name",
    [
        # Layers that other networks have there, and scales of weights in eight bits.
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k_ip.weight",
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.fuser.linear.weight",
        "model.diffusion_model.out.2.scale_weight",
        "first_stage_model.decoder.mid.block_3.conv1.weight",
        CLIP + "encoder.layers.7.mlp.fc1.weight",
    ],
)
def test_what_lies_in_a_network_is_no_stray(name, path):
    tensors = tensors_of(path)
    safetensors.numpy.save_file({**tensors, name: np.ones(3, "f4")}, path)
    refused(path, f"1 unexpected: {name}")


def test_what_is_missing_or_misshapen_stays_an_error_and_strays_may_explain_it(path):
    tensors = tensors_of(path)
    name = "first_stage_model.decoder.norm_out.bias"
    tensors["oddly.named"] = tensors.pop(name)
    safetensors.numpy.save_file(tensors, path)
    refused(path, f"(?s)1 missing: {name}.*1 left out: oddly.named")


def test_strays_of_a_part_of_its_own_file_and_of_a_folder(path, tmp_path):
    tensors_of(path)
    table = diffusers.autoencoder(TINY.autoencoder)
    vae = written(table, "autoencoder")
    part = tmp_path / "vae.safetensors"
    safetensors.numpy.save_file({**vae, "global_step": np.array([1])}, part)
    found = check(path, autoencoder=part)
    assert found.left_out == ("global_step",)
    assert found.notes == (f"{part}: 1 tensor is left out, which nothing here needs: global_step.",)
    refused(path, "1 unexpected: global_step", autoencoder=part, strict=True)
    report = inspect(part)
    assert (report.good, report.left_out) == (True, ["global_step"])
    assert inspect(part, strict=True).problems == {"unexpected": ["global_step"]}

    folder = tmp_path / "folder"
    write_folder(folder, TINY, ARRAYS, MERGES, dtype=None)
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    unet = safetensors.numpy.load_file(file)
    safetensors.numpy.save_file({**unet, "epoch": np.array([3])}, file)
    assert check(folder).left_out == ("epoch",)
    refused(folder, "1 unexpected: epoch", strict=True)
    safetensors.numpy.save_file({**unet, "conv_in.scale": np.array([3])}, file)
    refused(folder, r"1 unexpected: conv_in\.scale")


# What is there twice


def test_a_second_copy_with_equal_numbers_is_a_spare(path):
    tensors = tensors_of(path)
    second = {n: t.copy() for n, t in renamed(tensors, CLIP, OTHER_CLIP).items()}
    safetensors.numpy.save_file({**second, **tensors}, path)
    found = check(path)
    names = {name for name in second if name not in tensors}
    assert set(found.left_out) == names
    (note,) = found.notes
    assert note == (
        f"text encoder: {len(names)} tensors are there twice, under {OTHER_CLIP} and {CLIP}, with "
        "the same numbers."
    )
    refused(path, f"{len(names)} unexpected: ", strict=True)


def test_of_two_copies_that_differ_the_published_names_are_taken_and_a_note_says_so(path, tmp_path):
    tensors = tensors_of(path)
    second = {n: t.copy() for n, t in renamed(tensors, CLIP, OTHER_CLIP).items()}
    name = OTHER_CLIP + "encoder.layers.0.mlp.fc1.bias"
    second[name] += 1
    safetensors.numpy.save_file({**second, **tensors}, path)
    (note,) = check(path).notes
    assert f"and 1 of them with other numbers: {name}" in note
    assert f"Here it is {CLIP}" in note
    assert "text_encoder=FILE takes another" in note
    refused(path, "unexpected: ", strict=True)
    # Where it is taken from elsewhere, nobody has to choose.
    alone = tmp_path / "clip.safetensors"
    text = {n.removeprefix(CLIP): t for n, t in tensors.items() if n.startswith(CLIP)}
    safetensors.numpy.save_file(text, alone)
    assert check(path, text_encoder=alone).notes == ()


def test_the_copy_that_is_whole_is_taken(path):
    tensors = tensors_of(path)
    second = renamed(tensors, CLIP, OTHER_CLIP)
    name = CLIP + "final_layer_norm.bias"
    safetensors.numpy.save_file({n: t for n, t in (tensors | second).items() if n != name}, path)
    found = check(path)
    assert f"under {CLIP} and {OTHER_CLIP}, with the same numbers" in found.notes[0]


def test_one_tensor_may_be_there_twice_and_a_whole_network_in_another_layout(path):
    tensors = tensors_of(path)
    name = "decoder.conv_in.weight"
    more = {f"vae.{name}": tensors[f"first_stage_model.{name}"].copy()}
    safetensors.numpy.save_file({**tensors, **more}, path)
    assert "autoencoder: 1 tensor is there twice, under vae. and" in check(path).notes[0]
    table = diffusers.autoencoder(TINY.autoencoder)
    vae = {
        f"vae.{e.name}": np.ascontiguousarray(e.theirs(ARRAYS[f"autoencoder/{e.path}"]))
        for e in table
    }
    safetensors.numpy.save_file({**tensors, **vae}, path)
    found = check(path)
    assert set(found.left_out) == set(vae)
    assert all("with the same numbers" in note for note in found.notes)


# Where else it may be


PREFIXES = [
    {"model.diffusion_model.": "diffusion_model."},
    {"first_stage_model.": "vae."},
    {"model.diffusion_model.": "unet.", "first_stage_model.": "vae.", CLIP: "text_encoder."},
    {CLIP: "text_encoder.text_model."},
    {CLIP: "clip_l.transformer.text_model."},
    {"model.diffusion_model.": "", "first_stage_model.": "vae."},
]


@pytest.mark.parametrize("prefixes", PREFIXES, ids=lambda p: " ".join(p.values()))
def test_prefixes_that_merges_use(prefixes, path):
    tensors = tensors_of(path)
    for before, after in prefixes.items():
        tensors = renamed(tensors, before, after)
    safetensors.numpy.save_file(tensors, path)
    found = check(path)
    assert (found.notes, found.left_out) == ((), ())


def test_the_three_of_diffusers_in_one_file(path):
    made = {
        "unet.": ("unet", diffusers.unet(TINY.unet)),
        "vae.": ("autoencoder", diffusers.autoencoder(TINY.autoencoder)),
        "text_encoder.text_model.": ("text_encoder", diffusers.text_encoder(TINY.text_encoder)),
    }
    tensors = {
        prefix + name: tensor
        for prefix, (part, table) in made.items()
        for name, tensor in written(table, part).items()
    }
    safetensors.numpy.save_file(tensors, path)
    assert check(path).left_out == ()


@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_the_attention_of_an_autoencoder_may_be_partly_of_either_rank(layout, path, tmp_path):
    make = original.autoencoder if layout == "original" else diffusers.autoencoder
    table = make(TINY.autoencoder)
    tensors = {
        e.name: np.ascontiguousarray(e.theirs(ARRAYS[f"autoencoder/{e.path}"])) for e in table
    }
    attention = [e.name for e in table if e.layout in ("linear", "pointwise")]
    assert len(attention) == 8
    whole = tensors_of(path)
    for i, name in enumerate(attention):
        shape = tensors[name].shape[:2]
        tensors[name] = tensors[name].reshape((*shape, 1, 1) if i % 3 else shape)
    assert {tensors[name].ndim for name in attention} == {2, 4}
    part = tmp_path / "vae.safetensors"
    safetensors.numpy.save_file(tensors, part)
    check(path, autoencoder=part)
    if layout == "original":
        safetensors.numpy.save_file({**whole, **tensors}, path)
        check(path)


# The average alone


@pytest.mark.parametrize("config", [TINY, TINY_2], ids=["1.x", "2.x"])
def test_a_file_with_the_average_alone_is_whole_with_ema(config, path):
    arrays = random_arrays(config)
    tensors = tensors_of(path, config, arrays)
    unet = [name for name in tensors if name.startswith(original.UNET)]
    for name in unet:
        tensors[original.ema_name(name)] = tensors.pop(name)
    safetensors.numpy.save_file(tensors, path, {"modelspec.prediction_type": "v"})
    found = check(path, arrays, ema=True)
    assert found.config.unet == config.unet
    assert (found.notes, found.left_out) == ((), ())
    words = r"1 missing: unet \(the file has its moving average \(EMA\) alone: ema=True takes that"
    refused(path, words)
    assert inspect(path, ema=True).good
    assert not inspect(path).good
    del tensors[original.ema_name(unet[5])]
    safetensors.numpy.save_file(tensors, path)
    refused(path, f"1 missing: {original.ema_name(unet[5])}", ema=True)


# Eight bits


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_float8_is_read_and_noted(name, suffix, path, tmp_path):
    dtype = np.dtype(getattr(ml_dtypes, name))
    tensors = {n: t.astype(dtype) for n, t in tensors_of(path).items()}
    wanted = {n: a.astype(dtype) for n, a in ARRAYS.items()}
    path = tmp_path / f"eight{suffix}"
    if suffix == ".ckpt":
        torch_file(path, tensors, name)
    else:
        letters = {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}[name]
        header, data = {}, b""
        for n, t in tensors.items():
            end = len(data) + t.nbytes
            header[n] = {"dtype": letters, "shape": t.shape, "data_offsets": [len(data), end]}
            data += t.tobytes()
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    found = open_checkpoint(path)
    found.check()
    assert {array.dtype for array in found.arrays().values()} == {dtype}
    for n, array in found.arrays().items():
        np.testing.assert_array_equal(array.astype("f4"), wanted[n].astype("f4"), err_msg=n)
    (note,) = found.notes
    assert f"It has numbers in {name}, eight bits each" in note
    report = inspect(path)
    assert report.good
    assert set(report.parts["unet"].dtypes) == {name}


def torch_file(path, tensors, dtype):
    """As torch 2 saves tensors of a dtype that has no storage of its own."""

    def text(value):
        return b"X" + len(value).to_bytes(4, "little") + value.encode()

    def number(value):
        return b"\x8a\x05" + value.to_bytes(5, "little")

    pickle, storages = b"\x80\x02}(", {}
    for key, (name, tensor) in enumerate(tensors.items()):
        storages[f"data/{key}"] = tensor.tobytes()
        strides = [s // tensor.itemsize for s in tensor.strides]
        storage = b"(" + text("storage") + b"ctorch.storage\nUntypedStorage\n"
        storage += text(str(key)) + text("cpu") + number(tensor.nbytes) + b"tQ"
        sizes = b"(" + b"".join(map(number, tensor.shape)) + b"t"
        steps = b"(" + b"".join(map(number, strides)) + b"t"
        rebuild = b"ctorch._utils\n_rebuild_tensor_v3\n(" + storage + number(0) + sizes + steps
        rebuild += b"\x89ccollections\nOrderedDict\n)Rctorch\n" + dtype.encode() + b"\n\x89tR"
        pickle += text(name) + rebuild
    path.write_bytes(archive(pickle + b"u.", storages))
