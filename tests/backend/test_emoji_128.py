"""The larger embedded model: its pictures, its words, and weights that lie there as eight bits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from keras_sd import StableDiffusion
from keras_sd.training import judging
from keras_sd.weights.checkpoint import open_checkpoint
from keras_sd.weights.presets import PRESETS

FOLDER = PRESETS / "emoji-128"
GOLDENS = Path(__file__).parents[1] / "fixtures" / "emoji_128_goldens.npz"

PROMPTS = {
    "a cat face on a blue background": "blue",
    "a 3d render of a rocket on yellow": "yellow",
    "three strawberries on a pink background": "pink",
    "a line drawing of a fox on a white background": "white",
}
"""Prompt -> the ground that it asks for."""


def draw(pipeline: StableDiffusion) -> np.ndarray:
    return pipeline.text_to_image(list(PROMPTS), seed=1, num_steps=6)


@pytest.fixture(scope="module")
def pipeline():
    return StableDiffusion.from_preset("emoji-128")


@pytest.fixture(scope="module")
def images(pipeline):
    return draw(pipeline)


def test_images_are_the_same_on_every_backend(images):
    """The goldens were made on jax."""
    with np.load(GOLDENS) as goldens:
        expected = goldens["images"]
    assert images.shape == expected.shape == (4, 128, 128, 3)
    assert np.abs(images.astype(int) - expected).max() <= 1


def test_the_grounds_are_those_that_were_asked_for(images):
    assert judging.colours(images / 127.5 - 1) == list(PROMPTS.values())


def test_it_knows_the_words_of_its_captions(pipeline):
    assert pipeline.unknown_words(" ".join(PROMPTS)) == []
    assert pipeline.unknown_words("a zorb in the top left corner") == ["zorb"]


def test_the_weights_are_stored_in_eight_bits(pipeline):
    assert (FOLDER / "model.safetensors").stat().st_size < 30_000_000
    config = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))
    assert len(config["words"]) > 4000
    assert (FOLDER / "README.md").is_file()
    part = open_checkpoint(FOLDER).parts["unet"]
    kernel = part.tensors["unet/conv_in/kernel"]
    assert kernel.numbers.dtype == np.int8
    loaded = np.asarray(pipeline.unet.conv_in.kernel)
    np.testing.assert_array_equal(loaded, kernel.numbers * kernel.scale.astype("float32"))
