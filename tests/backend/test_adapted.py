"""Adapters in requests: given, or named by tags of the prompt; in runs beside each other, and gone
after them.
"""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from adapter_files import LAYOUTS, PLACES, write
from test_engine import Stubborn
from test_merged_adapters import CONFIG, bits, weights
from test_pipeline import make

from keras_sd.adapters import merging, open_adapter
from keras_sd.adapters.tagged import adapter_file, adapter_names
from keras_sd.cli import main
from keras_sd.image import read_image
from keras_sd.prompts import PromptError
from keras_sd.provenance import read_provenance
from keras_sd.request import Request
from keras_sd.serve.engine import Cancelled, Engine

pytestmark = pytest.mark.usefixtures("without_tracing")

RUN = {"num_steps": 2, "seed": 3, "sampler": "ddim"}
TAGGED = {**RUN, "prompt_style": "a1111"}


@pytest.fixture(scope="module")
def pipeline():
    return make(CONFIG)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loras")
    (folder / "deep").mkdir()
    write(folder / "style.safetensors", next(iter(LAYOUTS)), CONFIG)
    shutil.copy(folder / "style.safetensors", folder / "deep" / "other.safetensors")
    return folder


@pytest.fixture
def tagging(pipeline, folder):
    pipeline.adapters_dir = folder
    yield pipeline
    pipeline.adapters_dir = None


def merged(pipeline, folder, strength=0.8, **run):
    with pipeline.with_adapters((folder / "style.safetensors", strength)):
        return pipeline.text_to_image("a cat", **{**RUN, **run})


def test_an_adapter_is_of_its_request_alone(pipeline, folder):
    before = bits(weights(pipeline))
    plain = pipeline.text_to_image("a cat", **RUN)
    given = [(folder / "style.safetensors", 0.8)]
    images = pipeline.text_to_image("a cat", **RUN, adapters=given)
    assert (images == merged(pipeline, folder)).all()
    assert (images != plain).any()
    assert bits(weights(pipeline)) == before
    assert (pipeline.draw(images.request) == images).all()
    assert pipeline.adapters == ()


def test_strengths_are_of_parts(pipeline, folder):
    strengths = {"unet": 0.5, "text_encoder": -0.25}
    given = [(open_adapter(folder / "style.safetensors"), strengths)]
    images = pipeline.text_to_image("a cat", **RUN, adapters=given)
    assert (images == merged(pipeline, folder, strengths)).all()


def test_they_are_added_to_what_is_merged(pipeline, folder):
    path = folder / "style.safetensors"
    with pipeline.with_adapters((path, 0.5), (path, 0.25)):
        both = pipeline.text_to_image("a cat", **RUN)
    with pipeline.with_adapters((path, 0.5)):
        images = pipeline.text_to_image("a cat", **RUN, adapters=[(path, 0.25)])
        assert len(pipeline.adapters) == 1
    assert (images == both).all()


def test_a_request_keeps_them_by_their_hashes(folder):
    adapter = open_adapter(folder / "style.safetensors")
    request = make(CONFIG).request("a cat", adapters=[(adapter, 0.8)])
    again = Request.from_json(request.to_json())
    assert again == request
    assert again.adapters[0].file.data is None
    assert again.attached([adapter]).adapters[0].file.data is adapter
    assert "adapters" not in json.loads(make(CONFIG).request("a cat").to_json())
    with pytest.raises(ValueError, match="by its hash alone"):
        make(CONFIG).draw(again)


@pytest.mark.parametrize(
    ("tag", "strengths"),
    [
        ("<lora:style:0.8>", 0.8),
        ("<lora:other:0.8>", 0.8),  # in a folder within the folder
        ("<lyco:style>", 1.0),
        ("<lora:style:0.2:0.9>", {"text_encoder": 0.2, "unet": 0.9}),
        ("<lora:style:te=0.2:unet=0.9>", {"text_encoder": 0.2, "unet": 0.9}),
    ],
)
def test_a_tag_is_an_adapter(tagging, folder, tag, strengths):
    images = tagging.text_to_image(f"a {tag}cat", **TAGGED)
    wanted = merged(tagging, folder, strengths, prompt_style="a1111")
    assert (images == wanted).all()
    # The request has them, so it is drawn again without the folder.
    assert len(images.request.adapters) == 1
    tagging.adapters_dir = None
    assert (tagging.draw(images.request) == images).all()


@pytest.mark.once
@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("<lora:styel:1>a cat", "there are style"),
        ("<lora:../style:1>a cat", "no adapter '../style'"),
        ("<lora:style:1:1:8>a cat", "to a rank"),
        ("<hypernet:style:1>a cat", "nothing here obeys"),
    ],
)
def test_what_a_tag_cannot_have_is_said(tagging, prompt, says):
    with pytest.raises(PromptError, match=says):
        tagging.text_to_image(prompt, **TAGGED)


def test_pictures_of_one_request_have_the_same(tagging):
    tag = "<lora:style:0.5>"
    two = tagging.text_to_image([f"{tag} a cat", f"a cat {tag}"], **TAGGED)
    assert len(two) == 2
    with pytest.raises(PromptError, match="of all its pictures"):
        tagging.text_to_image([f"{tag} a cat", "a cat"], **TAGGED)


def test_a_tag_is_not_obeyed_by_an_adapter_of_another_strength(pipeline, folder):
    given = [(folder / "style.safetensors", 0.5)]
    with pytest.raises(PromptError, match="nothing here obeys"):
        pipeline.text_to_image("<lora:style:0.8>a cat", **TAGGED, adapters=given)


@pytest.mark.once
def test_names_are_of_files_and_of_one(folder, tmp_path):
    assert adapter_names(folder) == ["other", "style"]
    assert adapter_file(folder, "other") == folder / "deep" / "other.safetensors"
    with pytest.raises(FileNotFoundError, match="there are"):
        adapter_file(folder, "deep/other")
    with pytest.raises(FileNotFoundError, match="no folder"):
        adapter_file(tmp_path / "gone", "other")
    shutil.copytree(folder, tmp_path / "twice" / "a")
    shutil.copytree(folder, tmp_path / "twice" / "b")
    with pytest.raises(ValueError, match="several adapters 'style'"):
        adapter_file(tmp_path / "twice", "style")


def test_runs_with_other_adapters_do_not_mix(pipeline, folder):
    before = bits(weights(pipeline))
    request = pipeline.request("a cat", **RUN, adapters=[(folder / "style.safetensors", 0.8)])
    plain = replace(request, adapters=())
    with closing(pipeline.stream(request)) as steps:
        next(steps)
        with closing(pipeline.stream(request)) as same:
            next(same)
        with pytest.raises(RuntimeError, match="other adapters"):
            pipeline.draw(plain)
        next(steps)  # it goes on
    assert bits(weights(pipeline)) == before
    with closing(pipeline.stream(plain)) as steps:
        next(steps)
        with pytest.raises(RuntimeError, match="other adapters"):
            pipeline.draw(request)
    assert (pipeline.draw(request) == merged(pipeline, folder)).all()


def test_the_engine_draws_those_with_the_same_together(tagging, folder):
    before = bits(weights(tagging))
    prompts = ["a cat", "<lora:style:0.8>a cat", "a dog", "<lora:style:0.8>a dog", "<lora:style>do"]
    requests = [tagging.request(prompt, **TAGGED) for prompt in prompts]
    with Engine(tagging.model, max_rows=4) as engine:
        found = [job.result(60) for job in [engine.submit(request) for request in requests]]
    for request, images in zip(requests, found, strict=True):
        alone = tagging.draw(request)
        assert np.abs(images.astype(int) - np.asarray(alone)).max() <= 1
        assert images.request.adapters == alone.request.adapters
    assert bits(weights(tagging)) == before


@pytest.mark.once
def test_the_command_obeys_tags_and_finds_them_again(
    pipeline, folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("keras_sd.cli.draw.loaded", lambda *given: (pipeline, dict))
    replays = sys.modules["keras_sd.cli.replay"]  # the name is the command's, too
    monkeypatch.setattr(replays, "loaded", lambda *given: (pipeline, dict))
    picture, again = tmp_path / "a.png", tmp_path / "b.png"
    command = ["generate", "<lora:style:0.8>a cat", "--steps", "2", "--seed", "3"]
    command += ["--sampler", "ddim", "--output", str(picture)]
    assert main([*command, "--prompt-style", "a1111"]) == 2
    assert "nothing here obeys it" in capsys.readouterr().err
    tags = ["--prompt-style", "a1111", "--adapters-dir", str(folder)]
    assert main([*command, *tags]) == 0
    wanted = merged(pipeline, folder, prompt_style="a1111")[0]
    assert (read_image(picture) == np.asarray(wanted)).all()
    assert read_provenance(picture).request.adapters[0].file.name == "style"
    assert main(["replay", str(picture), "--output", str(again)]) == 2
    assert "--adapters-dir is needed" in capsys.readouterr().err
    replay = ["replay", str(picture), "--output", str(again), "--exact"]
    shutil.copytree(folder, tmp_path / "moved" / "deeper")
    assert main([*replay, "--adapters-dir", str(tmp_path / "moved")]) == 0
    assert (read_image(again) == read_image(picture)).all()


@pytest.mark.once
def test_a_run_that_will_not_end_does_not_keep_the_weights(tagging, caplog):
    before = bits(weights(tagging))
    with Engine(tagging.model) as engine:
        run = {**TAGGED, "sampler": Stubborn(), "num_steps": 50}
        request = tagging.request("<lora:style>a cat", **run)
        job = engine.submit(request)
        job.listen(lambda event: event.step >= 2 and event.job.cancel())
        with pytest.raises(Cancelled):
            job.result(60)
        engine.submit(tagging.request("a cat", **TAGGED)).result(60)
    assert "nobody answers" in caplog.text
    assert bits(weights(tagging)) == before


@pytest.mark.once
def test_the_engine_merges_once_for_all_pictures(tagging, monkeypatch):
    merges, merge = [], merging._merge
    monkeypatch.setattr(merging, "_merge", lambda *given: merges.append(1) or merge(*given))
    with Engine(tagging.model, max_rows=2) as engine:
        tagged = tagging.request(["<lora:style>a cat"] * 5, **TAGGED)
        engine.submit(tagged).result(60)
    assert len(merges) == 2  # in, and out


@pytest.mark.once
def test_the_command_measures_what_an_adapter_does(pipeline, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("keras_sd.cli.draw.loaded", lambda *given: (pipeline, dict))
    before = bits(weights(pipeline))
    path = folder / "style.safetensors"
    assert main(["verify", f"{path}:0.5", "--json"]) == 0
    half = json.loads(capsys.readouterr().out)
    assert main(["verify", str(path), "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert half["restored"]
    assert {part: each["weights"] for part, each in whole["parts"].items()} == {
        part: len(places) for part, places in PLACES.items()
    }
    for part in whole["parts"]:
        largest = whole["parts"][part]["largest"]
        assert half["parts"][part]["largest"] == pytest.approx(largest / 2, rel=1e-4)
    assert 0 < half["prediction"] < whole["prediction"]
    assert bits(weights(pipeline)) == before
    assert main(["verify", f"{path}:0"]) == 1
    said = capsys.readouterr().out
    assert "changed by 0.00%" in said
    assert "as before, bit for bit" in said
