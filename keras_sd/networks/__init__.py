"""The networks of Stable Diffusion, as Keras models; `keras_sd.config` has their numbers."""

from keras_sd.networks.autoencoder import Autoencoder
from keras_sd.networks.control import ControlNetwork
from keras_sd.networks.text_encoder import TextEncoder
from keras_sd.networks.unet import UNet

__all__ = ["Autoencoder", "ControlNetwork", "TextEncoder", "UNet"]
