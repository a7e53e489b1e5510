"""Our own names: a tensor is called `part/path` and is the variable as it is."""

from __future__ import annotations

from dataclasses import replace

from keras_sd.config import ModelConfig
from keras_sd.weights.names import Table, diffusers


def tables(config: ModelConfig) -> dict[str, Table]:
    """The tables of a whole model by part."""
    walked = {
        **{part: diffusers.text_encoder(one) for part, one in config.text_encoders.items()},
        "unet": diffusers.unet(config.unet),
        "autoencoder": diffusers.autoencoder(config.autoencoder),
    }
    return {
        part: [replace(entry, name=f"{part}/{entry.path}", layout="same") for entry in table]
        for part, table in walked.items()
    }
