"""The text that web UIs read, by the rules of their readers, written anew from the description."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

from keras_sd.config import Defaults
from keras_sd.forms import request_of
from keras_sd.infotext import infotext

FIELD = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
DEFAULTS = Defaults(64, 48, "ddim", "leading", 20, 7.5)
MADE = {"model": "emoji", "width": 48, "height": 64, "backend": "jax", "version": "0.1.0"}


def read(text: str) -> tuple[str, dict[str, str]]:
    """What stands before the settings, and the settings: they are the last line."""
    before, _, last = text.rpartition("\n")
    assert last.startswith("Steps: ")
    return before, {name: json.loads(v) if v[:1] == '"' else v for name, v in FIELD.findall(last)}


def written(made: dict[str, Any] = MADE, **given: Any) -> tuple[str, dict[str, str]]:
    request = request_of(**{"prompt": "a cat", "seed": 42, **given}).resolved(DEFAULTS)
    return read(infotext({"request": request.to_dict(), **made}))


def test_the_settings_have_the_names_and_the_order_that_readers_know() -> None:
    before, found = written(negative_prompt="ugly", sampler="DPM++ 2M Karras")
    assert before == "a cat\nNegative prompt: ugly"
    assert found == {
        "Steps": "20",
        "Sampler": "DPM++ 2M",
        "Schedule type": "Karras",
        "CFG scale": "7.5",
        "Seed": "42",
        "Size": "48x64",
        "Model": "emoji",
        "Backend": "jax",
        "Version": "keras_sd 0.1.0",
    }
    assert list(found) == (
        [
            "Steps",
            "Sampler",
            "Schedule type",
            "CFG scale",
            "Seed",
            "Size",
            "Model",
            "Backend",
            "Version",
        ]
    )


def test_of_a_picture_there_is_its_strength() -> None:
    picture = np.zeros((64, 48, 3), np.uint8)
    mask = np.ones((64, 48), np.float32)
    _, found = written(image=picture, mask=mask, mask_blur=2, strength=0.5, first_image=3)
    assert (found["Denoising strength"], found["Mask blur"]) == ("0.5", "2.0")
    assert found["Image number"] == "3"
    _, found = written(guidance_rescale=0.7)
    assert "Denoising strength" not in found
    assert found["Guidance rescale"] == "0.7"


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("/data/a, b: c/m.safetensors", "m"),
        ("C:\\models\\x, y.ckpt", "x, y"),
        ("hf://me/some: thing", "some: thing"),
        ("folder/", "folder"),
    ],
)
def test_what_has_commas_or_colons_is_read_back(model: str, name: str) -> None:
    _, found = written({**MADE, "model": model})
    assert found["Model"] == name
    assert found["Version"] == "keras_sd 0.1.0"


def test_settings_of_a_sampler_stay_with_its_name() -> None:
    _, found = written(sampler="ddim:eta=0.5", schedule=[900, 500])
    assert found["Sampler"] == "ddim:eta=0.5"
    assert "Schedule type" not in found
    assert found["Steps"] == "2"
