"""The command: what it checks, hands to the pipeline (a fake one here) and writes."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from dataclasses import replace
from inspect import signature
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar, get_args, get_type_hints

import numpy as np
import pytest
from PIL import Image

from keras_sd import choose, cli, image, registry
from keras_sd.cli import draw
from keras_sd.cli.drawing import DrawOptions, flag_of
from keras_sd.config import Defaults
from keras_sd.gallery import Images
from keras_sd.image import read_metadata
from keras_sd.pipeline import StableDiffusion
from keras_sd.precision import POLICIES
from keras_sd.registry import SamplerInfo
from keras_sd.request import Request
from keras_sd.settings import settings
from keras_sd.start import Attachment, Masking, Start
from keras_sd.weights.presets import PRESETS
from keras_sd.weights.readers import sha256


class FakePipeline:
    """Takes what the command hands over; its pictures are all of one value, their index."""

    calls: ClassVar[list[tuple[str, dict]]] = []
    requests: ClassVar[list[Request]] = []
    error: BaseException | None = None
    while_drawing = staticmethod(lambda: None)
    defaults: ClassVar[Any] = Defaults(8, 16, "fake-sampler", "trailing", 3, 5.5)

    @classmethod
    def from_preset(cls, model, **settings):
        signature(StableDiffusion.from_preset).bind(model, **settings)
        cls.calls.append((model, settings))
        return cls()

    def draw(self, request, callback):
        self.requests.append(request)
        if "zorb" in request.prompts[0]:
            logging.getLogger("keras_sd").warning("The model does not know: %s.", "zorb")
        request = request.resolved(self.defaults)
        total = request.num_steps - bool(request.start and request.start.steps_mode == "schedule")
        for index in range(1, total + 1):
            callback(SimpleNamespace(index=index, total=total))
        if self.error is not None:
            raise self.error
        self.while_drawing()
        shape = (len(request), 8, 16, 3)
        pixels = np.broadcast_to(np.arange(shape[0], dtype=np.uint8)[:, None, None, None], shape)
        return Images(pixels, request=request)


@pytest.fixture
def bare_fake(monkeypatch, tmp_path):
    """The command in an empty folder, with a pipeline, a Keras and a backend that are not there."""
    pipeline = type("StableDiffusion", (FakePipeline,), {"calls": [], "requests": []})
    modules = {
        "keras_sd.pipeline": SimpleNamespace(StableDiffusion=pipeline),
        "keras": SimpleNamespace(
            backend=SimpleNamespace(
                backend=lambda: os.environ.get("KERAS_BACKEND", "as configured")
            )
        ),
    }
    for name, content in modules.items():
        module = ModuleType(name)
        vars(module).update(vars(content))
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(choose, "_is_installed", lambda name: True)
    monkeypatch.setattr(choose, "picked", None)
    # Set, then deleted: so that what the command sets is taken back after the test.
    for variable in ("KERAS_BACKEND", "TF_CPP_MIN_LOG_LEVEL"):
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras_home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return pipeline


@pytest.fixture
def fake(bare_fake, monkeypatch):
    """The same, with a registry that finds everything."""
    monkeypatch.setattr(registry, "get_sampler", lambda name: name)
    return bare_fake


def files() -> list[str]:
    return sorted(os.listdir())


def error_line(capsys) -> str:
    """The one line on stderr that starts with error; nothing on stdout."""
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line for line in captured.err.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("error: ")
    return lines[0]


def test_generate_with_defaults(fake, capsys) -> None:
    assert cli.main(["generate", "A cat face, on blue!", "--seed", "7"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "a-cat-face-on-blue-7.png\n"
    assert "seed 7" in captured.err
    assert fake.calls == [("emoji", {})]
    (request,) = fake.requests
    assert request == Request(("A cat face, on blue!",), images=((7, 0),))
    made = read_metadata("a-cat-face-on-blue-7.png")
    assert made.pop("version")
    (weights,) = made.pop("weights").values()
    assert weights == sha256(PRESETS / "emoji" / "model.safetensors")
    assert Request.from_dict(made.pop("request")) == request.resolved(fake.defaults)
    assert made == {"model": "emoji", "width": 16, "height": 8, "backend": "as configured"}


def test_generate_with_everything(fake, capsys) -> None:
    for name in ("m", "vae.safetensors", "unet.ckpt", "clip.bin", "big.bin", "merges.txt", "r"):
        Path(name).touch()
    arguments = """generate cat --model m --negative dog --sampler DPM++_2M_Karras --steps 5
        --guidance 2.5 --guidance-rescale 0.7 --guidance-interval 0.2 5 --seed 0
        --count 2 --size 64x32 --output cat.png --backend torch
        --variant fp16 --prediction v --ema --strict --autoencoder vae.safetensors --unet unet.ckpt
        --text-encoder clip.bin --text-encoder-2 big.bin --refiner r --refine-at 0.7 --tiled
        --low-memory --vocabulary merges.txt --compat keras_cv==0.9
        --dtype mixed_float16 --prompt-style a1111 --clip-skip 2"""
    assert cli.main(arguments.split()) == 0
    assert capsys.readouterr().out == "cat-1.png\ncat-2.png\n"
    assert sorted(Path().glob("*.png")) == [Path("cat-1.png"), Path("cat-2.png")]
    loading = {
        "variant": "fp16",
        "prediction": "v",
        "ema": True,
        "strict": True,
        "autoencoder": Path("vae.safetensors"),
        "unet": Path("unet.ckpt"),
        "text_encoder": Path("clip.bin"),
        "text_encoder_2": Path("big.bin"),
        "refiner": Path("r"),
        "tiled": True,
        "vocabulary": Path("merges.txt"),
        "compat": "keras_cv==0.9",
        "dtype": "mixed_float16",
    }
    ((model, built),) = fake.calls
    assert (str(model), built) == ("m", {**loading, "low_memory": True})
    (request,) = fake.requests
    assert request == Request(
        ("cat", "cat"),
        ("dog",),
        ((0, 0), (0, 1)),
        height=32,
        width=64,
        num_steps=5,
        sampler="DPM++_2M_Karras",
        guidance_scale=2.5,
        guidance_rescale=0.7,
        guidance_interval=(0.2, 5.0),
        prompt_style="a1111",
        clip_skip=2,
        refine_at=0.7,
    )
    drawn = [Request.from_dict(read_metadata(f"cat-{number}.png")["request"]) for number in (1, 2)]
    assert [each.images for each in drawn] == [((0, 0),), ((0, 1),)]
    assert (drawn[0].sampler, drawn[0].schedule) == ("dpmpp_2m", "karras")
    made = read_metadata("cat-1.png")
    assert {name: made[name] for name in loading} == {
        name: str(value) if isinstance(value, Path) else value for name, value in loading.items()
    }
    assert "low_memory" not in made  # which no pixel depends on
    assert "weights" not in made  # the files are empty, and no reason to lose the pictures
    with image.Image.open("cat-2.png") as second:
        assert np.asarray(second).max() == 1
    assert read_metadata("cat-1.png")["backend"] == os.environ["KERAS_BACKEND"] == "torch"


def test_what_draws_as_keras_cv_has_a_schedule_of_its_own(fake, capsys) -> None:
    fake.defaults = replace(fake.defaults, schedule=None)
    assert cli.main(["generate", "cat", "--compat", "keras_cv==0.4", "--output", "cat.png"]) == 0
    assert fake.requests[0].schedule is None
    assert read_metadata("cat.png")["request"]["schedule"] is None
    assert "schedule" not in capsys.readouterr().err


def test_weights_that_cannot_be_read_again_are_no_reason_to_lose_a_picture(fake, capsys) -> None:
    Path("m").touch()

    def gone(cls, model, **settings):
        Path("m").unlink()
        return cls()

    fake.from_preset = classmethod(gone)
    assert cli.main(["generate", "cat", "--model", "m", "--output", "cat.png"]) == 0
    assert "note: the weights' SHA-256 is not written: " in capsys.readouterr().err
    assert "weights" not in read_metadata("cat.png")


def test_seed_is_new_each_time_and_told(fake, capsys) -> None:
    seeds = set()
    for _ in range(2):
        assert cli.main(["generate", "cat"]) == 0
        captured = capsys.readouterr()
        ((seed, _),) = read_metadata(captured.out.strip())["request"]["images"]
        assert f"seed {seed}" in captured.err
        seeds.add(seed)
    assert len(seeds) == 2


def test_what_the_library_logs_is_a_note_once(fake, capsys) -> None:
    for _ in range(2):
        assert cli.main(["generate", "cat zorb"]) == 0
        assert capsys.readouterr().err.count("note: The model does not know: zorb.\n") == 1
    assert logging.getLogger("keras_sd").handlers == []


def test_names_made_here_never_replace_a_file(fake, capsys) -> None:
    for expected in (["cat-1.png"], ["cat-1-2.png"], ["cat-1-3.png"]):
        assert cli.main(["generate", "cat", "--seed", "1"]) == 0
        assert capsys.readouterr().out.split() == expected
    os.symlink("nowhere", "cat-1-4.png")
    assert cli.main(["generate", "cat", "--seed", "1", "--count", "2"]) == 0
    assert capsys.readouterr().out.split() == ["cat-1-5.png", "cat-1-6.png"]


def test_file_that_appears_while_drawing_is_kept(fake, capsys) -> None:
    fake.while_drawing = staticmethod(lambda: Path("cat-1.png").write_text("another's"))
    assert cli.main(["generate", "cat", "--seed", "1"]) == 0
    assert capsys.readouterr().out == "cat-1-2.png\n"
    assert Path("cat-1.png").read_text() == "another's"


def test_output_folder(fake, capsys) -> None:
    Path("out").mkdir()
    for expected in ("cat-1.png", "cat-1-2.png"):
        assert cli.main(["generate", "cat", "--seed", "1", "--output", "out/"]) == 0
        assert capsys.readouterr().out.strip() == str(Path("out") / expected)


def test_named_file_is_replaced_and_that_is_said(fake, capsys) -> None:
    Path("cat.png").write_text("old")
    assert cli.main(["generate", "cat", "--output", "cat.png"]) == 0
    assert "note: cat.png will be replaced" in capsys.readouterr().err
    assert read_metadata("cat.png")["request"]["prompts"] == ["cat"]


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("", "image-1.png"),
        ("../../etc/passwd", "etc-passwd-1.png"),
        ("🐱!?", "image-1.png"),
        ("Ein Café_日本", "ein-café_日本-1.png"),
        ("word " * 60, "word-" * 16 + "1.png"),
        ("猫" * 60, "猫" * 26 + "-1.png"),
    ],
)
def test_name_made_from_the_prompt(fake, capsys, prompt: str, name: str) -> None:
    assert cli.main(["generate", prompt, "--seed", "1"]) == 0
    assert files() == [name]


@pytest.mark.parametrize(
    ("size", "height", "width"),
    [("64", 64, 64), ("64x32", 32, 64), (" 8 X 16 ", 16, 8), ("512×768", 768, 512)],
)
def test_size(fake, size: str, height: int, width: int) -> None:
    assert cli.main(["generate", "cat", "--size", size]) == 0
    assert fake.requests[0].size == (height, width)


BAD_INPUT = [
    (
        ["--size", "100"],
        "--size: width 100 is not a multiple of 8; the nearest that work are 96 and 104",
    ),
    (["--size", "64x68"], "--size: height 68 .* 64 and 72"),
    (["--size", "0"], "width 0 is not .* 8 and 16"),
    (["--size", "64x"], "--size is '64x'; it is WIDTHxHEIGHT"),
    (["--size", "-64"], "--size is '-64'"),
    (["--steps", "0"], "steps"),
    (["--steps", "-1"], "steps"),
    (["--steps", "many"], "steps"),
    (["--count", "0"], "count"),
    (["--seed", "-1"], "seed"),
    (["--seed", str(2**64)], "seed"),
    (["--guidance", "nan"], "--guidance is a finite number from -1e.06 to 1e.06, not nan"),
    (["--guidance", "inf"], "--guidance is .* not inf"),
    (["--guidance-rescale", "1.5"], "guidance-rescale"),
    (["--guidance-interval", "5", "0.2"], "--guidance-interval .* lowest and the highest"),
    (["--guidance-interval", "5"], "guidance-interval"),
    (["--sampler", "dimm"], "No sampler 'dimm'"),
    (["--schedule", "karas"], "No schedule 'karas'. Did you mean 'karras'"),
    (["--backend", "pytorch"], "--backend is 'pytorch'; it is one of jax, tensorflow, torch"),
    (["--output", "nowhere/cat.png"], "the folder nowhere does not exist"),
    (["--output", "cat.jpg"], "--output is cat.jpg: neither a folder that exists nor a name"),
    (["--output", "nowhere/"], "--output is nowhere: neither a folder that exists nor a name"),
    (["--output", "x" * 300 + ".png"], "File name too long"),
    (["--prediction", "score"], "'epsilon', 'v'"),
    (["--compat", "diffusers"], "compat is one of .*'keras_cv==0.9'"),
    (["--dtype", "float8"], "'mixed_float16'"),
    (
        ["--autoencoder", "no.safetensors"],
        "--autoencoder: there is no file or folder no.safetensors",
    ),
    (["--text-encoder-2", "no.bin"], "--text-encoder-2: there is no file or folder no.bin"),
    (["--refiner", "sdxl-refinr-1.0"], "--refiner: .*Did you mean 'sdxl-refiner-1.0'"),
    (["--vocabulary", "."], "--vocabulary: there is no file ."),
    (["--model", "sd-1.55"], "Did you mean 'sd-1.5'"),
    (["--model", "no/folder/here"], "no/folder/here"),
    (["--wrong"], "No such option"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), BAD_INPUT, ids=[" ".join(a)[:40] for a, _ in BAD_INPUT]
)
def test_bad_input_is_one_line(bare_fake, capsys, arguments, message) -> None:
    assert cli.main(["generate", "cat", *arguments]) == 2
    assert re.search(message, error_line(capsys))
    assert bare_fake.calls == []
    assert files() == []


# --- from a picture -------------------------------------------------------------------


@pytest.fixture
def pictures(fake) -> Any:
    """Files in the folder in which the command runs; the command's pipeline."""
    write_pictures(Path())
    return fake


def write_pictures(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "photo.png")
    Image.fromarray(noise[:, :20]).save(folder / "odd.bmp")
    mask = np.zeros((16, 24), np.uint8)
    Image.fromarray(mask).save(folder / "black.png")
    mask[4:12, 8:] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    Image.fromarray(mask[:8]).save(folder / "low.png")
    (folder / "letter.png").write_text("no picture")


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as opened:
        return np.asarray(opened)


def test_image_to_image(pictures, capsys, tmp_path) -> None:
    path = str(tmp_path / "work" / "photo.png")
    assert cli.main(["image-to-image", "a cat", "--image", path, "--seed", "7"]) == 0
    assert capsys.readouterr().out == "a-cat-7.png\n"
    (request,) = pictures.requests
    start = Start(pictures=(Attachment.of(pixels("photo.png")),))
    assert request == Request(("a cat",), images=((7, 0),), start=start)
    # The name, not where it is: the file may go to others.
    made = read_metadata("a-cat-7.png")
    assert made["request"]["start"]["pictures"][0]["name"] == "photo.png"
    assert made["request"]["start"]["strength"] == 0.8
    assert str(tmp_path) not in json.dumps(made)


def test_image_to_image_with_everything(pictures) -> None:
    arguments = """image-to-image cat --image odd.bmp --strength 0.3 --steps-mode schedule
        --resize crop --size 64x32 --negative dog --count 2 --steps 5 --dtype float16
        --output cat.png"""
    assert cli.main(arguments.split()) == 0
    assert pictures.calls[0][1] == {"dtype": "float16"}
    (request,) = pictures.requests
    start = request.start
    assert (start.strength, start.steps_mode, start.resize) == (0.3, "schedule", "crop")
    assert (len(request), request.num_steps, request.negative_prompts[0]) == (2, 5, "dog")
    assert request.size == (32, 64)


def test_inpaint(pictures, capsys) -> None:
    here = Path.cwd()
    arguments = ["inpaint", "cat", "--image", f"{here}/photo.png", "--mask", f"{here}/mask.png"]
    assert cli.main([*arguments, "--output", "cat.png"]) == 0
    start = pictures.requests[0].start
    assert np.array_equal(start.pictures[0].data, pixels("photo.png"))
    assert np.array_equal(start.masking.masks[0].data * 255, pixels("mask.png"))
    assert start.masking == Masking(masks=start.masking.masks)
    made = read_metadata("cat.png")["request"]["start"]
    assert made["strength"] == 1.0
    assert made["pictures"][0]["name"] == "photo.png"
    assert made["masking"]["masks"][0]["name"] == "mask.png"


def test_inpaint_with_everything(pictures) -> None:
    arguments = """inpaint cat --image odd.bmp --mask odd-mask.png --mask-convention keras_cv
        --mask-blur 1.5 --only-masked --padding 4 --resamples 3 --strength 0.5
        --no-keep-unmasked --steps-mode schedule --size 64 --output cat.png"""
    Image.fromarray(pixels("mask.png")[:, :20]).save("odd-mask.png")
    assert cli.main(arguments.split()) == 0
    (request,) = pictures.requests
    assert request.size == (64, 64)
    assert (request.start.strength, request.start.steps_mode) == (0.5, "schedule")
    assert request.start.masking == Masking(
        masks=request.start.masking.masks,
        num_resamples=3,
        mask_convention="keras_cv",
        mask_blur=1.5,
        only_masked=True,
        padding=4,
        keep_unmasked=False,
    )


def test_painting_around_a_picture(pictures) -> None:
    arguments = """inpaint cat --image photo.png --extend-left 8 --extend-right 16 --extend-top 24
        --extend-bottom 32 --output cat.png"""
    assert cli.main(arguments.split()) == 0
    start = pictures.requests[0].start
    (picture,), (mask,) = start.pictures, start.masking.masks
    assert picture.data.shape == (72, 48, 3)
    assert picture.name == "photo.png"
    assert np.array_equal(picture.data[24:40, 8:32], pixels("photo.png"))
    old = mask.data == 0
    assert old[24:40, 8:32].all()
    assert old.sum() == 16 * 24
    # An odd picture that becomes an even one, and one that is brought to a size.
    for image_name, *more in (("odd.bmp", "4"), ("photo.png", "3", "--resize", "pad")):
        assert cli.main(["inpaint", "cat", "--image", image_name, "--extend-left", *more]) == 0


@pytest.mark.parametrize("side", ["left", "top"])
def test_a_canvas_has_an_end(pictures, capsys, side) -> None:
    assert cli.main(["inpaint", "cat", "--image", "photo.png", f"--extend-{side}", "20000000"]) == 2
    assert "from 0 to 16384" in error_line(capsys)


BAD_PICTURES = [
    ("image-to-image", "", "Missing option '--image'"),
    ("image-to-image", "--image none.png", "--image: There is no image none.png"),
    ("image-to-image", "--image .", r"--image: \. is a folder"),
    ("image-to-image", "--image letter.png", "--image: letter.png is no PNG, JPEG"),
    ("image-to-image", "--image https://a.org/b.png", "--image: https://a.org/b.png is a URL"),
    (
        "image-to-image",
        "--image odd.bmp",
        "The image is 20x16; its width 20 is not a multiple of 8; the nearest that work are 16 and "
        "24. Or give resize='stretch', 'crop' or 'pad'",
    ),
    (
        "image-to-image",
        "--image photo.png --strength 0",
        "--strength is above 0 and at most 1, not 0.0",
    ),
    ("image-to-image", "--image photo.png --strength 1.01", "--strength is .* not 1.01"),
    ("image-to-image", "--image photo.png --strength nan", "--strength is .* not nan"),
    ("image-to-image", "--image photo.png --steps-mode all", "'run', 'schedule'"),
    ("image-to-image", "--image photo.png --resize fit", "'stretch', 'crop', 'pad'"),
    ("image-to-image", "--image photo.png --size 64", "is what a picture is brought to"),
    ("image-to-image", "--image photo.png --resize crop --size 60", "--size: width 60"),
    ("image-to-image", "--image photo.png --mask mask.png", "No such option"),
    ("image-to-image", "--image photo.png --model no/folder", "no/folder"),
    ("inpaint", "--mask mask.png", "Missing option '--image'"),
    ("inpaint", "--image photo.png", "give --mask, .* or --extend-left, .*: one of the two"),
    (
        "inpaint",
        "--image photo.png --mask mask.png --extend-left 8",
        "give --mask, .* or --extend-left, .*: one of the two",
    ),
    ("inpaint", "--image photo.png --mask none.png", "--mask: There is no image none.png"),
    ("inpaint", "--image photo.png --mask photo.png", "--mask: photo.png has colours"),
    ("inpaint", "--image photo.png --mask low.png", "mask is 24x8, the picture 24x16"),
    ("inpaint", "--image photo.png --mask black.png", "The mask is empty"),
    ("inpaint", "--image photo.png --extend-left 8 --mask-convention keras_cv", "there is none"),
    ("inpaint", "--image photo.png --extend-left 4", "The image is 28x16; its width 28"),
    ("inpaint", "--image photo.png --extend-left -8", "extend-left"),
    ("inpaint", "--image photo.png --mask mask.png --mask-blur -1", "mask-blur"),
    ("inpaint", "--image photo.png --mask mask.png --mask-blur inf", "mask-blur"),
    ("inpaint", "--image photo.png --mask mask.png --padding -1", "padding"),
    ("inpaint", "--image photo.png --mask mask.png --resamples 0", "resamples"),
    ("inpaint", "--image photo.png --mask mask.png --strength 2", "--strength is .* not 2.0"),
    ("inpaint", "--image photo.png --mask mask.png --size 64", "is what a picture"),
    ("inpaint", "--image photo.png --mask mask.png --only-masked --resize pad", "no resize"),
]


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    BAD_PICTURES,
    ids=[f"{command} {arguments}"[:60] for command, arguments, _ in BAD_PICTURES],
)
def test_bad_pictures_are_one_line(pictures, capsys, command, arguments, message) -> None:
    before = files()
    assert cli.main([command, "cat", *arguments.split()]) == 2
    assert re.search(message, error_line(capsys))
    assert pictures.calls == []
    assert files() == before


@pytest.mark.once
def test_bad_pictures_are_found_before_keras_is_imported(tmp_path) -> None:
    write_pictures(tmp_path)
    bad = json.dumps([[command, "cat", *text.split()] for command, text, _ in BAD_PICTURES])
    code = f"""
import json, sys
from keras_sd.cli import main
for arguments in json.loads({bad!r}):
    assert main(arguments) == 2, arguments
assert not {{"keras", "jax", "tensorflow", "torch"}} & set(sys.modules)
"""
    command = [sys.executable, "-W", "error", "-c", code]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)


def test_dtypes_are_those_of_the_library() -> None:
    # Said again in the command, which must not import Keras for its help.
    dtypes, _ = get_args(get_type_hints(DrawOptions)["dtype"])
    assert get_args(dtypes) == POLICIES


def test_every_setting_of_a_request_is_an_option() -> None:
    taken = {
        draw.generate: (Request,),
        draw.image_to_image: (Request, Start),
        draw.inpaint: (Request, Start, Masking),
    }
    for command, parts in taken.items():
        options = {f"--{name.replace('_', '-')}" for name in signature(command).parameters}
        known = {name for part in parts for name in settings(part)} - {"height", "width"}
        assert {flag_of(name) for name in known} <= options


def test_no_prompt_and_no_such_command(capsys) -> None:
    assert cli.main(["generate"]) == 2
    assert "prompt" in error_line(capsys).lower()
    assert cli.main(["generat"]) == 2
    assert "generat" in error_line(capsys)


@pytest.mark.once
def test_bad_input_is_found_before_keras_is_imported() -> None:
    # Not a fake registry here: in this process the real one answers.
    bad = json.dumps([["generate", "cat", *arguments] for arguments, _ in BAD_INPUT])
    code = f"""
import json, sys
from keras_sd.cli import main
for arguments in json.loads({bad!r}):
    assert main(arguments) == 2, arguments
assert not {{"keras", "jax", "tensorflow", "torch"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True)


@pytest.mark.once
def test_help_and_samplers_import_nothing_heavy() -> None:
    code = """
import sys
from keras_sd.cli import main
assert main(["--help"]) == main([]) == main(["samplers"]) == main(["--version"]) == 0
for command in ("generate", "image-to-image", "inpaint", "inspect", "convert", "models", "fetch"):
    assert main([command, "--help"]) == 0
heavy = {"keras", "jax", "tensorflow", "torch", "numpy", "PIL", "ftfy", "regex", "rich"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True)


def test_samplers_are_listed(capsys, monkeypatch) -> None:
    infos = [
        SamplerInfo("ddim", "keras-sd", "0.1.0", "keras_sd_samplers.ddim:DDIM"),
        SamplerInfo("longer-name", "acme", "2", "acme:Sampler"),
    ]
    monkeypatch.setattr(registry, "list_samplers", lambda: infos)
    assert cli.main(["samplers"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        "name         distribution  version  where",
        "ddim         keras-sd      0.1.0    keras_sd_samplers.ddim:DDIM",
        "longer-name  acme          2        acme:Sampler",
    ]
    assert captured.err == ""


def test_schedules_are_listed(capsys) -> None:
    assert cli.main(["schedules"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "distribution", "version", "where"]
    assert ["karras", "keras-sd", "keras_sd.schedules:karras"] in [
        [words[0], words[1], words[3]] for words in map(str.split, lines)
    ]


def test_a_schedule_goes_before_the_one_in_the_sampler_s_name(fake) -> None:
    named = ["--sampler", "DPM++ 2M Karras", "--schedule", "SGM Uniform"]
    assert cli.main(["generate", "cat", *named]) == 0
    made = read_metadata(next(Path().glob("*.png")))["request"]
    assert (made["sampler"], made["schedule"]) == ("dpmpp_2m", "sgm_uniform")


def test_no_backend_installed(fake, capsys, monkeypatch) -> None:
    monkeypatch.setattr(choose, "_is_installed", lambda name: False)
    assert cli.main(["generate", "cat"]) == 2
    line = error_line(capsys)
    for name in ("jax", "tensorflow", "torch"):
        assert f'pip install "keras-sd[{name}]"' in line
    assert fake.calls == []


@pytest.mark.parametrize(
    ("asked", "variable", "expected"),
    [
        ("torch", "jax", "torch"),
        ("torch", None, "torch"),
        (None, "torch", "torch"),
        (None, "openvino", "openvino"),
        (None, None, None),  # tests/plain/test_choose.py
    ],
)
def test_backend_choice(fake, capsys, monkeypatch, asked, variable, expected) -> None:
    if variable:
        monkeypatch.setenv("KERAS_BACKEND", variable)
    option = ["--backend", asked] if asked else []
    assert cli.main(["generate", "cat", *option]) == 0
    assert os.environ.get("KERAS_BACKEND") == expected
    assert "running on" not in capsys.readouterr().err


@pytest.mark.parametrize("option", [True, False])
def test_backend_that_is_not_installed(fake, capsys, monkeypatch, option: bool) -> None:
    monkeypatch.setattr(choose, "_is_installed", lambda name: name == "jax")
    if not option:
        monkeypatch.setenv("KERAS_BACKEND", "torch")
    assert cli.main(["generate", "cat", *(["--backend", "torch"] if option else [])]) == 2
    line = error_line(capsys)
    assert ("--backend is torch" if option else "KERAS_BACKEND is torch") in line
    assert 'pip install "keras-sd[torch]"' in line
    assert "Installed: jax" in line


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ValueError("two\nlines"), 2, "error: two lines"),
        (FileNotFoundError("no preset"), 2, "error: no preset"),
        (
            RuntimeError("out of memory"),
            1,
            "error: RuntimeError: out of memory (--debug shows where)",
        ),
        (OSError(28, "No space left on device"), 1, "error: [Errno 28] No space left on device"),
        (MemoryError(), 1, "error: MemoryError: MemoryError (--debug shows where)"),
    ],
)
def test_failures_of_the_pipeline(fake, capsys, error, status, message) -> None:
    fake.error = error
    assert cli.main(["generate", "cat"]) == status
    assert error_line(capsys) == message
    assert files() == []
    with pytest.raises(type(error)):
        cli.main(["generate", "cat", "--debug"])


def test_stopped_by_ctrl_c(fake, capsys) -> None:
    fake.error = KeyboardInterrupt()
    assert cli.main(["generate", "cat"]) == 130
    assert capsys.readouterr().err.endswith("stopped\n")
    assert files() == []


def test_failure_while_saving_leaves_no_file(fake, capsys, monkeypatch) -> None:
    def disk_full(self, file, **kwargs):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(image.Image.Image, "save", disk_full)
    assert cli.main(["generate", "cat", "--output", "cat.png"]) == 1
    assert "No space left" in error_line(capsys)
    assert files() == []


def test_progress_bar_only_on_a_terminal(pictures, capsys, monkeypatch) -> None:
    assert cli.main(["generate", "cat"]) == 0
    assert "preparing" not in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert cli.main(["generate", "cat"]) == 0
    captured = capsys.readouterr()
    assert "drawing" in captured.err
    assert "3/3" in captured.err
    assert captured.out.endswith(".png\n")
    # Fewer steps are run than were asked for; the bar has those that are.
    command = ["image-to-image", "cat", "--image", "photo.png", "--steps-mode", "schedule"]
    assert cli.main(command) == 0
    captured = capsys.readouterr()
    assert "2/2" in captured.err
    assert "/3" not in captured.err


def test_train_emoji_is_handed_over(fake, monkeypatch) -> None:
    handed: dict = {}
    module = ModuleType("keras_sd.training.emoji")
    module.main_train = handed.update  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "keras_sd.training.emoji", module)
    assert cli.main(["train-emoji", "out", "--seed", "3", "--backend", "jax"]) == 0
    assert handed == {"output": Path("out"), "font": None, "seed": 3}
    assert os.environ["KERAS_BACKEND"] == "jax"
