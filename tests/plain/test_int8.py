"""Weights of eight bits: what the form keeps, and what is read back of a file."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny import MERGES, TINY

from keras_sd import cli
from keras_sd.weights import int8
from keras_sd.weights.checkpoint import open_checkpoint
from keras_sd.weights.convert import convert
from keras_sd.weights.inspection import inspect
from keras_sd.weights.names import own
from keras_sd.weights.readers import WeightsError, sha256
from keras_sd.weights.save import save_preset


def arrays(config=TINY):
    dice = np.random.default_rng(4)
    return {
        entry.name: dice.standard_normal(entry.shape, np.float32) * dice.uniform(0.01, 3)
        for table in own.tables(config).values()
        for entry in table
    }


def preset(folder, dtype="int8", values=None):
    save_preset(folder, TINY, values or arrays(), MERGES, ["cat"], dtype=dtype, license="CC0")
    return folder


def rewrite(folder, change):
    """Changes the tensors of a preset, and says so in its config."""
    tensors = {
        name: np.array(each) for name, each in load_file(folder / "model.safetensors").items()
    }
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["files"]["model.safetensors"] = sha256(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("dtype", ["float32", "float16", ml_dtypes.bfloat16])
@pytest.mark.parametrize("shape", [(40, 7), (3, 3, 5, 11)])
def test_each_number_is_kept_to_half_a_step_of_its_channel(dtype, shape):
    dice = np.random.default_rng(1)
    spread = np.geomspace(0.05, 30, shape[-1])
    tensor = (dice.standard_normal(shape) * spread).astype(dtype)
    found = int8.stored({"w": tensor})
    assert {name: (each.dtype, each.shape) for name, each in found.items()} == {
        "w": (np.int8, shape),
        "w.scale": (np.float16, shape[-1:]),
    }
    scale = found["w.scale"].astype("float32")
    again = np.asarray(int8.expanded(found)["w"])
    assert again.dtype == np.float32
    assert (np.abs(again - tensor.astype("float32")) <= 0.5001 * scale).all()
    # The steps are as small as eight bits allow.
    largest = np.abs(tensor.astype("float32")).reshape(-1, shape[-1]).max(0)
    np.testing.assert_allclose(scale, largest / 127, rtol=1e-3)
    assert (np.abs(found["w"]).reshape(-1, shape[-1]).max(0) == 127).all()


def test_a_channel_of_nothing_stays_nothing_and_tiny_ones_do_not_overflow():
    tensor = np.zeros((4, 9), np.float32)
    tensor[:, 1:] = np.geomspace(1e-9, 2e-4, 8)
    tensor[0] *= -1
    again = np.asarray(int8.expanded(int8.stored({"w": tensor}))["w"])
    assert not again[:, 0].any()
    steps = np.maximum(np.abs(tensor).max(0) / 127, 2.0**-24)
    assert (np.abs(again - tensor) <= steps).all()


def test_vectors_become_float16_and_what_none_can_hold_is_refused_by_name():
    vector = np.float32([1, 1 / 3, 60000])
    found = int8.stored({"v": vector})
    assert list(found) == ["v"]
    assert found["v"].dtype == np.float16
    assert (found["v"] == vector.astype("float16")).all()
    bad = {
        "large/bias": np.float32([1e6]),
        "large/kernel": np.float32([[1e7, 1]]),
        "lost/kernel": np.float32([[1, np.nan]]),
        "good/kernel": np.float32([[7e4, 1]]),  # more than float16 has, and no more than int8 can
    }
    with pytest.raises(WeightsError) as caught:
        int8.stored(bad)
    assert "not finite as int8: large/bias, large/kernel, lost/kernel" in str(caught.value)
    assert "good" not in str(caught.value)


def test_what_was_read_is_written_again_bit_for_bit(tmp_path):
    preset(tmp_path / "a")
    convert(open_checkpoint(tmp_path / "a"), tmp_path / "b", to="keras_sd", dtype="int8")
    for name in ("model.safetensors", "merges.txt"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    found = open_checkpoint(tmp_path / "b")
    assert (found.words, found.license) == (("cat",), "CC0")


def test_a_preset_of_int8_is_small_whole_and_called_so(tmp_path):
    values = arrays()
    preset(tmp_path / "half", "float16", values)
    preset(tmp_path / "int8", "int8", values)
    small, half = (inspect(tmp_path / name) for name in ("int8", "half"))
    assert small.good
    assert small.numbers_read
    sizes = [sum(f.size for f in report.files) for report in (small, half)]
    assert sizes[0] < 0.65 * sizes[1]
    for name, part in small.parts.items():
        matrices = sum(len(entry.shape) > 1 for entry in own.tables(TINY)[name])
        assert part.dtypes == {"int8": matrices, "float16": half.parts[name].tensors - matrices}
        assert part.parameters == half.parts[name].parameters
        assert part.tensors == half.parts[name].tensors
    tensors = load_file(tmp_path / "int8" / "model.safetensors")
    assert sum(part.bytes for part in small.parts.values()) == sum(
        t.nbytes for t in tensors.values()
    )
    read = open_checkpoint(tmp_path / "int8").arrays()
    assert read.keys() == values.keys()
    for name, value in values.items():
        if value.ndim > 1:
            steps = np.abs(value).reshape(-1, value.shape[-1]).max(0) / 127
            assert (np.abs(read[name] - value) <= 0.51 * steps).all(), name
        else:
            assert (read[name] == value.astype("float16")).all()


KERNEL = "unet/conv_in/kernel"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda t: t[f"{KERNEL}.scale"].fill(np.nan), ("not finite", KERNEL)),
        (lambda t: t.pop(f"{KERNEL}.scale"), ("not floating", KERNEL)),
        (lambda t: t.pop(KERNEL), ("missing", KERNEL)),
        (lambda t: t.update({KERNEL: t[KERNEL][:1]}), ("misshapen", KERNEL)),
        (
            lambda t: t.update({f"{KERNEL}.scale": t[f"{KERNEL}.scale"][:-1]}),
            ("unexpected", f"{KERNEL}.scale"),
        ),
        (
            lambda t: t.update({f"{KERNEL}.scale": t[f"{KERNEL}.scale"].astype("float32")}),
            ("unexpected", f"{KERNEL}.scale"),
        ),
        (
            lambda t: t.update({"unet/conv_in/bias.scale": np.float16([1])}),
            ("unexpected", "unet/conv_in/bias.scale"),
        ),
    ],
)
def test_damage_is_named(tmp_path, change, problem):
    rewrite(preset(tmp_path / "x"), change)
    report = inspect(tmp_path / "x")
    assert not report.good
    kind, name = problem
    assert [each for each in report.problems[kind] if each.startswith(name)], report.problems
    if kind != "not finite":
        with pytest.raises(WeightsError, match=name.replace(".", r"\.")):
            open_checkpoint(tmp_path / "x").check()


@pytest.mark.parametrize("to", ["original", "diffusers"])
def test_other_layouts_have_no_int8(tmp_path, to):
    checkpoint = open_checkpoint(preset(tmp_path / "x"))
    out = tmp_path / ("y.safetensors" if to == "original" else "y")
    with pytest.raises(ValueError, match="not 'int8'; the layout keras_sd alone has int8"):
        convert(checkpoint, out, to=to, dtype="int8")
    assert not out.exists()
    convert(checkpoint, out, to=to)  # as what it is read as
    found = open_checkpoint(out)
    assert {array.dtype for array in found.arrays().values()} <= {np.dtype("f4"), np.dtype("f2")}


def test_the_command_writes_int8(tmp_path, capsys):
    preset(tmp_path / "half", "float16")
    made = str(tmp_path / "made")
    assert cli.main(["convert", str(tmp_path / "half"), made, "--to=keras_sd", "--dtype=int8"]) == 0
    assert cli.main(["inspect", made, "--full"]) == 0
    assert "int8 (" in capsys.readouterr().out
    one = f"{made}.safetensors"
    assert cli.main(["convert", made, one, "--dtype=int8"]) == 2
    assert "the layout keras_sd alone has int8 too" in capsys.readouterr().err
