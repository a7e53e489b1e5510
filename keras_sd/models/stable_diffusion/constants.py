"""KerasCV's module of this name; `keras_sd.keras_cv.constants` is it."""

from keras_sd.keras_cv.constants import _ALPHAS_CUMPROD, _UNCONDITIONAL_TOKENS

__all__ = ["_ALPHAS_CUMPROD", "_UNCONDITIONAL_TOKENS"]
