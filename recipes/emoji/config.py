"""The shape of the model, and what it learns."""

from __future__ import annotations

import dataclasses
import math

from keras_sd.config import (
    AutoencoderConfig,
    Defaults,
    ModelConfig,
    NoiseConfig,
    TextEncoderConfig,
    UNetConfig,
)
from keras_sd.training.objective import Objective

OBJECTIVE = Objective("v", gamma=5.0, offset=1.0)
"""With the weight min(SNR + 1, 6) / (SNR + 1), which does not vanish where there is only noise."""

CONFIG = ModelConfig(
    name="emoji-128",
    text_encoder=TextEncoderConfig(
        vocab_size=4096, max_length=48, width=256, depth=3, heads=4, mlp_width=1024
    ),
    unet=UNetConfig(
        in_channels=16,
        out_channels=16,
        widths=(96, 192, 256),
        heads=(3, 6, 8),
        depths=(0, 1, 1),
        blocks=1,
        context_width=256,
        groups=16,
    ),
    autoencoder=AutoencoderConfig(
        latent_channels=16, widths=(32, 48, 96, 128), blocks=1, groups=16, scale=1.0
    ),
    noise=NoiseConfig(prediction="v"),
    defaults=Defaults(128, 128, "ddim", "trailing", 20, 5.0),
)
"""Of 28 million weights. The latents' scale is known after a run."""

TINY = dataclasses.replace(
    CONFIG,
    text_encoder=dataclasses.replace(CONFIG.text_encoder, width=64, mlp_width=64, depth=1),
    unet=dataclasses.replace(
        CONFIG.unet, widths=(32, 32, 32), heads=(2, 2, 2), context_width=64, groups=8
    ),
    autoencoder=dataclasses.replace(CONFIG.autoencoder, widths=(8, 8, 16, 16), groups=4),
)
"""For trying the program."""


def with_scale(config: ModelConfig, scale: float) -> ModelConfig:
    """The same model with another scale of its latents."""
    return dataclasses.replace(
        config, autoencoder=dataclasses.replace(config.autoencoder, scale=scale)
    )


def rate_at(now: float, begin: float, end: float, most: float) -> float:
    """A warm-up of three hundredths of the time from `begin` to `end`, and a cosine to zero."""
    done = min(1.0, max(0.0, (now - begin) / (end - begin)))
    return most * min(1.0, done / 0.03 + 0.02) * 0.5 * (1 + math.cos(math.pi * done))
