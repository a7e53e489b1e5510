"""CLIP's image encoder (Radford et al. 2021), a vision transformer (Dosovitskiy et al. 2020)."""

from __future__ import annotations

import keras
from keras import ops

from keras_sd import backend
from keras_sd.adapter_configs import ImageEncoderConfig
from keras_sd.networks.initializers import HostUniform
from keras_sd.networks.layers import GLOROT, Block, build_parts, dense, layer_norm
from keras_sd.networks.network import Network
from keras_sd.networks.text_encoder import TextLayer


class PatchEmbedding(Block):
    """Pixels `(batch, size, size, 3)` -> tokens: one of the whole picture, and one a patch, each
    with a vector for its place.
    """

    def __init__(self, config: ImageEncoderConfig, name: str):
        super().__init__(name=name)
        self.config = config

    def build(self, input_shape=None):
        patch, width = self.config.patch, self.config.width
        self.kernel = self.add_weight((patch, patch, 3, width), GLOROT, name="kernel")
        self.whole = self.add_weight((width,), HostUniform(0.05), name="whole")
        self.positions = self.add_weight(
            (self.config.tokens, width), HostUniform(0.05), name="positions"
        )

    def call(self, pixels):
        patch, width = self.config.patch, self.config.width
        batch, side = ops.shape(pixels)[0], self.config.image_size // patch
        x = ops.reshape(pixels, (batch, side, patch, side, patch, 3))
        x = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (batch, side * side, -1))
        kernel, whole, positions = (
            ops.convert_to_tensor(each) for each in (self.kernel, self.whole, self.positions)
        )
        x = backend.linear_plain(x, ops.reshape(kernel, (-1, width)), None)
        whole = ops.broadcast_to(whole[None, None], (batch, 1, width))
        return ops.concatenate([whole, x], axis=1) + positions


@keras.saving.register_keras_serializable(package="keras_sd")
class ImageEncoder(Network):
    """Pixels `(batch, image_size, image_size, 3)`, as `keras_sd.adapters.ip_adapter.prepared`
    gives them, ->
    the whole picture's vector `(batch, projection_width)`, and the tokens that go into the last
    layer, `(batch, tokens, width)`.

    Args:
        config: the network's numbers.
        name: of the Keras model.
    """

    config_class = ImageEncoderConfig

    def __init__(self, config: ImageEncoderConfig, name: str = "image_encoder", **kwargs):
        super().__init__(name=name, **kwargs)
        self.config = config
        self.embedding = PatchEmbedding(config, "embedding")
        self.norm_in = layer_norm(config.width, "norm_in", config.epsilon)
        self.blocks = [TextLayer(config, f"layer_{i}", causal=False) for i in range(config.depth)]
        self.norm = layer_norm(config.width, "norm", config.epsilon)
        self.projection = dense(config.width, config.projection_width, "projection", use_bias=False)
        self.build()

    def build(self, input_shape=None):
        build_parts(self)

    def call(self, pixels):
        x = self.norm_in(self.embedding(pixels))
        *before, last = self.blocks
        for block in before:
            x = block(x)
        return self.projection(self.norm(last(x)[:, 0])), x

    def embed(self, pixels):
        """What a call gives, by the kind of IP-Adapter that takes it."""
        whole, patches = self(pixels)
        return {"base": whole, "plus": patches}
