"""The networks of Stable Diffusion, as Keras models; `keras_sd.config` has their numbers, and
`keras_sd.adapter_configs` those of the networks by which pictures steer a run.
"""

from keras_sd.networks.autoencoder import Autoencoder
from keras_sd.networks.control import ControlNetwork
from keras_sd.networks.features import FeatureNetwork
from keras_sd.networks.image_encoder import ImageEncoder
from keras_sd.networks.image_prompt import ImagePromptNetwork
from keras_sd.networks.text_encoder import TextEncoder
from keras_sd.networks.unet import UNet

__all__ = [
    "Autoencoder",
    "ControlNetwork",
    "FeatureNetwork",
    "ImageEncoder",
    "ImagePromptNetwork",
    "TextEncoder",
    "UNet",
]
