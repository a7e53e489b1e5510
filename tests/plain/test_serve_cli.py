"""`keras-sd serve` as far as it comes without Keras, and the parts that it is made of."""

from __future__ import annotations

import importlib.util

import pytest
from fake_source import FakeSource, served

from keras_sd import installed
from keras_sd.cli import main
from keras_sd.cli.serve import name_of
from keras_sd.serve.fields import Field, Form, Invalid
from keras_sd.serve.limits import Limits


def said(capsys, *arguments):
    status = main(["serve", "--port", "0", *arguments])
    return status, capsys.readouterr().err


def test_without_the_extra_the_command_says_what_to_install(capsys, monkeypatch):
    found = importlib.util.find_spec

    def without(name, *rest):
        return None if name == "uvicorn" else found(name, *rest)

    monkeypatch.setattr("importlib.util.find_spec", without)
    status, text = said(capsys)
    assert status == 2
    assert 'needs uvicorn, which is not installed: pip install "keras-sd[web]"' in text


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--host", "0.0.0.0"], "--token"),
        (["--token", "short"], "8 characters"),
        (["--allow-host", "http://x"], "--allow-host"),
        (["--cors-allow-origin", "*"], "--cors-allow-origin"),
        (["--autoencoder", "nothing.safetensors"], "--autoencoder"),
        (["--compat", "keras_cv==7"], "keras_cv"),
        (["--max-waiting", "-1"], "max-waiting"),
        (["--adapter", "nothing.safetensors"], "nothing.safetensors"),
    ],
)
def test_wrong_options_are_said_before_anything_is_loaded(capsys, arguments, wanted):
    status, text = said(capsys, *arguments)
    assert status == 2
    assert wanted in text


def test_a_token_may_come_from_the_environment(capsys, monkeypatch):
    monkeypatch.setenv("KERAS_SD_TOKEN", "short")
    assert "8 characters" in said(capsys)[1]


def test_a_server_looks_at_what_is_installed_once(monkeypatch):
    monkeypatch.setattr(installed, "_kept", False)
    installed.keep()
    looked = []
    monkeypatch.setattr(installed, "_state", lambda: looked.append(1))
    assert installed.declared("keras_sd.samplers")[0]
    assert looked == []


def test_what_a_model_is_called():
    assert name_of("emoji") == "emoji"
    assert name_of("/home/me/models/v1-5.safetensors") == "v1-5"
    assert name_of("models/folder") == "folder"
    assert name_of("hf://owner/name@main") == "owner/name"


def test_bounds_follow_the_model():
    from keras_sd.config import EMOJI, SD_1, SD_2

    assert Limits.of(EMOJI.defaults).pixels == 256 * 256
    assert Limits.of(SD_1.defaults).pixels == 1024 * 1024
    assert Limits.of(SD_2.defaults).pixels == 2 * 768 * 768
    given = Limits.of(SD_1.defaults, pixels=512 * 512, steps=None, images=2)
    assert (given.pixels, given.steps, given.images) == (512 * 512, 150, 2)
    assert given.work == 512 * 512 * 50 * 16


@pytest.mark.parametrize("shape", [(1, 1), (8, 10**6), (16_384, 16_384), (513, 511), (3, 70_000)])
def test_every_size_that_a_client_names_becomes_one_that_is_drawn(shape):
    from keras_sd.config import EMOJI

    limits = Limits.of(EMOJI.defaults)
    for height, width in (shape, shape[::-1]):
        drawn = limits.fitted(height, width)
        assert all(side >= 8 and side % 8 == 0 for side in drawn)
        assert drawn[0] * drawn[1] <= limits.pixels


def test_a_form_names_every_field_that_is_wrong():
    form = Form("F", {"a": Field("whole", 1, most=3), "b": Field("flag", False)}, open=False)
    assert form.read({"a": 2.0, "b": None}) == {"a": 2, "b": False}
    with pytest.raises(Invalid) as caught:
        form.read({"a": 4, "b": 1, "c": 0})
    assert [each["loc"][1] for each in caught.value.errors] == ["c", "a", "b"]
    for body in ([], "x", None, 3):
        with pytest.raises(Invalid, match="object"):
            form.read(body)
    for wrong in (True, "1", [], 1.5, 10**30):
        with pytest.raises(Invalid):
            form.read({"a": wrong})


@pytest.mark.parametrize("path", ["/api/requests", "/sdapi/v1/txt2img"])
def test_a_client_says_how_long_it_waits(path):
    source = FakeSource()
    with served(source) as client:
        for body, headers in (({"timeout": 5}, {}), ({}, {"X-Request-Timeout": "5"})):
            assert client.post(path, json={"prompt": "x", **body}, headers=headers).is_success
            assert source.jobs[-1].timeout == 5
        for wrong in ("0", "-1", "nan", "x", "1e9"):
            answer = client.post(path, json={"prompt": "x"}, headers={"X-Request-Timeout": wrong})
            assert answer.status_code == 422, wrong
