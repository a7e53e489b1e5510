"""KerasCV's module of this name; `keras_sd.keras_cv.text_encoder` is it."""

from keras_sd.keras_cv.text_encoder import CLIPEmbedding, TextEncoder, TextEncoderV2

__all__ = ["CLIPEmbedding", "TextEncoder", "TextEncoderV2"]
