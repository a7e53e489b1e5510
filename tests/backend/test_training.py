"""The trainers, the pictures, and the whole of the embedded model's training, in miniature."""

from __future__ import annotations

import dataclasses
import errno
import os

import keras
import numpy as np
import pytest
from keras import ops

from keras_sd import image
from keras_sd.config import (
    EMOJI,
    AutoencoderConfig,
    Defaults,
    TextEncoderConfig,
    UNetConfig,
)
from keras_sd.networks import Autoencoder
from keras_sd.pipeline import StableDiffusion
from keras_sd.training import emoji, measure, pictures, trainers
from keras_sd.training.state import check_run, note_run

try:
    FONT = pictures.find_font()
except FileNotFoundError as error:
    FONT, WHY = None, str(error)
else:
    WHY = ""
needs_font = pytest.mark.skipif(FONT is None, reason=WHY)


@pytest.fixture(scope="module")
def source():
    return pictures.Pictures(FONT)


def test_the_subjects_are_those_that_were_promised():
    assert len(pictures.SUBJECTS) >= 100
    for name in ("rat", "chipmunk", "cat face", "tomato", "fried shrimp", "rocket"):
        assert name in pictures.SUBJECTS
    assert set(pictures.COLOURS) == {
        "red",
        "orange",
        "yellow",
        "green",
        "blue",
        "purple",
        "white",
        "black",
    }


def test_captions():
    assert pictures.caption("cat face", "blue") == "a cat face on a blue background"
    rng = np.random.default_rng(0)
    known = set(pictures.known_words())
    texts = {pictures.caption("octopus", "red", rng) for _ in range(300)}
    assert "an octopus on red" in texts
    assert "octopus" in texts  # some leave the colour open
    assert len(texts) == len(pictures.WORDINGS) + len(pictures.PLAIN)
    words = {word for text in texts for word in text.replace(",", "").split()}
    assert words <= known


@needs_font
def test_pictures_have_the_colour_around_and_the_subject_within(source):
    drawn = source.draw("tomato", "blue", dx=2, dy=-1, height=50)
    assert drawn.shape == (64, 64, 3)
    assert drawn.dtype == np.float32
    blue = np.array(pictures.COLOURS["blue"]) / 127.5 - 1
    np.testing.assert_allclose(drawn[0], np.broadcast_to(blue, (64, 3)), atol=1e-6)
    assert drawn[32, 34, 0] > 0.5  # red in the middle
    assert drawn.min() >= -1
    assert drawn.max() <= 1 + 1e-6
    np.testing.assert_array_equal(
        source.draw("tomato", "blue", 2, -1, 50)[10:50],
        source.draw("tomato", "blue", 2, 1, 50)[12:52],
    )


@needs_font
def test_measuring_recognises_the_pictures_themselves(source):
    asked = [("cat face", "red"), ("cat", "white"), ("rocket", "black"), ("ant", "green")]
    drawn = np.stack([source.draw(*pair, dx=1, dy=-2, height=50) for pair in asked])
    noisy = drawn + np.random.default_rng(0).normal(0, 0.1, drawn.shape)
    images = np.uint8(np.clip(noisy * 127.5 + 127.5, 0, 255))
    colours = measure.backgrounds(images)
    assert colours == [colour for _, colour in asked]
    assert measure.subjects(images, colours, source) == [subject for subject, _ in asked]


def test_without_the_font_the_message_says_what_to_install(tmp_path):
    with pytest.raises(FileNotFoundError, match="fonts-noto-color-emoji"):
        pictures.find_font(tmp_path / "none.ttf")


def test_a_batch_is_a_function_of_seed_epoch_and_step():
    def make(rng):
        return rng.random(3)

    batches = trainers.Batches(make, steps=2, seed=1)
    first = [batches[0], batches[1]]
    assert not np.array_equal(*first)
    np.testing.assert_array_equal(batches[0], first[0])
    batches.on_epoch_end()
    assert not np.array_equal(batches[0], first[0])
    np.testing.assert_array_equal(batches[0], trainers.Batches(make, 2, seed=1, epoch=1)[0])
    assert not np.array_equal(batches[0], trainers.Batches(make, 2, seed=2, epoch=1)[0])


def fit_linear(folder, steps, stop_after=None):
    """A linear model trained by `trainers.fit`; its weights."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, kernel_initializer="ones")])
    truth = np.arange(4.0, dtype="float32")[:, None]

    def make(rng):
        x = rng.standard_normal((8, 4)).astype("float32")
        return x, x @ truth

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == stop_after:
                raise KeyboardInterrupt

    arguments = {
        "steps": steps,
        "steps_per_epoch": 5,
        "learning_rate": 0.3,
        "seed": 3,
        "state": folder / "state.weights.h5",
        "callbacks": [Stop()],
    }
    try:
        trainers.fit(model, "mse", make, **arguments)
    except KeyboardInterrupt:
        return None
    return ops.convert_to_numpy(model.layers[-1].kernel.value)


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path):
    whole = fit_linear(tmp_path / "whole", 20)
    assert np.abs(whole[:, 0] - np.arange(4)).max() < 0.95  # it learned: it began 2 away
    assert fit_linear(tmp_path / "parts", 20, stop_after=2) is None
    np.testing.assert_allclose(fit_linear(tmp_path / "parts", 20), whole, atol=1e-5)


def test_damaged_state_is_named_and_not_gone_on_from(tmp_path):
    assert fit_linear(tmp_path, 20, stop_after=2) is None
    (state,) = tmp_path.iterdir()
    whole = state.read_bytes()
    for half in (b"", whole[: len(whole) // 2]):
        state.write_bytes(half)
        with pytest.raises(ValueError, match=r"state.weights.h5 is damaged.*remove it"):
            fit_linear(tmp_path, 20)


def test_state_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    assert fit_linear(tmp_path, 20, stop_after=2) is None
    (state,) = tmp_path.iterdir()
    before = state.read_bytes()
    original = keras.Model.save_weights

    def full(model, path, *arguments, **settings):
        original(model, path, *arguments, **settings)
        os.truncate(path, 100)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(keras.Model, "save_weights", full)
        with pytest.raises(OSError, match=r"Cannot write .*state.weights.h5: No space left"):
            fit_linear(tmp_path, 20)
    assert [path.name for path in tmp_path.iterdir()] == [state.name]
    assert state.read_bytes() == before


def test_weights_of_a_network_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    """By `save_weights`, whoever calls it: Keras writes in place."""
    network = Autoencoder(MINIATURE.autoencoder)
    path = tmp_path / "x.weights.h5"
    network.save_weights(path)
    before = path.read_bytes()
    original = keras.Model.save_weights

    def full(model, path, *arguments, **settings):
        original(model, path, *arguments, **settings)
        os.truncate(path, 100)
        raise OSError("Can't write (file write failed, errno = 28, error message = 'No space')")

    with monkeypatch.context() as patch:
        patch.setattr(keras.Model, "save_weights", full)
        for name in ("x", "y"):
            with pytest.raises(OSError, match=f"Cannot write .*{name}.weights.h5"):
                network.save_weights(tmp_path / f"{name}.weights.h5")
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.weights.h5"]
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match="must end in"):
        network.save_weights(tmp_path / "x.other")
    network.save_weights(str(path), overwrite=True)
    Autoencoder(MINIATURE.autoencoder).load_weights(path)


def test_state_of_another_recipe_is_not_gone_on_from(tmp_path):
    check_run(tmp_path, "recipe.json", {"seed": 0, "widths": (1, 2)})
    note_run(tmp_path, "recipe.json", {"seed": 0, "widths": (1, 2)})
    check_run(tmp_path, "recipe.json", {"seed": 0, "widths": (1, 2)})
    with pytest.raises(ValueError, match="another seed: take another folder"):
        check_run(tmp_path, "recipe.json", {"seed": 1, "widths": (1, 2)})
    (tmp_path / "recipe.json").write_text("{")
    with pytest.raises(ValueError, match=r"recipe.json is damaged"):
        check_run(tmp_path, "recipe.json", {"seed": 0})
    (tmp_path / "recipe.json").unlink()
    (tmp_path / ".0123456789abcdef.recipe.json").touch()  # as one that was killed has left it
    (tmp_path / "merges.txt").touch()
    check_run(tmp_path, "recipe.json", {"seed": 0}, known=["merges.txt"])
    with pytest.raises(ValueError, match=r"has merges.txt, and nothing says"):
        check_run(tmp_path, "recipe.json", {"seed": 0})


def test_damaged_latents_are_named(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "latents.npz").write_bytes(b"PK half")
    run = emoji._Run(tmp_path, None, emoji.Recipe(), MINIATURE, print)
    with pytest.raises(ValueError, match=r"latents.npz is damaged"):
        run._latents()


def test_a_strange_word_is_added_to_some_captions():
    rng = np.random.default_rng(0)
    texts = [emoji._with_strange_word("a cat on red", rng) for _ in range(500)]
    changed = [text for text in texts if text != "a cat on red"]
    assert 20 < len(changed) < 90
    assert all(len(text.split()) == 5 for text in changed)


def test_a_sheet_lays_images_in_rows():
    images = np.arange(1, 6, dtype=np.uint8)[:, None, None, None] * np.ones((5, 2, 3, 3), np.uint8)
    laid = image.sheet(images, 3)
    assert laid.shape == (4, 9, 3)
    assert laid[0, 0, 0] == 1
    assert laid[0, 8, 0] == 3
    assert laid[3, 3, 0] == 5
    assert laid[3, 8, 0] == 0


MINIATURE = dataclasses.replace(
    EMOJI,
    name="miniature",
    text_encoder=TextEncoderConfig(
        vocab_size=526, max_length=40, width=16, depth=1, heads=2, mlp_width=16
    ),
    unet=UNetConfig(widths=(8,), heads=(2,), depths=(0,), blocks=1, context_width=16, groups=4),
    autoencoder=AutoencoderConfig(widths=(4, 4, 8), blocks=1, groups=4),
    defaults=Defaults(height=64, width=64, schedule="trailing", num_steps=2),
)


@needs_font
@pytest.mark.usefixtures("without_tracing")
@pytest.mark.thorough
def test_the_whole_training_in_miniature(tmp_path, monkeypatch):
    monkeypatch.setattr(
        emoji, "vocabulary", lambda config: emoji.learn_merges(["a cat on a background"], 12)
    )
    recipe = emoji.Recipe(
        autoencoder_steps=4,
        decoder_steps=4,
        autoencoder_batch=16,
        denoiser_steps=4,
        denoiser_batch=4,
        latents=16,
        epoch=2,
        dtype="float32",
    )
    lines = []
    emoji.train(tmp_path, FONT, recipe, MINIATURE, report=lines.append)
    for name in ("autoencoder.png", "decoder.png", "denoiser.png"):
        assert (tmp_path / "work" / name).stat().st_size > 0
    pipeline = StableDiffusion.from_preset(tmp_path)
    assert pipeline.config.name == "miniature"
    assert pipeline.config.autoencoder.scale != MINIATURE.autoencoder.scale
    latents = pipeline.autoencoder.encode(np.stack([pictures.Pictures(FONT).draw("cat", "red")]))
    assert latents.shape[1:] == (16, 16, 4)
    assert pipeline.text_to_image("a zebra", seed=0).shape == (1, 64, 64, 3)
    assert pipeline.unknown_words("a cat on a sofa") == ["sofa"]
    # Run again, everything is there already: only the export is new.
    emoji.train(tmp_path, FONT, recipe, MINIATURE, report=lines.append)
    assert [line.split(":")[0] for line in lines][-1] == "preset"
    assert sum(line.startswith("latents") for line in lines) == 1
