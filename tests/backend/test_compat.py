"""Each version of KerasCV as numbers, and TensorFlow's noise without TensorFlow."""

from __future__ import annotations

import logging
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from keras_sd import compat, image
from keras_sd.config import SD_1, SD_2, SD_2_BASE, AutoencoderConfig, ModelConfig
from keras_sd.networks import Autoencoder

FIXTURE = Path(__file__).parents[1] / "fixtures" / "tensorflow_normals.npz"
OLD = ("keras_cv==0.4", "keras_cv==0.6", "keras_cv==0.8.1")
ALL = (*OLD, "keras_cv==0.9")
versions = pytest.mark.parametrize("name", ALL)


def test_names():
    assert compat.get(None) is None
    assert compat.get("keras_cv") is compat.get("keras_cv==0.9")
    assert [compat.get(name).version for name in ALL] == ["0.4", "0.6", "0.8.1", "0.9"]
    assert set(compat.NAMES) == {"keras_cv", *ALL}


@pytest.mark.parametrize("name", ["keras_cv==0.5", "", "0.9", "KERAS_CV"])
def test_an_unknown_name_is_one_error_with_the_list(name):
    with pytest.raises(ValueError, match="compat is one of") as caught:
        compat.get(name)
    for known in (*ALL, repr(name)):
        assert known in str(caught.value)


# Timesteps


@pytest.mark.parametrize(
    ("names", "steps", "wanted"),
    [
        (OLD, 1, [1]),
        (OLD, 2, [501, 1]),
        (OLD, 25, [961 - 40 * i for i in range(25)]),
        (OLD, 30, [991 - 33 * i for i in range(31)]),  # one more than asked for
        (OLD, 50, [981 - 20 * i for i in range(50)]),
        (ALL[3:], 1, [0]),
        (ALL[3:], 2, [999, 0]),
        (ALL[3:], 3, [999, 500, 0]),
        (ALL[3:], 5, [999, 749, 500, 250, 0]),
        (ALL, 999, None),
        (ALL, 1000, None),
    ],
)
def test_timesteps(names, steps, wanted):
    for name in names:
        found = compat.get(name).timesteps(steps)
        assert wanted is None or found == wanted
        assert all(now > after for now, after in pairwise(found))
        assert 0 <= found[-1] < found[0] <= 999 or steps == 1
        assert all(type(t) is int for t in found)


@versions
@pytest.mark.parametrize("steps", [0, -1, 1001, True])
def test_steps_that_there_are_not(name, steps):
    with pytest.raises(ValueError, match="num_steps is from 1 to 1000"):
        compat.get(name).timesteps(steps)


# Networks


@versions
@pytest.mark.parametrize("config", [SD_1, SD_2, SD_2_BASE], ids=lambda config: config.name)
def test_config(name, config):
    theirs = compat.get(name).config(config)
    gelu = "gelu" if name in OLD[:2] else "gelu_tanh"
    text = replace(config.text_encoder)
    if config is not SD_1:  # 1.x has quick_gelu, which KerasCV has too
        text = replace(text, activation=gelu)
    pad = (1, 1) if name == "keras_cv==0.4" else (0, 1)
    assert theirs == replace(
        config,
        text_encoder=text,
        unet=replace(config.unet, transformer_epsilon=1e-5, gelu="tanh"),
        autoencoder=replace(config.autoencoder, epsilon=1e-5, encoder_pad=pad),
        pad_token="end",
    )
    assert compat.get(name).config(theirs) == theirs
    assert ModelConfig.from_dict(theirs.to_dict()) == theirs


@versions
@pytest.mark.parametrize("config", [SD_1, SD_2], ids=lambda config: config.name)
def test_without_it_the_config_is_what_it_was(name, config, caplog):
    caplog.set_level(logging.WARNING)
    assert compat.without(compat.get(name).config(config), "original") == config
    said = caplog.records[0].getMessage()
    assert "the layout original cannot say" in said
    again = next(known for known in compat.NAMES if repr(known) in said)
    assert compat.get(again).config(config) == compat.get(name).config(config)


@pytest.mark.parametrize(
    "config",
    [
        SD_1,
        SD_2,
        replace(SD_1, autoencoder=AutoencoderConfig(epsilon=1e-5)),
        replace(SD_1, autoencoder=AutoencoderConfig(encoder_pad=(1, 1))),
    ],
)
def test_a_config_of_nobody_is_left_as_it_is(config, caplog):
    assert compat.without(config, "original") is config
    assert not caplog.records


def test_the_encoder_pads_as_the_version_does():
    """Padded on both sides, what is on the right of a picture moves half a cell."""
    config = AutoencoderConfig(widths=(4, 4), blocks=1, groups=2)
    keras.utils.set_random_seed(1)
    networks = {
        pad: Autoencoder(replace(config, encoder_pad=pad), name=f"a{pad[0]}")
        for pad in ((0, 1), (1, 1))
    }
    networks[1, 1].set_weights(networks[0, 1].get_weights())
    pixels = np.zeros((1, 8, 8, 3), "float32")
    pixels[:, 3:5, 3:5] = 1
    one, both = (
        ops.convert_to_numpy(networks[pad].encode(ops.convert_to_tensor(pixels)))
        for pad in networks
    )
    assert one.shape == both.shape == (1, 4, 4, 4)
    assert np.abs(one - both).max() > 1e-3
    with pytest.raises(ValueError, match=r"encoder_pad \(1, 0\) is not one of"):
        AutoencoderConfig(encoder_pad=(1, 0))


# Pixels


@versions
def test_pixels_are_cut_off(name):
    values = np.array([-3, -1, -1 + 1.9 / 127.5, 0, 1 - 0.1 / 127.5, 1, 3], "float32")
    found = compat.get(name).to_uint8(values)
    assert found.dtype == np.uint8
    assert found.tolist() == [0, 0, 1, 127, 254, 255, 255]
    assert image.to_uint8(values).tolist() == [0, 0, 2, 128, 255, 255, 255]


# Noise


def test_stateless_normal_is_tensorflows():
    with np.load(FIXTURE) as known:
        for name, values in known.items():
            key, shape = name.split("/")
            found = compat.stateless_normal(
                tuple(map(int, key.split(","))), tuple(map(int, shape.split("x")))
            )
            assert (found.shape, found.dtype) == (values.shape, np.dtype("float32"))
            assert np.abs(found - values).max() < 1e-6


@pytest.mark.parametrize(
    ("name", "seed", "key"),
    [
        ("keras_cv==0.4", 7, (7, 7)),
        ("keras_cv==0.6", 7, (7, 7)),
        ("keras_cv==0.8.1", 7, (7, 0)),
        ("keras_cv==0.9", 7, (7, 0)),
        ("keras_cv==0.4", 2**64 - 1, (2**64 - 1, 2**64 - 1)),
        ("keras_cv==0.9", 2**31 - 1, (1, 0)),  # Keras' seeds are wider than TensorFlow's
    ],
)
def test_the_key_of_a_seed(name, seed, key):
    shape = (2, 4, 6, 4)
    found = compat.get(name).first_noise(seed, range(shape[0]), shape[1:])
    assert np.array_equal(found, compat.stateless_normal(key, shape))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of TensorFlow")
@pytest.mark.parametrize("seed", [0, 7, 2**31 - 3, 2**31 - 1, 2**32 - 1])
def test_keras_draws_the_same_on_tensorflow(seed):
    noise = ops.convert_to_numpy(keras.random.normal((2, 8, 8, 4), seed=seed))
    assert (
        np.abs(
            compat.get("keras_cv==0.9").first_noise(seed, range(len(noise)), noise.shape[1:])
            - noise
        ).max()
        < 1e-6
    )


def test_much_noise_is_normal():
    noise = compat.stateless_normal((3, 4), (100_000,)).astype(float)
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01
    assert abs((noise**4).mean() - 3) < 0.1


@pytest.mark.parametrize("key", [(-1, 0), (0, 2**64)])
def test_seeds_that_there_are_not(key):
    with pytest.raises(ValueError, match=r"a seed is from 0 to 2\*\*64 - 1"):
        compat.stateless_normal(key, (3,))
