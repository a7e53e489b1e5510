"""`keras-sd inspect`, `convert`, `models` and `fetch`, and the functions behind them."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np
import pytest
from adapter_files import write
from fuzz import archive, state, storage, tensor
from safetensors.numpy import load_file, save_file

from keras_sd import cli
from keras_sd.config import (
    SD_1,
    SD_2,
    AutoencoderConfig,
    ModelConfig,
    NoiseConfig,
    TextEncoderConfig,
    UNetConfig,
)
from keras_sd.keras_cv import names as keras_cv
from keras_sd.weights import fetch, inspection, presets, recognise, save
from keras_sd.weights.checkpoint import open_checkpoint
from keras_sd.weights.convert import convert
from keras_sd.weights.inspection import inspect
from keras_sd.weights.names import diffusers, original, own, weights_h5
from keras_sd.weights.presets import PRESETS
from keras_sd.weights.readers import WeightsError
from keras_sd.weights.save import save_checkpoint, save_preset
from keras_sd.weights.vocabulary import tokenizer_of

MERGES = ["c a", "ca t</w>", "d o", "do g</w>"]
TINY = replace(
    SD_1,
    name="tiny",
    text_encoder=TextEncoderConfig(512 + len(MERGES) + 2, 8, 64, 1, 1, 64),
    unet=UNetConfig(4, 4, (32, 64), (8, 8), (1, 0), 1, 64),
    autoencoder=AutoencoderConfig(4, (32, 32), 1),
)
TINY_2 = replace(
    SD_2,
    name="tiny-2",
    text_encoder=replace(TINY.text_encoder, activation="gelu"),
    unet=UNetConfig(4, 4, (64, 128), (1, 2), (1, 0), 1, 64, linear_projection=True),
    autoencoder=TINY.autoencoder,
)
INPAINTING = replace(TINY, unet=replace(TINY.unet, in_channels=9))
PIX2PIX = replace(TINY, unet=replace(TINY.unet, in_channels=8))
PARTS = ("text_encoder", "unet", "autoencoder")


def random_arrays(config: ModelConfig, dtype="float16") -> dict[str, np.ndarray]:
    """Every variable by `part/path`."""
    random = np.random.default_rng(7)
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    return {
        entry.name: random.standard_normal(entry.shape, np.float32).astype(kind)
        for table in own.tables(config).values()
        for entry in table
    }


def write_preset(folder, config=TINY, arrays=None, **about):
    arrays = random_arrays(config) if arrays is None else arrays
    save_preset(folder, config, arrays, MERGES, dtype=None, **about)
    return Path(folder)


def write_vocabulary(path="merges.txt"):
    Path(path).write_text("\n".join(["#version: 0.2", *MERGES, ""]))
    return path


def file_tensors(config=TINY, dtype="float16"):
    """The tensors of a single file of the original layout."""
    save_checkpoint("whole.safetensors", config, random_arrays(config, dtype))
    return load_file("whole.safetensors")


@pytest.fixture(autouse=True)
def in_an_empty_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def files() -> list[str]:
    return sorted(os.listdir())


def run(capsys, *arguments, status=0) -> tuple[str, str]:
    """Stdout and stderr of a command that ends with this status."""
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert code == status, captured
    assert "Traceback" not in captured.err
    return captured.out, captured.err


def run_json(capsys, *arguments, status=0) -> dict:
    out, err = run(capsys, *arguments, "--json", status=status)
    assert err == ""
    return json.loads(out)


def arrays_at(path, **options) -> dict[str, np.ndarray]:
    return {name: np.array(a) for name, a in open_checkpoint(path, **options).arrays().items()}


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), name


# inspect


def test_inspect_a_preset(capsys):
    folder = write_preset("tiny", words=["cat", "dog"], license="CC0")
    found = run_json(capsys, "inspect", "tiny")
    assert found["good"] is True
    assert found["error"] is None
    assert (found["family"], found["layout"]) == ("tiny", "keras_sd")
    assert (found["prediction"], found["prediction_from"]) == ("epsilon", "config.json")
    assert (found["license"], found["words"]) == ("CC0", 2)
    assert found["vocabulary"] == str(Path("tiny", "merges.txt"))
    assert found["problems"] == {}
    assert found["numbers_read"] is True
    assert found["unsupported"] is None
    assert ModelConfig.from_dict(found["config"]) == TINY
    weights = folder / "model.safetensors"
    assert found["files"] == [
        {
            "path": str(weights),
            "format": "safetensors",
            "size": weights.stat().st_size,
            "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        }
    ]
    tables = own.tables(TINY)
    assert list(found["parts"]) == list(PARTS)
    for part, report in found["parts"].items():
        count = sum(math.prod(entry.shape) for entry in tables[part])
        assert report["tensors"] == len(tables[part])
        assert report["parameters"] == count
        assert report["bytes"] == 2 * count
        assert report["dtypes"] == {"float16": len(tables[part])}
    assert {part: report["numbers"] for part, report in found["parts"].items()} == {
        "text_encoder": {
            "vocab_size": 518,
            "max_length": 8,
            "width": 64,
            "depth": 1,
            "mlp_width": 64,
        },
        "unet": {
            "in_channels": 4,
            "out_channels": 4,
            "widths": [32, 64],
            "depths": [1, 0],
            "blocks": 1,
            "context_width": 64,
            "linear_projection": False,
        },
        "autoencoder": {"latent_channels": 4, "widths": [32, 32], "blocks": 1},
    }


def test_inspect_for_people(capsys):
    weights = write_preset("tiny", license="CC0") / "model.safetensors"
    lines = run(capsys, "inspect", "tiny")[0].splitlines()
    assert lines[0] == "tiny: tiny"
    facts = {line[2:16].strip(): line[16:] for line in lines[1:]}
    assert facts["layout"] == "keras_sd, safetensors"
    assert facts["prediction"] == "epsilon (known from: config.json)"
    assert facts["can be run"] == "yes"
    assert facts["UNet"].startswith("803,204 parameters in 208 tensors, float16, ")
    assert "widths [32, 64], depths [1, 0], blocks 1, context_width 64" in facts["UNet"]
    assert facts["license"] == "CC0"
    assert facts["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert facts["result"] == "whole: every tensor fits, every number is finite"


@pytest.mark.parametrize(
    ("config", "family", "prediction", "known_from"),
    [
        (TINY, "Stable Diffusion 1.x", "epsilon", "modelspec.prediction_type"),
        (TINY_2, "Stable Diffusion 2.x, 768x768, v-prediction", "v", "modelspec.prediction_type"),
        (INPAINTING, "Stable Diffusion 1.x inpainting", "epsilon", "modelspec.prediction_type"),
        (PIX2PIX, "Stable Diffusion 1.x InstructPix2Pix", "epsilon", "modelspec.prediction_type"),
    ],
)
def test_inspect_a_single_file(capsys, config, family, prediction, known_from):
    file_tensors(config)
    found = run_json(capsys, "inspect", "whole.safetensors")
    assert (found["family"], found["layout"]) == (family, "original")
    assert found["prediction"] == prediction
    assert known_from in found["prediction_from"]
    assert [file["path"] for file in found["files"]] == ["whole.safetensors"]
    assert found["vocabulary"] is None
    assert bool(found["unsupported"]) == (config is PIX2PIX)
    out = run(capsys, "inspect", "whole.safetensors")[0]
    assert ("can be run    no: " in out) == (config is PIX2PIX)


def test_inspect_and_convert_a_file_of_torch(capsys):
    tensors = file_tensors()
    values = {}
    for number, (name, array) in enumerate(tensors.items()):
        place = storage(str(number), array.size, b"torch\nHalfStorage")
        strides = tuple(stride // array.itemsize for stride in array.strides)
        values[name] = tensor(array.shape, strides, of=place)
    data = {f"data/{i}": array.tobytes() for i, array in enumerate(tensors.values())}
    Path("x.ckpt").write_bytes(archive(state(**values), data))
    found = run_json(capsys, "inspect", "x.ckpt")
    assert found["family"] == "Stable Diffusion 1.x"
    assert [file["format"] for file in found["files"]] == ["torch"]
    assert found["prediction_from"] == "the family"
    run(capsys, "convert", "x.ckpt", "x.safetensors")
    assert_same(load_file("x.safetensors"), tensors)


def test_inspect_names_an_assumption(capsys):
    save_file(file_tensors(TINY_2), "silent.safetensors")
    out = run(capsys, "inspect", "silent.safetensors")[0]
    assert "v (known from: an assumption)" in out
    assert "  note " in out


def test_inspect_a_diffusers_folder_and_its_variants(capsys):
    convert(open_checkpoint(write_preset("tiny")), "folder", to="diffusers")
    for file in list(Path("folder").rglob("*.safetensors")):
        half = {name: array.astype(ml_dtypes.bfloat16) for name, array in load_file(file).items()}
        save_file(half, file.with_suffix(".bf16.safetensors"))
    found = run_json(capsys, "inspect", "folder")
    assert found["layout"] == "diffusers"
    assert found["prediction_from"] == "scheduler/scheduler_config.json"
    assert found["vocabulary"] == str(Path("folder/tokenizer/merges.txt"))
    assert sorted(file["path"] for file in found["files"]) == sorted(
        f"folder/{name}.safetensors"
        for name in (
            "text_encoder/model",
            "unet/diffusion_pytorch_model",
            "vae/diffusion_pytorch_model",
        )
    )
    assert all(file["sha256"] for file in found["files"])
    found = run_json(capsys, "inspect", "folder", "--variant", "bf16")
    assert all(file["path"].endswith(".bf16.safetensors") for file in found["files"])
    assert found["parts"]["unet"]["dtypes"].keys() == {"bfloat16"}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_inspect_finds_what_is_not_finite(capsys, dtype):
    tensors = file_tensors(dtype=dtype)
    largest = tensors["model.diffusion_model.out.0.bias"]
    largest[:2] = [ml_dtypes.finfo(largest.dtype).max, ml_dtypes.finfo(largest.dtype).min]
    save_file(tensors, "good.safetensors")
    assert run_json(capsys, "inspect", "good.safetensors")["good"]
    tensors["model.diffusion_model.out.2.bias"][1] = np.nan
    tensors["first_stage_model.quant_conv.bias"][0] = np.inf
    save_file(tensors, "bad.safetensors")
    out = run(capsys, "inspect", "bad.safetensors", status=1)[0]
    (line,) = [line for line in out.splitlines() if "not finite!" in line]
    assert "2: model.diffusion_model.out.2.bias, first_stage_model.quant_conv.bias" in line
    assert "result" not in out
    found = run_json(capsys, "inspect", "bad.safetensors", status=1)
    assert found["good"] is False
    assert found["problems"].keys() == {"not finite"}


def test_inspect_quickly_reads_headers_only(capsys):
    tensors = file_tensors()
    tensors["model.diffusion_model.out.2.bias"][1] = np.nan
    save_file(tensors, "bad.safetensors")
    found = run_json(capsys, "inspect", "bad.safetensors", "--quick")
    assert found["numbers_read"] is False
    assert found["files"][0]["sha256"] is None
    out = run(capsys, "inspect", "bad.safetensors", "--quick")[0]
    assert "whole: every tensor fits; numbers not looked at" in out


def test_inspect_lists_what_does_not_fit(capsys):
    tensors = file_tensors()
    gone = [f"model.diffusion_model.input_blocks.1.0.in_layers.{n}.bias" for n in (0, 2)]
    for name in gone:
        del tensors[name]
    tensors["model.diffusion_model.out.2.bias"] = np.zeros(5, np.float16)
    tensors["model.diffusion_model.out.0.bias"] = np.zeros(32, np.int32)
    extra = [f"strange.{n:02}" for n in range(12)]
    tensors |= {name: np.zeros(1, np.float32) for name in extra}
    tensors["betas"] = np.zeros(1000, np.float32)
    save_file(tensors, "odd.safetensors")
    found = run_json(capsys, "inspect", "odd.safetensors", status=1)
    assert found["problems"]["missing"] == gone
    assert "unexpected" not in found["problems"]
    assert found["left_out"] == extra
    strict = run_json(capsys, "inspect", "odd.safetensors", "--strict", status=1)
    assert strict["problems"] == {"unexpected": extra, **found["problems"]}
    assert strict["left_out"] == []
    assert found["ignored"] == ["betas"]
    (misshapen,) = found["problems"]["misshapen"]
    assert misshapen.startswith("model.diffusion_model.out.2.bias is (5,), not (4,)")
    (integer,) = found["problems"]["not floating"]
    assert integer == "model.diffusion_model.out.0.bias (int32)"

    out = run(capsys, "inspect", "odd.safetensors", status=1)[0]
    assert "12 that nothing here needs: strange.00, " in out
    assert "strange.09 and 2 more (--full lists them)" in out
    assert "1 tensors that are known and no part of the model: betas" in out
    out = run(capsys, "inspect", "odd.safetensors", "--full", status=1)[0]
    assert "strange.11\n" in out
    assert "--full" not in out


def test_inspect_a_damaged_file(capsys):
    file_tensors()
    whole = Path("whole.safetensors").read_bytes()
    Path("cut.safetensors").write_bytes(whole[:-10])
    out = run(capsys, "inspect", "cut.safetensors", status=1)[0]
    assert out.startswith("cut.safetensors\n  error ")
    assert hashlib.sha256(whole[:-10]).hexdigest() in out
    found = run_json(capsys, "inspect", "cut.safetensors", status=1)
    assert "cut.safetensors" in found["error"]
    assert found["parts"] == {}
    assert (found["good"], found["numbers_read"]) == (False, False)
    Path("noise.bin").write_bytes(b"no weights at all")
    assert run_json(capsys, "inspect", "noise.bin", status=1)["error"]


def test_inspect_a_preset_that_was_changed(capsys):
    folder = write_preset("tiny")
    with open(folder / "model.safetensors", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")
    assert "sha256" in run_json(capsys, "inspect", "tiny", status=1)["error"]
    (folder / "model.safetensors").unlink()
    assert "model.safetensors is missing" in run_json(capsys, "inspect", "tiny", status=1)["error"]


def test_inspect_says_what_else_a_file_is(capsys):
    name = "down_blocks.0.motion_modules.0.temporal_transformer.norm.weight"
    save_file({name: np.zeros(2, np.float32)}, "x.safetensors")
    found = run_json(capsys, "inspect", "x.safetensors", status=1)
    assert "an AnimateDiff motion module" in found["error"]


def test_inspect_an_adapter(capsys):
    metadata = {"ss_tag_frequency": '{"a": {"ink\\u001b": 3}}', "ss_base_model_version": "sd_v1"}
    write("x.safetensors", "kohya", SD_1, metadata)
    out, _ = run(capsys, "inspect", "x.safetensors")
    assert out.startswith("x.safetensors: an adapter, made for Stable Diffusion 1.x\n")
    rows = dict(line.split(maxsplit=1) for line in out.splitlines()[1:])
    assert rows["kind"] == "LoRA (8), LoCon (3)"
    assert (rows["layout"], rows["rank"], rows["alpha"]) == ("kohya", "4", "2")
    assert rows["UNet"] == "8 changes"
    assert rows["ss_base_model_version"] == "sd_v1"
    assert "\x1b" not in out
    assert rows["result"] == "whole: every change has its layer, every number is finite"
    found = run_json(capsys, "inspect", "x.safetensors", "--quick")
    assert (found["good"], found["numbers_read"], found["sha256"]) == (True, False, None)
    save_file({"lora_unet_down.lora_up.weight": np.zeros((2, 2), np.float32)}, "x.safetensors")
    assert "not whole" in run_json(capsys, "inspect", "x.safetensors", status=1)["error"]
    assert "error" in run(capsys, "inspect", "x.safetensors", status=1)[0]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("layout", [original, diffusers])
def test_inspect_a_part_alone(capsys, part, layout):
    config = getattr(TINY, part)
    if layout is original:
        prefix = {"text_encoder": original.CLIP}.get(part, "")
        make = original.clip if part == "text_encoder" else getattr(original, part)
        table = make(config, prefix=prefix)
    else:
        table = getattr(diffusers, part)(config)
    tensors = {entry.name: np.zeros(entry.file_shape, np.float32) for entry in table}
    save_file(tensors | {"betas": np.zeros(3, np.float32)}, "part.safetensors")
    found = run_json(capsys, "inspect", "part.safetensors")
    assert found["family"] == f"the {part.replace('_', ' ')} of a model, alone"
    assert found["layout"] is None
    assert list(found["parts"]) == [part]
    assert found["parts"][part]["parameters"] == sum(math.prod(e.shape) for e in table)
    assert found["files"][0]["sha256"]
    out = run(capsys, "inspect", "part.safetensors")[0]
    assert "whole: every tensor fits, every number is finite" in out

    tensors.pop(table[-1].name)
    tensors[table[0].name][:] = np.nan
    save_file(tensors, "part.safetensors")
    found = run_json(capsys, "inspect", "part.safetensors", status=1)
    assert found["problems"] == {"missing": [table[-1].name], "not finite": [table[0].name]}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "There is no file or folder nowhere; `keras-sd models`"),
        (["~nouser/x"], "There is no file or folder ~nouser/x; `keras-sd models`"),
        (["sd-2.1"], "`keras-sd fetch sd-2.1` gets it"),
        (["sd-1.5", "--variant", "fp16"], "`keras-sd fetch sd-1.5 --variant fp16` gets it"),
        (["hf://owner/name"], "`keras-sd fetch hf://owner/name` gets it"),
        (["whole.safetensors", "--variant", "fp16"], "variant 'fp16'"),
    ],
)
def test_inspect_bad_input(capsys, arguments, words):
    file_tensors()
    out, err = run(capsys, "inspect", *arguments, status=2)
    assert out == ""
    assert words in err


def test_inspect_a_name_that_was_fetched(capsys, monkeypatch):
    file_tensors()
    status = fetch.SourceStatus(
        "sd-9", "fp16", "t", None, 1, "u", Path("whole.safetensors").absolute(), 1, True
    )
    monkeypatch.setattr(fetch, "list_sources", lambda: [status])
    assert run_json(capsys, "inspect", "sd-9", "--variant", "fp16")["layout"] == "original"
    assert run_json(capsys, "inspect", "emoji", "--quick")["path"] == str(PRESETS / "emoji")


def test_inspect_tells_how_far_it_is_and_keeps_nothing(capsys, monkeypatch):
    folder = write_preset("tiny")
    calls, released = [], []
    monkeypatch.setattr(inspection, "release", released.append)
    report = inspect(folder, progress=lambda done, total: calls.append((done, total)))
    total = report.files[0].size + sum(part.bytes for part in report.parts.values())
    assert calls[-1] == (total, total)
    assert len(released) == sum(part.tensors for part in report.parts.values())
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "reading" in run(capsys, "inspect", "tiny")[1]


# What files may say to a terminal

EVIL = "x\x1b[2K\r\n  result        whole: every tensor fits\x1b[8m"


def test_names_that_would_move_the_cursor_are_escaped(capsys):
    save_file(file_tensors() | {EVIL: np.zeros(3, np.float32)}, "evil.safetensors")
    for arguments in (
        ["inspect", "evil.safetensors"],
        ["inspect", "evil.safetensors", "--full"],
        ["convert", "evil.safetensors", "out.safetensors"],
    ):
        out, err = run(capsys, *arguments)
        assert "which nothing here needs: 'x\\x1b[2K\\r" in out + err
        assert "\x1b" not in out + err
        results = [line for line in out.splitlines() if line.startswith("  result")]
        assert len(results) == (arguments[0] == "inspect")
        status = 1 if arguments[0] == "inspect" else 2
        out, err = run(capsys, *arguments, "--strict", *["--force"] * (status == 2), status=status)
        assert "1 unexpected: 'x\\x1b[2K\\r" in err or "unexpected!   1: 'x\\x1b[2K\\r" in out
        assert "\x1b" not in out + err
        assert not any(line.startswith("  result") for line in out.splitlines())
    with pytest.raises(WeightsError) as caught:
        open_checkpoint("evil.safetensors", strict=True).check()
    assert repr(EVIL) in str(caught.value)
    assert EVIL not in str(caught.value)


def test_a_name_and_a_license_that_would_move_the_cursor_are_escaped(capsys):
    write_preset("evil", replace(TINY, name=EVIL), license=EVIL)
    out, _ = run(capsys, "inspect", "evil")
    assert "\x1b" not in out
    assert "\r" not in out
    assert out.count("x\\x1b[2K") == 2
    assert sum(line.startswith("  result") for line in out.splitlines()) == 1


# Folders of ours, and what is none


def edit_config(folder, **changes):
    path = Path(folder, "config.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("license", [5, ["CC0"], {}, True])
def test_a_license_is_a_string(license):
    edit_config(write_preset("tiny"), license=license)
    with pytest.raises(WeightsError, match=r"config\.json: license is .* not a string or null"):
        open_checkpoint("tiny")


def test_a_model_with_added_tokens_comes_back():
    config = replace(TINY, text_encoder=replace(TINY.text_encoder, vocab_size=520))
    write_preset("added", config)
    found = open_checkpoint("added")
    assert found.vocab_size == 514 + len(MERGES) == 518
    assert tokenizer_of(found).vocab_size == 518
    convert(found, "folder", to="diffusers")
    convert(open_checkpoint("folder"), "again", to="keras_sd")
    assert tokenizer_of(open_checkpoint("again")).merges == tokenizer_of(found).merges
    less = replace(TINY, text_encoder=replace(TINY.text_encoder, vocab_size=516))
    assert open_checkpoint(write_preset("less", less)).vocab_size == 516


def test_a_folder_of_two_models_is_refused():
    convert(open_checkpoint(write_preset("tiny")), "both", to="diffusers")
    Path("both/config.json").write_text('{"model_type": "something"}')
    assert open_checkpoint("both").layout == "diffusers"
    for file in Path("tiny").iterdir():
        Path("both", file.name).write_bytes(file.read_bytes())
    with pytest.raises(WeightsError, match=r"two models: model_index.json .* config.json"):
        open_checkpoint("both")


@pytest.mark.parametrize(
    ("name", "part"), [("vae", "autoencoder"), ("unet", "unet"), ("text_encoder", "text_encoder")]
)
def test_a_folder_of_one_component(name, part):
    convert(open_checkpoint(write_preset("tiny")), "folder", to="diffusers")
    with pytest.raises(
        WeightsError, match=rf"is the {name} of a diffusers folder.*folder above it, or {part}="
    ):
        open_checkpoint(Path("folder", name))
    other = {n: a + np.float16(1) for n, a in random_arrays(TINY).items()}
    write_preset("other", arrays=other)
    found = open_checkpoint("other", **{part: Path("folder", name)})
    ours = random_arrays(TINY)
    wanted = {n: ours[n] if n.startswith(f"{part}/") else a for n, a in other.items()}
    assert_same({n: np.array(a) for n, a in found.arrays().items()}, wanted)
    (file,) = found.parts[part].files
    assert found.files.count(file) == 1
    wrong = next(other for other in PARTS if other != part)
    with pytest.raises(WeightsError, match=f"is no {wrong}, it holds the {part}"):
        open_checkpoint("other", **{wrong: Path("folder", name)})

    half = file.with_suffix(".fp16.safetensors")
    half.write_bytes(file.read_bytes())
    assert open_checkpoint("other", **{part: Path("folder", name)}).parts[part].files == (file,)
    file.rename(file.with_suffix(".bf16.safetensors"))
    with pytest.raises(WeightsError, match=rf"several files: .*bf16.* Give one: {part}=FILE"):
        open_checkpoint("other", **{part: Path("folder", name)})


# Parts of other files


@pytest.mark.parametrize("source", ["whole.safetensors", "tiny", "folder"])
def test_a_part_of_a_whole_model(source):
    file_tensors()
    convert(open_checkpoint(write_preset("tiny")), "folder", to="diffusers")
    other = {n: a + np.float16(1) for n, a in random_arrays(TINY).items()}
    save_checkpoint("other.safetensors", TINY, other)
    ours = random_arrays(TINY)
    for part in PARTS:
        wanted = {n: ours[n] if n.startswith(f"{part}/") else a for n, a in other.items()}
        assert_same(arrays_at("other.safetensors", **{part: source}), wanted)


def test_a_part_of_another_model_is_named_by_a_few_facts():
    write_preset("tiny")
    text = replace(TINY.text_encoder, width=128, max_length=9, depth=3, mlp_width=32)
    unet = replace(TINY.unet, widths=(64, 64), context_width=128)
    vae = replace(TINY.autoencoder, blocks=2)
    write_preset("odd", replace(TINY, text_encoder=text, unet=unet, autoencoder=vae))
    for part, words in (
        ("text_encoder", "max_length is 9, not 8; width is 128, not 64; depth is 3, not 1 and 1"),
        ("unet", "widths is [64, 64], not [32, 64]; context_width is 128, not 64"),
        ("autoencoder", "blocks is 2, not 1"),
    ):
        with pytest.raises(WeightsError) as caught:
            open_checkpoint("tiny", **{part: "odd"})
        message = str(caught.value)
        assert message.startswith(f"odd is the {part} of another model than tiny: {words}")
        assert len(message) < 400


def test_what_was_said_of_a_part_goes_with_it(monkeypatch):
    monkeypatch.setattr(recognise, "SD_1", TINY)  # whose autoencoder a file without one lacks
    tensors = file_tensors()
    Path("whole.safetensors").rename("full.safetensors")
    unet = {n: a for n, a in tensors.items() if n.startswith(original.UNET)}
    vae = {n: a for n, a in tensors.items() if n.startswith(original.AUTOENCODER)}
    averages = {original.ema_name(name): array for name, array in unet.items()}
    save_file({n: a for n, a in (tensors | averages).items() if n not in vae}, "bare.safetensors")
    save_file(vae, "vae.safetensors")
    save_file(unet | {"betas": np.zeros(3, np.float32)}, "unet.safetensors")
    found = open_checkpoint("bare.safetensors")
    assert [note[:13] for note in found.notes] == ["It has no aut", "It also holds"]
    found = open_checkpoint("bare.safetensors", autoencoder="vae.safetensors")
    assert [note[:13] for note in found.notes] == ["It also holds"]
    assert "betas" not in found.ignored
    both = {"autoencoder": "vae.safetensors", "unet": "unet.safetensors"}
    found = open_checkpoint("bare.safetensors", **both)
    assert found.notes == ()
    assert "betas" in found.ignored
    assert not found.problems()
    assert found.files == (Path("bare.safetensors"), *map(Path, reversed(both.values())))


def test_notes_on_the_variants_of_a_replaced_part_go_with_it():
    convert(open_checkpoint(write_preset("tiny")), "folder", to="diffusers")
    vae = Path("folder/vae/diffusion_pytorch_model.safetensors")
    vae.rename(vae.with_suffix(".fp16.safetensors"))
    assert "vae has" in " ".join(open_checkpoint("folder").notes)
    assert open_checkpoint("folder", autoencoder="tiny").notes == ()


def test_the_family_is_that_of_the_prediction_in_the_end():
    convert(open_checkpoint(write_preset("two", TINY_2)), "folder", to="diffusers")
    assert open_checkpoint("folder").family == "Stable Diffusion 2.x, 768x768, v-prediction"
    found = open_checkpoint("folder", prediction="epsilon")
    assert found.family == "Stable Diffusion 2.x base, 512x512"
    assert found.prediction_from == "the option prediction"


def test_a_unet_says_what_it_predicts():
    tensors = file_tensors(TINY_2)
    unet = {n: a for n, a in tensors.items() if n.startswith(original.UNET)}
    save_checkpoint("base.safetensors", replace(TINY_2, noise=NoiseConfig()), random_arrays(TINY_2))
    save_file(tensors, "silent.safetensors")
    save_file(unet, "unet_v.safetensors", {"modelspec.prediction_type": "v"})
    save_file(unet, "unet.safetensors")

    found = open_checkpoint("base.safetensors", unet="unet_v.safetensors")
    assert found.config.noise.prediction == "v"
    assert "modelspec.prediction_type" in found.prediction_from
    assert found.family == "Stable Diffusion 2.x, 768x768, v-prediction"
    (note,) = found.notes
    assert "UNet of unet_v.safetensors predicts v" in note
    assert "base.safetensors epsilon: v is taken" in note

    found = open_checkpoint("base.safetensors", unet="unet_v.safetensors", prediction="epsilon")
    assert (found.config.noise.prediction, found.notes) == ("epsilon", ())
    assert open_checkpoint("base.safetensors", unet="unet.safetensors").notes == ()

    assert open_checkpoint("silent.safetensors", unet="unet_v.safetensors").notes == ()
    (note,) = open_checkpoint("silent.safetensors", unet="unet.safetensors").notes
    assert "cannot say what its UNet predicts" in note

    write_preset("folder", replace(TINY_2, noise=NoiseConfig()))
    found = open_checkpoint("silent.safetensors", unet="folder")
    assert found.config.noise.prediction == "epsilon"
    assert "folder, config.json" in found.prediction_from

    save_file(unet | {"ztsnr": np.zeros(0, np.float32)}, "unet_zero.safetensors")
    found = open_checkpoint("base.safetensors", unet="unet_zero.safetensors")
    assert found.config.noise == NoiseConfig(prediction="v", zero_terminal_snr=True)
    zero = replace(TINY_2, noise=NoiseConfig(prediction="v", zero_terminal_snr=True))
    write_preset("zero", zero)
    assert open_checkpoint("base.safetensors", unet="zero").config.noise == zero.noise
    # Whose noise it is, is whose UNet it is.
    assert open_checkpoint("zero", unet="unet_v.safetensors").config.noise == TINY_2.noise
    assert open_checkpoint("zero", unet="folder").config.noise == NoiseConfig()
    assert open_checkpoint("zero", unet="unet.safetensors").config.noise == zero.noise
    with pytest.raises(ValueError, match="zero_terminal_snr needs the prediction v"):
        open_checkpoint("zero", prediction="epsilon")


# KerasCV: its files have the shapes of the real models, which a test makes small.


@pytest.fixture
def small_keras_cv(monkeypatch):
    monkeypatch.setattr(keras_cv, "SD_1", TINY)
    monkeypatch.setattr(keras_cv, "SD_2_BASE", replace(TINY_2, noise=NoiseConfig()))
    arrays = random_arrays(TINY, "float32")
    Path("kerascv").mkdir()
    for file, network, table in (
        ("text_encoder", "text_encoder", keras_cv.text_encoder(TINY.text_encoder)),
        ("diffusion_model", "unet", keras_cv.unet(TINY.unet)),
        ("encoder", "autoencoder", keras_cv.encoder(TINY.autoencoder)),
        ("decoder", "autoencoder", keras_cv.decoder(TINY.autoencoder)),
    ):
        with h5py.File(f"kerascv/{file}.weights.h5", "w") as target:
            for entry in table:
                target[entry.name] = entry.theirs(arrays[f"{network}/{entry.path}"])
    return arrays


def test_inspect_and_convert_keras_cv(capsys, small_keras_cv):
    found = run_json(capsys, "inspect", "kerascv")
    assert found["layout"] == "keras_cv"
    assert found["prediction"] == "epsilon"
    assert [file["format"] for file in found["files"]] == ["hdf5"] * 4
    assert all(file["sha256"] for file in found["files"])
    for part, what, numbers in (
        ("text_encoder", "text encoder", {"width": 64}),
        ("diffusion_model", "unet", {"widths": [32, 64]}),
        ("encoder", "encoder", {"latent_channels": 4, "widths": [32, 32]}),
        ("decoder", "decoder", {"latent_channels": 4, "widths": [32, 32]}),
    ):
        alone = run_json(capsys, "inspect", f"kerascv/{part}.weights.h5")
        assert alone["family"] == f"the {what} of a model, alone"
        (report,) = alone["parts"].values()
        assert report["numbers"].items() >= numbers.items()

    with h5py.File("kerascv/decoder.weights.h5", "r+") as target:
        name = keras_cv.decoder(TINY.autoencoder)[0].name
        data = target[name][()]
        del target[name]
        dataset = target.create_dataset(name, data=data, chunks=data.shape, compression="gzip")
        target.flush()
        place = dataset.id.get_chunk_info(0).byte_offset
    whole = Path("kerascv/decoder.weights.h5").read_bytes()
    assert run_json(capsys, "inspect", "kerascv")["good"]
    cut = whole[: place + 8] + bytes(8) + whole[place + 16 :]
    Path("kerascv/decoder.weights.h5").write_bytes(cut)
    problems = run_json(capsys, "inspect", "kerascv", status=1)["problems"]
    assert problems.keys() == {"unreadable"}
    assert problems["unreadable"][0].startswith(f"decoder.weights.h5: {name} (")
    assert run_json(capsys, "inspect", "kerascv", "--quick")["good"]
    Path("kerascv/decoder.weights.h5").write_bytes(whole)

    _, err = run(capsys, "convert", "kerascv", "out.safetensors")
    assert "note: KerasCV computed with other epsilons" in err
    assert_same(arrays_at("out.safetensors"), small_keras_cv)
    assert open_checkpoint("out.safetensors").config.unet == TINY.unet
    _, err = run(
        capsys, "convert", "kerascv", "ours", "--to", "keras_sd", "--vocabulary", write_vocabulary()
    )
    assert_same(arrays_at("ours"), small_keras_cv)
    assert open_checkpoint("ours").config == TINY


def write_keras_cv(path, table, arrays, network):
    with h5py.File(path, "w") as target:
        for entry in table:
            target[entry.name] = entry.theirs(arrays[f"{network}/{entry.path}"])


def test_half_an_autoencoder_of_keras_cv(capsys, small_keras_cv):
    kept = Path("kerascv/decoder.weights.h5").rename("decoder.weights.h5")
    with pytest.raises(WeightsError) as caught:
        open_checkpoint("kerascv").check()
    message = str(caught.value)
    assert "1 missing: autoencoder (encoder.weights.h5 is one half of it, and" in message
    assert "decoder (kcv_decoder.h5) belongs beside it" in message
    with pytest.raises(
        WeightsError, match=r"decoder.weights.h5 is one half of the autoencoder alone.*'s decoder"
    ):
        open_checkpoint("kerascv", autoencoder=kept)
    for file in ("text_encoder", "diffusion_model"):
        Path(f"kerascv/{file}.weights.h5").unlink()
    with pytest.raises(
        WeightsError,
        match=r"no diffusion model .* only encoder.weights.h5 \(image encoder\)\..*kcv_decoder",
    ):
        open_checkpoint("kerascv")


def test_a_decoder_of_keras_cv_alone(capsys, small_keras_cv):
    """KerasCV fetched its image encoder only when it was asked for, so most folders lack it."""
    Path("kerascv/encoder.weights.h5").unlink()
    found = open_checkpoint("kerascv")
    found.check()
    assert found.config == replace(TINY, autoencoder=replace(TINY.autoencoder, encoder=False))
    decoder = {n: a for n, a in small_keras_cv.items() if not n.startswith("autoencoder/encoder/")}
    assert_same({n: np.array(a) for n, a in found.arrays().items()}, decoder)
    assert any("put vae_encoder.h5 in it" in note for note in found.notes)
    facts = run_json(capsys, "inspect", "kerascv")
    assert facts["good"]

    arguments = ("--to", "keras_sd", "--vocabulary", write_vocabulary())
    run(capsys, "convert", "kerascv", "ours", *arguments)
    assert_same(arrays_at("ours"), decoder)
    assert open_checkpoint("ours").config == found.config
    for to, out in (("original", "one.safetensors"), ("diffusers", "folder")):
        _, err = run(capsys, "convert", "kerascv", out, *arguments[2:], "--to", to, status=2)
        assert f"layout {to} has no place for a model without an image encoder" in err


def test_files_of_something_else_beside_those_of_keras_cv(capsys, small_keras_cv):
    Path("kerascv/._decoder.h5").write_bytes(b"\0\5\26\7" + bytes(100))
    Path("kerascv/notes.h5").write_bytes(b"no hdf5")
    with h5py.File("kerascv/resnet.h5", "w") as target:
        target["dense/kernel"] = np.zeros((3, 4), "float32")
    found = open_checkpoint("kerascv")
    found.check()
    assert_same({n: np.array(a) for n, a in found.arrays().items()}, small_keras_cv)
    notes = " ".join(found.notes)
    for words in ("._decoder.h5 is hidden", "notes.h5 is not used", "resnet.h5 is not used"):
        assert words in notes
    assert [file.name.split(".")[0] for file in found.files] == [
        "text_encoder",
        "diffusion_model",
        "encoder",
        "decoder",
    ]
    Path("kerascv/diffusion_model.weights.h5").unlink()
    with pytest.raises(WeightsError, match=r"no diffusion model of .*notes.h5 is not used"):
        open_checkpoint("kerascv")


def test_two_models_of_keras_cv_in_one_folder(small_keras_cv):
    arrays = random_arrays(TINY_2, "float32")
    v1, v2 = Path("kerascv/diffusion_model.weights.h5"), Path("kerascv/v2.weights.h5")
    write_keras_cv(v2, keras_cv.unet(TINY_2.unet), arrays, "unet")
    with pytest.raises(
        WeightsError,
        match=r"the diffusion model is in diffusion_model.weights.h5 and in v2.weights.h5 "
        r"\(unet=FILE chooses one\)",
    ):
        open_checkpoint("kerascv")
    for file, config in ((v1, TINY), (v2, TINY_2)):
        found = open_checkpoint("kerascv", unet=file)
        found.check()
        assert found.config.unet == config.unet
        assert file in found.files
        assert len(found.files) == 4
    decoder = Path("kerascv/decoder.weights.h5").read_bytes()
    Path("kerascv/decoder_2.h5").write_bytes(decoder)
    with pytest.raises(WeightsError, match=r"the decoder is in .*autoencoder=FILE chooses"):
        open_checkpoint("kerascv", unet=v1)
    write_preset("tiny")
    open_checkpoint("kerascv", unet=v1, autoencoder="tiny").check()
    # Of something else: what the text encoder is of says which version the model is.
    open_checkpoint("kerascv", unet="tiny", autoencoder="tiny").check()


@pytest.mark.parametrize(
    ("file", "what"),
    [
        ("text_encoder", r"text encoder alone; .*from_preset\(..., text_encoder=FILE\)"),
        ("diffusion_model", r"diffusion model alone; .*from_preset\(..., unet=FILE\)"),
        ("encoder", "image encoder alone; a folder with KerasCV's other files is a model$"),
    ],
)
def test_one_file_of_keras_cv_is_named(small_keras_cv, file, what):
    with pytest.raises(WeightsError, match=f"is KerasCV's {what}"):
        open_checkpoint(f"kerascv/{file}.weights.h5")


@pytest.mark.parametrize("part", PARTS)
def test_inspect_what_keras_saved_of_a_network_of_ours(capsys, part):
    wide = replace(
        TINY,
        text_encoder=replace(TINY.text_encoder, depth=2, mlp_width=96),
        unet=UNetConfig(4, 4, (32, 64, 64), (8, 8, 8), (0, 2, 1), 2, 64),
        autoencoder=AutoencoderConfig(4, (32, 64, 64), 2),
    )
    for config in (TINY, wide):
        table = weights_h5.TABLES[part](getattr(config, part))
        write_keras_cv("x.weights.h5", table, random_arrays(config, "float32"), part)
        with h5py.File("x.weights.h5", "r+") as target:
            target["optimizer/vars/0"] = np.zeros(3, "float32")
        found = run_json(capsys, "inspect", "x.weights.h5")
        assert found["family"] == f"the {part.replace('_', ' ')} of a model, alone"
        assert found["parts"][part]["tensors"] == len(table)
        assert found["ignored"] == ["optimizer/vars/0"]
        with pytest.raises(WeightsError, match=rf"the {part} of a model alone.*{part}=FILE"):
            open_checkpoint("x.weights.h5")
        write_preset("whole", config)
        assert open_checkpoint("whole", **{part: "x.weights.h5"}).ignored == ("optimizer/vars/0",)
        other = wide if config is TINY else TINY
        write_preset("other", other)
        with pytest.raises(WeightsError, match=f"the {part} of another model than tiny: "):
            open_checkpoint("other", **{part: "x.weights.h5"})

    with h5py.File("x.weights.h5", "r+") as target:
        del target[table[-1].name]
        target["stranger"] = np.zeros(3, "float32")
    found = run_json(capsys, "inspect", "x.weights.h5", status=1)
    assert found["problems"] == {"missing": [table[-1].name]}
    assert found["left_out"] == ["stranger"]
    problems = run_json(capsys, "inspect", "x.weights.h5", "--strict", status=1)["problems"]
    assert problems == {"unexpected": ["stranger"], "missing": [table[-1].name]}


# convert


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize(
    "config", [TINY, TINY_2, INPAINTING, PIX2PIX], ids=["1", "2", "inpainting", "pix2pix"]
)
def test_convert_through_every_layout_keeps_every_bit(capsys, config, dtype):
    arrays = random_arrays(config, dtype)
    write_preset("a", config, arrays)
    vocabulary = write_vocabulary()
    assert run(capsys, "convert", "a", "b", "--to", "diffusers")[0] == "b\n"
    out, err = run(capsys, "convert", "b", "c.safetensors")
    assert out == "c.safetensors\n"
    assert ("note: " in err) == (config is PIX2PIX)
    run(capsys, "convert", "c.safetensors", "d", "--to", "keras_sd", "--vocabulary", vocabulary)
    for path in ("b", "c.safetensors", "d"):
        assert_same(arrays_at(path), arrays)
        found = open_checkpoint(path).config
        for part in (*PARTS, "noise", "pad_token"):
            assert getattr(found, part) == getattr(config, part)
    assert Path("d/merges.txt").read_text() == Path("a/merges.txt").read_text()
    assert files() == ["a", "b", "c.safetensors", "d", "merges.txt"]


def test_convert_a_name_and_its_variant(capsys, monkeypatch):
    file_tensors()
    asked = []

    def locate(preset, variant, *, needs_vocabulary):
        asked.append((preset, variant, needs_vocabulary))
        return Path("whole.safetensors")

    monkeypatch.setattr(presets, "locate", locate)
    run(capsys, "convert", "sd-9", "x.safetensors", "--variant", "fp16")
    assert asked == [("sd-9", "fp16", False)]
    assert_same(arrays_at("x.safetensors"), random_arrays(TINY))
    _, err = run(capsys, "convert", "sd-9", "x", "--to", "diffusers", status=2)
    assert "keras-sd fetch clip-vocabulary" in err
    assert asked[1:] == [("sd-9", None, True)]


def test_convert_to_another_dtype(capsys):
    arrays = random_arrays(TINY, "float32")
    write_preset("a", TINY, arrays)
    run(capsys, "convert", "a", "b", "--to", "keras_sd", "--dtype", "bfloat16")
    half = {name: array.astype(ml_dtypes.bfloat16) for name, array in arrays.items()}
    assert_same(arrays_at("b"), half)
    run(capsys, "convert", "b", "c.safetensors", "--dtype", "float32")
    assert_same(arrays_at("c.safetensors"), {n: a.astype(np.float32) for n, a in half.items()})


def test_convert_keeps_words_and_license_where_it_can(capsys):
    write_preset("a", words=["cat"], license="CC0")
    _, err = run(capsys, "convert", "a", "b", "--to", "keras_sd")
    assert err == ""
    found = open_checkpoint("b")
    assert (found.words, found.license) == (("cat",), "CC0")
    _, err = run(capsys, "convert", "a", "c", "--to", "diffusers")
    assert "note: The layout diffusers has no place for its license and its list of words" in err


@pytest.mark.parametrize("change", [{"dtype": "float16"}, {}])
def test_convert_refuses_what_is_not_finite(capsys, change):
    arrays = random_arrays(TINY, "float32")
    arrays["unet/conv_in/bias"][0] = 70000 if change else np.nan
    save_file({f"{name}": array for name, array in arrays.items()}, "arrays.safetensors")
    tensors = {
        entry.name: np.ascontiguousarray(entry.theirs(arrays[f"{part}/{entry.path}"]))
        for part, table in (
            ("text_encoder", original.text_encoder(TINY.text_encoder)),
            ("unet", original.unet(TINY.unet)),
            ("autoencoder", original.autoencoder(TINY.autoencoder)),
        )
        for entry in table
    }
    save_file(tensors, "bad.safetensors")
    options = [f"--{name}={value}" for name, value in change.items()]
    before = files()
    for to, out in (("original", "x.safetensors"), ("diffusers", "x"), ("keras_sd", "x")):
        more = ["--vocabulary", "../merges.txt"] if to != "original" else []
        write_vocabulary("../merges.txt")
        arguments = ["convert", "bad.safetensors", out, "--to", to, *options, *more]
        _, err = run(capsys, *arguments, status=2)
        assert "unet/conv_in/bias" in err
        assert "not finite" in err
        assert files() == before


def test_convert_refuses_what_does_not_fit(capsys):
    tensors = file_tensors()
    del tensors["model.diffusion_model.out.2.bias"]
    save_file(tensors, "odd.safetensors")
    _, err = run(capsys, "convert", "odd.safetensors", "x.safetensors", status=2)
    assert "1 missing: model.diffusion_model.out.2.bias" in err
    assert files() == ["odd.safetensors", "whole.safetensors"]


def test_convert_takes_parts_of_other_files(capsys):
    write_preset("a")
    other = {n: a + np.float16(1) for n, a in random_arrays(TINY).items()}
    vae = {
        e.name: np.ascontiguousarray(e.theirs(other[f"autoencoder/{e.path}"]))
        for e in diffusers.autoencoder(TINY.autoencoder)
    }
    save_file(vae, "vae.safetensors")
    run(capsys, "convert", "a", "b.safetensors", "--autoencoder", "vae.safetensors")
    wanted = random_arrays(TINY) | {n: a for n, a in other.items() if n.startswith("autoencoder/")}
    assert_same(arrays_at("b.safetensors"), wanted)
    _, err = run(capsys, "convert", "a", "c.safetensors", "--unet", "vae.safetensors", status=2)
    assert "is no unet" in err


def test_convert_takes_the_average_of_the_weights(capsys):
    tensors = file_tensors()
    unet = [name for name in tensors if name.startswith(original.UNET)]
    averages = {original.ema_name(name): tensors[name] + np.float16(1) for name in unet}
    save_file(tensors | averages, "both.safetensors")
    run(capsys, "convert", "both.safetensors", "one.safetensors", "--ema")
    assert load_file("one.safetensors").keys() == tensors.keys()
    assert_same(
        arrays_at("one.safetensors"),
        {
            name: a + np.float16(1) if name.startswith("unet/") else a
            for name, a in random_arrays(TINY).items()
        },
    )
    _, err = run(capsys, "convert", "both.safetensors", "two.safetensors")
    assert "note: It also holds the moving average" in err


def test_convert_writes_down_what_the_unet_predicts(capsys):
    save_file(file_tensors(TINY_2), "silent.safetensors")
    arguments = ["convert", "silent.safetensors", "out.safetensors", "--prediction", "epsilon"]
    _, err = run(capsys, *arguments)
    assert err == ""
    assert open_checkpoint("out.safetensors").config.noise.prediction == "epsilon"


def test_convert_never_writes_over_what_it_reads(capsys):
    write_preset("a")
    write_preset("a/inside")
    os.symlink("a", "link")
    before = sorted(Path().rglob("*"))
    for out in ("a", "./a/", "a/new", "link", "link/new"):
        _, err = run(capsys, "convert", "a", out, "--to", "keras_sd", "--force", status=2)
        assert "would be written over a, which is read from" in err
    _, err = run(capsys, "convert", "a/inside", "a", "--to", "diffusers", "--force", status=2)
    assert "would be written over" in err
    assert sorted(Path().rglob("*")) == before
    file_tensors()
    arguments = ["whole.safetensors", "whole.safetensors", "--force"]
    _, err = run(capsys, "convert", *arguments, status=2)
    assert "would be written over" in err


def test_convert_replaces_nothing_unless_told_to(capsys):
    write_preset("a")
    Path("x.safetensors").write_text("mine")
    _, err = run(capsys, "convert", "a", "x.safetensors", status=2)
    assert "x.safetensors exists" in err
    assert Path("x.safetensors").read_text() == "mine"
    run(capsys, "convert", "a", "x.safetensors", "--force")
    assert_same(arrays_at("x.safetensors"), random_arrays(TINY))

    run(capsys, "convert", "a", "b", "--to", "diffusers")
    for folder, to in (("b", "diffusers"), ("b", "keras_sd")):
        _, err = run(capsys, "convert", "a", folder, "--to", to, status=2)
        assert "b exists" in err
    run(capsys, "convert", "a", "b", "--to", "diffusers", "--dtype", "float32", "--force")
    assert inspect("b").parts["unet"].dtypes.keys() == {"float32"}
    Path("empty").mkdir()
    run(capsys, "convert", "a", "empty", "--to", "keras_sd")
    os.symlink("empty", "link")
    run(capsys, "convert", "a", "link", "--to", "keras_sd", "--dtype", "float32", "--force")
    assert Path("link").is_symlink()
    assert inspect("empty").parts["unet"].dtypes.keys() == {"float32"}
    assert files() == ["a", "b", "empty", "link", "x.safetensors"]


def test_convert_keeps_what_is_not_a_checkpoint(capsys):
    write_preset("a")
    Path("photos").mkdir()
    Path("photos/me.png").write_text("dear")
    _, err = run(capsys, "convert", "a", "photos", "--to", "keras_sd", "--force", status=2)
    assert "has other files too, which would be lost: me.png" in err
    assert Path("photos/me.png").read_text() == "dear"
    Path("x.safetensors").mkdir()
    _, err = run(capsys, "convert", "a", "x.safetensors", "--force", status=2)
    assert "x.safetensors is a folder" in err
    Path("y").write_text("a file")
    _, err = run(capsys, "convert", "a", "y", "--to", "keras_sd", "--force", status=2)
    assert "y is a file" in err
    assert files() == ["a", "photos", "x.safetensors", "y"]


@pytest.mark.parametrize("to", ["keras_sd", "diffusers", "original"])
def test_convert_leaves_nothing_half_written(capsys, monkeypatch, to):
    write_preset("a")
    out = "x.safetensors" if to == "original" else "x"
    run(capsys, "convert", "a", out, "--to", to)
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}

    def disk_full(tensors, path, metadata=None):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    from keras_sd.weights.diffusers_folder import write

    for module in (save, write):
        monkeypatch.setattr(module, "save_file", disk_full)
    arguments = ["convert", "a", out, "--to", to, "--dtype", "float32", "--force"]
    _, err = run(capsys, *arguments, status=1)
    assert "No space left" in err
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before
    assert files() == ["a", out]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["x"], "--to is missing"),
        (["x", "--to", "original"], "ends in .safetensors"),
        (["x.safetensors", "--to", "diffusers"], "a folder, no name with .safetensors"),
        (["x", "--to", "onnx"], "'keras_sd', 'diffusers', 'original'"),
        (["x.safetensors", "--dtype", "int4"], "'float16', 'bfloat16', 'float32', 'int8'"),
        (["x.safetensors", "--unet", "gone.ckpt"], "--unet: there is no file or folder gone.ckpt"),
        (["x", "--to", "keras_sd", "--vocabulary", "gone.txt"], "--vocabulary: there is no file"),
        (["x.safetensors", "--variant", "fp16"], "variant 'fp16'"),
        (["x.safetensors", "--ema"], "averaged weights"),
    ],
)
def test_convert_bad_input(capsys, arguments, words):
    write_preset("a")
    out, err = run(capsys, "convert", "a", *arguments, status=2)
    assert out == ""
    assert words in err
    assert files() == ["a"]
    assert run(capsys, "convert", "nowhere", "x.safetensors", status=2)


def test_convert_needs_a_vocabulary_for_a_folder(capsys):
    file_tensors()
    _, err = run(capsys, "convert", "whole.safetensors", "x", "--to", "keras_sd", status=2)
    assert "keras-sd fetch clip-vocabulary" in err
    Path("other.txt").write_text("#version: 0.2\nc a\n")
    more = ["--to", "diffusers", "--vocabulary", "other.txt"]
    assert run(capsys, "convert", "whole.safetensors", "x", *more, status=2)
    assert files() == ["other.txt", "whole.safetensors"]


def test_convert_says_what_a_single_file_cannot(capsys):
    _, err = run(capsys, "convert", "emoji", "x.safetensors", status=2)
    assert "The layout original has no place for this model" in err
    odd = replace(TINY, noise=replace(TINY.noise, beta_end=0.02), pad_token="zero")
    write_preset("odd", odd)
    _, err = run(capsys, "convert", "odd", "x.safetensors", status=2)
    assert "noise.beta_end is 0.02, and would be 0.012" in err
    assert "filled with the token 'zero'" in err
    assert files() == ["odd"]


def test_the_emoji_model_comes_back_from_a_diffusers_folder_as_it_was(capsys):
    run(capsys, "convert", "emoji", "folder", "--to", "diffusers")
    run(capsys, "convert", "folder", "again", "--to", "keras_sd", "--dtype", "int8")
    for name in ("model.safetensors", "merges.txt"):
        assert Path("again", name).read_bytes() == (PRESETS / "emoji" / name).read_bytes()
    assert open_checkpoint("again").config == open_checkpoint(PRESETS / "emoji").config


# models, fetch


def test_models_are_listed(capsys, monkeypatch):
    found = run_json(capsys, "models")["models"]
    here = {each["name"]: each for each in found[:2]}
    assert list(here) == ["emoji", "emoji-128"]
    for name, each in here.items():
        assert each["path"] == str(PRESETS / name)
        assert each["license"].startswith("Apache-2.0")
        assert 11_000_000 < each["bytes"] < 30_000_000
    rest = {(each["name"], each["variant"]): each for each in found[2:]}
    assert {("sd-1.5", None), ("sd-1.5", "fp16"), ("clip-vocabulary", None)} <= rest.keys()
    assert rest["sd-1.5", None]["bytes"] == 4_265_146_304
    assert rest["sd-1.5", None]["license"] == "CreativeML Open RAIL-M"
    assert {each["path"] for each in rest.values()} == {None}

    sources = [
        fetch.SourceStatus("sd-9", None, "Nine", "CC0; see", 3 * 10**9, "u", None, 0, False),
        fetch.SourceStatus("sd-9", "fp16", "Nine", None, 9, "u", Path("here/x"), 1500, False),
    ]
    monkeypatch.setattr(fetch, "list_sources", lambda: sources)
    out, err = run(capsys, "models")
    lines = [line.split("  ") for line in out.splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert cells[0] == ["name", "variant", "size", "license", "what", "where"]
    assert cells[3:] == [
        ["sd-9", "3 GB", "CC0", "Nine", "not here yet"],
        ["sd-9", "fp16", "1.5 kB", "Nine", f"{Path('here/x')} (not checked yet)"],
    ]
    assert "hf://" in err


def test_fetch(capsys, monkeypatch):
    calls = []

    def fake(name, *, variant):
        calls.append((name, variant))
        return Path("cache/file")

    monkeypatch.setattr(fetch, "fetch", fake)
    assert run(capsys, "fetch", "sd-1.5", "--variant", "fp16")[0] == f"{Path('cache/file')}\n"
    assert run(capsys, "fetch", "clip-vocabulary")[0] == f"{Path('cache/file')}\n"
    assert calls == [("sd-1.5", "fp16"), ("clip-vocabulary", None)]
    assert run(capsys, "fetch", "emoji")[0] == f"{PRESETS / 'emoji'}\n"
    assert len(calls) == 2


def test_the_vocabulary_has_no_variant(capsys):
    _, err = run(capsys, "fetch", "clip-vocabulary", "--variant", "x", status=2)
    assert "clip-vocabulary has no variant 'x'" in err


def test_fetch_of_an_unknown_name(capsys):
    _, err = run(capsys, "fetch", "sd-1.55", status=2)
    assert "Did you mean 'sd-1.5'" in err


# What it costs


def test_checkpoints_need_no_backend():
    write_preset("a")
    file_tensors()
    vocabulary = write_vocabulary()
    commands = [
        ["inspect", "a"],
        ["inspect", "whole.safetensors", "--json"],
        ["convert", "a", "b", "--to", "diffusers"],
        ["inspect", "b"],
        ["convert", "b", "c.safetensors", "--dtype", "bfloat16"],
        ["convert", "c.safetensors", "d", "--to", "keras_sd", "--vocabulary", vocabulary],
        ["models"],
        ["fetch", "emoji"],
    ]
    code = f"""
import sys
from keras_sd.cli import main
for command in {commands!r}:
    assert main(command) == 0, command
heavy = {{"keras", "jax", "tensorflow", "torch", "PIL", "huggingface_hub"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True)


# Names and paths


def test_a_path_goes_before_a_name(capsys, caplog):
    for name in ("emoji", "sd-1.5"):
        write_preset(name)
        assert presets.locate(name) == Path(name)
        assert presets.open_preset(name).config == TINY
        (record, _) = caplog.records
        assert f"{Path(name).absolute()} is a path here" in record.getMessage()
        caplog.clear()
        out, err = run(capsys, "inspect", name, "--quick")
        assert out.startswith(f"{name}: tiny\n")
        assert "is a path here, so this is not the model of that name" in err
        caplog.clear()
        assert presets.locate(Path(name)) == Path(name)
        assert not caplog.records


def test_the_vocabulary_is_fetched_before_weights_that_come_without_one(monkeypatch):
    calls = []

    def fetch_vocabulary():
        calls.append("vocabulary")

    def resolve(preset, *, variant, others):
        calls.append(preset)
        return Path("whole.safetensors")

    file_tensors()
    monkeypatch.setattr(fetch, "fetch_vocabulary", fetch_vocabulary)
    monkeypatch.setattr(fetch, "resolve", resolve)
    for preset in ("sd-1.5", "hf://owner/name/x.safetensors"):
        assert presets.open_preset(preset).layout == "original"
        assert calls == ["vocabulary", preset]
        calls.clear()
        presets.open_preset(preset, needs_vocabulary=False)
        assert calls == [preset]
        calls.clear()
    for preset in ("hf://owner/name", "nowhere"):  # a folder, which may have its own; nothing
        presets.locate(preset)
        assert calls == [preset]
        calls.clear()
    for local in ("whole.safetensors", Path("whole.safetensors"), "emoji"):
        presets.open_preset(local)
        assert calls == []
    with pytest.raises(ValueError, match="has no variant 'bf16'"):
        presets.locate("sd-1.5", "bf16")
    assert calls == []

    with monkeypatch.context() as offline:
        offline.setenv("HF_HUB_OFFLINE", "1")
        presets.locate("sd-1.5")
    monkeypatch.setattr(fetch, "find_vocabulary", lambda: Path("here"))
    presets.locate("sd-1.5")
    assert calls == ["sd-1.5", "sd-1.5"]


def test_the_fingerprints_of_all_layouts():
    def digest(path):
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()

    write_preset("ours")
    assert presets.fingerprints(open_checkpoint("ours")) == {
        "model": digest("ours/model.safetensors")
    }
    save_checkpoint("one.safetensors", TINY, random_arrays(TINY))
    assert presets.fingerprints(open_checkpoint("one.safetensors")) == {
        "model": digest("one.safetensors")
    }
    convert(open_checkpoint("ours"), "parts", to="diffusers")
    found = presets.fingerprints(open_checkpoint("parts"))
    assert found.keys() == set(PARTS)
    assert found["text_encoder"] == digest("parts/text_encoder/model.safetensors")
    vae = "parts/vae/diffusion_pytorch_model.safetensors"
    assert presets.fingerprints(open_checkpoint("ours", autoencoder=vae)) == {
        "model": digest("ours/model.safetensors"),
        "autoencoder": digest(vae),
    }
