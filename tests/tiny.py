"""Small models whose heads follow from the family, as those of real files do: eight in 1.x, of 64
features in 2.x and XL.
"""

from __future__ import annotations

from dataclasses import replace

from keras_sd.config import (
    SD_1,
    SD_2,
    SDXL,
    SDXL_REFINER,
    AutoencoderConfig,
    TextEncoderConfig,
    UNetConfig,
)

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

_TEXT_XL = replace(TEXT, depth=3, penultimate=True)
_TEXT_XL_2 = replace(
    _TEXT_XL, width=128, heads=2, activation="gelu", mlp_width=96, projection_width=48
)
TINY_XL = replace(
    SDXL,
    name="tiny-xl",
    text_encoder=_TEXT_XL,
    text_encoder_2=_TEXT_XL_2,
    unet=UNetConfig(
        widths=(64, 128),
        heads=(1, 2),
        depths=(0, 2),
        blocks=1,
        context_width=192,
        linear_projection=True,
        pooled_width=48,
        numbers=6,
    ),
    autoencoder=replace(AUTOENCODER, scale=SDXL.autoencoder.scale),
    defaults=replace(SDXL.defaults, height=16, width=16),
)
TINY_REFINER = replace(
    SDXL_REFINER,
    name="tiny-refiner",
    text_encoder=_TEXT_XL_2,
    unet=replace(
        TINY_XL.unet,
        widths=(64, 64, 128),
        heads=(1, 1, 2),
        depths=(0, 1, 0),
        middle_depth=2,
        context_width=128,
        numbers=5,
    ),
    autoencoder=TINY_XL.autoencoder,
    defaults=replace(SDXL_REFINER.defaults, height=16, width=16),
)
TINY_SSD = replace(
    TINY_XL,
    name="tiny-ssd",
    unet=replace(TINY_XL.unet, depths=(0, 1), middle_depth=0, up_depths=(1, 2, 0, 0)),
)
"""Built as SSD-1B is."""
TINY_LCM = replace(TINY_XL, name="tiny-lcm", unet=replace(TINY_XL.unet, guidance_width=32))
