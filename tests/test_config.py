"""Architectures as data: what a config accepts, and its way through JSON."""

from __future__ import annotations

import dataclasses
import json

import pytest

from keras_sd.config import (
    EMOJI,
    SD_1,
    AutoencoderConfig,
    ModelConfig,
    NoiseConfig,
    TextEncoderConfig,
    UNetConfig,
)


@pytest.mark.parametrize("config", [SD_1, EMOJI], ids=lambda config: config.name)
def test_a_config_survives_json(config):
    data = json.loads(json.dumps(config.to_dict()))
    again = ModelConfig.from_dict(data)
    assert again == config
    assert isinstance(again.unet.widths, tuple)
    assert hash(again) == hash(config)


def test_what_is_left_out_is_the_default():
    config = ModelConfig.from_dict({"name": "mine", "noise": {"prediction": "v"}})
    assert config.unet == SD_1.unet
    assert config.noise.prediction == "v"
    assert config.noise.beta_end == 0.012


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"name": "x", "colour": 1}, "config: unknown colour; the fields are name, text_encoder"),
        ({"name": "x", "unet": {"with": 1}}, "config.unet: unknown with; the fields are in_cha"),
        ({"name": "x", "unet": [1]}, r"config.unet: expected an object with in_channels.*\[1\]"),
        ({}, "config: .*'name'"),
        ({"name": 3}, "config.name: expected str, not 3"),
        ({"name": "x", "unet": {"blocks": "2"}}, "config.unet.blocks: expected int, not '2'"),
        ({"name": "x", "unet": {"blocks": True}}, "config.unet.blocks: expected int, not True"),
        ({"name": "x", "unet": {"widths": [320, "a"]}}, "config.unet.widths: expected integers"),
        ({"name": "x", "unet": {"heads": [0, 0, 0, 0]}}, "config.unet: .*zero"),
        ({"name": "x", "autoencoder": {"scale": "1"}}, "config.autoencoder.scale: expected float"),
    ],
)
def test_what_is_not_a_config_is_named(data, words):
    with pytest.raises(ValueError, match=words):
        ModelConfig.from_dict(data)


def test_a_whole_number_is_a_float_too():
    config = ModelConfig.from_dict({"name": "x", "autoencoder": {"scale": 1}})
    assert config.autoencoder.scale == 1.0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TextEncoderConfig(width=10, heads=3), "width 10 is not a multiple of its 3 heads"),
        (lambda: TextEncoderConfig(activation="relu"), "'relu' is not one of"),
        (lambda: UNetConfig(heads=(8,)), "heads .* and widths .* differ in length"),
        (lambda: UNetConfig(depths=(1,)), "depths .* and widths .* differ in length"),
        (lambda: UNetConfig(groups=7), "width 320 is not a multiple of 8 heads and 7 groups"),
        (lambda: AutoencoderConfig(groups=7), "width 128 is not a multiple of 7 groups"),
        (lambda: NoiseConfig(prediction="x0"), "prediction 'x0' is not one of epsilon, v"),
        (lambda: NoiseConfig(beta_schedule="cosine"), "'cosine' is not one of scaled_linear"),
        (lambda: NoiseConfig(final_sigma="last"), "'last' is not one of first, zero"),
        (
            lambda: dataclasses.replace(SD_1, unet=UNetConfig(context_width=1024)),
            "the text encoder gives 768 features a token, the unet expects 1024",
        ),
        (
            lambda: dataclasses.replace(SD_1, unet=UNetConfig(out_channels=8)),
            "the autoencoder has 4 latent channels, the unet predicts 8",
        ),
    ],
)
def test_numbers_that_do_not_fit_together_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_derived_numbers():
    assert SD_1.unet.time_width == 1280
    assert SD_1.autoencoder.factor == 8
    assert EMOJI.autoencoder.factor == 4
