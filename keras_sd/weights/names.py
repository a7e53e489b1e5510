"""What others call our variables: pure tables, made from a config alone.

A table is a list of `Weight`: the name in the file, the path of our variable in its network (the
variable's `path` without the network's name), and how the numbers are laid out there. It has every
name once and every variable once, so one table serves reading and writing.

The names here are those of diffusers (UNet2DConditionModel, AutoencoderKL) and transformers
(CLIPTextModel).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from keras_sd.config import AutoencoderConfig, TextEncoderConfig, UNetConfig

Layout = Literal["same", "linear", "conv"]

# Axes of the other layout, in the order in which we have them: torch keeps (out, in) and
# (out, in, height, width), Keras (in, out) and (height, width, in, out).
_AXES: dict[str, tuple[int, ...]] = {"linear": (1, 0), "conv": (2, 3, 1, 0)}


@dataclass(frozen=True)
class Weight:
    """One tensor of a file and one variable of ours.

    Attributes:
        name: in the file.
        path: of our variable.
        layout: `"same"`; `"linear"`, (out, in) there and (in, out) here; or `"conv"`, (out, in,
            height, width) there and (height, width, in, out) here.
    """

    name: str
    path: str
    layout: Layout = "same"

    def shape(self, theirs: tuple[int, ...]) -> tuple[int, ...] | None:
        """Our shape of a tensor with the shape `theirs`; None where that has other axes."""
        if self.layout == "same":
            return tuple(theirs)
        axes = _AXES[self.layout]
        return tuple(theirs[axis] for axis in axes) if len(theirs) == len(axes) else None

    def ours(self, array: Any) -> Any:
        """The array of the file in our layout, a view of it."""
        return array if self.layout == "same" else array.transpose(_AXES[self.layout])

    def theirs(self, array: Any) -> Any:
        """Our array in the layout of the file, a view of it."""
        if self.layout == "same":
            return array
        axes = _AXES[self.layout]
        return array.transpose([axes.index(axis) for axis in range(len(axes))])


Table = list[Weight]


def under(name: str, path: str, table: Table) -> Table:
    """The table with `name` before its names and `path` before its paths."""
    return [replace(entry, name=name + entry.name, path=path + entry.path) for entry in table]


def text_encoder(config: TextEncoderConfig) -> Table:
    """`CLIPTextModel`. Files of transformers 4 have every name under `text_model.`."""
    table = [
        Weight("embeddings.token_embedding.weight", "embedding/tokens/embeddings"),
        Weight("embeddings.position_embedding.weight", "embedding/positions/embeddings"),
        *_norm("final_layer_norm", "norm"),
    ]
    for i in range(config.depth):
        layer = [
            *_norm("layer_norm1", "norm1"),
            *_linear("self_attn.q_proj", "attention/query"),
            *_linear("self_attn.k_proj", "attention/key"),
            *_linear("self_attn.v_proj", "attention/value"),
            *_linear("self_attn.out_proj", "attention/out"),
            *_norm("layer_norm2", "norm2"),
            *_linear("mlp.fc1", "hidden"),
            *_linear("mlp.fc2", "out"),
        ]
        table += under(f"encoder.layers.{i}.", f"layer_{i}/", layer)
    return table


def unet(config: UNetConfig) -> Table:
    """`UNet2DConditionModel`."""
    table = [
        *_linear("time_embedding.linear_1", "time1"),
        *_linear("time_embedding.linear_2", "time2"),
        *_conv("conv_in", "conv_in"),
        *_norm("conv_norm_out", "norm_out"),
        *_conv("conv_out", "conv_out"),
    ]
    widths, depths, last = config.widths, config.depths, len(config.widths) - 1

    def level(block: str, i: int, path: str, width_in: int, width: int, depth: int) -> None:
        residual = _residual(width_in, width, time=True)
        table.extend(under(f"{block}.resnets.{i}.", f"{path}/residual/", residual))
        if depth:
            transformer = _transformer(depth, config.linear_projection)
            table.extend(under(f"{block}.attentions.{i}.", f"{path}/transformer/", transformer))

    skips = [widths[0]]
    for number, width in enumerate(widths):
        block = f"down_blocks.{number}"
        for i in range(config.blocks):
            level(block, i, f"down_{number}_{i}", skips[-1], width, depths[number])
            skips.append(width)
        if number < last:
            table += _conv(f"{block}.downsamplers.0.conv", f"downsample_{number}/conv")
            skips.append(width)

    level("mid_block", 0, "middle", widths[last], widths[last], max(depths[last], 1))
    residual = _residual(widths[last], widths[last], time=True)
    table += under("mid_block.resnets.1.", "middle_residual/", residual)

    width = widths[last]
    for number in range(last, -1, -1):
        block = f"up_blocks.{last - number}"
        for i in range(config.blocks + 1):
            width_in, width = width + skips.pop(), widths[number]
            level(block, i, f"up_{number}_{i}", width_in, width, depths[number])
        if number > 0:
            table += _conv(f"{block}.upsamplers.0.conv", f"upsample_{number}/conv")
    return table


def autoencoder(config: AutoencoderConfig) -> Table:
    """`AutoencoderKL`."""
    widths, last = config.widths, len(config.widths) - 1
    table = [
        *_conv("quant_conv", "encoder/moments"),
        *_conv("post_quant_conv", "decoder/latent"),
    ]
    for half in ("encoder", "decoder"):
        ends = [
            *_conv("conv_in", "conv_in"),
            *under("mid_block.resnets.0.", "middle/residual1/", _residual(1, 1)),
            *under("mid_block.attentions.0.", "middle/attention/", _pixel_attention()),
            *under("mid_block.resnets.1.", "middle/residual2/", _residual(1, 1)),
            *_norm("conv_norm_out", "norm_out"),
            *_conv("conv_out", "conv_out"),
        ]
        table += under(f"{half}.", f"{half}/", ends)

    width = widths[0]
    for number in range(last + 1):
        block = f"encoder.down_blocks.{number}"
        for i in range(config.blocks):
            width_in, width = width, widths[number]
            path = f"encoder/level_{number}_{i}/"
            table += under(f"{block}.resnets.{i}.", path, _residual(width_in, width))
        if number < last:
            table += _conv(f"{block}.downsamplers.0.conv", f"encoder/downsample_{number}/conv")

    width = widths[last]
    for number in range(last, -1, -1):
        block = f"decoder.up_blocks.{last - number}"
        for i in range(config.blocks + 1):
            width_in, width = width, widths[number]
            path = f"decoder/level_{number}_{i}/"
            table += under(f"{block}.resnets.{i}.", path, _residual(width_in, width))
        if number > 0:
            table += _conv(f"{block}.upsamplers.0.conv", f"decoder/upsample_{number}/conv")
    return table


def _linear(name: str, path: str, bias: bool = True) -> Iterator[Weight]:
    yield Weight(f"{name}.weight", f"{path}/kernel", "linear")
    if bias:
        yield Weight(f"{name}.bias", f"{path}/bias")


def _conv(name: str, path: str) -> Iterator[Weight]:
    yield Weight(f"{name}.weight", f"{path}/kernel", "conv")
    yield Weight(f"{name}.bias", f"{path}/bias")


def _norm(name: str, path: str) -> Iterator[Weight]:
    yield Weight(f"{name}.weight", f"{path}/gamma")
    yield Weight(f"{name}.bias", f"{path}/beta")


def _residual(width_in: int, width: int, time: bool = False) -> Table:
    return [
        *_norm("norm1", "norm1"),
        *_conv("conv1", "conv1"),
        *(_linear("time_emb_proj", "time") if time else ()),
        *_norm("norm2", "norm2"),
        *_conv("conv2", "conv2"),
        *(_conv("conv_shortcut", "shortcut") if width_in != width else ()),
    ]


def _transformer(depth: int, linear: bool) -> Table:
    projection = _linear if linear else _conv
    table = [
        *_norm("norm", "norm"),
        *projection("proj_in", "proj_in"),
        *projection("proj_out", "proj_out"),
    ]
    block = [
        *_norm("norm1", "norm1"),
        *_attention("attn1", "self_attention"),
        *_norm("norm2", "norm2"),
        *_attention("attn2", "cross_attention"),
        *_norm("norm3", "norm3"),
        *_linear("ff.net.0.proj", "feed_forward/hidden"),
        *_linear("ff.net.2", "feed_forward/out"),
    ]
    for i in range(depth):
        table += under(f"transformer_blocks.{i}.", f"block_{i}/", block)
    return table


def _pixel_attention() -> Table:
    return [*_norm("group_norm", "norm"), *_attention("", "attention", bias=True)]


def _attention(name: str, path: str, bias: bool = False) -> Iterator[Weight]:
    inside = name and f"{name}."
    yield from _linear(f"{inside}to_q", f"{path}/query", bias)
    yield from _linear(f"{inside}to_k", f"{path}/key", bias)
    yield from _linear(f"{inside}to_v", f"{path}/value", bias)
    yield from _linear(f"{inside}to_out.0", f"{path}/out")
