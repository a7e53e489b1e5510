"""The three networks: sizes, dtypes, first weights, saving."""

from __future__ import annotations

import mmap

import keras
import ml_dtypes
import numpy as np
import pytest
from keras import ops

from keras_sd import backend
from keras_sd.backend import compile_step
from keras_sd.config import AutoencoderConfig, TextEncoderConfig, UNetConfig
from keras_sd.networks import Autoencoder, TextEncoder, UNet
from keras_sd.networks.initializers import (
    HostConstant,
    HostUniform,
    host_zeros,
    weights_follow,
)
from keras_sd.weights.load import load_state_dict, variables_of
from keras_sd.weights.names import diffusers

TEXT = TextEncoderConfig(vocab_size=40, max_length=6, width=8, depth=1, heads=2, mlp_width=16)
SPATIAL = UNetConfig(
    widths=(8, 12), heads=(2, 2), depths=(0, 1), blocks=1, context_width=8, groups=4
)
IMAGES = AutoencoderConfig(widths=(4, 8), blocks=1, groups=4)
NETWORKS = [(TextEncoder, TEXT), (UNet, SPATIAL), (Autoencoder, IMAGES)]
each_network = pytest.mark.parametrize(
    ("network", "config"), NETWORKS, ids=[network.__name__ for network, _ in NETWORKS]
)

rng = np.random.default_rng(1)
TOKENS = rng.integers(0, 40, (2, 6)).astype("int32")
LATENTS = rng.standard_normal((2, 5, 3, 4), dtype=np.float32)
CONTEXT = rng.standard_normal((2, 6, 8), dtype=np.float32)
PICTURES = rng.uniform(-1, 1, (2, 4, 6, 3)).astype("float32")
TIMES = np.array([951.0, 1.5], "float32")
GIVEN = {TextEncoder: (TOKENS,), UNet: (LATENTS, TIMES, CONTEXT), Autoencoder: (PICTURES,)}


def make(network, config, policy="float32"):
    """A network with lively weights, the same for every policy."""
    old = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        made = network(config)
    finally:
        keras.config.set_dtype_policy(old)
    values = np.random.default_rng(0)
    for variable in made.weights:
        mean = 1.0 if variable.path.endswith("gamma") else 0.0
        scale = np.prod(variable.shape[:-1]) ** -0.5 if len(variable.shape) > 1 else 0.2
        variable.assign((mean + scale * values.standard_normal(variable.shape)).astype("float32"))
    return made


def run(made, *given):
    """One call, compiled: on jax many times faster than an operation at a time."""
    result = compile_step(made, [made])(*(ops.convert_to_tensor(x) for x in given))
    return ops.convert_to_numpy(ops.cast(result, "float32"))


def out(made):
    return run(made, *GIVEN[type(made)])


@each_network
def test_every_variable_has_a_path_of_its_own(network, config):
    with weights_follow():
        made = network(config, name="mine")
    paths = [variable.path for variable in made.weights]
    assert len(set(paths)) == len(paths)
    assert all(path.startswith("mine/") for path in paths)


@pytest.fixture(scope="module")
def unet():
    return make(UNet, SPATIAL)


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (1, 1)])
def test_one_unet_runs_at_any_size(size, unet):
    latents = rng.standard_normal((3, *size, 4), dtype=np.float32)
    context = rng.standard_normal((3, 6, 8), dtype=np.float32)
    assert run(unet, latents, np.full(3, 10, "float32"), context).shape == (3, *size, 4)


def test_one_autoencoder_runs_at_any_size():
    autoencoder = make(Autoencoder, IMAGES)
    encode = compile_step(autoencoder.encode, [autoencoder])
    decode = compile_step(autoencoder.decode, [autoencoder])
    for height, width in ((8, 8), (6, 10)):
        latents = encode(ops.zeros((1, height, width, 3)))
        assert tuple(latents.shape) == (1, height // 2, width // 2, 4)
        assert tuple(decode(latents).shape) == (1, height, width, 3)


@each_network
@pytest.mark.parametrize(
    ("policy", "tolerance"),
    [
        ("mixed_float16", 0.01),
        ("bfloat16", 0.08),
    ],
)
@pytest.mark.thorough
def test_low_precision_is_close(network, config, policy, tolerance):
    exact, made = out(make(network, config)), make(network, config, policy)
    low = out(made)
    assert np.abs(low - exact).max() < tolerance * np.abs(exact).max()
    assert np.abs(low - exact).max() > 1e-6  # it was another precision
    expected = "float32" if policy.startswith("mixed") else policy
    assert {variable.dtype for variable in made.weights} == {expected}


@pytest.mark.parametrize("policy", ["float16", "mixed_bfloat16"])
@pytest.mark.thorough
def test_what_stays_float32(policy):
    unet, autoencoder = make(UNet, SPATIAL, policy), make(Autoencoder, IMAGES, policy)
    predict = compile_step(unet, [unet])
    decode = compile_step(autoencoder.decode, [autoencoder])
    given = [ops.convert_to_tensor(x) for x in (LATENTS, TIMES, CONTEXT)]
    for tensor in (predict(*given), decode(given[0])):
        assert keras.backend.standardize_dtype(tensor.dtype) == "float32"

    # The timesteps are not rounded: in float16 both are 951, in bfloat16 952.
    at, later = (
        ops.convert_to_numpy(
            predict(given[0], ops.convert_to_tensor(np.full(2, t, "float32")), given[2])
        )
        for t in (951.0, 951.2)
    )
    assert np.abs(at - later).max() > 1e-3


@each_network
@pytest.mark.thorough
def test_weights_saved_and_loaded_give_the_same(network, config, tmp_path):
    made = make(network, config)
    path = tmp_path / "network.weights.h5"
    made.save_weights(path)
    again = network(config)
    again.load_weights(path)
    np.testing.assert_array_equal(out(again), out(made))


def test_kernels_lie_in_memory_as_the_backend_reads_them(tmp_path):
    if backend.NAME != "torch":
        assert backend.memory_order(4) == (0, 1, 2, 3)
        assert backend.memory_order(2, linear=True) == (0, 1)
        return
    made = make(Autoencoder, IMAGES)
    kernels = [variable for variable in made.weights if len(variable.shape) == 4]

    def laid_out():
        import torch

        views = [kernel.value.permute(3, 2, 0, 1) for kernel in kernels]
        return all(view.is_contiguous(memory_format=torch.channels_last) for view in views)

    assert len(kernels) > 10
    assert laid_out()
    path = tmp_path / "network.weights.h5"
    made.save_weights(path)
    made.load_weights(path)
    assert laid_out()
    made.compile("sgd", "mse")
    made.train_on_batch(PICTURES, PICTURES)
    assert laid_out()
    with weights_follow():
        kernels = [variable for variable in Autoencoder(IMAGES).weights if variable.ndim == 4]
    assert laid_out()


@pytest.mark.skipif(backend.NAME != "torch", reason="others have one order")
def test_linear_maps_lie_as_files_have_them():
    encoder, table = TextEncoder(TEXT), diffusers.text_encoder(TEXT)
    flat = [entry for entry in table if len(entry.shape) == 2]
    assert [entry.layout for entry in flat].count("linear") == 6
    values = np.random.default_rng(0)
    state = {entry.name: values.normal(size=entry.file_shape) for entry in table}
    for loads in (lambda: None, lambda: load_state_dict(encoder, state, table)):
        loads()
        for entry in flat:
            value = variables_of(encoder)[entry.path].value
            assert (value.T if entry.layout == "linear" else value).is_contiguous()


@each_network
def test_the_seed_decides_the_first_weights(network, config):
    def first(seed):
        keras.utils.set_random_seed(seed)
        return network(config).get_weights()

    once, again, other = first(1), first(1), first(2)
    assert all(np.array_equal(a, b) for a, b in zip(once, again, strict=True))
    kernels = [(a, b) for a, b in zip(once, other, strict=True) if a.ndim > 1 and a.any()]
    assert kernels
    assert all(not np.array_equal(a, b) for a, b in kernels)


def test_first_weights_are_the_same_on_every_backend():
    keras.utils.set_random_seed(5)
    drawn = ops.convert_to_numpy(HostUniform()((3, 3, 2, 2), "float32"))
    limit = (6 / 36) ** 0.5
    assert np.abs(drawn).max() <= limit
    assert np.abs(drawn).max() > 0.9 * limit
    golden = [0.24899167, -0.33844018, 0.0962854]
    np.testing.assert_allclose(drawn.ravel()[:3], golden, rtol=0, atol=1e-7)
    assert ops.convert_to_numpy(HostConstant(2.0)((2,), "float32")).tolist() == [2, 2]


@each_network
def test_zeros_where_weights_follow(network, config):
    with weights_follow():
        made = network(config)
    assert not any(value.any() for value in made.get_weights())
    assert any(value.any() for value in network(config).get_weights())


def test_the_text_encoder_is_causal():
    encoder = make(TextEncoder, TEXT)
    changed = TOKENS.copy()
    changed[:, 4] = (changed[:, 4] + 1) % 40
    before, after = (run(encoder, tokens) for tokens in (TOKENS, changed))
    np.testing.assert_allclose(after[:, :4], before[:, :4], atol=1e-6)
    assert np.abs(after[:, 4:] - before[:, 4:]).max() > 1e-3


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_large_zeros_have_pages_of_their_own(dtype):
    large, small = host_zeros((512, 513), dtype), host_zeros((3, 0), dtype)
    assert isinstance(large.base.base.obj, mmap.mmap)
    assert isinstance(small, np.ndarray)
    assert (large.shape, small.shape) == ((512, 513), (3, 0))
    assert large.dtype == small.dtype == getattr(ml_dtypes, dtype, dtype)
    assert not large.astype("float32").any()
    variable = keras.Variable(ops.convert_to_tensor(large, dtype), dtype=dtype)
    values = host_zeros((512, 513), dtype)
    values[...] = np.arange(513)
    variable.assign(values)
    del values
    kept = ops.convert_to_numpy(ops.cast(variable.value, "float32"))
    np.testing.assert_array_equal(kept, np.tile(np.arange(513).astype(large.dtype), (512, 1)))


def test_what_attentions_make_of_a_text_may_be_given():
    unet = make(UNet, SPATIAL)
    latents, times, context = map(ops.convert_to_tensor, GIVEN[UNet])
    pairs = unet.pairs(context)
    assert len(pairs) == len(SPATIAL.cross_attentions)
    for (key, value), (_, width) in zip(pairs, SPATIAL.cross_attentions, strict=True):
        assert tuple(key.shape) == tuple(value.shape) == (*context.shape[:2], width)
    wanted = run(unet, *GIVEN[UNet])
    nothing = ops.zeros_like(context)
    found = ops.convert_to_numpy(unet(latents, times, nothing, pairs=pairs))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
    other = ops.convert_to_numpy(unet(latents, times, nothing))
    assert np.abs(other - wanted).max() > 1e-4
