"""An IP-Adapter: pictures as a part of the prompt (Ye et al. 2023, "IP-Adapter: Text Compatible
Image Prompt Adapter for Text-to-Image Diffusion Models").

Features of a picture become a few tokens, which every attention on the text sees through a key and
a value of their own.
"""

from __future__ import annotations

import keras
from keras import ops

from keras_sd import backend
from keras_sd.adapter_configs import ImagePromptConfig
from keras_sd.networks.initializers import HostUniform
from keras_sd.networks.layers import Block, build_parts, dense, layer_norm
from keras_sd.networks.network import Network


class ResamplerLayer(Block):
    """Queries that attend to a picture's features and to each other, and a feed-forward part: each
    normalised, each added (Alayrac et al. 2022, "Flamingo", the Perceiver resampler).
    """

    def __init__(self, config: ImagePromptConfig, name: str):
        super().__init__(name=name)
        width, self.heads = config.width, config.heads
        inner = config.heads * config.head_width
        self.norm1 = layer_norm(width, "norm1")
        self.norm2 = layer_norm(width, "norm2")
        self.query = dense(width, inner, "query", use_bias=False)
        self.key = dense(width, inner, "key", use_bias=False)
        self.value = dense(width, inner, "value", use_bias=False)
        self.out = dense(inner, width, "out", use_bias=False)
        self.norm3 = layer_norm(width, "norm3")
        self.hidden = dense(width, config.mlp_width, "hidden", use_bias=False)
        self.out2 = dense(config.mlp_width, width, "out2", use_bias=False)

    def call(self, queries, features):
        own = self.norm2(queries)
        seen = ops.concatenate([self.norm1(features), own], axis=1)
        parts = (self._split(each) for each in (self.query(own), self.key(seen), self.value(seen)))
        mixed = backend.attention(*parts)
        batch, tokens, heads, width = ops.shape(mixed)
        queries = queries + self.out(ops.reshape(mixed, (batch, tokens, heads * width)))
        hidden = ops.gelu(self.hidden(self.norm3(queries)), approximate=False)
        return queries + self.out2(hidden)

    def _split(self, x):
        batch, tokens, width = ops.shape(x)
        return ops.reshape(x, (batch, tokens, self.heads, width // self.heads))


class Resampler(Block):
    """Features of patches `(batch, patches, feature_width)` -> tokens of a picture."""

    def __init__(self, config: ImagePromptConfig, name: str):
        super().__init__(name=name)
        self.config = config
        self.proj_in = dense(config.feature_width, config.width, "proj_in")
        self.blocks = [ResamplerLayer(config, f"layer_{i}") for i in range(config.depth)]
        self.proj_out = dense(config.width, config.context_width, "proj_out")

    def build(self, input_shape=None):
        shape = (1, self.config.tokens, self.config.width)
        self.queries = self.add_weight(shape, HostUniform(0.05), name="queries")
        build_parts(self)

    def call(self, features):
        queries = ops.convert_to_tensor(self.queries)
        queries = ops.repeat(queries, ops.shape(features)[0], axis=0)
        features = self.proj_in(features)
        for block in self.blocks:
            queries = block(queries, features)
        return self.proj_out(queries)


@keras.saving.register_keras_serializable(package="keras_sd")
class ImagePromptNetwork(Network):
    """A picture's features -> its tokens, `(batch, tokens, context_width)`; and with `pairs` what
    each attention sees of them.

    Features are what `keras_sd.networks.ImageEncoder` gives: of the whole picture
    `(batch, feature_width)`, or where the config's kind is `"plus"` of its patches, `(batch,
    patches, feature_width)`.

    Args:
        config: the network's numbers.
        name: of the Keras model.
    """

    config_class = ImagePromptConfig

    def __init__(self, config: ImagePromptConfig, name: str = "image_prompt", **kwargs):
        super().__init__(name=name, **kwargs)
        self.config = config
        context = config.context_width
        self.projector = (
            dense(config.feature_width, config.tokens * context, "projector")
            if config.kind == "base"
            else Resampler(config, "projector")
        )
        self.norm = layer_norm(context, "norm")
        self.keys = [
            dense(context, width, f"key_{i}", use_bias=False)
            for i, width in enumerate(config.widths)
        ]
        self.values = [
            dense(context, width, f"value_{i}", use_bias=False)
            for i, width in enumerate(config.widths)
        ]
        self.build()

    def build(self, input_shape=None):
        build_parts(self)

    def call(self, features):
        tokens = self.projector(ops.cast(features, self.compute_dtype))
        shape = (ops.shape(features)[0], self.config.tokens, self.config.context_width)
        return self.norm(ops.reshape(tokens, shape))

    def embed(self, features):
        """The tokens, which are the same at every step of a run."""
        return self(features)

    def pairs(self, tokens):
        """A key and a value `(batch, tokens, width)` for each attention on the text."""
        tokens = ops.cast(tokens, self.compute_dtype)
        return [(k(tokens), v(tokens)) for k, v in zip(self.keys, self.values, strict=True)]
