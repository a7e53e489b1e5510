"""`keras-sd generate --control`: a ControlNet of the embedded model, from file to picture."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from test_control_network import drawn, tensors_of

from keras_sd import ControlNet, StableDiffusion
from keras_sd.cli import main
from keras_sd.image import read_image, read_metadata
from keras_sd.weights.names import original

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("control")
    pipeline = StableDiffusion.from_preset("emoji")
    for name, size in (("zero", 0), ("net", 0.1)):
        net = ControlNet.from_unet(pipeline)
        if size:
            drawn(net.network, size=size)
        tensors = tensors_of(net.network, original.control(net.network.config))
        save_file(tensors, folder / f"{name}.safetensors")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "hint.png")
    return folder


def generate(files, name, *arguments):
    out = files / name
    options = ["--seed", "1", "--steps", "2", "--output", str(out), *map(str, arguments)]
    assert main(["generate", "a cat face", *options]) == 0
    return out


def test_a_control_steers_and_the_file_says_so(files):
    hint = ("--control-image", files / "hint.png")
    plain = generate(files, "plain.png")
    zero = generate(files, "zero.png", "--control", files / "zero.safetensors", *hint)
    np.testing.assert_array_equal(read_image(plain), read_image(zero))
    told = generate(
        *(files, "told.png", "--control", files / "net.safetensors", *hint),
        *("--control", files / "zero.safetensors", "--control-strength", "0.9"),
        *("--control-strength", "0.4", "--control-hint", "canny", "--control-end", "0.5"),
    )
    assert (read_image(told) != read_image(plain)).any()
    first, second = read_metadata(told)["request"]["controls"]
    assert (first["net"]["name"], second["net"]["name"]) == ("net.safetensors", "zero.safetensors")
    assert (first["strength"], second["strength"], first["end"]) == (0.9, 0.4, 0.5)
    assert first["image"][0]["name"] == "hint.png"
    assert json.dumps(first["net"]["sha256"])[1:-1].isalnum()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--control", "net"], "--control needs --control-image"),
        (["--control-strength", "1"], "--control-strength is of a --control"),
        (["--control", "hint.png", "--control-image", "hint"], "--control: "),
        (["--control", "net", "--control-image", "net"], "--control-image: "),
        (["--control", "none", "--control-image", "hint"], "--control: there is no file"),
        (
            ["--control", "net", "--control-image", "hint", "--control-strength", "99"],
            "--control-strength is from 0 to 10",
        ),
        (
            ["--control", "net", "--control-image", "hint", "--control-hint", "pose"],
            "--control-hint is one of 'none', 'canny'",
        ),
        (
            ["--control", "net", *["--control-image", "hint"] * 3],
            "--control-image is given 3 times for 1 --control",
        ),
    ],
)
def test_what_does_not_fit_is_said_before_the_model_is_loaded(files, capsys, arguments, named):
    places = {
        "net": files / "net.safetensors",
        "none": files / "none.safetensors",
        "hint": files / "hint.png",
        "hint.png": files / "hint.png",
    }
    given = [str(places.get(each, each)) for each in arguments]
    out = files / "never.png"
    assert main(["generate", "a cat", "--output", str(out), *given]) != 0
    assert named in " ".join(capsys.readouterr().err.split())
    assert not out.exists()
