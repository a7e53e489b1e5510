"""CLIP's text transformer (Radford et al. 2021), which turns a prompt into a context."""

from __future__ import annotations

import keras
from keras import ops

from keras_sd.adapter_configs import ImageEncoderConfig
from keras_sd.config import TextEncoderConfig
from keras_sd.networks.layers import Attention, Block, build_parts, dense, embedding, layer_norm
from keras_sd.networks.network import Network


def quick_gelu(x):
    """OpenAI's approximation of gelu: `x * sigmoid(1.702 x)`."""
    return x * ops.sigmoid(1.702 * x)


def exact_gelu(x):
    """`x * Phi(x)`, with the error function."""
    return ops.gelu(x, approximate=False)


def tanh_gelu(x):
    """The approximation of gelu by tanh (Hendrycks & Gimpel 2016)."""
    return ops.gelu(x, approximate=True)


ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": exact_gelu, "gelu_tanh": tanh_gelu}


class TextEmbedding(Block):
    """A vector a token, plus one a position."""

    def __init__(self, config: TextEncoderConfig, name: str):
        super().__init__(name=name)
        self.tokens = embedding(config.vocab_size, config.width, "tokens")
        self.positions = embedding(config.max_length, config.width, "positions")

    def call(self, tokens, positions=None, added=None):
        if positions is None:
            positions = ops.arange(ops.shape(tokens)[1], dtype="int32")
        return self.vectors(tokens, added) + self.positions(positions)

    def vectors(self, tokens, added=None):
        """Of each token, its own, or behind the vocabulary a row of `added`."""
        if added is None:
            return self.tokens(tokens)
        known, extra = self.tokens.input_dim, ops.shape(added)[0]
        own = self.tokens(ops.minimum(tokens, known - 1))
        others = ops.take(added, ops.clip(tokens - known, 0, extra - 1), axis=0)
        return ops.where((tokens < known)[..., None], own, ops.cast(others, own.dtype))

    def compute_output_shape(self, tokens_shape):
        return (*tokens_shape, self.tokens.output_dim)


class TextLayer(Block):
    """Self-attention and a feed-forward part: each normalised, each added. A token sees itself and
    those before it, unless the layer is not `causal`.
    """

    def __init__(
        self, config: TextEncoderConfig | ImageEncoderConfig, name: str, causal: bool = True
    ):
        super().__init__(name=name)
        width = config.width
        self.activation = ACTIVATIONS[config.activation]
        self.norm1 = layer_norm(width, "norm1", config.epsilon)
        self.attention = Attention(width, config.heads, "attention", bias=True, causal=causal)
        self.norm2 = layer_norm(width, "norm2", config.epsilon)
        self.hidden = dense(width, config.mlp_width, "hidden")
        self.out = dense(config.mlp_width, width, "out")

    def call(self, x, seen=None):
        x = x + self.attention(self.norm1(x), seen=seen)
        return x + self.out(self.activation(self.hidden(self.norm2(x))))

    def compute_output_shape(self, x_shape):
        return x_shape


@keras.saving.register_keras_serializable(package="keras_sd")
class TextEncoder(Network):
    """Token ids `(batch, max_length)` int32 -> text encoding `(batch, max_length, width)`.

    A call also takes `seen`, bool like the ids: which tokens the others see; `skip`, from 1 to the
    number of layers that are passed: 1 is all of them, 2 leaves the last one out, and so on; and
    `added`, vectors `(count, width)` that the ids from the size of the vocabulary on stand for. The
    norm comes last, but for a config that is `penultimate`.

    With `ends`, the place of the first end mark in each row, int32 `(batch,)`, a call gives the
    encoding and the pooled vector of each text, `(batch, projection_width)`: what the last layer
    makes of that token, normalised and projected, whatever `skip` says.

    Args:
        config: the network's numbers.
        name: of the Keras model.
    """

    config_class = TextEncoderConfig

    def __init__(self, config: TextEncoderConfig, name: str = "text_encoder", **kwargs):
        super().__init__(name=name, **kwargs)
        self.config = config
        self.embedding = self.make_embedding(config, "embedding")
        self.blocks = [TextLayer(config, f"layer_{i}") for i in range(config.depth)]
        self.norm = layer_norm(config.width, "norm", config.epsilon)
        self.projection: keras.layers.Layer = None
        if config.projection_width:
            width = config.projection_width
            self.projection = dense(config.width, width, "projection", use_bias=False)
        self.build()

    make_embedding = TextEmbedding

    def build(self, input_shape=None):
        build_parts(self)

    def call(self, tokens, positions=None, seen=None, skip=1, added=None, ends=None):
        x = self.embedding(tokens, positions, **({} if added is None else {"added": added}))
        last = self.config.passed + 1 - skip
        x = self._passed(x, self.blocks[:last], seen)
        encoding = x if self.config.penultimate else self.norm(x)
        if ends is None:
            return encoding
        whole = self.norm(self._passed(x, self.blocks[last:], seen))
        at_end = ops.take_along_axis(whole, ops.cast(ends, "int32")[:, None, None], axis=1)
        return encoding, self.projection(at_end[:, 0])

    def _passed(self, x, blocks, seen):
        for block in blocks:
            x = block(x) if seen is None else block(x, seen=seen)
        return x
