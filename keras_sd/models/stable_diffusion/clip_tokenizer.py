"""KerasCV's module of this name; `keras_sd.keras_cv.clip_tokenizer` is it."""

from keras_sd.keras_cv.clip_tokenizer import SimpleTokenizer

__all__ = ["SimpleTokenizer"]
