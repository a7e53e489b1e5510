"""Small models whose heads follow from the family, as those of real files do: eight in 1.x, of 64
features in 2.x.
"""

from __future__ import annotations

from dataclasses import replace

from keras_sd.config import SD_1, SD_2, AutoencoderConfig, TextEncoderConfig, UNetConfig

MERGES = ["c a", "ca t</w>", "d o", "do g</w>"]
TEXT = TextEncoderConfig(vocab_size=518, width=64, depth=2, heads=1, mlp_width=128)
AUTOENCODER = AutoencoderConfig(widths=(32, 64), blocks=1)
TINY = replace(
    SD_1,
    text_encoder=TEXT,
    unet=UNetConfig(widths=(32, 64), heads=(8, 8), depths=(1, 0), blocks=1, context_width=64),
    autoencoder=AUTOENCODER,
)
TINY_2 = replace(
    SD_2,
    text_encoder=replace(TEXT, activation="gelu"),
    unet=UNetConfig(
        widths=(64, 128),
        heads=(1, 2),
        depths=(1, 1),
        blocks=1,
        context_width=64,
        linear_projection=True,
    ),
    autoencoder=AUTOENCODER,
)
