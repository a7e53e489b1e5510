"""The layers that the three networks share. Images and latents are channels-last.

Every layer is told the width of its input, so a network builds all of its variables when it is
made, without a symbolic call (which takes minutes on torch) and for any height and width. The shape
of its output it says itself, so that a symbolic call of it computes nothing.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_sd import backend
from keras_sd.networks.initializers import HostConstant, HostUniform
from keras_sd.networks.token_merging import merged

ZEROS, ONES, GLOROT = HostConstant(0.0), HostConstant(1.0), HostUniform()


class Direct(keras.layers.Layer):
    """A layer that spares itself what Keras does around a call, where that is nothing."""

    def __call__(self, *inputs, **options):
        # `training` and `mask` are Keras' to take in, also where `call` does not know them.
        if options.keys().isdisjoint(("training", "mask")) and backend.calls_directly(self, inputs):
            return self.call(*inputs, **options)
        return super().__call__(*inputs, **options)


class Block(Direct):
    """A layer made of layers: building it builds them.

    Sublayers are attributes, or in lists; the ones that Keras has are made by `dense`, `conv`,
    `layer_norm` and `embedding`, which record the shape that their input will have.
    """

    def build(self, input_shape=None):
        build_parts(self)


def build_parts(layer: keras.layers.Layer) -> None:
    """Builds the direct sublayers of `layer`, each for the input it was made for."""
    for part in layer._flatten_layers(include_self=False, recursive=False):
        if not part.built:
            part.build(getattr(part, "input_width_shape", None))


def rows(layers: list[Any], length: int) -> list[list[Any]]:
    """A list of layers cut into rows of one resolution each.

    A network does not keep them as a list of lists: what is in such a list, Keras before 3.15 does
    not save.
    """
    return [layers[start : start + length] for start in range(0, len(layers), length)]


def dense(width_in: int, width: int, name: str, use_bias: bool = True) -> keras.layers.Dense:
    """A linear map of the last axis."""
    layer = Dense(
        width,
        use_bias=use_bias,
        kernel_initializer=GLOROT,
        bias_initializer=ZEROS,
        name=name,
    )
    layer.input_width_shape = (None, width_in)
    return layer


class Dense(Direct, keras.layers.Dense):
    """A Keras layer that computes through `backend.linear`."""

    def call(self, x, training=None):
        bias = None if self.bias is None else ops.convert_to_tensor(self.bias)
        return backend.linear(x, ops.convert_to_tensor(self.kernel), bias)

    def quantize(self, mode=None, type_check=True, **options):
        # Keras refuses subclasses, which may compute something else. This one does not.
        return super().quantize(mode, type_check=False, **options)


def conv(
    width_in: int, width: int, name: str, kernel: int = 3, stride: int = 1, zeros: bool = False
) -> keras.layers.Conv2D:
    """A convolution that keeps the size; with a stride of 2 the caller pads."""
    layer = Conv(
        width,
        kernel,
        strides=stride,
        padding="same" if stride == 1 else "valid",
        data_format="channels_last",
        kernel_initializer=ZEROS if zeros else GLOROT,
        bias_initializer=ZEROS,
        name=name,
    )
    layer.input_width_shape = (None, None, None, width_in)
    return layer


class Conv(Direct, keras.layers.Conv2D):
    """A Keras convolution that computes through `backend.conv2d`."""

    def call(self, x):
        kernel, bias = (ops.convert_to_tensor(v) for v in (self.kernel, self.bias))
        return backend.conv2d(x, kernel, bias, self.strides[0], self.padding)


def layer_norm(width: int, name: str, epsilon: float = 1e-5) -> keras.layers.LayerNormalization:
    """Layer normalisation of the last axis."""
    layer = LayerNormalization(
        epsilon=epsilon, gamma_initializer=ONES, beta_initializer=ZEROS, name=name
    )
    layer.input_width_shape = (None, width)
    return layer


class LayerNormalization(Direct, keras.layers.LayerNormalization):
    """A Keras layer that computes through `backend.layer_norm`."""

    def call(self, x):
        scale, offset = (ops.convert_to_tensor(v) for v in (self.gamma, self.beta))
        return backend.layer_norm(x, scale, offset, self.epsilon)


def embedding(size: int, width: int, name: str) -> keras.layers.Embedding:
    """A vector for each of `size` integers."""
    return keras.layers.Embedding(size, width, embeddings_initializer=HostUniform(0.05), name=name)


class GroupNorm(Direct):
    """Group normalisation (Wu & He 2018) over the channels of `(batch, height, width, channels)`.

    Args:
        width: channels.
        groups: divides `width`.
        epsilon: 1e-5 in the UNet's residual blocks; its transformers and the autoencoder have it
            from their configs.
    """

    def __init__(self, width: int, groups: int, epsilon: float, name: str):
        super().__init__(name=name)
        self.width, self.groups, self.epsilon = width, groups, epsilon

    def build(self, input_shape=None):
        self.gamma = self.add_weight(shape=(self.width,), initializer=ONES, name="gamma")
        self.beta = self.add_weight(shape=(self.width,), initializer=ZEROS, name="beta")

    def call(self, x):
        return backend.group_norm(x, self.groups, self.gamma.value, self.beta.value, self.epsilon)

    def compute_output_shape(self, x_shape):
        return x_shape


class Attention(Block):
    """Multi-head attention (Vaswani et al. 2017) of tokens on a context.

    Args:
        width: features of a token, in and out.
        heads: divides `width`.
        context_width: features of a context token; `width` where the context is the input.
        bias: of the query, key and value maps (the output map always has one).
        causal: a token sees itself and those before it.

    Called with `seen`, bool `(batch, context tokens)`, tokens are only seen where it is True.
    `images` are other things to look at beside the context, each a key and a value `(batch, tokens,
    width)` and how far it counts, `(batch, 1)`: what the same queries find there is added to what
    they find in the context (Ye et al. 2023, "IP-Adapter", equation 5). `pair` is what `pair` made
    of the context before. With `perturbed` each token sees itself alone.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        name: str,
        context_width: int | None = None,
        bias: bool = False,
        causal: bool = False,
    ):
        super().__init__(name=name)
        self.heads, self.causal = heads, causal
        self.query = dense(width, width, "query", use_bias=bias)
        self.key = dense(context_width or width, width, "key", use_bias=bias)
        self.value = dense(context_width or width, width, "value", use_bias=bias)
        self.out = dense(width, width, "out")

    def pair(self, context):
        """The keys and the values of a context, `(batch, context tokens, width)` each."""
        return self.key(context), self.value(context)

    def call(self, x, context=None, seen=None, images=(), perturbed=False, pair=None):
        if perturbed:
            return self.out(self.value(x))
        pair = self.pair(x if context is None else context) if pair is None else pair
        query, key, value = (self._split(part) for part in (self.query(x), *pair))
        mixed = backend.attention(query, key, value, causal=self.causal, seen=seen)
        for key, value, strength in images:
            found = backend.attention(query, self._split(key), self._split(value))
            mixed = mixed + ops.cast(strength, found.dtype)[:, :, None, None] * found
        return self.out(ops.reshape(mixed, ops.shape(x)))

    def _split(self, x):
        batch, tokens, width = ops.shape(x)
        return ops.reshape(x, (batch, tokens, self.heads, width // self.heads))


class ResidualBlock(Block):
    """Two normalised convolutions and a shortcut; the timestep's embedding shifts the middle.

    Args:
        width_in: channels of the input.
        width: channels of the output.
        groups: of both norms.
        epsilon: of both norms.
        time_width: features of the timestep's embedding; None in the autoencoder, which has none.
    """

    def __init__(
        self,
        width_in: int,
        width: int,
        groups: int,
        epsilon: float,
        name: str,
        time_width: int | None = None,
    ):
        super().__init__(name=name)
        self.norm1 = GroupNorm(width_in, groups, epsilon, "norm1")
        self.conv1 = conv(width_in, width, "conv1")
        self.time = None if time_width is None else dense(time_width, width, "time")
        self.norm2 = GroupNorm(width, groups, epsilon, "norm2")
        self.conv2 = conv(width, width, "conv2")
        self.shortcut = None if width_in == width else conv(width_in, width, "shortcut", kernel=1)

    def call(self, x, time=None):
        h = self.conv1(backend.silu(self.norm1(x)))
        if self.time is not None:
            h = h + self.time(backend.silu(time))[:, None, None, :]
        h = self.conv2(backend.silu(self.norm2(h)))
        return h + (x if self.shortcut is None else self.shortcut(x))

    def compute_output_shape(self, x_shape):
        return (*x_shape[:-1], self.conv2.filters)


class Downsample(Block):
    """Half the size, by a convolution of stride 2.

    `pad` is what is added before and after each side: `(1, 1)` in the UNet, `(0, 1)` in the
    autoencoder's encoder. "same" would be `(0, 1)` for an even size only.
    """

    def __init__(self, width: int, name: str, pad: tuple[int, int] = (1, 1)):
        super().__init__(name=name)
        self.pad = keras.layers.ZeroPadding2D((pad, pad), data_format="channels_last")
        self.conv = conv(width, width, "conv", stride=2)

    def call(self, x):
        return self.conv(self.pad(x))

    def compute_output_shape(self, x_shape):
        return self.conv.compute_output_shape(self.pad.compute_output_shape(x_shape))


class Upsample(Block):
    """Twice the size, by repeating pixels and a convolution.

    `like` is a tensor whose height and width the result has: one less than twice the size, where
    an odd size was halved on the way down.
    """

    def __init__(self, width: int, name: str):
        super().__init__(name=name)
        self.conv = conv(width, width, "conv")

    def call(self, x, like=None):
        batch, height, width, channels = ops.shape(x)
        x = ops.reshape(x, (batch, height, 1, width, 1, channels))
        x = ops.broadcast_to(x, (batch, height, 2, width, 2, channels))
        x = ops.reshape(x, (batch, 2 * height, 2 * width, channels))
        if like is not None:
            x = x[:, : ops.shape(like)[1], : ops.shape(like)[2], :]
        return self.conv(x)

    def compute_output_shape(self, x_shape, like_shape=None):
        batch, height, width, channels = x_shape
        sizes = (height and 2 * height, width and 2 * width)
        return (batch, *(sizes if like_shape is None else like_shape[1:3]), channels)


class FeedForward(Block):
    """GEGLU (Shazeer 2020): half of the hidden features gate the others through a gelu.

    Args:
        width: features of a token, in and out.
        gelu: `"exact"`, or `"tanh"`, its approximation.
    """

    def __init__(self, width: int, gelu: str, name: str):
        super().__init__(name=name)
        self.approximate = gelu == "tanh"
        self.hidden = dense(width, 8 * width, "hidden")
        self.out = dense(4 * width, width, "out")

    def call(self, x):
        hidden, gate = ops.split(self.hidden(x), 2, axis=-1)
        return self.out(hidden * ops.gelu(gate, approximate=self.approximate))


class TransformerBlock(Block):
    """Self-attention, attention on the text, feed-forward: each normalised, each added. With
    `perturbed=True` the first of them is the identity map of tokens (Ahn et al. 2024); with
    `merging`, it is of fewer tokens, see `keras_sd.networks.token_merging`.
    """

    def __init__(self, width: int, heads: int, context_width: int, gelu: str, name: str):
        super().__init__(name=name)
        self.norm1 = layer_norm(width, "norm1")
        self.self_attention = Attention(width, heads, "self_attention")
        self.norm2 = layer_norm(width, "norm2")
        self.cross_attention = Attention(width, heads, "cross_attention", context_width)
        self.norm3 = layer_norm(width, "norm3")
        self.feed_forward = FeedForward(width, gelu, "feed_forward")

    def call(self, x, context, perturbed=False, merging=None, **seen):
        itself = {"perturbed": True} if perturbed else {}
        if merging is None:
            x = x + self.self_attention(self.norm1(x), **itself)
        else:
            fewer, back = merged(x, merging)
            x = x + back(self.self_attention(fewer(self.norm1(x)), **itself))
        x = x + self.cross_attention(self.norm2(x), context, **seen)
        return x + self.feed_forward(self.norm3(x))


class SpatialTransformer(Block):
    """Transformer blocks over the pixels of a feature map, each of which sees the whole text, and
    of `images` and `pairs`, where they are given, its own; see `Attention`. `merging` is the part
    of the tokens that self-attention merges.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        depth: int,
        context_width: int,
        groups: int,
        linear: bool,
        epsilon: float,
        gelu: str,
        name: str,
    ):
        super().__init__(name=name)
        self.linear = linear
        self.norm = GroupNorm(width, groups, epsilon, "norm")
        self.proj_in = self._projection(width, "proj_in")
        self.blocks = [
            TransformerBlock(width, heads, context_width, gelu, f"block_{i}") for i in range(depth)
        ]
        self.proj_out = self._projection(width, "proj_out")

    def _projection(self, width: int, name: str):
        return dense(width, width, name) if self.linear else conv(width, width, name, kernel=1)

    def call(self, x, context, images=None, pairs=None, merging=0.0, **perturbed):
        batch, height, width, channels = ops.shape(x)
        # A dense layer works on the last axis, so both kinds of projection take the feature map.
        tokens = ops.reshape(self.proj_in(self.norm(x)), (batch, height * width, channels))
        merged = {"merging": (height, width, merging)} if merging else {}
        for i, block in enumerate(self.blocks):
            seen = {} if images is None else {"images": images[i]}
            if pairs is not None:
                seen["pair"] = pairs[i]
            tokens = block(tokens, context, **seen, **merged, **perturbed)
        return x + self.proj_out(ops.reshape(tokens, (batch, height, width, channels)))

    def compute_output_shape(self, x_shape):
        return x_shape
