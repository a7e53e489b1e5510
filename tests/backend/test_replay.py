"""`keras-sd replay`: pictures of the embedded model made again, and what cannot be followed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from safetensors.numpy import save_file

from keras_sd import choose, cli
from keras_sd.image import read_image, read_metadata, save_png
from keras_sd.pipeline import StableDiffusion
from keras_sd.weights.presets import PRESETS
from keras_sd.weights.readers import sha256

pytestmark = pytest.mark.once


@pytest.fixture
def loads(emoji, monkeypatch, tmp_path):
    """The command in an empty folder, with the embedded model loaded once; what it was asked to
    load.
    """
    asked: list[tuple[str, dict]] = []

    def from_preset(cls, preset, **options):
        asked.append((str(preset), options))
        return emoji

    monkeypatch.setattr(StableDiffusion, "from_preset", classmethod(from_preset))
    monkeypatch.setattr(choose, "picked", None)
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3"))
    monkeypatch.chdir(tmp_path)
    return asked


def run(*arguments: str, status: int = 0) -> None:
    assert cli.main(list(arguments)) == status


def draw(*arguments: str) -> None:
    run(arguments[0], "a cat face", "--steps", "2", "--seed", "3", *arguments[1:])


def replayed(capsys, *arguments: str, status: int = 0) -> dict:
    capsys.readouterr()
    run("replay", *arguments, "--json", status=status)
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--negative", "a dog", "--sampler", "euler_ancestral:eta=0.5", "--schedule", "karras"),
        ("--sampler", "dpmpp_2m_sde", "--guidance-interval", "0.2", "5", "--guidance", "2"),
    ],
)
def test_a_picture_of_ours_is_the_same_in_every_pixel(loads, capsys, options):
    draw("generate", "--output", "one.png", *options)
    told = replayed(capsys, "one.png", "--exact")
    assert told == {
        "picture": "a-cat-face-3.png",
        "original": "one.png",
        "sizes": {"picture": "64x64", "original": "64x64"},
        "difference": {"largest": 0, "mean": 0.0, "pixels": 0.0},
        "not_followed": [],
    }
    assert loads == [("emoji", {}), (str(PRESETS / "emoji"), {})]
    again = read_metadata("a-cat-face-3.png")
    assert again == read_metadata("one.png")
    run("replay", "one.png", "--output", "two.png")
    assert "difference  none: every pixel is the same" in capsys.readouterr().out


def test_the_second_of_two_is_made_again_alone(loads, capsys):
    draw("generate", "--output", "one.png", "--count", "2", "--sampler", "ddpm")
    told = replayed(capsys, "one-2.png")
    assert told["difference"]["largest"] <= 1  # of a batch of another size
    assert (read_image("one-1.png") != read_image(told["picture"])).any()


def test_a_picture_that_began_at_another_needs_that(loads, capsys):
    draw("generate", "--output", "start.png")
    draw("image-to-image", "--image", "start.png", "--strength", "0.5", "--output", "one.png")
    run("replay", "one.png", status=2)
    error = capsys.readouterr().err
    assert "error: --start is needed: the picture was made of start.png" in error
    assert replayed(capsys, "one.png", "--start", "start.png", "--exact")["not_followed"] == []
    run("replay", "one.png", "--start", "one.png", status=2)
    assert "--start is another" in capsys.readouterr().err
    run("replay", "one.png", "--start", "none.png", status=2)
    assert "--start: There is no image none.png" in capsys.readouterr().err


def test_a_part_that_was_painted_needs_its_mask(loads, capsys):
    draw("generate", "--output", "start.png")
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 16:48] = 255
    Image.fromarray(mask).save("mask.png")
    both = ("--image", "start.png", "--mask", "mask.png")
    draw("inpaint", *both, "--mask-blur", "1", "--output", "one.png")
    run("replay", "one.png", "--start", "start.png", status=2)
    assert "--mask is needed: the picture was made of mask.png" in capsys.readouterr().err
    both = ("--start", "start.png", "--mask", "mask.png")
    assert replayed(capsys, "one.png", *both, "--exact")["not_followed"] == []


def test_a_picture_that_was_extended_is_extended_again(loads, capsys):
    draw("generate", "--output", "start.png")
    draw("inpaint", "--image", "start.png", "--extend-left", "16", "--output", "one.png")
    told = replayed(capsys, "one.png", "--start", "start.png", "--exact", "--output", "two.png")
    assert told["sizes"] == {"picture": "80x64", "original": "80x64"}
    assert read_metadata("two.png")["extended"] == {"left": 16}
    assert replayed(capsys, "two.png", "--start", "start.png", "--exact")["not_followed"] == []


def foreign(path: str, **texts: str) -> None:
    made = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        made.add_text(name, text)
    Image.new("RGB", (64, 64)).save(path, pnginfo=made)


LINE = "a (cat) face\nSteps: 2, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 3, Seed: 3, "


def test_a_picture_of_others_is_followed_as_far_as_it_goes(loads, capsys):
    text = LINE + "Size: 64x64, Model hash: 6ce0161689, Model: v1-5, Clip skip: 2, Version: v1.10.1"
    foreign("one.png", parameters=text)
    run("replay", "one.png", status=2)
    assert "--model is needed: it says 'v1-5'" in capsys.readouterr().err
    told = replayed(capsys, "one.png", "--model", "emoji", "--output", "two.png")
    assert told["difference"]["largest"] > 100
    for words in (
        "noise: A1111",
        "Clip skip: 2",
        "prompt: it has weights",
        "weights: the model is another: 3bf0bb2b9c, not 6ce0161689",
    ):
        assert any(each.startswith(words) for each in told["not_followed"]), words
    request = read_metadata("two.png")["request"]
    assert (request["sampler"], request["schedule"], request["num_steps"]) == (
        "dpmpp_2m",
        "karras",
        2,
    )
    run("replay", "one.png", "--model", "emoji", "--exact", status=1)
    said = capsys.readouterr().out
    assert "at most" in said
    assert "of the pixels differ" in said


def test_a_picture_of_another_size_has_no_difference(loads, capsys):
    foreign("one.png", parameters=LINE + "Size: 64x72, Hires upscale: 2")
    told = replayed(capsys, "one.png", "--model", "emoji", "--exact", status=1)
    assert told["difference"] is None
    assert told["sizes"] == {"picture": "64x72", "original": "64x64"}
    run("replay", "one.png", "--model", "emoji")
    assert "not known: the picture is 64x72, the original 64x64" in capsys.readouterr().out


def again(path: str, **more) -> None:
    """The picture's text with other values."""
    save_png(path, read_image(path), {**read_metadata(path), **more})


def test_options_about_loading_are_followed_and_paths_are_not(loads, capsys):
    draw("generate", "--output", "one.png")
    Path("vae.pt").touch()
    more = {
        "dtype": "float32",
        "compat": "keras_cv==0.9",
        "ema": True,
        "prediction": "zorb",
        "tiled": True,
    }
    again("one.png", **more, autoencoder=str(Path("vae.pt").absolute()), vocabulary="merges.txt")
    told = replayed(capsys, "one.png")
    followed = {"dtype": "float32", "compat": "keras_cv==0.9", "ema": True, "tiled": True}
    assert loads[-1] == (str(PRESETS / "emoji"), followed)
    for option in ("--autoencoder", "--vocabulary", "--prediction"):
        assert any(each.startswith(f"{option}: it was ") for each in told["not_followed"]), option
    told = replayed(capsys, "one.png", "--autoencoder", "vae.pt", "--dtype", "float16")
    expected = {**followed, "dtype": "float16", "autoencoder": Path("vae.pt")}
    assert loads[-1][1] == expected
    assert not any(each.startswith("--autoencoder") for each in told["not_followed"])


def test_a_refiner_is_loaded_by_its_name_or_as_it_is_asked_for(loads, capsys):
    draw("generate", "--output", "one.png")
    again("one.png", refiner="emoji-128")
    Path("emoji-128").mkdir()  # which is not the model of that name
    told = replayed(capsys, "one.png", "--output", "two.png")
    assert loads[-1][1] == {"refiner": PRESETS / "emoji-128"}
    assert read_metadata("two.png")["refiner"] == "emoji-128"
    assert not any("--refiner" in each for each in told["not_followed"])
    for wrong in ("emoji-128/", str(Path("emoji-128").absolute()), "hf://owner/name"):
        again("one.png", refiner=wrong)
        count = len(loads)
        run("replay", "one.png", status=2)
        assert "--refiner is needed" in capsys.readouterr().err
        assert len(loads) == count
        replayed(capsys, "one.png", "--refiner", str(PRESETS / "emoji"))
        assert loads[-1][1] == {"refiner": PRESETS / "emoji"}


@pytest.mark.parametrize("model", ["hf://owner/name", "/etc/passwd", "one.png", "sd-1.5", "", 3])
def test_no_path_and_no_address_in_a_picture_is_loaded(loads, capsys, monkeypatch, model):
    monkeypatch.setenv("HF_HOME", str(Path("nothing").absolute()))
    draw("generate", "--output", "one.png")
    again("one.png", model=model)
    run("replay", "one.png", status=2)
    assert "--model is needed" in capsys.readouterr().err
    assert len(loads) == 1


def test_a_folder_of_the_models_name_is_not_the_model(loads, capsys):
    draw("generate", "--output", "one.png")
    Path("emoji").mkdir()
    replayed(capsys, "one.png")
    assert loads[-1][0] == str(PRESETS / "emoji")


def test_other_weights_backends_and_versions_are_said(loads, capsys):
    draw("generate", "--output", "one.png")
    again("one.png", weights={"model": "a" * 64}, backend="abacus", version="0.0.1")
    told = replayed(capsys, "one.png", "--exact")
    for words in ("weights: the model is another", "backend: it was abacus", "version: it was 0.0"):
        assert any(each.startswith(words) for each in told["not_followed"]), words
    again("one.png", weights={"unet": "b" * 64})  # of a folder with a file a part
    told = "\n".join(replayed(capsys, "one.png")["not_followed"])
    assert "of the unet, the SHA-256 of those here is not known" in told
    assert "of the model, the SHA-256 of the picture's is not known" in told
    again("one.png", weights="zorb")
    assert any("is not known" in each for each in replayed(capsys, "one.png")["not_followed"])
    again("one.png", weights={"model": "zorb"})
    assert any("is no SHA-256" in each for each in replayed(capsys, "one.png")["not_followed"])


def test_the_picture_itself_is_never_replaced(loads, capsys):
    draw("generate", "--output", "one.png")
    before = Path("one.png").read_bytes()
    run("replay", "one.png", "--output", "one.png", status=2)
    assert "is the picture itself" in capsys.readouterr().err
    os.link("one.png", "link.png")
    run("replay", "one.png", "--output", "link.png", status=2)
    assert Path("one.png").read_bytes() == before
    assert len(loads) == 1


# --- adapters and embeddings ----------------------------------------------------------


@pytest.fixture
def beside(loads, emoji):
    """A folder with an adapter and another with an embedding."""
    config = emoji.config.unet
    rng = np.random.default_rng(0)
    down = rng.normal(0, 0.1, (2, config.widths[0], 3, 3)).astype(np.float32)
    up = rng.normal(0, 0.1, (config.out_channels, 2, 1, 1)).astype(np.float32)
    changed = {"unet.conv_out.lora_A.weight": down, "unet.conv_out.lora_B.weight": up}
    vectors = rng.normal(0, 1, (2, emoji.config.text_encoder.width)).astype(np.float32)
    for folder in ("loras", "vectors"):
        Path(folder).mkdir()
    save_file(changed, "loras/ink.safetensors")
    save_file({"emb_params": vectors}, "vectors/sks.safetensors")
    return "--adapters-dir", "loras", "--embeddings-dir", "vectors"


def draw_with(output, *more):
    run("generate", "a sks cat face", "--steps", "2", "--seed", "3", "--output", output, *more)


def test_adapters_and_embeddings_are_found_again_by_what_is_in_them(beside, emoji, capsys):
    draw_with("bare.png")
    draw_with("one.png", "--adapter", "loras/ink.safetensors:-0.5")
    draw_with("two.png", "--embedding", "vectors/sks.safetensors")
    both = ("--adapter", "loras/ink.safetensors", "--embedding", "vectors/sks.safetensors")
    draw_with("all.png", *both)
    names = ("bare", "one", "two", "all")
    assert len({read_image(f"{name}.png").tobytes() for name in names}) == 4
    made = read_metadata("all.png")
    ink = {"name": "ink", "sha256": sha256("loras/ink.safetensors"), "strength": 1.0}
    sks = {"name": "sks", "sha256": sha256("vectors/sks.safetensors")}
    assert (made["adapters"], made["embeddings"]) == ([ink], [sks])
    assert "adapters" not in read_metadata("two.png")
    assert emoji.adapters == emoji.embeddings == ()
    capsys.readouterr()
    run("info", "one.png")
    assert f"ink, strength -0.5, SHA-256 {ink['sha256']}" in capsys.readouterr().out
    # Under other names, among other files.
    os.rename("loras/ink.safetensors", "loras/x.safetensors")
    os.rename("vectors/sks.safetensors", "vectors/y.safetensors")
    Path("loras/ink.safetensors").write_bytes(b"another")
    for name in ("one", "two", "all"):
        told = replayed(capsys, f"{name}.png", *beside, "--exact", "--output", f"{name}-2.png")
        assert told["not_followed"] == []
        again = read_metadata(f"{name}-2.png")
        before = read_metadata(f"{name}.png")
        digests = [[e["sha256"] for e in m.get("adapters", ())] for m in (again, before)]
        assert digests[0] == digests[1]
        assert again.get("embeddings") == before.get("embeddings")


def test_an_adapter_in_a_folder_has_the_folders_name(beside, capsys):
    os.makedirs("loras/peft/ink")
    os.rename("loras/ink.safetensors", "loras/peft/ink/adapter_model.safetensors")
    draw_with("a.png", "--adapter", "loras/peft/ink:0.5")
    (made,) = read_metadata("a.png")["adapters"]
    assert (made["name"], made["strength"]) == ("ink", 0.5)
    replayed(capsys, "a.png", *beside, "--exact", "--output", "b.png")
    assert read_metadata("b.png")["adapters"] == [made]
    Path("loras/peft/ink/adapter_model.safetensors").write_bytes(b"another")
    found = error_of(capsys, "replay", "a.png", *beside)
    assert "the adapter 'ink'" in found
    assert "ink/adapter_model.safetensors there is another" in " ".join(found.split())


def error_of(capsys, *arguments):
    capsys.readouterr()
    run(*arguments, status=2)
    return capsys.readouterr().err


def test_without_them_a_picture_is_not_made_again(beside, capsys):
    draw_with("a.png", "--adapter", "loras/ink.safetensors")
    assert "--adapters-dir is needed" in error_of(capsys, "replay", "a.png")
    found = error_of(capsys, "replay", "a.png", "--adapters-dir", "vectors")
    assert "no file in vectors is it: the picture was made with the adapter 'ink'" in found
    Path("loras/ink.safetensors").write_bytes(b"another")
    found = error_of(capsys, "replay", "a.png", *beside)
    assert "ink.safetensors there is another" in found
    assert "there is no folder none" in error_of(
        capsys, "replay", "a.png", "--adapters-dir", "none"
    )
    draw_with("b.png", "--embedding", "vectors/sks.safetensors")
    assert "--embeddings-dir is needed" in error_of(capsys, "replay", "b.png")


def test_what_is_no_adapter_and_no_embedding_is_said_with_its_option(beside, capsys):
    lora, vectors = "loras/ink.safetensors", "vectors/sks.safetensors"
    for option, path, message in [
        ("--adapter", vectors, "--adapter: vectors/sks.safetensors is no adapter"),
        ("--adapter", "none.safetensors:0.5", "--adapter: there is no file none.safetensors"),
        ("--adapter", f"{lora}:much", "there is no file loras/ink.safetensors:much"),
        ("--embedding", lora, "--embedding: loras/ink.safetensors is an adapter, such as a LoRA"),
        ("--embedding", "none.pt", "--embedding: there is no file none.pt"),
    ]:
        assert message in error_of(capsys, "generate", "a cat", option, path)


def test_what_a_picture_says_of_them_is_not_trusted(beside, emoji, capsys):
    draw_with("a.png", "--adapter", "loras/ink.safetensors")
    made = read_metadata("a.png")
    digest = made["adapters"][0]["sha256"]
    made["adapters"] = [
        {"name": "../ink", "sha256": digest},
        {"name": "ink", "sha256": digest[:10]},
        {"name": "ink", "sha256": digest, "strength": "1"},
        7,
    ]
    save_png(Path("b.png"), read_image("a.png"), made, "")
    told = replayed(capsys, "b.png", *beside)
    assert [each[:14] for each in told["not_followed"]] == [
        "An adapter: '{",
        "An adapter: '{",
        "An adapter: '7",
    ]
