"""Networks are values: copied, cloned, pickled and saved, ours and those with KerasCV's names."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import ops
from tiny import AUTOENCODER, TEXT, TINY, TINY_2

from keras_sd.config import UNetConfig
from keras_sd.keras_cv.parts import PartSource
from keras_sd.models.stable_diffusion import (
    Decoder,
    DiffusionModel,
    DiffusionModelV2,
    ImageEncoder,
    TextEncoder,
    TextEncoderV2,
)
from keras_sd.networks import Autoencoder, UNet
from keras_sd.networks import TextEncoder as OurTextEncoder

pytestmark = pytest.mark.usefixtures("without_tracing")

SMALL = PartSource("small", replace(TINY, autoencoder=AUTOENCODER))
SMALL_2 = PartSource("small", TINY_2)
RANDOM = np.random.default_rng(0)
LATENTS = RANDOM.standard_normal((1, 8, 6, 4), np.float32)
IMAGES = RANDOM.standard_normal((1, 16, 8, 3), np.float32)
TOKENS = np.arange(77, dtype="int32")[None]
TIME = np.full(1, 7.0, np.float32)
CONTEXT = RANDOM.standard_normal((1, 77, 64), np.float32)


def theirs(cls, source, *numbers):
    return lambda: cls(*numbers, preset=source, download_weights=False)


NETWORKS = {
    "unet": (lambda: UNet(TINY.unet), (LATENTS, TIME, CONTEXT)),
    "text_encoder": (lambda: OurTextEncoder(TEXT), (TOKENS,)),
    "autoencoder": (lambda: Autoencoder(AUTOENCODER), (IMAGES,)),
    "DiffusionModel": (theirs(DiffusionModel, SMALL, 16, 16, 77), (LATENTS, TIME, CONTEXT)),
    "DiffusionModelV2": (theirs(DiffusionModelV2, SMALL_2, 16, 16, 77), (LATENTS, TIME, CONTEXT)),
    "TextEncoder": (theirs(TextEncoder, SMALL, 77, 518), (TOKENS,)),
    "TextEncoderV2": (theirs(TextEncoderV2, SMALL_2, 77, 600), (TOKENS,)),
    "Decoder": (theirs(Decoder, SMALL, 16, 16), (LATENTS,)),
    "ImageEncoder": (theirs(ImageEncoder, SMALL), (IMAGES,)),
}


def saved(network, folder):
    network.save(folder / "network.keras")
    return keras.models.load_model(folder / "network.keras")


WAYS = {
    "deepcopy": lambda network, folder: copy.deepcopy(network),
    "pickle": lambda network, folder: pickle.loads(pickle.dumps(network)),
    "save": saved,
}


def made(name):
    """A network whose weights all count, the last convolution's zeros too."""
    make, given = NETWORKS[name]
    network = make()
    for variable, value in zip(network.variables, values(network), strict=True):
        variable.assign(value + np.float32(0.05))
    return network, [ops.convert_to_tensor(array) for array in given]


def values(network):
    return [ops.convert_to_numpy(variable.value) for variable in network.variables]


def result(network, given):
    return ops.convert_to_numpy(network(*given))


def as_json(network):
    return type(network).from_config(json.loads(json.dumps(network.get_config())))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.thorough
def test_a_copy_computes_the_same_with_weights_of_its_own(name, way, tmp_path):
    network, given = made(name)
    copied = WAYS[way](network, tmp_path)
    assert type(copied) is type(network)
    assert copied.name == network.name
    assert copied.config == network.config
    assert [v.path for v in copied.variables] == [v.path for v in network.variables]
    before = values(network)
    for old, new in zip(before, values(copied), strict=True):
        np.testing.assert_array_equal(new, old)
    if way == "deepcopy" and name in ("text_encoder", "Decoder"):
        np.testing.assert_array_equal(result(copied, given), result(network, given))
    for variable, value in zip(copied.variables, before, strict=True):
        variable.assign(np.zeros_like(value))
    for old, new in zip(before, values(network), strict=True):
        np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.thorough
def test_a_clone_is_the_same_network_with_other_weights(name):
    network, _ = made(name)
    for clone in (keras.models.clone_model(network), as_json(network)):
        assert type(clone) is type(network)
        assert clone.get_config() == network.get_config()
        shapes = [(v.path, tuple(v.shape)) for v in network.variables]
        assert [(v.path, tuple(v.shape)) for v in clone.variables] == shapes
        assert not all(
            np.array_equal(a, b) for a, b in zip(values(clone), values(network), strict=True)
        )


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "float16"])
@pytest.mark.parametrize("cls", [UNet, DiffusionModel])
def test_a_copy_has_the_policy_of_its_original_whatever_the_global_one_is(cls, dtype):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        network, _ = made("unet" if cls is UNet else "DiffusionModel")
    finally:
        keras.config.set_dtype_policy(before)
    copied = as_json(network)
    assert keras.config.dtype_policy() == before
    for old, new in zip(network._flatten_layers(), copied._flatten_layers(), strict=True):
        assert new.dtype_policy == old.dtype_policy
    assert copied.dtype_policy.name == dtype


@pytest.mark.parametrize("name", ["unet", "Decoder"])
def test_a_file_that_cannot_be_written_leaves_the_old_one(name, tmp_path):
    network, _ = made(name)
    path = tmp_path / "network.keras"
    network.save(path)
    old = path.read_bytes()
    network.get_config = lambda: {"config": object()}
    with pytest.raises(TypeError):
        network.save(path)
    assert path.read_bytes() == old
    assert [each.name for each in tmp_path.iterdir()] == ["network.keras"]
    again = keras.models.load_model(path)
    for old, new in zip(values(network), values(again), strict=True):
        np.testing.assert_array_equal(new, old)


def test_what_is_frozen_is_frozen_in_the_copy():
    network, _ = made("TextEncoder")
    network.trainable = False
    network.layers[2].token_embedding.trainable = True
    copied = copy.deepcopy(network)
    assert [v.path for v in copied.trainable_variables] == [
        v.path for v in network.trainable_variables
    ]
    assert not copied.trainable
    assert copied.layers[2].token_embedding.trainable


def test_adapters_are_in_the_weights_of_the_copy():
    network, given = made("text_encoder")
    before = result(network, given)
    layer = network.blocks[0].hidden
    layer.enable_lora(2)
    layer.lora_kernel_b.assign(ops.ones_like(layer.lora_kernel_b.value))
    adapted = result(network, given)
    assert np.abs(adapted - before).max() > 1e-3
    np.testing.assert_allclose(result(copy.deepcopy(network), given), adapted, atol=1e-5)


def test_what_is_quantized_is_quantized_in_the_copy():
    network, given = made("text_encoder")
    network.blocks[0].hidden.quantize("int8")
    copied = copy.deepcopy(network)
    assert copied.blocks[0].hidden.dtype_policy.quantization_mode == "int8"
    assert copied.blocks[1].hidden.dtype_policy.quantization_mode is None
    np.testing.assert_array_equal(result(copied, given), result(network, given))


def test_a_quantization_that_cannot_be_made_again_is_refused():
    network, _ = made("text_encoder")
    network.blocks[0].hidden.quantize("float8")
    with pytest.raises(ValueError, match="hidden is quantized to float8, and only int8"):
        copy.deepcopy(network)


def test_a_config_that_is_none_is_refused_by_its_number():
    config = UNet(TINY.unet).get_config()
    config["config"]["groups"] = "many"
    with pytest.raises(ValueError, match=r"UNet\.groups: expected int"):
        UNet.from_config(config)
    assert isinstance(UNet(TINY.unet).config, UNetConfig)
