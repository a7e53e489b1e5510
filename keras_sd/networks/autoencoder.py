"""The autoencoder between images in [-1, 1] and latents (Rombach et al. 2022)."""

from __future__ import annotations

import keras
from keras import ops

from keras_sd import backend
from keras_sd.config import AutoencoderConfig
from keras_sd.networks.layers import (
    Attention,
    Block,
    Downsample,
    GroupNorm,
    ResidualBlock,
    Upsample,
    build_parts,
    conv,
    rows,
)
from keras_sd.networks.network import Network


class PixelAttention(Block):
    """One head of self-attention over the pixels of a feature map, added to it."""

    def __init__(self, width: int, groups: int, epsilon: float, name: str):
        super().__init__(name=name)
        self.norm = GroupNorm(width, groups, epsilon, "norm")
        self.attention = Attention(width, 1, "attention", bias=True)

    def call(self, x):
        batch, height, width, channels = ops.shape(x)
        tokens = ops.reshape(self.norm(x), (batch, height * width, channels))
        return x + ops.reshape(self.attention(tokens), (batch, height, width, channels))

    def compute_output_shape(self, x_shape):
        return x_shape


class Middle(Block):
    """Residual block, attention, residual block at the smallest size."""

    def __init__(self, width: int, groups: int, epsilon: float, name: str):
        super().__init__(name=name)
        self.residual1 = ResidualBlock(width, width, groups, epsilon, "residual1")
        self.attention = PixelAttention(width, groups, epsilon, "attention")
        self.residual2 = ResidualBlock(width, width, groups, epsilon, "residual2")

    def call(self, x):
        return self.residual2(self.attention(self.residual1(x)))


class Encoder(Block):
    """Image -> moments of the latent: mean and logarithm of the variance."""

    def __init__(self, config: AutoencoderConfig, name: str):
        super().__init__(name=name)
        widths, groups, epsilon = config.widths, config.groups, config.epsilon
        self.conv_in = conv(3, widths[0], "conv_in")
        self.blocks = config.blocks
        self.levels: list[ResidualBlock] = []
        self.downsamples: list[Downsample] = []
        width_in = widths[0]
        for level, width in enumerate(widths):
            for i in range(self.blocks):
                block = ResidualBlock(width_in, width, groups, epsilon, f"level_{level}_{i}")
                self.levels.append(block)
                width_in = width
            if level < len(widths) - 1:
                self.downsamples.append(
                    Downsample(width, f"downsample_{level}", config.encoder_pad)
                )
        self.middle = Middle(widths[-1], groups, epsilon, "middle")
        self.norm_out = GroupNorm(widths[-1], groups, epsilon, "norm_out")
        self.conv_out = conv(widths[-1], 2 * config.latent_channels, "conv_out")
        self.moments = conv(
            2 * config.latent_channels, 2 * config.latent_channels, "moments", kernel=1
        )

    def call(self, x):
        x = self.conv_in(x)
        for level, row in enumerate(rows(self.levels, self.blocks)):
            for block in row:
                x = block(x)
            if level < len(self.downsamples):
                x = self.downsamples[level](x)
        return self.end(x)

    def end(self, x):
        """What is done at the smallest size."""
        return self.moments(self.conv_out(backend.silu(self.norm_out(self.middle(x)))))

    def compute_output_shape(self, input_shape):
        batch, *sizes, _ = input_shape
        factor = 2 ** len(self.downsamples)
        return (batch, *(size and size // factor for size in sizes), self.moments.filters)


class Decoder(Block):
    """Latent, not scaled -> image."""

    def __init__(self, config: AutoencoderConfig, name: str):
        super().__init__(name=name)
        widths, groups, epsilon = config.widths, config.groups, config.epsilon
        self.latent = conv(config.latent_channels, config.latent_channels, "latent", kernel=1)
        self.conv_in = conv(config.latent_channels, widths[-1], "conv_in")
        self.middle = Middle(widths[-1], groups, epsilon, "middle")
        self.blocks = config.blocks + 1
        self.levels: list[ResidualBlock] = []
        self.upsamples: list[Upsample] = []
        width_in = widths[-1]
        for level in range(len(widths) - 1, -1, -1):
            width = widths[level]
            for i in range(self.blocks):
                block = ResidualBlock(width_in, width, groups, epsilon, f"level_{level}_{i}")
                self.levels.append(block)
                width_in = width
            if level > 0:
                self.upsamples.append(Upsample(width, f"upsample_{level}"))
        self.norm_out = GroupNorm(widths[0], groups, epsilon, "norm_out")
        self.conv_out = conv(widths[0], 3, "conv_out")

    def start(self, x):
        """What is done at the smallest size."""
        return self.middle(self.conv_in(self.latent(x)))

    def call(self, x):
        x = self.start(x)
        for level, row in enumerate(rows(self.levels, self.blocks)):
            for block in row:
                x = block(x)
            if level < len(self.upsamples):
                x = self.upsamples[level](x)
        return self.conv_out(backend.silu(self.norm_out(x)))


def mean_and_log_variance(moments):
    """What an `Encoder` gives, in its two halves; see `Autoencoder.moments`."""
    mean, log_variance = ops.split(ops.cast(moments, "float32"), 2, axis=-1)
    return mean, ops.clip(log_variance, -30.0, 20.0)


NO_ENCODER = (
    "This model has no image encoder, so it can make images of latents, and no latents of images. "
    "Of KerasCV's files it is vae_encoder.h5 that is missing: put it beside the others, load again."
)
"""What there is to say to an image that shall become a latent."""


@keras.saving.register_keras_serializable(package="keras_sd")
class Autoencoder(Network):
    """`encode` images to latents, `decode` latents to images; calling it does both.

    Images are `(batch, height, width, 3)` in [-1, 1], with height and width multiples of
    `config.factor`; latents are `(batch, height / factor, width / factor, latent_channels)`,
    scaled to about unit variance.

    Args:
        config: the network's numbers.
        name: of the Keras model.
        encoder: of another model, which this one shares; None is a new one.
        decoder: likewise.
    """

    config_class = AutoencoderConfig

    def __init__(
        self,
        config: AutoencoderConfig,
        name: str = "autoencoder",
        encoder: Encoder | None = None,
        decoder: Decoder | None = None,
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        self.config = config
        self.encoder = (encoder or Encoder(config, "encoder")) if config.encoder else None
        self.decoder = decoder or Decoder(config, "decoder")
        self.build()

    def build(self, input_shape=None):
        build_parts(self)

    def moments(self, images):
        """Mean and log-variance of the latents, not scaled, float32; the latter is held to
        [-30, 20].

        Raises:
            ValueError: the model has no encoder.
        """
        if self.encoder is None:
            raise ValueError(NO_ENCODER)
        return mean_and_log_variance(self.encoder(images))

    def encode(self, images, noise=None):
        """Scaled latents, float32: the mean, or with `noise` (unit normal, like a latent) a
        sample.
        """
        mean, log_variance = self.moments(images)
        return self.scaled(mean, log_variance, noise)

    def scaled(self, mean, log_variance, noise=None):
        """Latents of their mean and log-variance, see `encode`."""
        latents = mean if noise is None else mean + ops.exp(0.5 * log_variance) * noise
        return latents * self.config.scale

    def decode(self, latents):
        """Images, about [-1, 1], not clipped, float32."""
        return ops.cast(self.decoder(latents / self.config.scale), "float32")

    def call(self, images):
        return self.decode(self.encode(images))
