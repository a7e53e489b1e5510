"""The models of KerasCV that keras_sd succeeds, under their old names."""

from keras_sd.models import stable_diffusion
from keras_sd.models.stable_diffusion.stable_diffusion import StableDiffusion, StableDiffusionV2

__all__ = ["StableDiffusion", "StableDiffusionV2", "stable_diffusion"]
