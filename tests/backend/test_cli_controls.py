"""`keras-sd generate --control` and `--ip-adapter`: networks for the embedded model, from file to
picture.
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from test_control_network import drawn, tensors_of
from test_image_prompts import ENCODER, write
from test_image_prompts import tensors_of as parts_of

from keras_sd import ControlNet, StableDiffusion
from keras_sd.adapter_configs import FeatureConfig, ImagePromptConfig
from keras_sd.cli import main
from keras_sd.hints import canny
from keras_sd.image import read_image, read_metadata, save_png
from keras_sd.networks import FeatureNetwork, ImageEncoder, ImagePromptNetwork
from keras_sd.weights.names import original, steering

pytestmark = pytest.mark.once

SHOWN = ["--ip-image", "hint", "--image-encoder", "encoder"]


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
    config = pipeline.model.config
    widths = tuple(width for _, width in config.unet.cross_attentions)
    numbers = ImagePromptConfig("base", widths, config.unet.context_width, 4, 12)
    network = drawn(ImagePromptNetwork(numbers), size=0.3)
    write(folder / "ip.safetensors", parts_of(network, steering.image_prompt(numbers, config.unet)))
    encoder = drawn(ImageEncoder(ENCODER), size=0.3)
    told = {"model_type": "clip_vision_model", "hidden_size": 16, "num_attention_heads": 2}
    (folder / "encoder").mkdir()
    (folder / "encoder" / "config.json").write_text(json.dumps(told))
    tensors = parts_of(encoder, steering.image_encoder(ENCODER))
    write(folder / "encoder" / "model.safetensors", tensors)
    # The first level of its UNet has no attention, as that of XL.
    numbers = FeatureConfig("full_xl", config.unet.widths, 3, 8, 1)
    (folder / "t2i").mkdir()
    told = {"_class_name": "T2IAdapter", "adapter_type": "full_adapter_xl", "downscale_factor": 8}
    (folder / "t2i" / "config.json").write_text(json.dumps(told))
    tensors = parts_of(drawn(FeatureNetwork(numbers), size=0.2), steering.features(numbers, True))
    write(folder / "t2i" / "diffusion_pytorch_model.safetensors", tensors)
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


def test_an_ip_adapter_and_a_t2i_adapter_count_and_the_file_says_so(files, capsys):
    shown = ("--ip-image", files / "hint.png", "--image-encoder", files / "encoder")
    plain = generate(files, "plain.png")
    seen = generate(
        *(files, "seen.png", "--ip-adapter", files / "ip.safetensors", *shown),
        *("--ip-image", files / "plain.png", "--ip-strength", "0.6", "--ip-end", "0.5"),
    )
    assert (read_image(seen) != read_image(plain)).any()
    (said,) = read_metadata(seen)["request"]["image_prompts"]
    assert (said["adapter"]["name"], said["strength"], said["end"]) == ("ip.safetensors", 0.6, 0.5)
    assert [each["name"] for each in said["image"]] == ["hint.png", "plain.png"]
    hint = ("--control-image", files / "hint.png")
    added = generate(files, "added.png", "--control", files / "t2i", *hint)
    assert (read_image(added) != read_image(plain)).any()
    (said,) = read_metadata(added)["request"]["controls"]
    assert said["net"]["name"] == "t2i"
    both = generate(
        *(files, "both.png", "--control", files / "t2i", *hint, *shown),
        *("--ip-adapter", files / "ip.safetensors", "--ip-adapter", files / "ip.safetensors"),
    )
    assert len(read_metadata(both)["request"]["image_prompts"]) == 2
    capsys.readouterr()
    assert main(["replay", str(seen)]) != 0
    assert "was made with IP-Adapters (ip.safetensors, SHA-256" in capsys.readouterr().err


def replayed(picture, *arguments):
    again = picture.with_stem(f"{picture.stem}-again")
    assert main(["replay", str(picture), "--exact", "--output", str(again), *arguments]) == 0
    return read_metadata(again)["request"]


def test_replay_finds_networks_and_hints_again_by_what_is_in_them(files, tmp_path, capsys):
    """Under other names, in a folder of diffusers too; the hint, or what it was made of."""
    drawn = generate(
        *(files, "found.png", "--control", files / "net.safetensors", "--control", files / "t2i"),
        *("--control-image", files / "hint.png", "--control-hint", "canny"),
        *("--control-hint", "none", "--control-strength", "0.7"),
    )
    nets, shown = tmp_path / "nets", tmp_path / "shown.png"
    shutil.copytree(files / "t2i", nets / "other")
    shutil.copy(files / "net.safetensors", nets / "x.safetensors")
    shutil.copy(files / "zero.safetensors", nets / "net.safetensors")  # of the name alone
    shutil.copy(files / "hint.png", shown)
    given = ["--controls-dir", str(nets), "--control-image", str(shown)]
    assert replayed(drawn, *given) == read_metadata(drawn)["request"]
    edges = tmp_path / "edges.png"
    save_png(edges, canny(files / "hint.png"), {})
    assert replayed(drawn, *given[:3], str(edges), *given[2:]) == read_metadata(drawn)["request"]

    def refused(*arguments):
        capsys.readouterr()
        assert main(["replay", str(drawn), *map(str, arguments)]) == 2
        return " ".join(capsys.readouterr().err.split())

    assert "--controls-dir is needed, the folder with its file" in refused(*given[2:])
    assert "with the control 'net.safetensors', SHA-256" in refused(*given[2:])
    assert "--control-image is needed: a control of the picture was sh" in refused(*given[:2])
    (nets / "x.safetensors").unlink()
    assert "net.safetensors there is another" in refused(*given)
    shutil.copy(files / "net.safetensors", nets / "x.safetensors")
    # The T2I-Adapter was shown the picture itself, which no edges give back.
    assert "was shown 'hint.png', pixels of SHA-256" in refused(*given[:3], edges)
    assert "nor made of one by canny, invert, threshold" in refused(*given[:3], edges)
    assert "--control-image: there is no file" in refused(*given[:3], tmp_path / "none.png")
    plain = generate(files, "bare.png")
    assert main(["replay", str(plain), *given[2:]]) == 2
    assert "the picture was made with none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--ip-adapter", "ip"], "--ip-adapter needs --ip-image"),
        (["--ip-adapter", "ip", "--ip-image", "hint"], "--ip-adapter needs --image-encoder"),
        (["--ip-strength", "1"], "--ip-strength is of an --ip-adapter"),
        (["--ip-adapter", "net", *SHOWN], "--ip-adapter: "),
        (["--ip-adapter", "ip", "--ip-image", "hint", "--image-encoder", "net"], "is no image"),
        (["--ip-adapter", "ip", "--ip-image", "net", *SHOWN[2:]], "--ip-image: "),
        (["--ip-adapter", "ip", *SHOWN, "--ip-strength", "99"], "--ip-strength is from 0 to 10"),
        (
            ["--ip-adapter", "ip", "--ip-adapter", "ip", *SHOWN[:2] * 3, *SHOWN[2:]],
            "--ip-image is given 3 times for 2 --ip-adapter",
        ),
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
        "ip": files / "ip.safetensors",
        "encoder": files / "encoder",
    }
    given = [str(places.get(each, each)) for each in arguments]
    out = files / "never.png"
    assert main(["generate", "a cat", "--output", str(out), *given]) != 0
    assert named in " ".join(capsys.readouterr().err.split())
    assert not out.exists()
