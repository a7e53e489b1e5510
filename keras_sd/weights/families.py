"""What a model is called among people, and whether keras_sd can run it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from keras_sd.config import SDXL, SDXL_LCM, SEGMIND_VEGA, SSD_1B, ModelConfig

_KINDS = {1: "depth-to-image", 3: "x4 upscaler"}
"""What for, by the channels that the UNet takes beside the latent, where they are no latent."""

_RUN = ("", "inpainting")
"""The kinds that keras_sd can run."""

BESIDE: dict[str, tuple[str, ...]] = {
    "depth-to-image": ("depth_model.",),
    "unCLIP": ("embedder.", "noise_augmentor."),
    "x4 upscaler": ("low_scale_model.",),
}
"""By kind, what the names of those networks begin with that a file has beside the three of a
model: they make what the UNet takes beyond a latent and a text."""


def kind_of(in_channels: int, latent_channels: int) -> str:
    """What a UNet is for that takes more than a latent and a text; "" where it does not."""
    if in_channels == latent_channels:
        return ""
    if in_channels == 2 * latent_channels + 1:
        return "inpainting"
    if in_channels == 2 * latent_channels:
        return "InstructPix2Pix"
    return _KINDS.get(in_channels - latent_channels, f"with {in_channels} input channels")


def family_of(config: ModelConfig, kind: str | None = None) -> str:
    """The name of a Stable Diffusion model: `"Stable Diffusion 2.x base, 512x512"`.

    Args:
        config: the model's numbers.
        kind: what the UNet is for; None goes by its channels.
    """
    if kind is None:
        kind = kind_of(config.unet.in_channels, config.unet.out_channels)
    second, gives = config.unet.linear_projection, config.noise.prediction
    said = "" if gives == "epsilon" else f"{gives}-prediction"
    if config.unet.pooled_width:
        return ", ".join(filter(None, (_xl(config), kind, said)))
    name = f"Stable Diffusion {2 if second else 1}.x"
    if kind:
        return f"{name} {kind}"
    if second:
        return f"{name}, 768x768, {said}" if gives == "v" else f"{name} base, 512x512"
    return f"{name}, {said}" if said else name


_SMALLER = {"SSD-1B": SSD_1B, "Segmind-Vega": SEGMIND_VEGA}
"""Models of SDXL with fewer transformer blocks, which are known by that."""


def xl_of(facts: Mapping[str, Any]) -> ModelConfig:
    """The entry of SDXL's that a UNet is of, but for the refiner.

    Args:
        facts: its numbers, as far as they are known; those that are not have their defaults.
    """
    if facts.get("guidance_width"):
        return SDXL_LCM
    asked = (facts["depths"], facts.get("middle_depth", -1), facts.get("up_depths", ()))
    for known in _SMALLER.values():
        if asked == (known.unet.depths, known.unet.middle_depth, known.unet.up_depths):
            return known
    return SDXL


def _xl(config: ModelConfig) -> str:
    if config.unet.numbers == 5:
        return "Stable Diffusion XL refiner"
    known = xl_of(dataclasses.asdict(config.unet))
    if smaller := next((name for name, each in _SMALLER.items() if each is known), None):
        return f"{smaller} (Stable Diffusion XL)"
    return "Stable Diffusion XL" + (" LCM" if known is SDXL_LCM else "")


def unsupported(source: object, config: ModelConfig, kind: str | None = None) -> str | None:
    """Why a model cannot be run, or None where it can.

    Args:
        source: what to call it, such as its path.
        config: the model's numbers.
        kind: see `family_of`.
    """
    if kind is None:
        kind = kind_of(config.unet.in_channels, config.unet.out_channels)
    if kind in _RUN:
        return None
    return (
        f"{source} is {family_of(config, kind)}: it asks for more than noise and a text, and "
        "keras_sd cannot give it that yet"
    )
