"""The only file that names a backend: compiling a step, and the few fast paths that need one.

Everything else in keras_sd is `keras.ops` and `keras.layers`. Each function here has a plain
`keras.ops` form that the others must equal (tests/backend/test_backend.py).
"""

from __future__ import annotations

import functools
import gc
import importlib.util
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras
import ml_dtypes
import numpy as np
from keras import ops

from keras_sd import executables
from keras_sd.costs import CHUNK_QUERIES, CHUNK_SCORES
from keras_sd.devices import spread

logger = logging.getLogger("keras_sd")

NAME = keras.backend.backend()
"""`"jax"`, `"tensorflow"`, `"torch"` (or another that Keras runs on, without the fast paths)."""

JitCompile = bool | Literal["auto"]

HAS_XLA = NAME != "torch"
"""Whether XLA can compile at all."""

# Of networks with fewer numbers, compiling takes longer than it will spare in a few pictures.
_LARGE = 2**27

# From this many scores of one head on, what a fused kernel spares is more than a launch.
_FUSED_SCORES = 2**17

_HALVES = ("float16", "bfloat16")
_PURE = ("float32", *_HALVES)


def resolve_jit_compile(
    jit_compile: JitCompile, models: Sequence[keras.layers.Layer] = (), often: bool = False
) -> bool:
    """Whether XLA will compile: what was asked for, as far as the backend can.

    Args:
        jit_compile: `"auto"` is yes on jax, and on TensorFlow where there is a GPU. On a CPU it is
            yes there for what is called often, if what is compiled is kept on disk or the networks
            are large: a UNet's steps take two thirds of the time with XLA, a decode takes longer.
            torch runs eagerly whatever is asked; `True` there logs one line that says so.
        models: the networks.
        often: they are called in each step of a run.

    Raises:
        ValueError: `jit_compile` is not `True`, `False` or `"auto"`.
    """
    if jit_compile not in (True, False, "auto"):
        raise ValueError(f"jit_compile is True, False or 'auto', not {jit_compile!r}")
    if NAME == "torch":
        if jit_compile is True:
            logger.warning("jit_compile=True is switched off on torch: the step runs eagerly.")
        return False
    if jit_compile != "auto":
        return jit_compile
    if NAME == "tensorflow":
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            return True
        return often and (keep_executables() is not None or _numbers(models) >= _LARGE)
    return NAME == "jax"


def _numbers(models: Sequence[keras.layers.Layer]) -> int:
    """How many their variables hold."""
    return sum(math.prod(variable.shape) for model in models for variable in model.variables)


def compile_step(
    fn: Callable[..., Any],
    models: Sequence[keras.layers.Layer],
    jit_compile: JitCompile = "auto",
    *,
    often: bool = False,
) -> Callable[..., Any]:
    """One compiled call per input shape; the models' weights stay live.

    Args:
        fn: a pure function of tensors, and of dicts and tuples of them, that calls `models`.
        models: networks or layers, whose variables `fn` reads. On jax they are passed as arguments,
            so that an `assign` is seen by the next call.
        jit_compile: see `resolve_jit_compile`.
        often: likewise.

    Returns:
        A function of the same tensors. It is of the networks as they are now: see `structure`. On
        torch it records no gradient, unless a tensor that it is given requires one.

    Raises:
        ValueError: `jit_compile` is something else.
    """
    jit = resolve_jit_compile(jit_compile, models, often)
    if NAME == "jax":
        import jax

        if jit:
            keep_executables()
        variables = [variable for model in models for variable in model.variables]

        def stateless(state, args):
            with keras.StatelessScope(state_mapping=list(zip(variables, state, strict=True))):
                return fn(*args)

        run = jax.jit(stateless) if jit else stateless
        return lambda *args: run([variable.value for variable in variables], spread(args))
    if NAME == "tensorflow":
        import tensorflow as tf

        # One trace a shape: a relaxed shape would hide sizes that the networks compute with.
        return tf.function(fn, jit_compile=jit, autograph=False)
    if NAME == "torch":
        return _torch_step(fn)
    return fn


@functools.cache
def keep_executables() -> str | None:
    """Lets jax keep what it compiles in `keras_sd.executables.folder`, where it keeps it nowhere.

    Returns:
        The folder that is used, of TensorFlow the one that it was told of in its environment; None
        where there is none, since it is switched off, cannot be written to, or the backend keeps
        nothing on disk.
    """
    if NAME == "tensorflow":
        kept = executables.of_tensorflow()
        return None if kept is None else str(kept)
    if NAME != "jax":
        return None
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    config: Any = jax.config
    if config.jax_compilation_cache_dir or not config.jax_enable_compilation_cache:
        return config.jax_compilation_cache_dir
    if (folder := executables.chosen()) is None:
        return None
    if importlib.util.find_spec("filelock") is None:
        logger.info("What is compiled is not kept: jax needs filelock to keep the folder small")
        return None
    if not executables.made(folder):
        return None
    config.update("jax_compilation_cache_max_size", executables.MAX_BYTES)
    # By default it keeps what took a second; a small model's steps take less, and there are many.
    config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
    config.update("jax_compilation_cache_dir", str(folder))
    compilation_cache.reset_cache()  # what was compiled before has settled that there is none
    return str(folder)


def _torch_step(fn: Callable[..., Any]) -> Callable[..., Any]:
    import torch

    def step(*args: Any) -> Any:
        wanted = torch.is_grad_enabled() and any(
            isinstance(leaf, torch.Tensor) and leaf.requires_grad
            for leaf in keras.tree.flatten(args)
        )
        with torch.set_grad_enabled(wanted):
            return fn(*args)

    return step


def to_numpy(x: Any) -> np.ndarray:
    """The numbers of a tensor or variable on the host, in memory of their own.

    It is `keras.ops.convert_to_numpy`, but on torch without the warning that NumPy 2 has for the
    way in which Keras 3.15 copies.
    """
    if NAME == "torch":
        import torch

        value = getattr(x, "value", x)
        if isinstance(value, torch.Tensor) and value.dtype != torch.bfloat16:
            return value.detach().cpu().numpy().copy()
        if isinstance(value, torch.Tensor):
            return value.detach().cpu().float().numpy().astype(ml_dtypes.bfloat16)
    return np.asarray(ops.convert_to_numpy(x))


def adopt(value: np.ndarray) -> Any:
    """An array of the host as a tensor, for the value of a variable. On a CPU its memory is taken
    over as it lies, so that nobody may write to it afterwards; Keras would copy it on torch and
    TensorFlow.
    """
    if NAME == "torch":
        import torch

        if value.dtype == ml_dtypes.bfloat16:  # which torch does not know of NumPy's
            return torch.from_numpy(value.view(np.uint16)).view(torch.bfloat16)
        return torch.from_numpy(value)
    aligned = value.ctypes.data % 64 == 0 and value.flags.c_contiguous
    if NAME == "tensorflow" and aligned and value.dtype != ml_dtypes.bfloat16:
        import tensorflow as tf

        return tf.experimental.dlpack.from_dlpack(value.__dlpack__())
    return ops.convert_to_tensor(value, value.dtype.name)


def put(variable: keras.Variable, value: np.ndarray) -> None:
    """Gives a variable its value, of its own shape and dtype, which nobody writes to afterwards."""
    if NAME == "torch" and variable.value.device.type == "cpu":
        variable.value.data = adopt(value)
    else:
        variable.assign(adopt(value))


def supplied(batches: keras.utils.PyDataset) -> Any:
    """Batches for `fit`: on TensorFlow Keras takes the sizes of the first two for those of all.

    Args:
        batches: each a tuple of one dictionary of arrays, of the same names and last axes in all.
    """
    if NAME != "tensorflow":
        return batches
    import tensorflow as tf

    spec = {
        name: tf.TensorSpec((*[None] * max(1, each.ndim - 1), *each.shape[1:][-1:]), each.dtype)
        for name, each in batches[0][0].items()
    }
    count = len(batches)
    found = tf.data.Dataset.from_generator(
        lambda: map(batches.__getitem__, range(count)), output_signature=(spec,)
    )
    return found.apply(tf.data.experimental.assert_cardinality(count))


def release() -> None:
    """Frees the memory of networks that are gone: they refer to themselves, and torch keeps it."""
    gc.collect()
    if NAME == "torch":
        importlib.import_module("torch").cuda.empty_cache()


def structure(models: Sequence[keras.layers.Layer]) -> tuple[Any, ...]:
    """What a compiled step is made for: two structures that are equal need one step.

    It is the networks, their variables and their layers' dtype policies. Values of variables are
    none of it; `enable_lora`, `quantize` and another layer change it.

    Args:
        models: the networks that the step calls.
    """
    return tuple(
        (
            _Same(model),
            tuple(map(_Same, model.variables)),
            tuple(layer.dtype_policy.name for layer in model._flatten_layers()),
        )
        for model in models
    )


class _Same:
    """An object that is equal to itself alone, and is kept, so that no other takes its place."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


def calls_directly(layer: keras.layers.Layer, inputs: Sequence[Any]) -> bool:
    """Whether a call of `layer` may go straight to its `call`.

    What Keras does around each call (dtypes, masks, shapes, losses) takes 0.1 ms, which a compiled
    program does not have and an eager one has hundreds of times a step: on torch, half of the time
    of a small model, and on a GPU more than the GPU's own. Where weights and inputs are of one
    dtype and no gradient is asked for, none of it does anything.

    Args:
        layer: without a mask, a loss of its own, or a difference between training and not.
        inputs: what it is called with, by position.
    """
    if NAME != "torch":
        return False
    import torch

    policy = layer.dtype_policy.name  # a mixed policy casts weights; a quantized layer's has a mode
    dtype = getattr(torch, policy) if policy in _PURE else None
    return (
        dtype is not None
        and not torch.is_grad_enabled()
        and layer.built
        and all(type(x) is torch.Tensor and x.dtype == dtype for x in inputs)
    )


def memory_order(axes: int, linear: bool = False) -> tuple[int, ...]:
    """The order in which the axes of a weight should lie in memory, slowest first.

    torch's convolutions read a kernel `(height, width, in, out)` as `(out, height, width, in)`, and
    else lay it out anew at every call: up to half of the time where kernels are large and images
    small. The kernel `(in, out)` of a linear map it takes in either order as quickly, so that it
    lies as most files have it, `(out, in)`: always, for the order of sums is another. A variable
    keeps the strides of the value it is made with.

    Args:
        axes: of the weight; those with four are kernels of convolutions.
        linear: it is the kernel of a linear map.
    """
    if NAME == "torch" and axes == 4:
        return (3, 0, 1, 2)
    return (1, 0) if NAME == "torch" and linear and axes == 2 else tuple(range(axes))


@functools.cache
def _lacks(dtype: Any) -> bool:
    """Whether the processor has no instructions for products of a dtype of torch in 16 bits: its
    kernels take 5 to 90 times as long then as those of float32, which convert what they are given.
    """
    import torch

    known = {
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported,
    }
    return dtype in known and not known[dtype]()


def _in_float32(x: Any) -> bool:
    """Whether torch is faster in float32 at a product with `x`, conversions counted."""
    return x.device.type == "cpu" and _lacks(x.dtype)


def conv2d(x, kernel, bias, stride: int, padding: str):
    """Convolution of `(batch, height, width, channels)` with a `(height, width, in, out)` kernel.

    On torch the channels-last view goes to the convolution as it is; Keras copies it twice. The
    kernel goes as it is too, if it lies in memory as `memory_order` says.
    """
    if NAME == "torch":
        import torch

        if _in_float32(x):
            exact = conv2d(x.float(), kernel.float(), bias.float(), stride, padding)
            return exact.to(x.dtype)
        return torch.nn.functional.conv2d(
            x.permute(0, 3, 1, 2),
            kernel.permute(3, 2, 0, 1),
            bias,
            stride,
            "same" if padding == "same" else 0,
        ).permute(0, 2, 3, 1)
    return ops.conv(x, kernel, stride, padding, data_format="channels_last") + bias


def linear(x, kernel, bias):
    """`x @ kernel + bias` for the last axis of `x`; without a bias where that is None.

    On torch the product and the sum are one operation.
    """
    if NAME == "torch" and x.dtype == kernel.dtype:
        import torch

        if _in_float32(x):
            bias = None if bias is None else bias.float()
            return torch.nn.functional.linear(x.float(), kernel.float().T, bias).to(x.dtype)
        return torch.nn.functional.linear(x, kernel.T, bias)
    return linear_plain(x, kernel, bias)


def linear_plain(x, kernel, bias):
    """`linear` in `keras.ops` alone."""
    product = ops.matmul(x, kernel)
    return product if bias is None else ops.add(product, bias)


def layer_norm(x, scale, offset, epsilon: float):
    """Layer normalisation (Ba et al. 2016) of the last axis, with float32 statistics.

    On torch they are float32 inside of the kernel; Keras copies what has 16 bits before and after.
    """
    if NAME == "torch" and x.dtype == scale.dtype:
        import torch

        return torch.nn.functional.layer_norm(x, scale.shape, scale, offset, epsilon)
    return layer_norm_plain(x, scale, offset, epsilon)


def layer_norm_plain(x, scale, offset, epsilon: float):
    """`layer_norm` in `keras.ops` alone."""
    return ops.cast(ops.layer_normalization(x, scale, offset, -1, epsilon), x.dtype)


def silu(x):
    """`x * sigmoid(x)` (Elfwing et al. 2017), element by element.

    TensorFlow's own has a gradient of its own, which it registers for good: with it every graph
    that was ever traced would stay, and the weights that the graph holds.
    """
    return x * ops.sigmoid(x) if NAME == "tensorflow" else ops.silu(x)


def group_norm(x, groups: int, scale, offset, epsilon: float):
    """Group normalisation (Wu & He 2018) of `(batch, height, width, channels)`.

    Statistics are float32, in one pass over the pixels and a tiny one over the channels: on
    TensorFlow and torch several times faster than `keras.layers.GroupNormalization`.
    """
    if NAME == "torch":
        import torch

        images = x.permute(0, 3, 1, 2)
        scale, offset = scale.to(x.dtype), offset.to(x.dtype)
        learns = torch.is_grad_enabled() and any(
            each.requires_grad for each in (images, scale, offset)
        )
        # Where the input has no gradient, torch 2.13 ends the process.
        ours = images.element_size() == 2 or not images.requires_grad
        if learns and ours and images.device.type == "cpu":
            normed = _learning_group_norm()(images, groups, scale, offset, epsilon)
        else:
            normed = torch.nn.functional.group_norm(images, groups, scale, offset, epsilon)
        return normed.permute(0, 2, 3, 1)
    return group_norm_plain(x, groups, scale, offset, epsilon)


@functools.cache
def _learning_group_norm():
    """Group normalisation on torch with a gradient of ours: torch's own, in 16 bits on a CPU, took
    half of an autoencoder's training step.

    With `y = scale * n + offset` and `n = (x - mean) * rstd`, the gradient in a group is
    `dx = rstd * (scale * dy - mean(scale * dy) - n * mean(scale * dy * n))`. It needs two sums over
    the pixels, and is then `dy` and `x`, each times a number of its channel, plus another.
    """
    import torch

    class GroupNorm(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, groups, scale, offset, epsilon):
            batch, channels, height, width = x.shape
            y, mean, rstd = torch.native_group_norm(
                x, scale, offset, batch, channels, height * width, groups, epsilon
            )
            ctx.save_for_backward(x, scale, mean, rstd)
            ctx.groups = groups
            return y

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, dy):
            x, scale, mean, rstd = ctx.saved_tensors
            batch, channels, height, width = x.shape
            grouped = (batch, ctx.groups, channels // ctx.groups)
            count = grouped[2] * height * width
            mean, rstd = (each.float().view(batch, ctx.groups, 1) for each in (mean, rstd))
            of_dy = dy.sum((2, 3), dtype=torch.float32).view(grouped)
            of_product = (dy * x).sum((2, 3), dtype=torch.float32).view(grouped)
            of_product = (of_product - mean * of_dy) * rstd  # now of dy * n
            gain = scale.float().view(1, *grouped[1:])
            slope = -(of_product * gain).sum(2, keepdim=True) / count * rstd * rstd
            rest = -(of_dy * gain).sum(2, keepdim=True) / count * rstd - slope * mean

            def of_channels(each):
                return each.expand(grouped).reshape(batch, channels, 1, 1).to(x.dtype)

            dx = torch.addcmul(of_channels(rest), x, of_channels(slope))
            dx = torch.addcmul(dx, dy, of_channels(gain * rstd))
            of_scale, of_offset = (each.sum(0).view(channels) for each in (of_product, of_dy))
            return dx, None, of_scale.to(scale.dtype), of_offset.to(scale.dtype), None

    return GroupNorm.apply


def group_norm_plain(x, groups: int, scale, offset, epsilon: float):
    """`group_norm` in `keras.ops` alone."""
    channels = x.shape[-1]
    pixels = ops.cast(x, "float32")

    def over_group(per_channel):  # (batch, channels) -> the group's mean, at each of its channels
        grouped = ops.reshape(per_channel, (-1, groups, channels // groups))
        mean = ops.mean(grouped, axis=-1, keepdims=True)
        return ops.reshape(ops.broadcast_to(mean, ops.shape(grouped)), (-1, channels))

    mean = over_group(ops.mean(pixels, axis=(1, 2)))
    variance = over_group(ops.mean(ops.square(pixels), axis=(1, 2))) - ops.square(mean)
    gain = ops.cast(scale, "float32") * ops.rsqrt(ops.maximum(variance, 0.0) + epsilon)
    shift = ops.cast(offset, "float32") - mean * gain
    return ops.cast(pixels * gain[:, None, None, :] + shift[:, None, None, :], x.dtype)


def attention(query, key, value, causal: bool = False, seen=None):
    """Softmax attention of `(batch, tokens, heads, features)`, scaled by `features ** -0.5`.

    `causal` hides later tokens, `seen`, bool `(batch, tokens)`, those keys where it is False.
    torch has a fused kernel, and so has jax on a GPU in 16 bits. Elsewhere a plain product and
    softmax is faster than `keras.ops.dot_product_attention` on a CPU. On jax long ones go in chunks
    of queries, on a CPU and, where the fused kernel does not take them, in 16 bits.
    """
    if seen is not None:
        return attention_plain(query, key, value, causal, seen)
    if NAME == "torch":
        import torch

        # On a CPU the fused kernel is the faster one, but its gradient takes several times as long.
        if query.device.type != "cpu" or not torch.is_grad_enabled():
            if _in_float32(query):
                exact = attention(query.float(), key.float(), value.float(), causal)
                return exact.to(query.dtype)
            # Keras' own copies all three before.
            query, key, value = (x.transpose(1, 2) for x in (query, key, value))
            mixed = torch.nn.functional.scaled_dot_product_attention(
                query, key, value, is_causal=causal
            )
            return mixed.transpose(1, 2)
    if NAME == "jax":
        import jax

        device = _jax_device()
        if takes_fused(query.shape, key.shape[1], str(query.dtype), device):
            return jax.nn.dot_product_attention(
                query, key, value, is_causal=causal, implementation="cudnn"
            )
        batch, queries, heads, _ = query.shape
        is_long = batch * heads * queries * key.shape[1] > CHUNK_SCORES
        if is_long and not causal and (device.platform == "cpu" or str(query.dtype) in _HALVES):
            return _attention_chunked(query, key, value)
    return attention_plain(query, key, value, causal)


def takes_fused(shape: Sequence[int], keys: int, dtype: str, device: Any) -> bool:
    """Whether jax has a fused attention, which keeps no scores, for long queries: cuDNN's, that
    takes 16 bits and heads of at most 128 features, from Hopper on 256, in multiples of 8.

    Args:
        shape: of the queries, `(batch, tokens, heads, features)`.
        keys: how many there are.
        dtype: of all of them.
        device: of jax, that computes.
    """
    if "cuda" not in device.client.platform_version:
        return False
    major = int(device.compute_capability.split(".")[0])
    most = 256 if major >= 9 else 128
    _, queries, _, features = shape
    fits = major >= 8 and dtype in _HALVES and features <= most and features % 8 == 0
    return fits and queries * keys >= _FUSED_SCORES


def _jax_device() -> Any:
    """The device that jax computes on where nothing else is said."""
    import jax

    config: Any = jax.config  # whose attributes types do not know
    chosen = config.jax_default_device
    return jax.devices(chosen)[0] if chosen is None or isinstance(chosen, str) else chosen


def matmul_float32(a, b):
    """Matrix product that is float32 whatever the factors are, so that no sum overflows."""
    if NAME == "jax":
        import jax.numpy as jnp

        return jnp.matmul(a, b, preferred_element_type="float32")
    return ops.matmul(ops.cast(a, "float32"), ops.cast(b, "float32"))


def attention_plain(query, key, value, causal: bool = False, seen=None):
    """`attention` without a fused kernel; the scores, their softmax and its sums are float32."""
    query = ops.transpose(query, (0, 2, 1, 3)) * query.shape[-1] ** -0.5
    scores = matmul_float32(query, ops.transpose(key, (0, 2, 3, 1)))
    if causal:
        tokens = query.shape[2]
        scores = ops.where(ops.tril(ops.ones((tokens, tokens), "bool")), scores, -1e30)
    if seen is not None:
        scores = ops.where(seen[:, None, None, :], scores, -1e30)
    mixed = _softmax_product(scores, ops.transpose(value, (0, 2, 1, 3)))
    return ops.transpose(mixed, (0, 2, 1, 3))


def _softmax_product(scores, value):
    """`softmax(scores) @ value`, divided by the sum last: fewer passes over the scores."""
    weights = ops.exp(scores - ops.max(scores, axis=-1, keepdims=True))
    total = ops.sum(weights, axis=-1, keepdims=True)
    product = matmul_float32(ops.cast(weights, value.dtype), value)
    return ops.cast(product / total, value.dtype)


def _attention_chunked(query, key, value):
    """One head and 512 queries at a time, so that the scores stay in the cache.

    A compiler computes chunks of a head side by side, so where their scores would be more than
    `CHUNK_SCORES` they come one after another in a loop.
    """
    batch, queries, heads, features = query.shape
    keys = key.shape[1]
    in_loop = queries // CHUNK_QUERIES if queries * keys > CHUNK_SCORES else 0

    def to_heads(x):
        return ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (batch * heads, x.shape[1], features))

    def one_head(qkv):
        q, k, v = qkv

        def one_chunk(chunk):
            scores = matmul_float32(chunk * features**-0.5, ops.transpose(k))
            return _softmax_product(scores, v)

        chunks, done = [], in_loop * CHUNK_QUERIES
        if in_loop:
            several = ops.reshape(q[:done], (in_loop, CHUNK_QUERIES, features))
            chunks.append(ops.reshape(ops.map(one_chunk, several), (done, features)))
        for start in range(done, queries, CHUNK_QUERIES):
            chunks.append(one_chunk(q[start : start + CHUNK_QUERIES]))
        return ops.concatenate(chunks)

    out = ops.map(one_head, (to_heads(query), to_heads(key), to_heads(value)))
    return ops.transpose(ops.reshape(out, (batch, heads, queries, features)), (0, 2, 1, 3))
