"""A T2I-Adapter: what a picture of edges, depth or poses adds to a UNet, once a run (Mou et al.
2023, "T2I-Adapter: Learning Adapters to Dig out More Controllable Ability for Text-to-Image
Diffusion Models").
"""

from __future__ import annotations

from itertools import pairwise

import keras
from keras import ops

from keras_sd.adapter_configs import FeatureConfig
from keras_sd.networks.layers import Block, build_parts, conv
from keras_sd.networks.network import Network


class FeatureBlock(Block):
    """Two convolutions with a ReLU between them, added to what comes in."""

    def __init__(self, width: int, kernel: int, name: str):
        super().__init__(name=name)
        self.conv1 = conv(width, width, "conv1")
        self.conv2 = conv(width, width, "conv2", kernel=kernel)

    def call(self, x):
        return x + self.conv2(ops.relu(self.conv1(x)))


class FeatureLevel(Block):
    """Residual blocks at one resolution, in the light kind on a quarter of the features."""

    def __init__(self, config: FeatureConfig, level: int, width_in: int, name: str):
        super().__init__(name=name)
        self.halves = config.halves(level)
        light, width = config.kind == "light", config.widths[level]
        inner = width // 4 if light else width
        self.conv_in: keras.layers.Layer = None
        self.conv_out: keras.layers.Layer = None
        if light or width_in != width:
            self.conv_in = conv(width_in, inner, "conv_in", kernel=1)
        if light:
            self.conv_out = conv(inner, width, "conv_out", kernel=1)
        kernel = 3 if light else 1
        self.blocks = [FeatureBlock(inner, kernel, f"block_{i}") for i in range(config.blocks)]

    def call(self, x):
        x = _halved(x) if self.halves else x
        for layer in (self.conv_in, *self.blocks, self.conv_out):
            x = x if layer is None else layer(x)
        return x


@keras.saving.register_keras_serializable(package="keras_sd")
class FeatureNetwork(Network):
    """Pixels `(batch, height, width, hint_channels)` in [0, 1] -> what is added to the UNet, a list
    of tensors, finest first; the first has a cell for `factor` x `factor` pixels.

    Args:
        config: the network's numbers.
        name: of the Keras model.
    """

    config_class = FeatureConfig

    def __init__(self, config: FeatureConfig, name: str = "features", **kwargs):
        super().__init__(name=name, **kwargs)
        self.config = config
        first = width = config.hint_channels * config.factor**2
        self.conv_in: keras.layers.Layer = None
        if config.kind != "light":
            width = config.widths[0]
            self.conv_in = conv(first, width, "conv_in")
        self.levels = [
            FeatureLevel(config, i, width_in, f"level_{i}")
            for i, (width_in, _) in enumerate(pairwise((width, *config.widths)))
        ]
        self.build()

    def build(self, input_shape=None):
        build_parts(self)

    def call(self, pixels):
        x = self._unshuffled(ops.cast(pixels, self.compute_dtype))
        x = x if self.conv_in is None else self.conv_in(x)
        found = []
        for level in self.levels:
            x = level(x)
            found.append(x)
        return found

    def embed(self, pixels):
        """What a call gives, which is the same at every step of a run."""
        return self(pixels)

    def _unshuffled(self, pixels):
        """The pixels of a cell as its features (Shi et al. 2016, the other way round)."""
        batch, height, width, channels = ops.shape(pixels)
        by = self.config.factor
        x = ops.reshape(pixels, (batch, height // by, by, width // by, by, channels))
        x = ops.transpose(x, (0, 1, 3, 5, 2, 4))
        return ops.reshape(x, (batch, height // by, width // by, channels * by * by))


def _halved(x):
    """The mean of 2x2; of an odd size, the last row alone."""
    batch, height, width, channels = ops.shape(x)
    x = ops.concatenate([x, x[:, -1:]], axis=1) if height % 2 else x
    x = ops.concatenate([x, x[:, :, -1:]], axis=2) if width % 2 else x
    x = ops.reshape(x, (batch, -(-height // 2), 2, -(-width // 2), 2, channels))
    return ops.mean(x, axis=(2, 4))
