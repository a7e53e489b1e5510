"""The smallest model that can be trained, so that compiling its steps takes seconds."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
from PIL import Image
from tiny import MERGES, TEXT, TINY

from keras_sd.config import AutoencoderConfig, UNetConfig
from keras_sd.model import Model
from keras_sd.networks import Autoencoder, TextEncoder, UNet
from keras_sd.tokenizer import Tokenizer
from keras_sd.training.config import Data, TrainConfig, Training

MICRO = replace(
    TINY,
    name="micro",
    text_encoder=replace(TEXT, depth=1, width=32, mlp_width=32),
    unet=UNetConfig(widths=(32,), heads=(4,), depths=(1,), blocks=1, context_width=32),
    autoencoder=AutoencoderConfig(widths=(32, 32), blocks=1),
    defaults=replace(TINY.defaults, height=16, width=16),
)
CAPTIONS = ("cat", "dog", "cat dog", "dog cat")


def micro(config=MICRO, seed=0):
    """A model of random weights; those that begin as zeros too, so that all learn at once."""
    keras.utils.set_random_seed(seed)
    networks = {
        "text_encoder": TextEncoder(config.text_encoder),
        "unet": UNet(config.unet),
        "autoencoder": Autoencoder(config.autoencoder),
    }
    rng = np.random.default_rng(seed)
    last = networks["unet"].conv_out.kernel
    last.assign(rng.normal(0, 0.05, last.shape).astype(np.float32))
    return Model(config, networks, {"text_encoder": Tokenizer(MERGES)})


def pictures(folder, captions=CAPTIONS, size=(16, 16)):
    """Pictures of random pixels with captions in text files."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for number, caption in enumerate(captions):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(caption)
    return folder


def config(given, output, *, data=None, sections=None, **settings):
    """A training of four steps, on squares of 16 pixels.

    Args:
        given: the folders of a model and of its pictures.
        output: the folder of what is made.
        data: settings of the section.
        sections: others, by name.
        settings: of the section `train`.
    """
    model, folder = given
    return TrainConfig(
        str(model),
        str(output),
        Data(folder=str(folder), **{"resolution": 16, "buckets": False, **(data or {})}),
        Training(**{"steps": 4, "batch_size": 4, "learning_rate": 2e-3, **settings}),
        **(sections or {}),
    )


def quiet(line):
    """Reports nothing."""
