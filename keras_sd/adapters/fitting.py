"""Whether a network by which pictures steer a run is of a model's family and size."""

from __future__ import annotations

from typing import Any

from keras_sd.adapter_configs import FeatureConfig, ImagePromptConfig
from keras_sd.config import ModelConfig, UNetConfig

__all__ = ["feature_misfits", "prompt_misfits"]


def prompt_misfits(config: ImagePromptConfig, model: ModelConfig) -> list[str]:
    """What of an IP-Adapter is not as the model's UNet has it, in words."""
    widths = tuple(width for _, width in model.unet.cross_attentions)
    return _others(
        ("context_width", config.context_width, model.unet.context_width),
        ("widths", config.widths, widths),
    )


def feature_misfits(config: FeatureConfig, model: ModelConfig) -> list[str]:
    """Likewise of a T2I-Adapter: the widths of what it adds, and the pixels of a cell of it."""
    widths, cells = _places(model.unet, model.autoencoder.factor, len(config.widths))
    own, size = [], config.factor
    for level in range(len(config.widths)):
        size *= 2 if config.halves(level) else 1
        own.append(size)
    return _others(("widths", config.widths, widths), ("pixels of a cell", tuple(own), cells))


def _places(unet: UNetConfig, factor: int, count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Where features are added, as many as there are: widths, and pixels of a cell."""
    levels = range(len(unet.widths))
    cells = [factor * 2 ** (level + (not unet.adapted_within(level))) for level in levels]
    middle = (unet.widths[-1],), (factor * 2 ** levels[-1],)
    both = (*unet.widths, *middle[0]), (*cells, *middle[1])
    most = max(len(levels), min(count, len(levels) + 1))
    return both[0][:most], both[1][:most]


def _others(*pairs: tuple[str, Any, Any]) -> list[str]:
    return [f"{name} is {its}, not {ours}" for name, its, ours in pairs if its != ours]
