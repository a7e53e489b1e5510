"""The smallest model that has the numbers in it which KerasCV's guides on training have: 77 tokens
out of 49408, 4 channels, an eighth of the pixels, 320 features of a timestep.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from keras_sd import pipeline
from keras_sd.config import SD_1, AutoencoderConfig, Defaults, TextEncoderConfig, UNetConfig
from keras_sd.keras_cv import clip_tokenizer
from keras_sd.keras_cv.parts import PartSource
from keras_sd.networks import Autoencoder, TextEncoder, UNet
from keras_sd.tokenizer import CLIP_VOCAB_SIZE, SYMBOL_OF_BYTE, UNMERGED, Tokenizer

SIZE, WIDTH, MAX_PROMPT_LENGTH = 16, 32, 77
MARKS = [
    pytest.mark.guides,
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="has a GradientTape"),
    pytest.mark.usefixtures("without_tracing", "shaped_world"),
    # `fit` says of a `tf.data.Dataset` that it cannot shuffle it; the guides' are shuffled.
    pytest.mark.filterwarnings("ignore:.shuffle=True. was passed"),
    pytest.mark.filterwarnings("ignore:.model.compiled_loss... is deprecated"),
]
"""Of the tests that run a guide."""
# "Ġ" is a space, which no word has.
RARE = [symbol for symbol in SYMBOL_OF_BYTE.values() if not symbol.isascii() and symbol != "Ġ"]
MERGES = [
    *("c a", "ca t</w>", "d o", "do g</w>"),
    # As many as CLIP has, of signs that no prompt here has.
    *(f"{a} {b}{end}" for end in ("", "</w>") for a in RARE for b in RARE),
][: CLIP_VOCAB_SIZE - UNMERGED]
CONFIG = replace(
    SD_1,
    name="shaped",
    text_encoder=TextEncoderConfig(width=WIDTH, depth=1, heads=1, mlp_width=32),
    unet=UNetConfig(widths=(320,), heads=(8,), depths=(0,), blocks=1, context_width=WIDTH),
    autoencoder=AutoencoderConfig(widths=(32, 32, 32, 32), blocks=1),
    defaults=Defaults(height=SIZE, width=SIZE, num_steps=2, guidance_scale=3.0),
)


def save(folder: Path) -> Path:
    """Writes it, with random weights."""
    keras.utils.set_random_seed(3)
    unet = UNet(CONFIG.unet)
    # It begins as zeros, which would make any context the same picture.
    unet.conv_out.kernel.assign(np.random.default_rng(3).normal(0, 0.03, (3, 3, 320, 4)))
    text_encoder, autoencoder = TextEncoder(CONFIG.text_encoder), Autoencoder(CONFIG.autoencoder)
    tokenizer = Tokenizer(MERGES)
    pipeline.StableDiffusion(CONFIG, text_encoder, unet, autoencoder, tokenizer).save_preset(folder)
    return folder


def stand_in(folder: Path, monkeypatch) -> None:
    """From now on it is what KerasCV's classes fetch."""
    made = PartSource.__init__

    def init(self, default, config, preset=None, *others):
        made(self, default, config, folder if preset in (None, "emoji") else preset, *others)

    monkeypatch.setattr(PartSource, "__init__", init)
    monkeypatch.setattr(clip_tokenizer, "find_vocabulary", lambda: MERGES)


def values(network) -> list[np.ndarray]:
    """The numbers of a network."""
    return [np.array(ops.convert_to_numpy(variable)) for variable in network.weights]


def moved(before: list[np.ndarray], network) -> int:
    """How many of its variables have other numbers now."""
    pairs = zip(before, values(network), strict=True)
    return sum(not np.array_equal(one, other) for one, other in pairs)


# What the guides define alike


def plot_images(images, title=None):
    from matplotlib import pyplot as plt

    plt.figure(figsize=(20, 20))
    for i in range(len(images)):
        plt.subplot(1, len(images), i + 1)
        plt.imshow(images[i])
        plt.title(title)
        plt.axis("off")
    plt.close()


def sample_from_encoder_outputs(outputs):
    import tensorflow as tf

    mean, logvar = tf.split(outputs, 2, axis=-1)
    std = tf.exp(0.5 * tf.clip_by_value(logvar, -30.0, 20.0))
    return mean + std * tf.random.normal(tf.shape(mean), dtype=mean.dtype)


def get_timestep_embedding(timestep, dim=320, max_period=10000):
    import tensorflow as tf

    half = dim // 2
    log_max_period = tf.math.log(tf.cast(max_period, tf.float32))
    freqs = tf.math.exp(-log_max_period * tf.range(0, half, dtype=tf.float32) / half)
    args = tf.convert_to_tensor([timestep], dtype=tf.float32) * freqs
    return tf.concat([tf.math.cos(args), tf.math.sin(args)], 0)
