"""KerasCV's module of this name; `keras_sd.keras_cv.diffusion_model` is it."""

from keras_sd.keras_cv.diffusion_model import DiffusionModel, DiffusionModelV2

__all__ = ["DiffusionModel", "DiffusionModelV2"]
