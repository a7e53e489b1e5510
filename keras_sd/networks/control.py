"""A ControlNet: what a picture of edges, depth or poses adds to a UNet (Zhang et al. 2023, "Adding
Conditional Control to Text-to-Image Diffusion Models").

It is a copy of the UNet's way down and middle that also sees the picture, the hint. A convolution
of one pixel, zero before the training, brings the output of each of its blocks to the UNet.
"""

from __future__ import annotations

from itertools import pairwise

import keras
from keras import ops

from keras_sd import backend
from keras_sd.config import ControlConfig
from keras_sd.networks.layers import Block, conv
from keras_sd.networks.unet import WayDown, timestep_embedding


class HintEmbedding(Block):
    """Pixels `(batch, height, width, hint_channels)` in [0, 1] -> features of a latent's size.

    Convolutions of 3x3 with SiLU between them; every second of those in the middle halves the size.
    """

    def __init__(self, config: ControlConfig, name: str):
        super().__init__(name=name)
        widths = config.hint_widths
        self.conv_in = conv(config.hint_channels, widths[0], "conv_in")
        self.pad = keras.layers.ZeroPadding2D(1, data_format="channels_last")
        self.blocks: list[keras.layers.Conv2D] = []
        for i, (width_in, width) in enumerate(pairwise(widths)):
            self.blocks.append(conv(width_in, width_in, f"block_{2 * i}"))
            self.blocks.append(conv(width_in, width, f"block_{2 * i + 1}", stride=2))
        self.conv_out = conv(widths[-1], config.widths[0], "conv_out", zeros=True)

    def call(self, pixels):
        x = backend.silu(self.conv_in(pixels))
        for i, block in enumerate(self.blocks):
            x = backend.silu(block(self.pad(x) if i % 2 else x))
        return self.conv_out(x)


@keras.saving.register_keras_serializable(package="keras_sd")
class ControlNetwork(WayDown):
    """Latent, timestep, text encoding and hint -> what is added to the UNet, a list of tensors: one
    for all that its way down keeps, finest first, and one for its middle.

    Called as `network(latent, timesteps, context, pixels)`: the first three as a
    `keras_sd.networks.UNet` takes them, and pixels `(batch, factor * height, factor * width,
    hint_channels)` in [0, 1], where the latent is `(batch, height, width, in_channels)`. What else
    a UNet is told by name, it takes too.

    Args:
        config: the network's numbers.
        name: of the Keras model.
    """

    config_class = ControlConfig

    def __init__(self, config: ControlConfig, name: str = "control", **kwargs):
        super().__init__(name=name, autocast=False, **kwargs)
        self.config = config
        self.hint = HintEmbedding(config, "hint")
        self.zeros = [
            conv(width, width, f"zero_{i}", kernel=1, zeros=True)
            for i, width in enumerate(self._make_way_down(config))
        ]
        width = config.widths[-1]
        self.zero_middle = conv(width, width, "zero_middle", kernel=1, zeros=True)
        self.build()

    def call(self, latent, timesteps, context, pixels, **told):
        return self.residuals(latent, timesteps, context, self.embed(pixels), **told)

    def embed(self, pixels):
        """The hint as features, which are the same at every step of a run."""
        return self.hint(ops.cast(pixels, self.compute_dtype))

    def residuals(self, latent, timesteps, context, hint, **told):
        """What a call gives, for a hint that is embedded already."""
        time = self._embed_time(timestep_embedding(timesteps, self.config.widths[0]), **told)
        context = ops.cast(context, self.compute_dtype)
        x = self.conv_in(ops.cast(latent, self.compute_dtype))
        skips, middle = self._go_down(x + ops.cast(hint, self.compute_dtype), time, context)
        added = [zero(skip) for zero, skip in zip(self.zeros, skips, strict=True)]
        added.append(self.zero_middle(middle))
        if self.config.pooled:
            added = [ops.mean(each, axis=(1, 2), keepdims=True) for each in added]
        return added
