"""KerasCV's module of this name; `keras_sd.keras_cv.noise_scheduler` is it."""

from keras_sd.keras_cv.noise_scheduler import NoiseScheduler

__all__ = ["NoiseScheduler"]
