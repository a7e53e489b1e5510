"""Architectures as data: what a config accepts, and its way through JSON."""

from __future__ import annotations

import dataclasses
import json
import math

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
from keras_sd.noise import NoiseTable
from keras_sd.weights.names import diffusers


@pytest.mark.parametrize("config", [SD_1, EMOJI], ids=lambda config: config.name)
def test_a_config_survives_json(config):
    data = json.loads(json.dumps(config.to_dict()))
    again = ModelConfig.from_dict(data)
    assert again == config
    assert isinstance(again.unet.widths, tuple)
    assert hash(again) == hash(config)


def test_the_table_of_a_config():
    assert NoiseConfig().table() == NoiseTable.scaled_linear()
    linear = NoiseConfig("linear", 0.001, 0.02, 500)
    assert linear.table() == NoiseTable.linear(0.001, 0.02, 500)
    zero = NoiseConfig(prediction="v", zero_terminal_snr=True)
    assert zero.table() == NoiseTable.scaled_linear().zero_terminal_snr()


def test_zero_terminal_snr_needs_v():
    with pytest.raises(ValueError, match="zero_terminal_snr needs the prediction v"):
        NoiseConfig(zero_terminal_snr=True)
    noise = {"prediction": "v", "zero_terminal_snr": True}
    config = ModelConfig.from_dict({"name": "x", "noise": noise})
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ValueError, match=r"noise.zero_terminal_snr: expected bool, not 1"):
        ModelConfig.from_dict({"name": "x", "noise": {**noise, "zero_terminal_snr": 1}})


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
        ({"name": "x", "unet": {"heads": [0, 0, 0, 0]}}, r"heads is \(0, 0, 0, 0\), not 1 to 8"),
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
        (lambda: NoiseConfig(prediction="flow"), "prediction 'flow' is not one of epsilon, v, x0"),
        (lambda: NoiseConfig(beta_start=0.5), "beta_end is 0.012, not at least beta_start, 0.5"),
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


@pytest.mark.parametrize(
    ("part", "name", "wrong"),
    [
        *(("text_encoder", name, (0, -1, 2**21)) for name in ("vocab_size", "max_length")),
        *(("text_encoder", name, (0, -8, 2**17)) for name in ("width", "heads", "mlp_width")),
        ("text_encoder", "depth", (0, -1, 129)),
        ("text_encoder", "epsilon", (0.0, -1e-5, 1.0, math.inf, math.nan)),
        *(
            ("unet", name, (0, -8, 2**15))
            for name in ("in_channels", "out_channels", "context_width", "groups")
        ),
        ("unet", "blocks", (0, -1, 9)),
        *(
            ("unet", name, ((), (0, 0, 0, 0), (-32, 64, 64, 64), (2**15,) * 4, (32,) * 9))
            for name in ("widths", "heads")
        ),
        ("unet", "depths", ((), (-1, 1, 1, 0), (33, 1, 1, 0), (1,) * 9)),
        ("unet", "transformer_epsilon", (0.0, math.nan)),
        *(("autoencoder", name, (0, -4, 2**15)) for name in ("latent_channels", "groups")),
        ("autoencoder", "blocks", (0, 9)),
        ("autoencoder", "widths", ((), (0,), (-32,), (2**15,), (32,) * 9)),
        ("autoencoder", "scale", (0.0, -0.18, math.inf, math.nan, 10**400)),
        ("autoencoder", "epsilon", (0.0, math.nan)),
        ("noise", "num_train_timesteps", (0, -1, 10**6 + 1)),
        ("noise", "beta_start", (0.0, -1.0, math.nan)),
        ("noise", "beta_end", (0.0, 1.0, math.inf, math.nan)),
        *(("defaults", name, (0, -8, 2**15)) for name in ("height", "width")),
        ("defaults", "num_steps", (0, -1, 10**7)),
        ("defaults", "guidance_scale", (math.inf, math.nan)),
    ],
)
def test_numbers_out_of_their_range_are_refused_with_it(part, name, wrong):
    for value in wrong:
        data = {"name": "x", part: {name: value}}
        with pytest.raises(ValueError, match=rf"{name} is .*, not .*\d") as caught:
            ModelConfig.from_dict(data)
        assert len(str(caught.value)) < 200


def test_the_largest_config_has_a_table_of_bounded_size():
    # What a stranger's config.json can ask for at most, before a tensor of it is looked at.
    most = UNetConfig(widths=(32,) * 8, heads=(8,) * 8, depths=(32,) * 8, blocks=8)
    assert len(diffusers.unet(most)) < 100_000


def test_derived_numbers():
    assert SD_1.unet.time_width == 1280
    assert SD_1.autoencoder.factor == 8
    assert EMOJI.autoencoder.factor == 4
