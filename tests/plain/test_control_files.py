"""Files of ControlNets, looked at without Keras."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny import TINY, TINY_2, TINY_XL

from keras_sd import addons
from keras_sd.adapters.control_files import is_control, open_control
from keras_sd.cli import main
from keras_sd.config import ControlConfig
from keras_sd.weights.names import diffusers, original
from keras_sd.weights.readers import WeightsError

CONFIG = ControlConfig.of(TINY.unet)
TABLES = {"original": original.control(CONFIG), "diffusers": diffusers.control(CONFIG)}


def write(path, layout="original", **more):
    tensors = {entry.name: np.zeros(entry.file_shape, "float16") for entry in TABLES[layout]}
    save_file(tensors | more, path)
    return path


@pytest.fixture
def small(monkeypatch):
    """Models of the family are small ones."""
    monkeypatch.setattr(addons, "_families", lambda: [TINY])


@pytest.mark.parametrize("layout", TABLES)
def test_a_file_says_its_layout_and_its_hint(tmp_path, layout):
    file = open_control(write(tmp_path / "x.safetensors", layout))
    assert is_control(file.tensors)
    assert (file.layout, file.context, file.hint_channels) == (layout, 64, 3)
    assert file.hint_widths == (16, 32, 96, 256)
    assert file.config(TINY) == CONFIG
    assert not file.part(CONFIG).problems()
    assert not file.difference
    assert not is_control(["model.diffusion_model.input_blocks.0.0.weight"])


def test_linear_maps_around_transformers_are_seen(tmp_path):
    table = original.control(ControlConfig.of(TINY_2.unet), "")
    path = tmp_path / "x.safetensors"
    save_file({entry.name: np.zeros(entry.file_shape, "float16") for entry in table}, path)
    assert open_control(path).config(TINY_2) == ControlConfig.of(TINY_2.unet)


NAMES = {"original": original.control, "diffusers": diffusers.control}


@pytest.mark.parametrize("layout", NAMES)
@pytest.mark.parametrize("middle_depth", [0, -1])
@pytest.mark.parametrize("depths", [(0, 0), (0, 1), (0, 2)])
def test_those_for_xl_may_have_fewer_transformers(tmp_path, layout, depths, middle_depth):
    config = replace(ControlConfig.of(TINY_XL.unet), depths=depths, middle_depth=middle_depth)
    path = tmp_path / "x.safetensors"
    save_file({e.name: np.zeros(e.file_shape, "float16") for e in NAMES[layout](config)}, path)
    file = open_control(path)
    assert file.base == ("Stable Diffusion XL")
    assert file.config(TINY_XL) == config
    assert not file.part(config).problems()
    with pytest.raises(WeightsError, match=r"for Stable Diffusion XL.* has 64 features a token"):
        file.config(TINY)


def test_one_for_another_family_is_refused_by_xl(tmp_path):
    path = write(tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=r"192 features a token and is told sizes, as XL"):
        open_control(path).config(TINY_XL)


def test_those_of_xl_between_large_and_small_are_refused_by_name(tmp_path):
    config = ControlConfig.of(TINY_XL.unet)
    path = tmp_path / "x.safetensors"
    save_file(
        {
            entry.name: np.zeros(entry.file_shape, "float16")
            for entry in diffusers.control(config)
            if "transformer_blocks" not in entry.name
        },
        path,
    )
    with pytest.raises(WeightsError, match=r"middle size, whose transformers have no blocks"):
        open_control(path)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("layout", TABLES)
def test_inspect_says_what_it_is(tmp_path, capsys, layout):
    path = write(tmp_path / "x.safetensors", layout)
    assert main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "x.safetensors: a ControlNet" in shown
    assert f"{len(TABLES[layout])} tensors" in shown
    assert "every tensor has its layer, every number is finite" in shown
    assert main(["inspect", "--json", str(path)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["good"], told["layout"], told["kinds"]) == (True, layout, {"ControlNet": 1})


@pytest.mark.usefixtures("small")
def test_inspect_says_what_is_wrong_with_it(tmp_path, capsys):
    more = {
        "control_model.zero_convs.0.0.bias": np.full(32, np.inf, "float32"),
        "control_model.zero_convs.7.0.bias": np.zeros(3, "float32"),
        "difference": np.zeros((), "float32"),
    }
    path = write(tmp_path / "x.safetensors", **more)
    assert main(["inspect", str(path)]) == 1
    shown = capsys.readouterr().out
    assert "not finite!  1: control_model.zero_convs.0.0.bias" in " ".join(
        line.strip() for line in shown.splitlines()
    )
    assert "control_model.zero_convs.7.0.bias" in shown
    assert "Its weights are differences from the UNet's" in shown


def test_inspect_says_why_a_relative_is_not_read(tmp_path, capsys):
    path = write(tmp_path / "x.safetensors", lora_controlnet=np.zeros((), "float32"))
    assert main(["inspect", str(path)]) == 1
    assert "a Control-LoRA, as its 'lora_controlnet' shows" in capsys.readouterr().out


def test_inspect_of_a_family_that_is_not_here(tmp_path, capsys):
    path = write(tmp_path / "x.safetensors")
    assert main(["inspect", str(path)]) == 0
    assert "made for a model with 64 features a token" in capsys.readouterr().out
