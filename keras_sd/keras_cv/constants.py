"""KerasCV's constants, which programs import though their names are private."""

from __future__ import annotations

from keras_sd.config import SD_1

_ALPHAS_CUMPROD = list(SD_1.noise.table().alphas_cumprod)
"""`alpha ** 2` of every timestep that Stable Diffusion 1.x and 2.x were trained with."""

_UNCONDITIONAL_TOKENS = [49406] + [49407] * 76
"""The empty prompt: the start mark, and end marks up to 77."""
