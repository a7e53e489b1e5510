"""Files of ControlNets, looked at without Keras."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny import TINY, TINY_2

from keras_sd.adapters import inspection
from keras_sd.adapters.control_files import is_control, open_control
from keras_sd.cli import main
from keras_sd.config import ControlConfig
from keras_sd.weights.names import diffusers, original

CONFIG = ControlConfig.of(TINY.unet)
TABLES = {"original": original.control(CONFIG), "diffusers": diffusers.control(CONFIG)}


def write(path, layout="original", **more):
    tensors = {entry.name: np.zeros(entry.file_shape, "float16") for entry in TABLES[layout]}
    save_file(tensors | more, path)
    return path


@pytest.fixture
def small(monkeypatch):
    """Models of the family are small ones."""
    monkeypatch.setattr(inspection, "_FAMILIES", {64: TINY})


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
