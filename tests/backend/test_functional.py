"""The networks of the wing as the functional models that KerasCV had of them."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import ops
from tiny import TINY, TINY_2

from keras_sd.config import SD_1, AutoencoderConfig
from keras_sd.keras_cv import constants, names
from keras_sd.keras_cv.parts import PartSource
from keras_sd.models.stable_diffusion import Decoder, DiffusionModel, ImageEncoder, TextEncoder
from keras_sd.networks.initializers import weights_follow
from keras_sd.precision import policy_scope

AUTOENCODER = AutoencoderConfig(widths=(32, 64, 64), blocks=2)
MODELS = [replace(TINY, autoencoder=AUTOENCODER), replace(TINY_2, autoencoder=AUTOENCODER)]
RANDOM = np.random.default_rng(0)
SHAPES = {
    "text_encoder": ([(None, 77), (None, 77)], (None, 77, 64)),
    "unet": ([(None, 6, 10, 4), None, (None, 77, 64)], (None, 6, 10, 4)),
    "decoder": ((None, 6, 10, 4), (None, 24, 40, 3)),
    "encoder": ((None, None, None, 3), (None, None, None, 4)),
}
TABLES = {
    "text_encoder": lambda config: names.text_encoder(config.text_encoder),
    "unet": lambda config: names.unet(config.unet),
    "decoder": lambda config: names.decoder(config.autoencoder),
    "encoder": lambda config: names.encoder(config.autoencoder),
}
every = pytest.mark.parametrize("kind", TABLES)
both = pytest.mark.parametrize("config", MODELS, ids=["1.x", "2.x"])


def made(kind, config, sizes=(24, 40)):
    source = PartSource("small", config)
    cls, numbers = {
        "text_encoder": (TextEncoder, (77, config.text_encoder.vocab_size)),
        "unet": (DiffusionModel, (*sizes, 77)),
        "decoder": (Decoder, sizes),
        "encoder": (ImageEncoder, ()),
    }[kind]
    network = cls(*numbers, preset=source, download_weights=False)
    if kind == "unet":  # whose last convolution begins with zeros
        network.conv_out.kernel.assign(ops.ones_like(network.conv_out.kernel.value) * 0.01)
    return network


def given(kind, config):
    normal = RANDOM.standard_normal
    if kind == "text_encoder":
        return [np.arange(154, dtype="int32").reshape(2, 77), np.arange(77, dtype="int32")[None]]
    if kind == "unet":
        time = normal((2, config.unet.widths[0]), np.float32)
        return [normal((2, 6, 10, 4), np.float32), time, normal((2, 77, 64), np.float32)]
    if kind == "decoder":
        return normal((2, 6, 10, 4), np.float32)
    return normal((2, 24, 40, 3), np.float32)


@both
@every
def test_the_graph_computes_what_the_network_does(kind, config):
    network = made(kind, config)
    inputs = given(kind, config)
    graph = keras.Model(network.input, network.output)
    found = ops.convert_to_numpy(graph(inputs))
    np.testing.assert_allclose(found, ops.convert_to_numpy(network(inputs)), atol=2e-5, rtol=1e-4)
    assert np.abs(found).max() > 1e-3


@both
@every
def test_layers_are_in_keras_cv_s_order(kind, config):
    """Which is that of the weights in its files."""
    network = made(kind, config)
    paths = [v.path.split("/", 1)[1] for layer in network.layers for v in layer.variables]
    assert paths == [entry.path for entry in TABLES[kind](config)]


@every
def test_at_full_size_there_are_as_many_layers_as_in_keras_cv(kind):
    with weights_follow():
        network = made(kind, SD_1, (512, 512))
    kinds = [type(layer).__name__ for layer in network.layers]
    counts = {"text_encoder": 16, "unet": 66, "decoder": 27, "encoder": 20}
    assert len(kinds) == counts[kind]
    ends = {
        "text_encoder": (["InputLayer", "InputLayer", "CLIPEmbedding"], ["LayerNormalization"]),
        "unet": (["InputLayer", "Dense", "InputLayer"], ["GroupNorm", "Activation", "Conv"]),
        "decoder": (["Rescaling", "Conv", "Conv"], ["GroupNorm", "Activation", "Conv"]),
        "encoder": (["Conv", "ResidualBlock"], ["Activation", "Conv", "Conv", "ScaledMean"]),
    }
    first, last = ends[kind]
    assert kinds[: len(first)] == first
    assert kinds[-len(last) :] == last


@every
def test_shapes(kind):
    network = made(kind, MODELS[0])
    inputs, output = SHAPES[kind]
    if kind == "unet":
        inputs = [inputs[0], (None, MODELS[0].unet.widths[0]), inputs[2]]
    assert network.input_shape == inputs
    assert network.output_shape == output
    assert tuple(network.output.shape) == output
    assert network.layers[-1].output.shape == output
    assert [each.name for each in network.inputs] == {
        "text_encoder": ["tokens", "positions"],
        "unet": ["latent", "timestep_embedding", "context"],
        "decoder": ["latents"],
        "encoder": ["images"],
    }[kind]


@every
def test_the_shape_that_a_layer_says_is_the_one_that_it_gives(kind):
    """Keras is told them, so that a graph costs nothing. A height of 3 is halved unevenly."""
    config = MODELS[0]
    unet = replace(config.unet, widths=(32, 32, 64), heads=(8, 8, 8), depths=(1, 1, 0))
    config = replace(config, unet=unet)
    network = made(kind, config)
    outputs = [layer.output for layer in network.layers]
    found = keras.Model(network.input, outputs)(given(kind, config))
    for layer, said, there in zip(network.layers, outputs, found, strict=True):
        assert len(said.shape) == len(there.shape), layer.name
        for a, b in zip(said.shape, there.shape, strict=True):
            assert a in (None, b), layer.name


def test_a_model_that_is_cut_out_has_the_weights_of_the_network():
    network = made("text_encoder", MODELS[0])
    inputs = given("text_encoder", MODELS[0])
    cut = keras.Model(network.inputs, network.layers[-2].output)
    clip_skip = ops.convert_to_numpy(cut(inputs))
    np.testing.assert_allclose(
        ops.convert_to_numpy(network.norm(ops.convert_to_tensor(clip_skip))),
        ops.convert_to_numpy(network(inputs)),
        atol=2e-5,
    )
    network.blocks[0].out.bias.assign(network.blocks[0].out.bias + 1)
    assert np.abs(ops.convert_to_numpy(cut(inputs)) - clip_skip).max() > 0.5


def test_a_graph_is_drawn_when_it_is_asked_for_and_once():
    network = made("unet", MODELS[0])
    assert not network.down[0].residual._inbound_nodes
    assert network.as_functional() is network.as_functional()
    assert network.input[0] is network.inputs[0]
    assert len(network.down[0].residual._inbound_nodes) == 1
    before = [v.path for v in network.variables]
    assert [v.path for v in made("unet", MODELS[0]).variables] == before
    assert len(network._flatten_layers()) == len(made("unet", MODELS[0])._flatten_layers())


@every
def test_in_half_precision_the_result_is_float32_and_the_rest_is_not(kind):
    with policy_scope("mixed_bfloat16"):
        network = made(kind, MODELS[0])
    computed = network.layers[-2].output
    assert keras.backend.standardize_dtype(computed.dtype) == "bfloat16"
    if kind in ("unet", "decoder"):
        assert keras.backend.standardize_dtype(network.output.dtype) == "float32"


# What programs import and call besides


def test_constants():
    table = SD_1.noise.table()
    assert list(table.alphas_cumprod) == constants._ALPHAS_CUMPROD
    assert constants._ALPHAS_CUMPROD[0] == pytest.approx(0.99915, abs=1e-6)
    assert constants._ALPHAS_CUMPROD[-1] == pytest.approx(0.0046599, abs=1e-6)
    assert [49406, *[49407] * 76] == constants._UNCONDITIONAL_TOKENS
    from keras_sd.models.stable_diffusion import constants as old

    assert old._ALPHAS_CUMPROD is constants._ALPHAS_CUMPROD
    assert old._UNCONDITIONAL_TOKENS is constants._UNCONDITIONAL_TOKENS


@pytest.mark.parametrize("given", [(), (False,), (24, 40), (24, 40, False)])
def test_an_image_encoder_is_called_as_in_every_version(given, monkeypatch):
    asked = []
    monkeypatch.setattr(PartSource, "load", lambda self, model: asked.append(model))
    monkeypatch.setattr(PartSource, "checkpoint", None)
    encoder = ImageEncoder(*given, preset=PartSource("small", MODELS[0]))
    assert bool(asked) == (False not in given)
    assert encoder(np.zeros((1, 8, 8, 3), "float32")).shape == (1, 2, 2, 4)


@pytest.mark.parametrize("given", [(24,), (24, 40, 1), ("x",), (1, 2, 3, True), (None, None)])
def test_an_image_encoder_that_there_never_was(given):
    with pytest.raises(TypeError, match="img_height, img_width and download_weights as in"):
        ImageEncoder(*given)
