"""An autoencoder that takes large pictures in tiles, beside the same one that takes them whole."""

from __future__ import annotations

import numpy as np
import pytest
from keras import ops

import keras_sd
from keras_sd.precision import FiniteStep

pytestmark = pytest.mark.usefixtures("without_tracing")


@pytest.fixture(scope="module")
def pipeline():
    return keras_sd.StableDiffusion.from_preset("emoji", tiled=64)


@pytest.fixture
def shapes(monkeypatch):
    """Of what the compiled steps of the autoencoder are given."""
    found, call = [], FiniteStep.__call__

    def counted(self, *given):
        found.append(tuple(tuple(each.shape) for each in given))
        return call(self, *given)

    monkeypatch.setattr(FiniteStep, "__call__", counted)
    return found


def picture():
    """72x120: discs on a ground that changes, so that no tile has the statistics of the whole."""
    rows, columns = np.mgrid[:72, :120]
    found = np.stack([rows * 2, columns * 2, 255 - columns], axis=-1).astype(np.uint8)
    for y, x, colour in ((20, 30, (230, 40, 40)), (50, 90, (40, 200, 60))):
        found[(rows - y) ** 2 + (columns - x) ** 2 < 150] = colour
    return found


def test_tiles_give_about_what_the_whole_gives(pipeline, emoji, shapes):
    """The bounds are a little above what was measured, on a model whose tiles are 16 cells wide."""
    factor = pipeline.config.autoencoder.factor
    whole, tiled = (
        np.asarray(ops.convert_to_numpy(p.encode(picture()))) for p in (emoji, pipeline)
    )
    assert tiled.shape == whole.shape
    assert np.abs(tiled - whole).mean() < 0.15 * whole.std()
    assert set(shapes[1:]) == {((1, 64, 64, 3),)}
    del shapes[:]
    pixels, blended = (p.decode(whole).astype(int) for p in (emoji, pipeline))
    apart = np.abs(blended - pixels)
    assert 0 < apart.mean() < 8
    assert np.percentile(apart, 99) < 40
    assert shapes[1:] == [((1, 64 // factor, 64 // factor, 8),)] * 6
    # Seams would be jumps of the difference that the pictures themselves do not have.
    jumps = np.abs(np.diff(blended - pixels, axis=2)).mean()
    assert jumps < np.abs(np.diff(pixels, axis=2)).mean()


def test_samples_of_latents_are_tiled_like_their_means(pipeline, emoji):
    noise = np.random.default_rng(0).standard_normal(emoji.encode(picture()).shape[1:])
    whole, tiled = (
        np.asarray(ops.convert_to_numpy(p.encode(picture(), noise))) for p in (emoji, pipeline)
    )
    assert np.abs(tiled - whole).mean() < 0.15 * whole.std()


def test_several_pictures_go_one_after_another(pipeline):
    latents = np.asarray(ops.convert_to_numpy(pipeline.encode(picture())))
    both = pipeline.decode(np.concatenate([latents, latents[:, ::-1]]))
    for one, row in ((latents, both[0]), (latents[:, ::-1], both[1])):
        np.testing.assert_array_equal(pipeline.decode(one)[0], row)


def test_what_is_no_larger_than_a_tile_is_not_cut(pipeline, emoji):
    latents = emoji.encode(picture()[:64, :64])
    np.testing.assert_array_equal(pipeline.decode(latents), emoji.decode(latents))


def test_a_run_ends_in_tiles(pipeline, shapes):
    (*_, step) = pipeline.stream("a cat face", num_steps=1, seed=0, height=72, width=64)
    image = step.image()
    assert image.shape == (1, 72, 64, 3)
    assert len(shapes) == 2
    np.testing.assert_array_equal(image, pipeline.decode(step.latent))


def test_the_side_of_a_tile_is_checked():
    pipeline = keras_sd.StableDiffusion.from_preset("emoji")
    assert pipeline.tiled is False
    pipeline.tiled = True
    assert pipeline.tiled == 512
    pipeline.tiled = False
    assert pipeline.tiled is False
    for wrong, words in ((66, "a multiple of 4"), (8, "from 16 up"), ("yes", "a whole number")):
        with pytest.raises(ValueError, match=f"tiled is {words}" if wrong == 66 else words):
            pipeline.tiled = wrong
    assert pipeline.tiled is False
