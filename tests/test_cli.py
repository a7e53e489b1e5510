"""The command: what it checks, hands to the pipeline (a fake one here) and writes."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from keras_sd import cli, image, registry
from keras_sd.cli import backends
from keras_sd.image import read_metadata
from keras_sd.registry import SamplerInfo


class FakePipeline:
    """Takes what the command hands over; its pictures are all of one value, their index."""

    calls: ClassVar[list[tuple[str, dict]]] = []
    error: BaseException | None = None
    while_drawing = staticmethod(lambda: None)
    config = SimpleNamespace(
        defaults=SimpleNamespace(
            sampler="fake-sampler", schedule="trailing", num_steps=3, guidance_scale=5.5
        )
    )

    @classmethod
    def from_preset(cls, model, **settings):
        cls.calls.append((model, settings))
        return cls()

    def text_to_image(self, prompt, *, callback, **settings):
        self.calls.append((prompt, settings))
        if "zorb" in prompt:
            logging.getLogger("keras_sd").warning("The model does not know: %s.", "zorb")
        for index in range(1, settings["num_steps"] + 1):
            callback(SimpleNamespace(index=index, total=settings["num_steps"]))
        if self.error is not None:
            raise self.error
        self.while_drawing()
        shape = (settings["batch_size"], 8, 16, 3)
        return np.broadcast_to(np.arange(shape[0], dtype=np.uint8)[:, None, None, None], shape)


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """The command in an empty folder, with a pipeline, a Keras and a backend that are not there."""
    pipeline = type("StableDiffusion", (FakePipeline,), {"calls": []})
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
    monkeypatch.setattr(registry, "get_sampler", lambda name: name)
    monkeypatch.setattr(backends, "_is_installed", lambda name: True)
    # Set, then deleted: so that what the command sets is taken back after the test.
    for variable in ("KERAS_BACKEND", "TF_CPP_MIN_LOG_LEVEL"):
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras_home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return pipeline


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
    assert fake.calls == [
        ("emoji", {"height": None, "width": None}),
        (
            "A cat face, on blue!",
            {
                "negative_prompt": None,
                "batch_size": 1,
                "num_steps": 3,
                "unconditional_guidance_scale": 5.5,
                "seed": 7,
                "sampler": "fake-sampler",
                "schedule": "trailing",
            },
        ),
    ]
    made = read_metadata("a-cat-face-on-blue-7.png")
    assert made.pop("version")
    assert made == {
        "prompt": "A cat face, on blue!",
        "negative_prompt": None,
        "seed": 7,
        "image": 0,
        "model": "emoji",
        "sampler": "fake-sampler",
        "schedule": "trailing",
        "steps": 3,
        "guidance": 5.5,
        "width": 16,
        "height": 8,
        "backend": "as configured",
    }


def test_generate_with_everything(fake, capsys) -> None:
    for name in ("m", "vae.safetensors", "unet.ckpt", "clip.bin", "merges.txt"):
        Path(name).touch()
    arguments = """generate cat --model m --negative dog --sampler s --schedule karras --steps 5
        --guidance 2.5 --seed 0 --count 2 --size 64x32 --output cat.png --backend torch
        --variant fp16 --prediction v --ema --autoencoder vae.safetensors --unet unet.ckpt
        --text-encoder clip.bin --vocabulary merges.txt --compat keras_cv"""
    assert cli.main(arguments.split()) == 0
    assert capsys.readouterr().out == "cat-1.png\ncat-2.png\n"
    assert sorted(Path().glob("*.png")) == [Path("cat-1.png"), Path("cat-2.png")]
    loading = {
        "variant": "fp16",
        "prediction": "v",
        "ema": True,
        "autoencoder": Path("vae.safetensors"),
        "unet": Path("unet.ckpt"),
        "text_encoder": Path("clip.bin"),
        "vocabulary": Path("merges.txt"),
        "compat": "keras_cv",
    }
    (model, built), (_, run) = fake.calls
    assert (str(model), built) == ("m", {"height": 32, "width": 64, **loading})
    assert run == {
        "negative_prompt": "dog",
        "batch_size": 2,
        "num_steps": 5,
        "unconditional_guidance_scale": 2.5,
        "seed": 0,
        "sampler": "s",
        "schedule": "karras",
    }
    assert [read_metadata(f"cat-{number}.png")["image"] for number in (1, 2)] == [0, 1]
    made = read_metadata("cat-1.png")
    assert {name: made[name] for name in loading} == {
        name: str(value) if isinstance(value, Path) else value for name, value in loading.items()
    }
    with image.Image.open("cat-2.png") as second:
        assert np.asarray(second).max() == 1
    assert read_metadata("cat-1.png")["backend"] == os.environ["KERAS_BACKEND"] == "torch"


def test_seed_is_new_each_time_and_told(fake, capsys) -> None:
    seeds = set()
    for _ in range(2):
        assert cli.main(["generate", "cat"]) == 0
        captured = capsys.readouterr()
        seed = read_metadata(captured.out.strip())["seed"]
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
    assert read_metadata("cat.png")["prompt"] == "cat"


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
    assert fake.calls[0][1] == {"height": height, "width": width}


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
    (["--guidance", "nan"], "--guidance is nan; it is a finite number"),
    (["--guidance", "inf"], "--guidance is inf"),
    (["--sampler", "dimm"], "No sampler 'dimm'"),
    (["--schedule", "karas"], "No schedule 'karas'. Did you mean 'karras'"),
    (["--backend", "pytorch"], "--backend is 'pytorch'; it is one of jax, tensorflow, torch"),
    (["--output", "nowhere/cat.png"], "the folder nowhere does not exist"),
    (["--output", "cat.jpg"], "--output is cat.jpg: neither a folder that exists nor a name"),
    (["--output", "nowhere/"], "--output is nowhere: neither a folder that exists nor a name"),
    (["--output", "x" * 300 + ".png"], "File name too long"),
    (["--prediction", "x0"], "'epsilon', 'v'"),
    (["--compat", "diffusers"], "keras_cv"),
    (
        ["--autoencoder", "no.safetensors"],
        "--autoencoder: there is no file or folder no.safetensors",
    ),
    (["--vocabulary", "."], "--vocabulary: there is no file ."),
    (["--model", "sd-1.55"], "Did you mean 'sd-1.5'"),
    (["--model", "no/folder/here"], "no/folder/here"),
    (["--wrong"], "No such option"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), BAD_INPUT, ids=[" ".join(a)[:40] for a, _ in BAD_INPUT]
)
def test_bad_input_is_one_line(fake, capsys, monkeypatch, arguments, message) -> None:
    def not_found(name):
        raise registry.SamplerNotFoundError(f"No sampler {name!r}.")

    monkeypatch.setattr(registry, "get_sampler", not_found)
    assert cli.main(["generate", "cat", *arguments]) == 2
    assert re.search(message, error_line(capsys))
    assert fake.calls == []
    assert files() == []


def test_no_prompt_and_no_such_command(capsys) -> None:
    assert cli.main(["generate"]) == 2
    assert "prompt" in error_line(capsys).lower()
    assert cli.main(["generat"]) == 2
    assert "generat" in error_line(capsys)


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


def test_help_and_samplers_import_nothing_heavy() -> None:
    code = """
import sys
from keras_sd.cli import main
assert main(["--help"]) == main([]) == main(["samplers"]) == main(["--version"]) == 0
for command in ("generate", "inspect", "convert", "models", "fetch"):
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


def test_no_backend_installed(fake, capsys, monkeypatch) -> None:
    monkeypatch.setattr(backends, "_is_installed", lambda name: False)
    assert cli.main(["generate", "cat"]) == 2
    line = error_line(capsys)
    for name in ("jax", "tensorflow", "torch"):
        assert f'pip install "keras-sd[{name}]"' in line
    assert fake.calls == []


@pytest.mark.parametrize(
    ("installed", "asked", "variable", "configured", "expected"),
    [
        # --backend wins, then KERAS_BACKEND; Keras' own configuration is left to Keras (None).
        (("jax", "torch"), "torch", "jax", "jax", "torch"),
        (("jax", "torch"), None, "torch", "jax", "torch"),
        (("jax", "torch"), None, None, "torch", None),
        (("jax", "tensorflow"), None, None, None, None),
        (("jax",), None, "openvino", None, "openvino"),
        (("jax",), None, None, "openvino", None),
        # Keras would take one that is not there: the first that is.
        (("jax", "torch"), None, None, "tensorflow", "jax"),
        (("jax", "torch"), None, None, None, "jax"),
        (("torch",), None, None, None, "torch"),
        (("tensorflow",), None, None, "broken json", None),
    ],
)
def test_backend_choice(
    fake, capsys, monkeypatch, tmp_path, installed, asked, variable, configured, expected
) -> None:
    monkeypatch.setattr(backends, "_is_installed", lambda name: name in installed)
    if variable:
        monkeypatch.setenv("KERAS_BACKEND", variable)
    if configured:
        (tmp_path / "keras_home").mkdir()
        text = "{" if configured == "broken json" else json.dumps({"backend": configured})
        (tmp_path / "keras_home" / "keras.json").write_text(text)
    option = ["--backend", asked] if asked else []
    assert cli.main(["generate", "cat", *option]) == 0
    assert os.environ.get("KERAS_BACKEND") == expected
    picked = not asked and not variable and expected is not None
    assert (f"note: running on {expected}" in capsys.readouterr().err) == picked


@pytest.mark.parametrize("option", [True, False])
def test_backend_that_is_not_installed(fake, capsys, monkeypatch, option: bool) -> None:
    monkeypatch.setattr(backends, "_is_installed", lambda name: name == "jax")
    if not option:
        monkeypatch.setenv("KERAS_BACKEND", "torch")
    assert cli.main(["generate", "cat", *(["--backend", "torch"] if option else [])]) == 2
    line = error_line(capsys)
    assert ("--backend is torch" if option else "KERAS_BACKEND is torch") in line
    assert 'pip install "keras-sd[torch]"' in line
    assert "Installed: jax" in line


def test_is_installed(tmp_path, monkeypatch) -> None:
    (tmp_path / "left_behind").mkdir()
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    names = ("whole", "left_behind", "not_there")
    assert [backends._is_installed(name) for name in names] == [True, False, False]


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


def test_progress_bar_only_on_a_terminal(fake, capsys, monkeypatch) -> None:
    assert cli.main(["generate", "cat"]) == 0
    assert "preparing" not in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert cli.main(["generate", "cat"]) == 0
    captured = capsys.readouterr()
    assert "drawing" in captured.err
    assert "3/3" in captured.err
    assert captured.out.endswith(".png\n")


def test_train_emoji_is_handed_over(fake, monkeypatch) -> None:
    handed: dict = {}
    module = ModuleType("keras_sd.training.emoji")
    module.main_train = handed.update  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "keras_sd.training.emoji", module)
    assert cli.main(["train-emoji", "out", "--seed", "3", "--backend", "jax"]) == 0
    assert handed == {"output": Path("out"), "font": None, "seed": 3}
    assert os.environ["KERAS_BACKEND"] == "jax"
