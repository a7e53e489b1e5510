"""Precision: policies, what stays float32 in them, and what happens when numbers overflow."""

from __future__ import annotations

import logging

import keras
import numpy as np
import pytest
from keras import ops

from keras_sd import StableDiffusion, backend
from keras_sd.conditions import Conditions
from keras_sd.config import AutoencoderConfig
from keras_sd.denoiser import Denoiser, compiled_steps
from keras_sd.guidance import Guidance
from keras_sd.networks import Autoencoder
from keras_sd.networks.layers import layer_norm
from keras_sd.noise import Level
from keras_sd.precision import POLICIES, FiniteStep, check_policy, finite_steps, policy_scope
from keras_sd.sampling import Step

PROMPT = "a cat face on a blue background"
rng = np.random.default_rng(11)


def normal(*shape):
    return rng.standard_normal(shape).astype("float32")


def array(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def global_policy():
    return keras.config.dtype_policy().name


# Policies


@pytest.mark.parametrize(
    ("given", "name"),
    [
        *((name, name) for name in POLICIES),
        (keras.DTypePolicy("mixed_bfloat16"), "mixed_bfloat16"),
        (np.float16, "float16"),
        (np.dtype("float32"), "float32"),
        (None, "float32"),
    ],
)
def test_policies(given, name):
    assert check_policy(given).name == name


@pytest.mark.parametrize(
    "wrong",
    [
        "half",
        "float64",
        "int8",
        "int8_from_float32",
        "float8_e4m3fn",
        "mixed_int8",
        "",
        16,
        keras.DTypePolicy("float64"),
        keras.dtype_policies.DTypePolicyMap(),
        {"unet": "float16"},
    ],
)
def test_another_dtype_is_one_error_that_lists_what_there_is(wrong):
    with pytest.raises(ValueError, match=r"nothing that .* compute in on .*; there is float32,"):
        check_policy(wrong)
    # Before anything is looked for: there is no such preset.
    with pytest.raises(ValueError, match="there is float32, mixed_float16"):
        StableDiffusion.from_preset("no-such-preset", dtype=wrong)
    assert global_policy() == "float32"


def test_the_global_policy_is_checked_too():
    keras.config.set_dtype_policy("float64")
    try:
        with pytest.raises(ValueError, match=r"global dtype policy .*float64.* is nothing that"):
            StableDiffusion.from_preset("emoji")
    finally:
        keras.config.set_dtype_policy("float32")


def test_a_scope_leaves_the_global_policy_as_it_was():
    old = keras.config.dtype_policy()
    with policy_scope("mixed_bfloat16"):
        assert global_policy() == "mixed_bfloat16"
        with policy_scope(None):
            assert global_policy() == "mixed_bfloat16"
    assert keras.config.dtype_policy() is old
    with pytest.raises(KeyError), policy_scope("float16"):
        raise KeyError
    assert keras.config.dtype_policy() is old


# What stays float32


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_layer_norm_has_float32_statistics(dtype):
    x = normal(3, 64) + 300  # the squares overflow float16, bfloat16 has 3 digits of the mean
    with policy_scope(dtype):
        low = layer_norm(64, "norm")
    full = layer_norm(64, "norm", low.epsilon)
    for layer in (low, full):
        layer.build((None, 64))
    rounded = ops.cast(x, dtype)
    expected = array(full(ops.cast(rounded, "float32")))
    assert np.abs(array(low(rounded)) - expected).max() < 0.01 * np.abs(expected).max()


def softmax_attention(query, key, value):
    scores = np.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(query.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("bhqk,bkhd->bqhd", weights / weights.sum(-1, keepdims=True), value)


FORMS = [backend.attention, backend.attention_plain, backend._attention_chunked]


def attend(form, *given):
    """As a run has it: without gradients, compiled."""
    return array(backend.compile_step(form, [])(*given))


@pytest.mark.parametrize("form", FORMS)
def test_attention_scores_do_not_overflow_float16(form):
    query, key, value = 400 * normal(1, 6, 2, 64), 400 * normal(1, 5, 2, 64), normal(1, 5, 2, 64)
    given = [ops.cast(x, "float16") for x in (query, key, value)]
    expected = softmax_attention(*(array(x).astype("float64") for x in given))
    assert np.abs(np.einsum("bqhd,bkhd->bhqk", query, key)).max() / 8 > 1.5 * 65504
    np.testing.assert_allclose(attend(form, *given), expected, atol=5e-3)


@pytest.mark.parametrize("form", FORMS)
def test_attention_sums_do_not_overflow_float16(form):
    # Every weight is as large as the largest: the sum of the values before it is divided is 1e5.
    value = np.full((1, 1024, 1, 8), 100.0) + normal(1, 1024, 1, 8)
    given = [ops.cast(x, "float16") for x in (np.zeros((1, 3, 1, 8)), np.zeros_like(value), value)]
    expected = array(given[2]).mean(1, keepdims=True).repeat(3, 1)
    np.testing.assert_allclose(attend(form, *given), expected, rtol=1e-3)


@pytest.mark.parametrize("form", FORMS)
def test_attention_scores_are_not_rounded(form):
    # In bfloat16 these scores, about 500, would be rounded to multiples of 2 or 4.
    query, key, value = 9 * normal(2, 6, 2, 64), 9 * normal(2, 5, 2, 64), normal(2, 5, 2, 64)
    given = [ops.cast(x, "bfloat16") for x in (query, key, value)]
    expected = softmax_attention(*(array(x).astype("float64") for x in given))
    assert np.abs(attend(form, *given) - expected).mean() < 5e-3


# The embedded model


GIVEN = {"num_steps": 3, "diffusion_noise": normal(16, 16, 8)}


@pytest.fixture(scope="module")
def exact(emoji):
    return emoji.text_to_image(PROMPT, **GIVEN).astype(float)


@pytest.fixture(scope="module")
def low():
    made = StableDiffusion.from_preset("emoji", dtype="mixed_float16")
    assert global_policy() == "float32"
    return made


def test_the_dtypes_that_a_policy_means(low):
    for network in low.networks.values():
        assert (network.compute_dtype, network.variable_dtype) == ("float16", "float32")
        assert {variable.dtype for variable in network.weights} == {"float32"}


def test_a_run_is_close_to_float32(low, exact):
    steps = list(low.stream(PROMPT, **GIVEN))
    difference = np.abs(steps[-1].image().astype(float) - exact).mean()
    assert 0 < difference < 0.15
    for step in steps:
        for x in (step.latent, step.x0):
            assert keras.backend.standardize_dtype(x.dtype) == "float32"
            rounded = array(ops.cast(x, "float16"))
            assert np.abs(rounded - array(x)).max() > 1e-5  # it was nowhere rounded


def test_encodings_and_latents_are_float32(low):
    for tensor in (low.encode_text(PROMPT), low.encode(np.zeros((64, 64, 3), "uint8"))):
        assert keras.backend.standardize_dtype(tensor.dtype) == "float32"


@pytest.mark.parametrize("policy", ["float16", "bfloat16"])
def test_weights_of_sixteen_bits_are_saved_and_loaded(policy, emoji, tmp_path):
    low = StableDiffusion.from_preset("emoji", dtype=policy)
    low.save_preset(tmp_path / "saved")
    again = StableDiffusion.from_preset(tmp_path / "saved", dtype=policy)
    for name, network in low.networks.items():
        both = zip(network.weights, again.networks[name].weights, strict=True)
        for (a, b), full in zip(both, emoji.networks[name].weights, strict=True):
            assert a.dtype == b.dtype == policy
            saved, loaded, whole = (ops.convert_to_numpy(v.value) for v in (a, b, full))
            np.testing.assert_array_equal(saved, whole.astype(saved.dtype))
            np.testing.assert_array_equal(saved, loaded)


def test_a_unet_that_overflows_is_an_error_that_names_the_policy(low):
    bias = low.unet.conv_out.bias
    old = array(bias.value)
    bias.assign(np.full(old.shape, np.nan))
    try:
        with pytest.raises(FloatingPointError, match="the policy mixed_float16"):
            low.text_to_image(PROMPT, **GIVEN)
    finally:
        bias.assign(old)


def test_guidance_is_float32():
    class Network:
        """Predicts the same for everybody: 1/3 without a text, 1/7 with one."""

        variables = ()

        def __call__(self, x, t, context):
            return ops.zeros_like(x) + context

    contexts = [ops.convert_to_tensor(np.full((1, 1, 1, 1), v, "float32")) for v in (1 / 7, 1 / 3)]
    with policy_scope("bfloat16"):
        told = (Conditions({"context": each}) for each in contexts)
        denoise = Denoiser(compiled_steps(Network(), "v"), *told, Guidance(7.5))
        found = array(denoise(ops.ones((1, 2, 2, 4)), Level(501.0, 0.6, 0.8)))
    np.testing.assert_allclose(found, 0.6 - 0.8 * (1 / 3 + 7.5 * (1 / 7 - 1 / 3)), rtol=1e-6)


# What is not finite

TINY = AutoencoderConfig(widths=(4,), blocks=1, groups=2)
LATENTS = normal(2, 3, 4, 4)
GAIN = 6e4


def warned(caplog):
    """Our warnings: TensorFlow has others, of its own compiling."""
    return [record.getMessage() for record in caplog.records if record.name == "keras_sd"]


def autoencoder(policy, gain=1.0):
    """Its first convolution multiplies by `gain`, and its norms take that back."""
    with policy_scope(policy):
        made = Autoencoder(TINY)
    values = np.random.default_rng(5)
    for variable in made.weights:
        if len(variable.shape) > 1:
            scale = np.prod(variable.shape[:-1]) ** -0.5
            variable.assign(scale * values.standard_normal(variable.shape))
    made.decoder.conv_in.kernel.assign(gain * array(made.decoder.conv_in.kernel.value))
    return made


def tensors(*arrays):
    return [ops.convert_to_tensor(x) for x in arrays]


@pytest.fixture(scope="module")
def decoded():
    """What the autoencoder with the gain makes of the latents in float32."""
    return array(FiniteStep(autoencoder("float32", GAIN), "decode")(*tensors(LATENTS)))


@pytest.mark.parametrize("policy", ["mixed_float16", "float16"])
def test_what_overflows_is_computed_again_in_float32(policy, decoded, caplog):
    made = autoencoder(policy, GAIN)
    step = FiniteStep(made, "decode")
    assert not np.isfinite(array(step._step(*tensors(LATENTS)))).all()
    bias = made.decoder.conv_out.bias
    for value in (0, 3):  # the weights stay live
        bias.assign(np.full(3, value))
        with caplog.at_level(logging.WARNING, logger="keras_sd"):
            caplog.clear()
            found = array(step(*tensors(LATENTS)))
        (message,) = warned(caplog)
        assert f"the policy {policy}" in message
        # The weights of the policy float16 are rounded.
        np.testing.assert_allclose(found, decoded + value, rtol=0, atol=5e-3)
        assert np.abs(found - value - decoded).mean() < 1e-3


@pytest.mark.parametrize(("policy", "gain"), [("bfloat16", GAIN), ("float16", 1)])
def test_what_is_finite_is_computed_once(policy, gain, caplog):
    decode = FiniteStep(autoencoder(policy, gain), "decode")
    with caplog.at_level(logging.WARNING, logger="keras_sd"):
        assert np.isfinite(array(decode(*tensors(LATENTS)))).all()
    assert not warned(caplog)
    assert decode._float32 is None


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_damaged_weights_are_an_error(policy, caplog):
    made = autoencoder(policy)
    made.decoder.conv_out.bias.assign(np.full(3, np.nan))
    with pytest.raises(FloatingPointError, match=r"cannot decode.*weights are damaged"):
        FiniteStep(made, "decode")(*tensors(LATENTS))
    assert len(warned(caplog)) == (policy != "float32")


def test_latents_that_are_not_finite_are_an_error(caplog):
    decode = FiniteStep(autoencoder("float16"), "decode")
    with pytest.raises(FloatingPointError, match=r"cannot decode what it was given.*'float32'"):
        decode(*tensors(np.where(LATENTS > 1, np.nan, LATENTS)))
    assert not warned(caplog)


def run_of(*latents):
    total = len(latents)
    for i, latent in enumerate(latents, 1):
        x = ops.convert_to_tensor(np.array([1.0, latent], "float32"))
        yield Step(i, total, Level(1.0, 0.6, 0.8), x, x, i)


def indices(steps, policy):
    seen = []
    watched = finite_steps(steps, keras.DTypePolicy(policy))
    with pytest.raises(FloatingPointError) as error:
        seen.extend(step.index for step in watched)
    return seen, str(error.value)


def test_a_latent_that_is_not_finite_ends_the_run():
    seen, message = indices(run_of(0, 1, np.nan, np.nan, np.nan), "mixed_float16")
    assert seen == [1, 2, 3]
    assert "after step 3 of 5 under the policy mixed_float16" in message
    assert "'mixed_bfloat16' or 'float32'" in message
    seen, message = indices(run_of(0, np.inf), "bfloat16")
    assert seen == [1]
    assert "after step 2 of 2 under the policy bfloat16: the weights are damaged" in message


def test_steps_that_are_finite_pass_and_are_closed():
    steps = run_of(0, 1, 2)
    assert [step.index for step in finite_steps(steps, keras.DTypePolicy("float16"))] == [1, 2, 3]
    steps = run_of(0, 1, 2)
    watched = finite_steps(steps, keras.DTypePolicy("float16"))
    next(watched)
    watched.close()
    assert list(steps) == []
