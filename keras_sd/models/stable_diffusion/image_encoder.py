"""KerasCV's module of this name; `keras_sd.keras_cv.image_encoder` is it."""

from keras_sd.keras_cv.image_encoder import ImageEncoder

__all__ = ["ImageEncoder"]
