"""Stable Diffusion for Keras 3, on TensorFlow, JAX or torch.

>>> import keras_sd
>>> pipeline = keras_sd.StableDiffusion.from_preset("emoji")
>>> images = pipeline.text_to_image("a cat face on a blue background", seed=1)

Importing this module imports neither Keras nor a backend: each name is loaded when first used. It
settles which backend that will be, where Keras would take one that is not installed.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from keras_sd.choose import settle

if TYPE_CHECKING:
    from keras_sd import models
    from keras_sd.adapters.controlnet import ControlNet
    from keras_sd.adapters.ip_adapter import IPAdapter
    from keras_sd.adapters.t2i_adapter import T2IAdapter
    from keras_sd.controls import Control
    from keras_sd.gallery import plot_gallery
    from keras_sd.image_prompts import ImagePrompt
    from keras_sd.pipeline import StableDiffusion
    from keras_sd.planning import plan
    from keras_sd.registry import (
        get_guidance,
        get_sampler,
        get_schedule,
        list_guidance,
        list_samplers,
        list_schedules,
    )
    from keras_sd.sampling import Step

_HOME = {
    "Control": "controls",
    "ControlNet": "adapters.controlnet",
    "IPAdapter": "adapters.ip_adapter",
    "ImagePrompt": "image_prompts",
    "StableDiffusion": "pipeline",
    "Step": "sampling",
    "T2IAdapter": "adapters.t2i_adapter",
    "get_guidance": "registry",
    "get_sampler": "registry",
    "get_schedule": "registry",
    "list_guidance": "registry",
    "list_samplers": "registry",
    "list_schedules": "registry",
    "models": "models",
    "plan": "planning",
    "plot_gallery": "gallery",
}

settle()  # before anything imports Keras

__version__ = version("keras-sd")

__all__ = [
    "Control",
    "ControlNet",
    "IPAdapter",
    "ImagePrompt",
    "StableDiffusion",
    "Step",
    "T2IAdapter",
    "__version__",
    "get_guidance",
    "get_sampler",
    "get_schedule",
    "list_guidance",
    "list_samplers",
    "list_schedules",
    "models",
    "plan",
    "plot_gallery",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'keras_sd' has no attribute {name!r}")
    home = import_module(f"keras_sd.{_HOME[name]}")
    value = home if _HOME[name] == name else getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
