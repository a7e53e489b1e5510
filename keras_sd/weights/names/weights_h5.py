"""The names in the `.weights.h5` files of our own networks, as `save_weights` of Keras writes them.

Keras names a weight by the attributes that lead to it; a layer in a list, and in a model every
layer whose attribute sorts after `layers`, by its class and a number.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from keras_sd.config import AutoencoderConfig, TextEncoderConfig, UNetConfig
from keras_sd.weights.names import Table, Weight, diffusers

# Where Keras puts a layer of a network, and what it calls its class, by our name of the layer.
# What is not here has its own name.
_TEXT_ENCODER = {
    r"layer_\d+": "blocks/text_layer",
    "norm": "layers/layer_normalization",
    "projection": "layers/dense",
}
_UNET = {
    r"time\d": "layers/dense",
    r"down_\d+_\d+": "down/level",
    r"downsample_\d+": "downsamples/downsample",
    r"middle|up_\d+_\d+": "layers/level",
    "middle_residual": "layers/residual_block",
    r"upsample_\d+": "layers/upsample",
    "norm_out": "layers/group_norm",
}
_AUTOENCODER = {
    rf"{half}/{layer}": f"{half}/{place}"
    for half in ("encoder", "decoder")
    for layer, place in (
        (r"level_\d+_\d+", "levels/residual_block"),
        (r"downsample_\d+", "downsamples/downsample"),
        (r"upsample_\d+", "upsamples/upsample"),
    )
}


def text_encoder(config: TextEncoderConfig) -> Table:
    """`keras_sd.networks.TextEncoder`."""
    return _table(diffusers.text_encoder(config), _TEXT_ENCODER)


def unet(config: UNetConfig) -> Table:
    """`keras_sd.networks.UNet`."""
    return _table(diffusers.unet(config), _UNET)


def autoencoder(config: AutoencoderConfig) -> Table:
    """`keras_sd.networks.Autoencoder`."""
    return _table(diffusers.autoencoder(config), _AUTOENCODER)


TABLES: dict[str, Callable[[Any], Table]] = {
    "text_encoder": text_encoder,
    "unet": unet,
    "autoencoder": autoencoder,
}
"""By the name of the part."""


def part_of(names: Iterable[str]) -> str | None:
    """Which of our networks a file is of, by a name that only it has; None for any other file."""
    telling = {
        "embedding/positions/vars/0": "text_encoder",
        "down/level/residual/time/vars/0": "unet",
        "decoder/latent/vars/0": "autoencoder",
    }
    return next((telling[name] for name in names if name in telling), None)


def _table(entries: Iterable[Weight], places: dict[str, str]) -> Table:
    """The entries under Keras' names. The layers of a class are in the order that they have here,
    in which the network makes them.
    """
    layers: dict[str, str] = {}
    counts: Counter[str] = Counter()
    table = []
    for entry in entries:
        *parts, variable = entry.path.split("/")
        path = "/".join(parts)
        for layer, place in places.items():
            if match := re.match(rf"({layer})(?=/|$)", path):
                if match[0] not in layers:
                    # `layers` has those of the model's lists too, and so counts them.
                    *root, _, cls = place.split("/")
                    counted = "/".join((*root, cls))
                    layers[match[0]] = f"{place}_{counts[counted]}" if counts[counted] else place
                    counts[counted] += 1
                path = layers[match[0]] + path[match.end() :]
                break
        path = re.sub(r"/block_(\d+)/", _block, path)
        number = 1 if variable in ("bias", "beta") else 0
        table.append(replace(entry, name=f"{path}/vars/{number}", layout="same"))
    return table


def _block(match: re.Match[str]) -> str:
    return f"/blocks/transformer_block{'_' + match[1] if match[1] != '0' else ''}/"
