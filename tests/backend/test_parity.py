"""Our networks and samplers against diffusers and transformers, on small random checkpoints.

The checkpoints and what the libraries make of them are files, written by
`fixtures/make_model_goldens.py`; differences are relative to the largest number of an output.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from keras import ops

from keras_sd import get_sampler
from keras_sd.backend import compile_step
from keras_sd.conditions import Conditions
from keras_sd.config import AutoencoderConfig, TextEncoderConfig, UNetConfig
from keras_sd.denoiser import Denoiser, compiled_steps
from keras_sd.guidance import Guidance
from keras_sd.levels import make_levels
from keras_sd.networks import Autoencoder, TextEncoder, UNet, layers
from keras_sd.networks.text_encoder import ACTIVATIONS
from keras_sd.networks.unet import timestep_embedding
from keras_sd.noise import NoiseTable
from keras_sd.sampling import sample
from keras_sd.weights import names
from keras_sd.weights.load import load_state_dict
from keras_sd.weights.names import diffusers
from keras_sd.weights.readers import read_file

FIXTURES = Path(__file__).parents[1] / "fixtures"
TOLERANCE = 2e-5
STEPS, GUIDANCE = 20, 7.5

TEXT = {"vocab_size": 64, "max_length": 10, "width": 16, "depth": 2, "mlp_width": 32}
CONFIGS = {
    "sd1": {
        "text_encoder": TextEncoderConfig(**TEXT, heads=2, activation="quick_gelu"),
        "unet": UNetConfig(
            widths=(8, 12, 16),
            heads=(2, 2, 2),
            depths=(1, 1, 0),
            blocks=2,
            context_width=16,
            groups=4,
        ),
        "autoencoder": AutoencoderConfig(widths=(8, 12, 16), blocks=2, groups=4),
    },
    "sd2": {
        "text_encoder": TextEncoderConfig(**TEXT, heads=4, activation="gelu"),
        "unet": UNetConfig(
            widths=(8, 16, 24),
            heads=(1, 2, 4),
            depths=(0, 2, 1),
            blocks=1,
            context_width=16,
            groups=4,
            linear_projection=True,
        ),
        "autoencoder": AutoencoderConfig(widths=(8, 16), blocks=1, groups=4),
    },
}
PARTS = {
    "text_encoder": (TextEncoder, diffusers.text_encoder, "text_encoder."),
    "unet": (UNet, diffusers.unet, "unet."),
    "autoencoder": (Autoencoder, diffusers.autoencoder, "vae."),
}
both_models = pytest.mark.parametrize("model", CONFIGS)
sizes = pytest.mark.parametrize(
    ("model", "size"), [("sd1", "odd"), ("sd2", "even"), ("sd2", "odd")]
)


@cache
def goldens(model):
    with np.load(FIXTURES / f"{model}_goldens.npz") as file:
        return dict(file)


def build(model, part):
    """A network with the reference's weights."""
    make, table, prefix = PARTS[part]
    config = CONFIGS[model][part]
    tensors = read_file(FIXTURES / f"{model}.safetensors").tensors
    network = make(config)
    load_state_dict(
        network,
        {name: value for name, value in tensors.items() if name.startswith(prefix)},
        names.under(prefix, "", table(config)),
    )
    return network


network = cache(build)


@cache
def compiled(model, part, method="__call__"):
    """A method of a network as it runs in a pipeline."""
    return compile_step(getattr(network(model, part), method), [network(model, part)])


def reference_run(model, part, method="__call__"):
    """sd1 compiled, sd2 eagerly: both ways are held to the reference."""
    if model == "sd1":
        return compiled(model, part, method)
    return getattr(network(model, part), method)


def last(array):
    """Channels last, as we have them."""
    return np.moveaxis(array, -3, -1)


def difference(ours, reference):
    """The largest difference over the largest magnitude."""
    ours = ops.convert_to_numpy(ours)
    assert ours.shape == reference.shape
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


def text_difference(model, encoder=None):
    known = goldens(model)
    encoder = encoder or reference_run(model, "text_encoder")
    return difference(encoder(known["tokens"]), known["context"])


def unet_difference(model, size, t, unet=None):
    known = goldens(model)
    timesteps = np.full(2, t, "float32")
    unet = unet or reference_run(model, "unet")
    return difference(
        unet(last(known[f"latents/{size}"]), timesteps, known["context"]),
        last(known[f"unet/{size}/{t}"]),
    )


def encode_difference(model, autoencoder=None):
    known = goldens(model)
    moments = autoencoder.moments if autoencoder else reference_run(model, "autoencoder", "moments")
    mean, logvar = moments(last(known["images"]))
    return max(
        difference(mean, last(known["mean"])),
        difference(logvar, last(known["logvar"])),
    )


def decode_difference(model, size, autoencoder=None):
    known = goldens(model)
    decode = autoencoder.decode if autoencoder else reference_run(model, "autoencoder", "decode")
    latents = last(known[f"latents/{size}"]) * np.float32(0.18215)
    return difference(decode(latents), last(known[f"decoded/{size}"]))


@both_models
def test_text_encoder(model):
    assert text_difference(model) < TOLERANCE


@sizes
@pytest.mark.parametrize("t", [1.0, 951.0, 500.25])
def test_unet(model, size, t):
    assert unet_difference(model, size, t) < TOLERANCE


def test_the_timestep_counts():
    known = goldens("sd1")
    assert difference(known["unet/odd/1.0"], known["unet/odd/951.0"]) > 0.05
    assert difference(known["unet/odd/500.25"], known["unet/odd/951.0"]) > 0.05


@both_models
def test_encoder(model):
    assert encode_difference(model) < TOLERANCE


@sizes
def test_decoder(model, size):
    assert decode_difference(model, size) < TOLERANCE


def test_encode_and_decode_apply_the_scale():
    autoencoder = network("sd2", "autoencoder")
    images = last(goldens("sd2")["images"])
    mean, logvar = (ops.convert_to_numpy(x) for x in autoencoder.moments(images))
    noise = ops.ones(mean.shape)
    sampled = (mean + np.exp(logvar / 2)) * 0.18215
    assert difference(autoencoder.encode(images), mean * 0.18215) < 1e-6
    assert difference(autoencoder.encode(images, noise), sampled) < 1e-6


@cache
def steps_of(model):
    return compiled_steps(network(model, "unet"), "epsilon")


RUNS = {
    "ddim": ("ddim", {}, "leading", "first"),
    "ddim-eta-1": ("ddim", {"eta": 1.0}, "leading", "first"),
    "pndm": ("pndm", {}, "leading", "first"),
    "euler-linspace": ("euler", {}, "linspace", "zero"),
    "euler-leading": ("euler", {}, "leading", "zero"),
}


def run_difference(model, run):
    sampler, settings, schedule, final_sigma = RUNS[run]
    known = goldens(model)
    levels = make_levels(schedule, NoiseTable.scaled_linear(), STEPS, final_sigma=final_sigma)
    told, untold = (
        Conditions({"context": ops.convert_to_tensor(known["context"][i : i + 1])}) for i in (0, 1)
    )
    given = {level: last(noise) for level, noise in zip(levels, known["noise"], strict=False)}
    steps = sample(
        get_sampler(sampler, **settings),
        Denoiser(steps_of(model), told, untold, Guidance(GUIDANCE)),
        ops.convert_to_tensor(np.ascontiguousarray(last(known["start"]))),
        levels,
        lambda now, nxt: ops.convert_to_tensor(np.ascontiguousarray(given[now])),
    )
    *_, end = steps
    return difference(end.latent, last(known[f"run/{run}"]))


@both_models
@pytest.mark.parametrize("run", RUNS)
def test_latents_after_20_steps(model, run):
    assert run_difference(model, run) < TOLERANCE


# What must not pass: each mutation is one mistake in one network.


def group_norms(epsilon, to):
    def mutate(net):
        found = [
            layer
            for layer in net._flatten_layers()
            if isinstance(layer, layers.GroupNorm) and layer.epsilon == epsilon
        ]
        assert found
        for layer in found:
            layer.epsilon = to

    return mutate


def layer_norms(to):
    def mutate(net):
        found = [layer for layer in net._flatten_layers() if "LayerNorm" in type(layer).__name__]
        assert found
        for layer in found:
            layer.epsilon = to

    return mutate


def pads(pad):
    def mutate(net):
        found = [layer for layer in net._flatten_layers() if isinstance(layer, layers.Downsample)]
        assert found
        for layer in found:
            layer.pad.padding = (pad, pad)

    return mutate


def activation(name):
    def mutate(net):
        for block in net.blocks:
            block.activation = ACTIVATIONS[name]

    return mutate


def not_causal(net):
    for block in net.blocks:
        block.attention.causal = False


def fewer_heads(net):
    found = [layer for layer in net._flatten_layers() if isinstance(layer, layers.Attention)]
    for layer in found:
        layer.heads = max(layer.heads // 2, 1)
    assert found


def swapped_projections(net):
    layer = next(layer for layer in net._flatten_layers() if isinstance(layer, layers.Attention))
    layer.query, layer.key = layer.key, layer.query


@pytest.mark.parametrize(
    ("model", "mutate"),
    [
        ("sd1", layer_norms(1e-6)),
        ("sd1", layer_norms(1e-3)),
        ("sd1", activation("gelu")),
        ("sd2", activation("quick_gelu")),
        ("sd1", not_causal),
        ("sd1", fewer_heads),
        ("sd1", swapped_projections),
    ],
)
def test_a_mistake_in_the_text_encoder_shows(model, mutate):
    encoder = build(model, "text_encoder")
    mutate(encoder)
    assert text_difference(model, encoder) > 2 * TOLERANCE


@pytest.mark.parametrize(
    "mutate",
    [
        group_norms(1e-5, 1e-6),
        group_norms(1e-6, 1e-5),
        layer_norms(1e-6),
        pads((0, 1)),
        fewer_heads,
    ],
)
@pytest.mark.thorough
def test_a_mistake_in_the_unet_shows(mutate):
    unet = build("sd2", "unet")
    mutate(unet)
    assert unet_difference("sd2", "even", 951.0, unet) > 2 * TOLERANCE


def test_the_gelu_of_the_unet_is_exact(monkeypatch):
    exact = ops.gelu
    monkeypatch.setattr(layers.ops, "gelu", lambda x, approximate: exact(x, approximate=True))
    assert unet_difference("sd2", "even", 951.0) > 2 * TOLERANCE


def test_rounded_timesteps_show():
    known = goldens("sd1")
    unet, latents = reference_run("sd1", "unet"), last(known["latents/odd"])
    rounded = unet(latents, np.full(2, 500, "float32"), known["context"])
    assert difference(rounded, last(known["unet/odd/500.25"])) > 2 * TOLERANCE


@pytest.mark.parametrize("mutate", [group_norms(1e-6, 1e-5), pads((1, 0)), pads((1, 1))])
def test_a_mistake_in_the_encoder_shows(mutate):
    autoencoder = build("sd2", "autoencoder")
    mutate(autoencoder)
    try:
        shown = encode_difference("sd2", autoencoder)
    except AssertionError:  # another shape
        return
    assert shown > 2 * TOLERANCE


def test_a_mistake_in_the_decoder_shows():
    autoencoder = build("sd2", "autoencoder")
    group_norms(1e-6, 1e-5)(autoencoder)
    assert decode_difference("sd2", "odd", autoencoder) > 2 * TOLERANCE


def test_timestep_embedding_is_cosines_then_sines():
    frequencies = 10000.0 ** (-np.arange(4) / 4)
    angles = np.array([0.0, 1.0, 500.25])[:, None] * frequencies
    expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)
    ours = timestep_embedding(ops.convert_to_tensor([0.0, 1.0, 500.25]), 8)
    assert difference(ours, expected) < 1e-4  # an angle of 500 in float32


@pytest.mark.references
def test_the_goldens_are_what_the_libraries_make(tmp_path):
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    path = FIXTURES / "make_model_goldens.py"
    spec = importlib.util.spec_from_file_location("make_model_goldens", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.write(tmp_path)
    for model in CONFIGS:
        made = read_file(tmp_path / f"{model}.safetensors").tensors
        kept = read_file(FIXTURES / f"{model}.safetensors").tensors
        assert made.keys() == kept.keys()
        for name, value in kept.items():
            np.testing.assert_array_equal(made[name], value, err_msg=name)
        with np.load(tmp_path / f"{model}_goldens.npz") as file:
            remade = dict(file)
        assert remade.keys() == goldens(model).keys()
        for name, value in goldens(model).items():
            assert difference(remade[name], value) < 1e-5, name
