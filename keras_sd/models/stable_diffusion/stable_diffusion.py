"""KerasCV's module of this name; `keras_sd.keras_cv.stable_diffusion` is it."""

from keras_sd.keras_cv.stable_diffusion import MAX_PROMPT_LENGTH, StableDiffusion, StableDiffusionV2

__all__ = ["MAX_PROMPT_LENGTH", "StableDiffusion", "StableDiffusionV2"]
