"""An autoencoder that takes large pictures in strips, beside the same one that takes them whole."""

from __future__ import annotations

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import ops

import keras_sd
from keras_sd.backend import to_numpy
from keras_sd.config import AutoencoderConfig
from keras_sd.networks import Autoencoder
from keras_sd.precision import FiniteStep, policy_scope
from keras_sd.tiling import InStrips

pytestmark = pytest.mark.usefixtures("without_tracing")

TINY = AutoencoderConfig(widths=(4, 6, 8), blocks=1, groups=2, latent_channels=4, scale=0.5)
PADDED = AutoencoderConfig(
    widths=(4, 6), blocks=2, groups=2, latent_channels=4, scale=0.5, encoder_pad=(1, 1)
)
PICTURES = {TINY: (52, 36), PADDED: (30, 14)}


@pytest.fixture(scope="module")
def emoji_in_strips():
    return keras_sd.StableDiffusion.from_preset("emoji", tiled=64)


def lively(config, policy="float32"):
    """An autoencoder whose every weight counts."""
    with policy_scope(policy):
        made = Autoencoder(config)
    values = np.random.default_rng(5)
    for variable in made.weights:
        shape = tuple(variable.shape)
        scale = np.prod(shape[:-1]) ** -0.5 if len(shape) > 1 else 0.3
        base = 1 if variable.name == "gamma" else 0
        variable.assign(base + scale * values.standard_normal(shape))
    return made


def of_both(made, method, side, *given):
    """What the method gives for the whole, and in strips."""
    tensors = [ops.convert_to_tensor(each) for each in given]
    whole = to_numpy(FiniteStep(made, method)(*tensors))
    in_strips = InStrips(made, method, side=side)
    return whole.astype("float32"), in_strips(*tensors), in_strips


@pytest.mark.parametrize("config", [TINY, PADDED])
@pytest.mark.parametrize("side", [4, 12, 1000])
def test_strips_give_what_the_whole_gives(config, side):
    made, (height, width) = lively(config), PICTURES[config]
    rng = np.random.default_rng(1)
    ground = np.linspace(-1, 1, height)[None, :, None, None]  # whose strips have other statistics
    pixels = (ground + 0.3 * rng.standard_normal((1, height, width, 3))).astype("float32")
    size = (1, height // config.factor, width // config.factor, config.latent_channels)
    latents, noise = rng.standard_normal((2, *size)).astype("float32")
    for method, given in (
        ("encode", (pixels,)),
        ("encode", (pixels, noise)),
        ("decode", (latents,)),
    ):
        whole, found, _ = of_both(made, method, side, *given)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, whole, rtol=0, atol=1e-5 * np.abs(whole).max())


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16", "float16"])
def test_in_16_bits_strips_give_about_what_the_whole_gives(policy):
    latents = np.random.default_rng(1).standard_normal((1, 9, 5, 4)).astype("float32")
    whole, found, _ = of_both(lively(TINY, policy), "decode", 12, latents)
    exact = to_numpy(lively(TINY).decode(ops.convert_to_tensor(latents)))
    assert np.abs(found - exact).mean() < 2 * np.abs(whole - exact).mean() + 1e-6


def test_a_strip_is_what_the_backend_has_in_memory(monkeypatch):
    """The convolutions at full size never see more than a strip, of one shape."""
    made, shapes = lively(TINY), set()
    conv = type(made.decoder.conv_out).call

    def counted(self, x):
        shapes.add(tuple(x.shape))
        return conv(self, x)

    monkeypatch.setattr(type(made.decoder.conv_out), "call", counted)
    latents = np.zeros((1, 13, 9, 4), "float32")
    InStrips(made, "decode", side=12)(latents)
    # Four rows with those beside them, as a shortcut has them, and what becomes twice as much.
    assert {shape[1] for shape in shapes if shape[2] == 36} == {4 + 2, 4, 2 * (2 + 2)}
    assert {shape[1] for shape in shapes if shape[2] == 9} == {13, 2 + 2}  # all of it, once


def test_weights_stay_live():
    made = lively(TINY)
    latents = np.random.default_rng(1).standard_normal((1, 9, 5, 4)).astype("float32")
    _, before, in_strips = of_both(made, "decode", 12, latents)
    made.decoder.conv_out.bias.assign(made.decoder.conv_out.bias + 3.0)
    made.decoder.norm_out.gamma.assign(2 * made.decoder.norm_out.gamma)
    found = in_strips(latents)
    np.testing.assert_allclose(
        found, to_numpy(made.decode(ops.convert_to_tensor(latents))), atol=1e-5
    )
    assert np.abs(found - before).mean() > 1


def picture():
    rows, columns = np.mgrid[:72, :120]
    return np.stack([rows * 2, columns * 2, 255 - columns], axis=-1).astype(np.uint8)


def test_a_model_encodes_and_decodes_in_strips(emoji_in_strips, emoji):
    whole, found = (to_numpy(p.encode(picture())) for p in (emoji, emoji_in_strips))
    np.testing.assert_allclose(found, whole, atol=1e-4)
    noise = np.random.default_rng(0).standard_normal(whole.shape[1:])
    drawn = [to_numpy(p.encode(picture(), noise)) for p in (emoji, emoji_in_strips)]
    np.testing.assert_allclose(drawn[1], drawn[0], atol=1e-4)
    both = np.concatenate([whole, whole[:, ::-1]])
    pixels, in_strips = (p.decode(both).astype(int) for p in (emoji, emoji_in_strips))
    assert np.abs(pixels - in_strips).max() <= 1  # what lies between two whole numbers
    assert np.mean(pixels != in_strips) < 1e-3


def test_what_is_no_larger_than_a_strip_is_taken_whole(emoji_in_strips, emoji, monkeypatch):
    latents = emoji.encode(picture()[:64, :64])
    monkeypatch.setattr(InStrips, "__call__", None)
    np.testing.assert_array_equal(emoji_in_strips.decode(latents), emoji.decode(latents))


def test_a_run_ends_in_strips(emoji_in_strips):
    (*_, step) = emoji_in_strips.stream("a cat face", num_steps=1, seed=0, height=72, width=64)
    image = step.image()
    assert image.shape == (1, 72, 64, 3)
    np.testing.assert_array_equal(image, emoji_in_strips.decode(step.latent))


def test_what_overflows_in_strips_is_computed_again_in_float32(caplog):
    pipeline = keras_sd.StableDiffusion.from_preset("emoji", dtype="float16", tiled=32)
    latents = to_numpy(pipeline.encode(picture()[:64, :64]))
    decoder = pipeline.autoencoder.decoder
    decoder.conv_in.kernel.assign(decoder.conv_in.kernel * 600)
    image = pipeline.decode(latents)
    assert "computed again in float32" in caplog.text
    pipeline.tiled = False
    assert np.abs(image.astype(int) - pipeline.decode(latents)).max() <= 1


def test_the_autoencoder_of_somebody_else_is_refused_before_a_run():
    pipeline = keras_sd.StableDiffusion.from_preset("emoji", tiled=64)

    class Theirs(keras.Model):
        pass

    theirs = Theirs(name="autoencoder")
    theirs.decoder = SimpleNamespace()
    pipeline.autoencoder = theirs
    words = "`tiled` knows the layers of keras_sd's own autoencoder, and not those of a Theirs"
    with pytest.raises(TypeError, match=words):
        next(iter(pipeline.stream("a cat face", num_steps=1, seed=0)))


def test_the_size_of_a_strip_is_checked():
    pipeline = keras_sd.StableDiffusion.from_preset("emoji")
    assert pipeline.tiled is False
    pipeline.tiled = True
    assert pipeline.tiled == 256
    pipeline.tiled = False
    assert pipeline.tiled is False
    for wrong, words in ((66, "a multiple of 4"), (8, "from 16 up"), ("yes", "a whole number")):
        with pytest.raises(ValueError, match=f"tiled is {words}" if wrong == 66 else words):
            pipeline.tiled = wrong
    assert pipeline.tiled is False
