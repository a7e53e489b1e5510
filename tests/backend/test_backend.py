"""Fast paths against their plain forms, and the compiled step."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import ops

from keras_sd import backend
from keras_sd.backend import to_numpy
from keras_sd.networks.layers import Attention, GroupNorm, conv, dense, layer_norm
from keras_sd.precision import policy_scope

rng = np.random.default_rng(3)


def normal(*shape):
    return ops.convert_to_tensor(rng.standard_normal(shape, dtype=np.float32))


def close(a, b, tolerance=1e-5):
    a, b = (ops.convert_to_numpy(ops.cast(x, "float32")) for x in (a, b))
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize("epsilon", [1e-6, 1e-1])
def test_group_norm_is_its_plain_form_and_keras_own(epsilon):
    x, scale, offset = 3 * normal(2, 5, 3, 12) + 1, normal(12), normal(12)
    ours = backend.group_norm(x, 4, scale, offset, epsilon)
    close(ours, backend.group_norm_plain(x, 4, scale, offset, epsilon))
    layer = keras.layers.GroupNormalization(4, epsilon=epsilon)
    layer.build(x.shape)
    layer.gamma.assign(scale)
    layer.beta.assign(offset)
    close(ours, layer(x))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_group_norm_has_float32_statistics(dtype):
    # The squares of these overflow float16, and bfloat16 has 3 digits of their mean.
    x, scale, offset = 20 * normal(1, 8, 8, 4) + 300, normal(4), normal(4)
    low = ops.cast(x, dtype)
    expected = backend.group_norm_plain(ops.cast(low, "float32"), 2, scale, offset, 1e-6)
    for form in (backend.group_norm, backend.group_norm_plain):
        ours = form(low, 2, scale, offset, 1e-6)
        assert keras.backend.standardize_dtype(ours.dtype) == dtype
        close(ours, expected, 1e-2)


@pytest.mark.skipif(backend.NAME != "torch", reason="of torch")
@pytest.mark.parametrize("learns", [(0, 1, 2), (0,), (1, 2)])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-5), ("float16", 4e-3), ("bfloat16", 3e-2)]
)
def test_group_norm_on_torch_has_the_gradient_of_its_plain_form(dtype, tolerance, learns):
    import torch

    given = 3 * normal(2, 5, 3, 12) + 1, normal(12), normal(12)
    towards = normal(2, 5, 3, 12)
    gradients = []
    for form in (backend.group_norm, backend.group_norm_plain):
        x, *rest = (each.clone().requires_grad_(i in learns) for i, each in enumerate(given))
        low = x.to(getattr(torch, dtype))
        with torch.enable_grad():
            (form(low, 4, *rest, 1e-5).float() * towards).sum().backward()
        gradients.append([each.grad for each in (x, *rest)])
    for ours, plain in zip(*gradients, strict=True):
        assert (ours is None) == (plain is None)
        if ours is not None:
            close(ours, plain, tolerance)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_linear_is_its_plain_form_and_keras_own(dtype, bias):
    with policy_scope(dtype):
        ours, keras_own = dense(6, 4, "ours", bias), keras.layers.Dense(4, use_bias=bias)
    x = ops.cast(normal(2, 3, 6), dtype)
    for layer in (ours, keras_own):
        layer.build(x.shape)
    for variable, other in zip(ours.variables, keras_own.variables, strict=True):
        variable.assign(normal(*variable.shape))
        other.assign(variable)
    weights = [ops.convert_to_tensor(v) for v in ours.variables] + [None] * (not bias)
    found = ours(x)
    assert keras.backend.standardize_dtype(found.dtype) == dtype
    tolerance = {"float32": 1e-6, "float16": 2e-3, "bfloat16": 2e-2}[dtype]
    close(found, keras_own(x), tolerance)
    close(found, backend.linear_plain(x, *weights), tolerance)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_layer_norm_has_float32_statistics(dtype):
    # The squares of these overflow float16, and bfloat16 has 3 digits of their mean.
    x, scale, offset = (ops.cast(x, dtype) for x in (20 * normal(2, 3, 8) + 300, *normal(2, 8)))
    expected = keras.layers.LayerNormalization(epsilon=1e-5)
    expected.build(x.shape)
    expected.gamma.assign(scale)
    expected.beta.assign(offset)
    for form in (backend.layer_norm, backend.layer_norm_plain):
        ours = form(x, scale, offset, 1e-5)
        assert keras.backend.standardize_dtype(ours.dtype) == dtype
        close(ours, expected(ops.cast(x, "float32")), 1e-5 if dtype == "float32" else 1e-2)


def attention_by_numpy(query, key, value, causal):
    query, key, value = (ops.convert_to_numpy(x).astype("float64") for x in (query, key, value))
    scores = np.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(query.shape[-1])
    if causal:
        scores = np.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bhqk,bkhd->bqhd", weights, value)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("form", [backend.attention, backend.attention_plain])
def test_attention(form, causal):
    query, key, value = (2 * normal(2, 7, 3, 4) for _ in range(3))
    close(form(query, key, value, causal), attention_by_numpy(query, key, value, causal))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("form", [backend.attention, backend.attention_plain])
def test_attention_on_what_is_seen(form, causal):
    query, key, value = (2 * normal(2, 7, 3, 4) for _ in range(3))
    seen = np.ones((2, 7), bool)
    seen[0, [2, 5]] = seen[1, 1:4] = False
    found = to_numpy(form(query, key, value, causal, ops.convert_to_tensor(seen)))
    for row in range(2):
        for place in range(7):
            there = seen[row] & ((np.arange(7) <= place) | (not causal))
            rest = (to_numpy(x)[row : row + 1, there] for x in (key, value))
            one = to_numpy(query)[row : row + 1, place : place + 1]
            expected = attention_by_numpy(one, *rest, False)
            np.testing.assert_allclose(found[row, place], expected[0, 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", [backend.attention, backend.attention_plain])
def test_attention_on_a_context_of_another_length(form):
    query, key, value = normal(2, 7, 3, 4), normal(2, 5, 3, 4), normal(2, 5, 3, 4)
    close(form(query, key, value), attention_by_numpy(query, key, value, False))


@pytest.mark.parametrize("queries", [7, 9, 20])
def test_attention_in_chunks(monkeypatch, queries):
    monkeypatch.setattr(backend, "CHUNK_QUERIES", 3)
    query, key, value = normal(2, queries, 3, 4), normal(2, 5, 3, 4), normal(2, 5, 3, 4)
    expected = attention_by_numpy(query, key, value, False)
    close(backend._attention_chunked(query, key, value), expected)

    calls = []
    chunked = backend._attention_chunked
    monkeypatch.setattr(backend, "CHUNK_SCORES", 1)
    close(chunked(query, key, value), expected)  # in a loop
    monkeypatch.setattr(
        backend, "_attention_chunked", lambda *args: calls.append(1) or chunked(*args)
    )
    close(backend.attention(query, key, value), expected)
    if backend.NAME == "jax":
        import jax

        assert len(calls) == (jax.default_backend() == "cpu")
    else:
        assert not calls


def a_card(capability, platform="cuda 13000"):
    """What jax calls a device, as far as its attention asks."""
    client = SimpleNamespace(platform_version=f"PJRT C API\n{platform}")
    return SimpleNamespace(platform="gpu", client=client, compute_capability=capability)


@pytest.mark.parametrize(
    ("features", "keys", "dtype", "device", "takes"),
    [
        (40, 4096, "bfloat16", a_card("9.0"), True),
        (40, 77, "float16", a_card("8.0"), True),
        (40, 4096, "float32", a_card("9.0"), False),
        (160, 4096, "bfloat16", a_card("9.0"), True),
        (160, 4096, "bfloat16", a_card("8.6"), False),
        (512, 4096, "bfloat16", a_card("12.0"), False),  # the autoencoder's
        (36, 4096, "bfloat16", a_card("9.0"), False),
        (40, 16, "bfloat16", a_card("9.0"), False),
        (40, 4096, "float16", a_card("7.5"), False),
        (40, 4096, "float16", a_card("gfx942", "rocm 70000"), False),
    ],
)
def test_which_attention_jax_has_fused(features, keys, dtype, device, takes):
    assert backend.takes_fused((2, 4096, 8, features), keys, dtype, device) is takes


@pytest.mark.skipif(backend.NAME != "jax", reason="of jax")
@pytest.mark.parametrize("causal", [False, True])
def test_jax_calls_its_fused_attention_where_it_takes_it(monkeypatch, causal):
    import jax

    plain, asked = jax.nn.dot_product_attention, []

    def fused(*qkv, is_causal, implementation):
        asked.append(implementation)
        return plain(*qkv, is_causal=is_causal)

    monkeypatch.setattr(jax.nn, "dot_product_attention", fused)
    qkv = normal(2, 9, 3, 4), normal(2, 9, 3, 4), normal(2, 9, 3, 4)
    expected = attention_by_numpy(*qkv, causal)
    close(backend.attention(*qkv, causal), expected)
    assert not asked
    monkeypatch.setattr(backend, "takes_fused", lambda *about: True)
    close(backend.attention(*qkv, causal), expected)
    assert asked == ["cudnn"]


@pytest.mark.skipif(backend.NAME != "jax", reason="of jax")
def test_jax_asks_for_the_device_that_is_computed_on():
    import jax

    cpu = jax.devices("cpu")[0]
    for chosen in ("cpu", cpu):
        with jax.default_device(chosen):
            assert backend._jax_device() == cpu
    assert backend._jax_device() == jax.devices()[0]


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(3, 1, "same"), (1, 1, "same"), (3, 2, "valid")]
)
def test_conv2d_is_keras_own(kernel, stride, padding):
    x = normal(2, 7, 6, 4)
    layer = keras.layers.Conv2D(
        5, kernel, stride, padding, data_format="channels_last", bias_initializer="normal"
    )
    expected = layer(x)
    weights, bias = (ops.convert_to_tensor(v) for v in (layer.kernel, layer.bias))
    close(backend.conv2d(x, weights, bias, stride, padding), expected)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_conv2d_of_a_kernel_in_another_order_is_the_same(dtype):
    kernel = rng.standard_normal((3, 3, 8, 16), dtype=np.float32)
    order = backend.memory_order(4)
    laid = kernel.transpose(order).copy().transpose(np.argsort(order))
    x, bias = ops.cast(normal(2, 6, 5, 8), dtype), ops.cast(normal(16), dtype)
    plain, strided = (
        backend.conv2d(x, ops.convert_to_tensor(k, dtype), bias, 1, "same") for k in (kernel, laid)
    )
    assert keras.backend.standardize_dtype(plain.dtype) == dtype
    close(strided, plain, 1e-6 if dtype == "float32" else 1e-2)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("lacking", [True, False])
def test_products_in_16_bits_are_those_of_float32_rounded_once(dtype, lacking, monkeypatch):
    monkeypatch.setattr(backend, "_lacks", lambda given: lacking and "16" in str(given))
    x, q, k, v = normal(2, 6, 5, 64), *(normal(1, 40, 2, 8) for _ in range(3))
    kernel, weights, bias = normal(3, 3, 64, 16), normal(64, 16), normal(16)
    for form, given in (
        (lambda *all: backend.conv2d(*all, 1, "same"), (x, kernel, bias)),
        (backend.linear, (x, weights, bias)),
        (lambda x, w, _: backend.linear(x, w, None), (x, weights, bias)),
        (backend.attention, (q, k, v)),
    ):
        low = [ops.cast(each, dtype) for each in given]
        form = backend.compile_step(form, [])  # where torch records no gradient
        found = form(*low)
        assert keras.backend.standardize_dtype(found.dtype) == dtype
        exact = to_numpy(form(*(ops.cast(each, "float32") for each in low)))
        found, rounded = to_numpy(found), exact.astype(to_numpy(found).dtype)
        if lacking and backend.NAME == "torch":
            np.testing.assert_array_equal(found, rounded)
        else:
            close(found, exact, 1e-2)


def test_matmul_float32():
    a, b = normal(2, 3, 5), normal(2, 5, 4)
    for dtype in ("float32", "float16", "bfloat16"):
        low = [ops.cast(x, dtype) for x in (a, b)]
        found = backend.matmul_float32(*low)
        assert keras.backend.standardize_dtype(found.dtype) == "float32"
        close(found, ops.matmul(*(ops.cast(x, "float32") for x in low)), 1e-6)


@pytest.mark.parametrize("jit_compile", [True, False, "auto"])
def test_a_compiled_step_sees_new_weights(jit_compile):
    layer = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    step = backend.compile_step(lambda x, scale: layer(x) * scale, [layer], jit_compile)
    x, kernel = normal(4, 3), layer.layers[0].kernel
    for factor in (1.0, -3.0):
        kernel.assign(np.full((3, 2), factor, "float32"))
        expected = 2 * factor * ops.convert_to_numpy(x).sum(-1, keepdims=True).repeat(2, -1)
        out = step(x, ops.convert_to_tensor(np.float32(2)))
        np.testing.assert_allclose(ops.convert_to_numpy(out), expected, rtol=1e-5, atol=1e-5)


def test_a_compiled_step_is_traced_once_a_shape():
    if backend.NAME == "torch":
        pytest.skip("torch runs eagerly")
    layer = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    traces = []
    step = backend.compile_step(lambda x, t: traces.append(1) or layer(x) + t, [layer], True)
    for t in (1.0, 2.0, 3.0):
        step(normal(4, 3), ops.convert_to_tensor(np.float32(t)))
    assert len(traces) == 1
    step(normal(5, 3), ops.convert_to_tensor(np.float32(0)))
    assert len(traces) == 2


@pytest.mark.parametrize("wrong", ["yes", None, 2])
def test_jit_compile_is_checked(wrong):
    with pytest.raises(ValueError, match="True, False or 'auto', not"):
        backend.resolve_jit_compile(wrong)


def test_torch_switches_jit_compile_off_with_one_line(caplog):
    torch = backend.NAME == "torch"
    with caplog.at_level(logging.INFO, logger="keras_sd"):
        assert backend.resolve_jit_compile(False) is False
        automatic = backend.resolve_jit_compile("auto")
        assert not caplog.records
        assert backend.resolve_jit_compile(True) is (not torch)
    assert automatic is (backend.NAME == "jax") or backend.NAME == "tensorflow"
    assert len(caplog.records) == torch


def blocks():
    """A block with every kind of layer that is called directly, and what it is called with."""
    attention = Attention(8, 2, "attention", context_width=6)
    layers = [conv(4, 8, "conv"), GroupNorm(8, 2, 1e-5, "norm"), layer_norm(8, "layer_norm")]
    for layer in (attention, *layers):
        layer.build(getattr(layer, "input_width_shape", None))

    def run(image, context):
        x = layers[1](layers[0](image))
        tokens = layers[2](ops.reshape(x, (2, 9, 8)))
        return attention(tokens, context=context)

    return [attention, *layers], run, [normal(2, 3, 3, 4), normal(2, 5, 6)]


@pytest.mark.parametrize("policy", ["float32", "float16", "bfloat16"])
def test_a_direct_call_gives_what_keras_own_gives(monkeypatch, policy):
    with policy_scope(policy):
        layers, run, inputs = blocks()
    inputs = [ops.cast(x, policy) for x in inputs]
    found = backend.compile_step(run, layers)(*inputs)
    assert keras.backend.standardize_dtype(found.dtype) == policy
    monkeypatch.setattr(backend, "calls_directly", lambda layer, inputs: False)
    through_keras = backend.compile_step(run, layers)(*inputs)
    assert keras.backend.standardize_dtype(through_keras.dtype) == policy
    np.testing.assert_array_equal(to_numpy(found), to_numpy(through_keras))


@pytest.mark.skipif(backend.NAME != "torch", reason="of torch")
def test_a_call_is_direct_only_where_keras_own_does_nothing():
    import torch

    layer = dense(4, 4, "dense")
    x = torch.ones((2, 4))
    with torch.no_grad():
        assert not backend.calls_directly(layer, [x])  # it has no variables yet
        layer.build((None, 4))
        assert backend.calls_directly(layer, [x])
        assert not backend.calls_directly(layer, [x.half()])
        assert not backend.calls_directly(layer, [np.ones((2, 4), np.float32)])
        for policy in ("float16", "bfloat16"):
            with policy_scope(policy):
                half = dense(4, 4, "half")
            half.build((None, 4))
            assert backend.calls_directly(half, [x.to(getattr(torch, policy))])
            assert not backend.calls_directly(half, [x])
            assert half(x).dtype == getattr(torch, policy)
        np.testing.assert_array_equal(layer(np.ones((2, 4), np.float32)), layer(x))
        layer.quantize("int8")
        assert not backend.calls_directly(layer, [x])
        with policy_scope("mixed_bfloat16"):
            mixed = dense(4, 4, "mixed")
        mixed.build((None, 4))
        assert not backend.calls_directly(mixed, [x])
        assert mixed(x).dtype == torch.bfloat16
    other = dense(4, 4, "other")
    other.build((None, 4))
    assert not backend.calls_directly(other, [x])
    other(x).sum().backward()
    assert other.kernel.value.grad is not None


@pytest.mark.skipif(backend.NAME != "torch", reason="of torch")
def test_a_step_on_torch_calls_its_layers_directly(monkeypatch):
    layers, run, inputs = blocks()
    through_keras = []
    original = keras.layers.Layer.__call__

    def spy(self, *args, **kwargs):
        through_keras.append(self.name)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(keras.layers.Layer, "__call__", spy)
    backend.compile_step(run, layers)(*inputs)
    assert through_keras == []
    run(*inputs)
    assert set(through_keras) > {"attention", "conv", "norm", "layer_norm"}
    through_keras.clear()
    # What a `call` does not know, Keras takes away.
    backend.compile_step(lambda x: layers[1](x, training=False), layers)(inputs[0])
    assert through_keras == ["conv"]
