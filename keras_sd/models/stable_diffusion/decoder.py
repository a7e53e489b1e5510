"""KerasCV's module of this name; `keras_sd.keras_cv.decoder` is it."""

from keras_sd.keras_cv.decoder import Decoder

__all__ = ["Decoder"]
