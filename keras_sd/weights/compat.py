"""The arithmetic of KerasCV, which only our own layout can say."""

from __future__ import annotations

import logging
from dataclasses import replace

from keras_sd.config import AutoencoderConfig, ModelConfig, UNetConfig, keras_cv

_log = logging.getLogger(__name__)


def without_keras_cv(config: ModelConfig, layout: str) -> ModelConfig:
    """The config as it was before `keras_cv` changed its arithmetic; the log says so if it did.

    Args:
        config: of any model.
        layout: that it is written in, for the log.
    """
    text = config.text_encoder
    gelu = "gelu" if text.activation == "gelu_tanh" else text.activation
    plain = replace(
        config,
        text_encoder=replace(text, activation=gelu),
        unet=replace(
            config.unet, transformer_epsilon=UNetConfig.transformer_epsilon, gelu=UNetConfig.gelu
        ),
        autoencoder=replace(config.autoencoder, epsilon=AutoencoderConfig.epsilon),
        pad_token="zero" if config.unet.linear_projection else "end",
    )
    if keras_cv(plain) != config:
        return config
    _log.warning(
        "KerasCV computes with other epsilons and another gelu than Stable Diffusion was trained "
        "with, which the layout %s cannot say: only the weights are KerasCV's in it. Give "
        "compat='keras_cv' again to whatever loads it here.",
        layout,
    )
    return plain
