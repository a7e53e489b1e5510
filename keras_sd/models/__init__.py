"""The models of KerasCV under the names that they had there, each loaded when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_sd.keras_cv.stable_diffusion import StableDiffusion, StableDiffusionV2
    from keras_sd.models import stable_diffusion

__all__ = ["StableDiffusion", "StableDiffusionV2", "stable_diffusion"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "stable_diffusion":
        return import_module("keras_sd.models.stable_diffusion")
    return getattr(import_module("keras_sd.keras_cv.stable_diffusion"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
