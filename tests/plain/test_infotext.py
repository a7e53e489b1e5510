"""The text that web UIs read, by the rules of their readers, written anew from the description."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

from keras_sd.aliases import resolve_schedule
from keras_sd.config import Defaults
from keras_sd.forms import request_of
from keras_sd.infotext import infotext
from keras_sd.registry import list_schedules

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


def test_what_a_prompt_is_read_with_is_there_where_it_is_not_the_usual() -> None:
    _, found = written(prompt_style="a1111", clip_skip=2)
    assert (found["Clip skip"], found["Prompt style"]) == ("2", "a1111")


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


def test_settings_of_a_sampler_stand_beside_its_name() -> None:
    _, found = written(sampler="ddim:eta=0.5", schedule=[900, 500])
    assert (found["Sampler"], found["Sampler settings"]) == ("DDIM", "eta=0.5")
    assert found["Eta DDIM"] == "0.5"  # as web UIs say it
    assert "Schedule type" not in found
    assert found["Steps"] == "2"
    _, found = written(sampler="euler_ancestral:eta=0.5", schedule="karras:rho=5")
    assert (found["Sampler"], found["Eta"], found["Schedule rho"]) == ("Euler a", "0.5", "5")
    assert (found["Schedule type"], found["Schedule settings"]) == ("Karras", "rho=5")
    _, found = written(sampler="dpmpp_2m_sde:solver=heun,eta=0.5")
    assert found["Sampler"] == "DPM++ 2M SDE"
    assert found["Sampler settings"] == "solver=heun,eta=0.5"


# What A1111's and Forge's menus have; a schedule that is not among them is shown by our own name.
MENU = {
    *("Automatic", "Uniform", "Karras", "Exponential", "Polyexponential", "SGM Uniform"),
    *("KL Optimal", "Align Your Steps", "Simple", "Normal", "DDIM", "Beta", "Turbo"),
}
OURS_ALONE = {"leading": "Leading", "linspace": "Linspace", "lcm": "LCM"}


@pytest.mark.parametrize("own", [each.name for each in list_schedules() if each.is_ours])
def test_schedules_have_the_names_of_web_uis_where_they_have_one(own: str) -> None:
    _, found = written(schedule=own)
    if own in OURS_ALONE:
        assert found["Schedule type"] == OURS_ALONE[own]
    else:
        assert found["Schedule type"] in MENU
        assert resolve_schedule(found["Schedule type"]) == own


def test_a_sampler_of_theirs_with_settings_of_ours_has_their_name() -> None:
    _, found = written(sampler="dpmpp_2m_sde:solver=heun", schedule="karras")
    assert found["Sampler"] == "DPM++ 2M SDE Heun"
    assert "Sampler settings" not in found


def test_of_weights_there_are_name_and_hash() -> None:
    weights = {"model": "6ce0161689" + "b" * 54, "autoencoder": "735e4c3a44" + "c" * 54}
    _, found = written({**MADE, "weights": weights, "autoencoder": "/a/vae.pt"})
    assert list(found)[5:10] == ["Size", "Model hash", "Model", "VAE hash", "VAE"]
    assert (found["Model hash"], found["VAE hash"]) == ("6ce0161689", "735e4c3a44")
    assert found["VAE"] == "vae"


def test_of_a_mask_alone_there_is_its_area() -> None:
    picture, mask = np.zeros((64, 48, 3), np.uint8), np.ones((64, 48), np.float32)
    _, found = written(image=picture, mask=mask, only_masked=True, padding=4)
    assert (found["Inpaint area"], found["Masked area padding"]) == ("Only masked", "4")
