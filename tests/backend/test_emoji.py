"""The embedded model: what is in the package is what was trained, and draws what is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from keras_sd.training import measure, pictures
from keras_sd.weights.presets import PRESETS

GOLDENS = Path(__file__).parents[1] / "fixtures" / "emoji_goldens.npz"

PROMPTS = [
    "a cat face on a blue background",
    "a rocket on a red background",
    "strawberry on white",
    "a green background with an octopus",
]


@pytest.fixture(scope="module")
def images(emoji):
    return emoji.text_to_image(PROMPTS, seed=1)


def test_images_are_the_same_on_every_backend(images):
    """The goldens were made on jax: within 1 of them is within 2 of each other."""
    with np.load(GOLDENS) as goldens:
        expected = goldens["images"]
    assert images.shape == expected.shape
    assert np.abs(images.astype(int) - expected).max() <= 1


@pytest.mark.thorough
def test_the_goldens_show_what_was_asked_for(images):
    colours = measure.backgrounds(images)
    assert colours == ["blue", "red", "white", "green"]
    try:
        source = pictures.Pictures()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    shown = measure.subjects(images, colours, source)
    assert shown == ["cat face", "rocket", "strawberry", "octopus"]


@pytest.mark.parametrize("sampler", ["pndm", "euler"])
@pytest.mark.thorough
def test_every_sampler_draws_it(emoji, images, sampler):
    other = emoji.text_to_image(PROMPTS[0], seed=1, sampler=sampler)
    # Another rule or another last step: another picture, but not by much.
    assert np.abs(other.astype(int) - images[:1]).mean() < 16


def test_it_says_which_words_it_does_not_know(emoji):
    assert emoji.unknown_words("a cat face on a zorb, 3D") == ["zorb", "3", "d"]
    assert emoji.unknown_words(PROMPTS[0]) == []


def test_the_files_are_small_and_half_precision(emoji):
    folder = PRESETS / "emoji"
    assert (folder / "model.safetensors").stat().st_size < 25_000_000
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert set(config["words"]) == set(pictures.known_words())
    assert (folder / "README.md").is_file()
