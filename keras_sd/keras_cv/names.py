"""The names of KerasCV's models: TextEncoder(V2), DiffusionModel(V2), ImageEncoder and Decoder.

KerasCV keeps a model in four files, one a class. There are two kinds of them:

`.weights.h5` names a weight by the attributes that lead to it, and `.h5` (Keras 2) by numbers that
count the layers made so far in the process that saved it: `conv2d_17` is another weight in every
other file. Such a file is read by position. So the entries of these tables stand in the order in
which KerasCV saves them, with the names of `.weights.h5`; `in_order` gives them the names that the
tensors of one `.h5` file have.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

from keras_sd.config import (
    SD_1,
    SD_2_BASE,
    AutoencoderConfig,
    ModelConfig,
    TextEncoderConfig,
    UNetConfig,
)
from keras_sd.weights.names import Layout, Table, Weight, diffusers

Shapes = Mapping[str, tuple[int, ...]]

# A layer of KerasCV: what our paths of it are like; then, in KerasCV's order, our names inside of
# it and KerasCV's. Where a layer has one thing inside, ours is the empty name.
_Layer = tuple[str, Mapping[str, str]]

_DENSE = {"": ""}
_PADDED_CONV = {"": "conv2d"}

_TEXT_ENCODER: dict[str, _Layer] = {
    "clip_embedding": (
        "embedding",
        {"tokens": "token_embedding", "positions": "position_embedding"},
    ),
    "clip_encoder_layer": (
        r"layer_\d+",
        {
            "norm1": "layer_norm1",
            "attention/query": "clip_attn/q_proj",
            "attention/key": "clip_attn/k_proj",
            "attention/value": "clip_attn/v_proj",
            "attention/out": "clip_attn/out_proj",
            "norm2": "layer_norm2",
            "hidden": "fc1",
            "out": "fc2",
        },
    ),
    "layer_normalization": ("norm", {"": ""}),
}

_UNET: dict[str, _Layer] = {
    "dense": (r"time[12]", _DENSE),
    "padded_conv2d": (r"conv_in|conv_out|downsample_\d+/conv", _PADDED_CONV),
    "upsample": (r"upsample_\d+", {"conv": "conv/conv2d"}),
    "res_block": (
        r".*residual",
        {
            "norm1": "entry_flow/group_normalization",
            "conv1": "entry_flow/padded_conv2d/conv2d",
            "time": "embedding_flow/dense",
            "norm2": "exit_flow/group_normalization",
            "conv2": "exit_flow/padded_conv2d/conv2d",
            "shortcut": "residual_projection/conv2d",
        },
    ),
    "spatial_transformer": (
        r".*/transformer",
        {
            "norm": "norm",
            "proj_in": "proj1",
            "block_0/norm1": "transformer_block/norm1",
            "block_0/self_attention/query": "transformer_block/attn1/to_q",
            "block_0/self_attention/key": "transformer_block/attn1/to_k",
            "block_0/self_attention/value": "transformer_block/attn1/to_v",
            "block_0/self_attention/out": "transformer_block/attn1/out_proj",
            "block_0/norm2": "transformer_block/norm2",
            "block_0/cross_attention/query": "transformer_block/attn2/to_q",
            "block_0/cross_attention/key": "transformer_block/attn2/to_k",
            "block_0/cross_attention/value": "transformer_block/attn2/to_v",
            "block_0/cross_attention/out": "transformer_block/attn2/out_proj",
            "block_0/norm3": "transformer_block/norm3",
            "block_0/feed_forward/hidden": "transformer_block/geglu/dense",
            "block_0/feed_forward/out": "transformer_block/dense",
            "proj_out": "proj2",
        },
    ),
    "group_normalization": ("norm_out", {"": ""}),
}

_AUTOENCODER: dict[str, _Layer] = {
    "padded_conv2d": (
        r"latent|moments|conv_in|conv_out|(down|up)sample_\d+/conv",
        _PADDED_CONV,
    ),
    "resnet_block": (
        r"middle/residual[12]|level_\d+_\d+",
        {
            "norm1": "norm1",
            "conv1": "conv1/conv2d",
            "norm2": "norm2",
            "conv2": "conv2/conv2d",
            "shortcut": "residual_projection/conv2d",
        },
    ),
    "attention_block": (
        "middle/attention",
        {
            "norm": "norm",
            "attention/query": "q/conv2d",
            "attention/key": "k/conv2d",
            "attention/value": "v/conv2d",
            "attention/out": "proj_out/conv2d",
        },
    ),
    "group_normalization": ("norm_out", {"": ""}),
}


def text_encoder(config: TextEncoderConfig) -> Table:
    """`TextEncoder` and `TextEncoderV2`."""
    return _table(diffusers.text_encoder(config), _TEXT_ENCODER, [r"(?!norm/)", ""])


def unet(config: UNetConfig) -> Table:
    """`DiffusionModel` and `DiffusionModelV2`. Their transformers have one block each."""
    layers = dict(_UNET)
    if not config.linear_projection:
        pattern, inside = layers["spatial_transformer"]
        convolved = {"proj_in": "proj1/conv2d", "proj_out": "proj2/conv2d"}
        layers["spatial_transformer"] = (pattern, {**inside, **convolved})
    # The layers of a functional model stand by their distance from its output, and so the first
    # convolution between the two layers that the timestep goes through.
    order = ["time1/", "conv_in/", "time2/", r"(?!norm_out/|conv_out/)", "norm_out/", "conv_out/"]
    return _table(diffusers.unet(config), layers, order)


def encoder(config: AutoencoderConfig) -> Table:
    """`ImageEncoder`: the half of the autoencoder whose paths are under `encoder/`."""
    order = ["conv_in/", r"level_|downsample_", "middle/", "norm_out/", "conv_out/", "moments/"]
    return _half("encoder/", config, order)


def decoder(config: AutoencoderConfig) -> Table:
    """`Decoder`: the half of the autoencoder whose paths are under `decoder/`."""
    order = ["latent/", "conv_in/", "middle/", r"level_|upsample_", "norm_out/", "conv_out/"]
    return _half("decoder/", config, order)


def in_order(table: Table, names: Sequence[str]) -> Table:
    """The table with the names that its tensors have in one `.h5` file of Keras 2.

    Args:
        table: of one of KerasCV's classes.
        names: of the file's tensors in the order in which they were saved, see
            `keras_sd.weights.readers.hdf5`. Where there are too few, the entries that are left are
            called after their position and so are missing.
    """
    known = [*names, *(f"weight {i} of {len(table)}" for i in range(len(names), len(table)))]
    return [replace(entry, name=name) for entry, name in zip(table, known, strict=False)]


@dataclass(frozen=True)
class KnownPart:
    """What a file of KerasCV holds.

    Attributes:
        part: `"text_encoder"`, `"unet"`, or the half of the autoencoder: `"encoder"`, `"decoder"`.
        config: a model of the version that the part belongs to.
            The numbers of the part are those of the file. Both versions have one autoencoder, and
            it is found as that of Stable Diffusion 1.x.
        table: which variable is in which tensor, by the names of the file.
    """

    part: str
    config: ModelConfig
    table: Table


def recognise(shapes: Shapes, order: Sequence[str] | None) -> KnownPart | None:
    """Says which of KerasCV's files this is.

    The few tensors that tell one from the other are looked at; whether the file has everything
    else that it should is for whoever compares it with the table.

    Args:
        shapes: of the file's tensors, by name.
        order: the names in the order in which they were saved; None for a `.weights.h5` file.

    Returns:
        None where it is none of them.
    """

    def found(table: Table) -> dict[str, tuple[int, ...]]:
        named = table if order is None else in_order(table, order)
        return {entry.path: tuple(shapes.get(entry.name, ())) for entry in named}

    for config in (SD_1, SD_2_BASE):
        for part, (network, make, paths) in _CLASSES.items():
            table = make(getattr(config, network))
            there = found(table)
            wanted = {entry.path: entry.file_shape for entry in table}
            if any(there[path] != wanted[path] for path in paths):
                continue
            if part == "text_encoder":
                config = _with_vocabulary(config, there)
                table = make(config.text_encoder)
            return KnownPart(part, config, table if order is None else in_order(table, order))
    return None


def _with_vocabulary(config: ModelConfig, there: Shapes) -> ModelConfig:
    """The config with as many tokens as the file has: words can be added to KerasCV's.

    Numbers that no config can have leave it as it is, and so do not fit what it says.
    """
    tokens, positions = (there[f"embedding/{name}/embeddings"] for name in ("tokens", "positions"))
    if len(tokens) != 2 or len(positions) != 2:
        return config
    try:
        encoder = replace(config.text_encoder, vocab_size=tokens[0], max_length=positions[0])
    except ValueError:
        return config
    return replace(config, text_encoder=encoder)


def _half(half: str, config: AutoencoderConfig, order: Sequence[str]) -> Table:
    entries = [
        replace(entry, path=entry.path.removeprefix(half))
        for entry in diffusers.autoencoder(config)
        if entry.path.startswith(half)
    ]
    table = []
    for entry in _table(entries, _AUTOENCODER, order):
        # The attention's linear maps are convolutions of one pixel.
        dense = re.fullmatch("middle/attention/attention/.*/kernel", entry.path)
        layout: Layout = "keras_pointwise" if dense else "same"
        table.append(replace(entry, path=half + entry.path, layout=layout))
    return table


def _table(entries: Iterable[Weight], layers: Mapping[str, _Layer], order: Sequence[str]) -> Table:
    """The entries in KerasCV's order and with its names.

    Args:
        entries: every variable once; two of one layer, such as kernel and bias, in that order.
        layers: of KerasCV, by the name of their class.
        order: patterns of paths; what fits an earlier one comes first.
    """
    ranks = [re.compile(pattern) for pattern in order]
    names: dict[str, str] = {}  # of KerasCV's layers, by our path of them, in order
    classes: Counter[str] = Counter()
    places = []
    for entry in entries:
        rank = next(i for i, pattern in enumerate(ranks) if pattern.match(entry.path))
        places.append((rank, *_place(entry.path, layers), entry))
    places.sort(key=itemgetter(0))
    for _, cls, layer, _, _ in places:
        if layer not in names:
            names[layer] = f"{cls}_{classes[cls]}" if classes[cls] else cls
            classes[cls] += 1

    counts = {layer: i for i, layer in enumerate(names)}
    places.sort(key=lambda place: (counts[place[2]], list(layers[place[1]][1]).index(place[3])))
    variables: Counter[str] = Counter()
    table = []
    for _, cls, layer, inside, entry in places:
        name = "/".join(filter(None, ("layers", names[layer], layers[cls][1][inside], "vars")))
        table.append(replace(entry, name=f"{name}/{variables[name]}", layout="same"))
        variables[name] += 1
    return table


def _place(path: str, layers: Mapping[str, _Layer]) -> tuple[str, str, str]:
    """The class of the layer of KerasCV, our path of that layer, and which part of it this is."""
    for cls, (pattern, parts) in layers.items():
        if match := re.fullmatch(rf"({pattern})/(?:(.+)/)?[^/]+", path):
            layer, inside = match.group(1), match.groups()[-1] or ""
            if inside in parts:
                return cls, layer, inside
    raise ValueError(f"KerasCV has nothing like {path}")


# Of every class: its part of a config, its table, and what tells it from the others by its shape.
_CLASSES: dict[str, tuple[str, Callable[[Any], Table], tuple[str, ...]]] = {
    "text_encoder": (
        "text_encoder",
        text_encoder,
        ("layer_0/norm1/gamma", "layer_0/attention/query/kernel", "layer_0/hidden/kernel"),
    ),
    "unet": (
        "unet",
        unet,
        ("time1/kernel", "down_0_0/transformer/block_0/cross_attention/key/kernel"),
    ),
    "encoder": ("autoencoder", encoder, ("encoder/conv_in/kernel", "encoder/conv_in/bias")),
    "decoder": ("autoencoder", decoder, ("decoder/latent/kernel", "decoder/conv_in/kernel")),
}
