"""The parts of KerasCV's Stable Diffusion, under their old names: our networks, called as there."""

from keras_sd.models.stable_diffusion.clip_tokenizer import SimpleTokenizer
from keras_sd.models.stable_diffusion.decoder import Decoder
from keras_sd.models.stable_diffusion.diffusion_model import DiffusionModel, DiffusionModelV2
from keras_sd.models.stable_diffusion.image_encoder import ImageEncoder
from keras_sd.models.stable_diffusion.noise_scheduler import NoiseScheduler
from keras_sd.models.stable_diffusion.text_encoder import TextEncoder, TextEncoderV2

__all__ = [
    "Decoder",
    "DiffusionModel",
    "DiffusionModelV2",
    "ImageEncoder",
    "NoiseScheduler",
    "SimpleTokenizer",
    "TextEncoder",
    "TextEncoderV2",
]
