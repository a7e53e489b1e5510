"""The parts of KerasCV's Stable Diffusion under the paths that they had there, each loaded when it
is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_sd.keras_cv.clip_tokenizer import SimpleTokenizer
    from keras_sd.keras_cv.decoder import Decoder
    from keras_sd.keras_cv.diffusion_model import DiffusionModel, DiffusionModelV2
    from keras_sd.keras_cv.image_encoder import ImageEncoder
    from keras_sd.keras_cv.noise_scheduler import NoiseScheduler
    from keras_sd.keras_cv.text_encoder import TextEncoder, TextEncoderV2

_HOME = {
    "Decoder": "decoder",
    "DiffusionModel": "diffusion_model",
    "DiffusionModelV2": "diffusion_model",
    "ImageEncoder": "image_encoder",
    "NoiseScheduler": "noise_scheduler",
    "SimpleTokenizer": "clip_tokenizer",
    "TextEncoder": "text_encoder",
    "TextEncoderV2": "text_encoder",
}
_MODULES = {*_HOME.values(), "constants", "stable_diffusion"}

__all__ = [
    "Decoder",
    "DiffusionModel",
    "DiffusionModelV2",
    "ImageEncoder",
    "NoiseScheduler",
    "SimpleTokenizer",
    "TextEncoder",
    "TextEncoderV2",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"keras_sd.keras_cv.{_HOME[name]}"), name)
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
