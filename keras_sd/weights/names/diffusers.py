"""The names of diffusers (UNet2DConditionModel, ControlNetModel, AutoencoderKL) and transformers
(CLIPTextModel).

These tables walk the architecture, and give every variable of a network with its shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from keras_sd.config import AutoencoderConfig, ControlConfig, TextEncoderConfig, UNetConfig
from keras_sd.weights.names import Table, Weight, under


def text_encoder(config: TextEncoderConfig, prefix: str = "") -> Table:
    """`CLIPTextModel`, or with a projection `CLIPTextModelWithProjection`.

    Args:
        config: the network's numbers.
        prefix: what the names begin with: files of transformers 4, and all with a projection, have
            every name but the projection's under `text_model.`.
    """
    width = config.width
    table = [
        Weight(
            "embeddings.token_embedding.weight",
            "embedding/tokens/embeddings",
            (config.vocab_size, width),
        ),
        Weight(
            "embeddings.position_embedding.weight",
            "embedding/positions/embeddings",
            (config.max_length, width),
        ),
        *norm("final_layer_norm", "norm", width),
    ]
    layer = text_layer(width, config.mlp_width)
    for i in range(config.depth):
        table += under(f"encoder.layers.{i}.", f"layer_{i}/", layer)
    table = under(prefix, "", table)
    if config.projection_width:
        name = prefix.removesuffix("text_model.") + "text_projection"
        table += linear(name, "projection", width, config.projection_width, bias=False)
    return table


def text_layer(width: int, mlp_width: int) -> Table:
    """A layer of one of CLIP's transformers, of texts or of pictures."""
    return [
        *norm("layer_norm1", "norm1", width),
        *linear("self_attn.q_proj", "attention/query", width, width),
        *linear("self_attn.k_proj", "attention/key", width, width),
        *linear("self_attn.v_proj", "attention/value", width, width),
        *linear("self_attn.out_proj", "attention/out", width, width),
        *norm("layer_norm2", "norm2", width),
        *linear("mlp.fc1", "hidden", width, mlp_width),
        *linear("mlp.fc2", "out", mlp_width, width),
    ]


def unet(config: UNetConfig) -> Table:
    """`UNet2DConditionModel`."""
    widths, last = config.widths, len(config.widths) - 1
    time = config.time_width
    table = [
        *linear("time_embedding.linear_1", "time1", widths[0], time),
        *linear("time_embedding.linear_2", "time2", time, time),
        *conv("conv_in", "conv_in", config.in_channels, widths[0]),
        *norm("conv_norm_out", "norm_out", widths[0]),
        *conv("conv_out", "conv_out", widths[0], config.out_channels),
    ]
    if config.guidance_width:
        name = "time_embedding.cond_proj"
        table += linear(name, "guidance", config.guidance_width, widths[0], bias=False)
    if config.pooled_width:
        table += linear("add_embedding.linear_1", "added1", config.added_width, time)
        table += linear("add_embedding.linear_2", "added2", time, time)

    def level(block: str, i: int, path: str, width_in: int, width: int, depth: int) -> None:
        residual = _residual(width_in, width, time)
        table.extend(under(f"{block}.resnets.{i}.", f"{path}/residual/", residual))
        if depth:
            transformer = _transformer(width, depth, config.context_width, config.linear_projection)
            table.extend(under(f"{block}.attentions.{i}.", f"{path}/transformer/", transformer))

    skips = [widths[0]]
    for number, width in enumerate(widths):
        block = f"down_blocks.{number}"
        for i in range(config.blocks):
            level(block, i, f"down_{number}_{i}", skips[-1], width, config.depths[number])
            skips.append(width)
        if number < last:
            name = f"{block}.downsamplers.0.conv"
            table += conv(name, f"downsample_{number}/conv", width, width)
            skips.append(width)

    width = widths[last]
    level("mid_block", 0, "middle", width, width, config.depth_of_middle)
    if config.depth_of_middle:
        residual = _residual(width, width, time)
        table += under("mid_block.resnets.1.", "middle_residual/", residual)

    for number in range(last, -1, -1):
        block = f"up_blocks.{last - number}"
        for i in range(config.blocks + 1):
            width_in, width = width + skips.pop(), widths[number]
            depth = config.depth_up(number, i)
            level(block, i, f"up_{number}_{i}", width_in, width, depth)
        if number > 0:
            table += conv(f"{block}.upsamplers.0.conv", f"upsample_{number}/conv", width, width)
    return table


_WAY_DOWN = ("time_embedding.", "add_embedding.", "conv_in.", "down_blocks.", "mid_block.")
"""What the names begin with of the part of a UNet that a ControlNet has too."""


def control(config: ControlConfig) -> Table:
    """`ControlNetModel`."""
    hint, widths = "controlnet_cond_embedding.", config.hint_widths
    table = [entry for entry in unet(config) if entry.name.startswith(_WAY_DOWN)]
    table += conv(f"{hint}conv_in", "hint/conv_in", config.hint_channels, widths[0])
    for i, (width_in, width) in enumerate(pairwise(widths)):
        for j, out in enumerate((width_in, width), 2 * i):
            table += conv(f"{hint}blocks.{j}", f"hint/block_{j}", width_in, out)
    table += conv(f"{hint}conv_out", "hint/conv_out", widths[-1], config.widths[0])
    kept = [config.widths[0]]
    for number, width in enumerate(config.widths):
        is_last = number == len(config.widths) - 1
        kept += [width] * (config.blocks + (0 if is_last else 1))
    for i, width in enumerate(kept):
        table += conv(f"controlnet_down_blocks.{i}", f"zero_{i}", width, width, kernel=1)
    width = config.widths[-1]
    return [*table, *conv("controlnet_mid_block", "zero_middle", width, width, kernel=1)]


def autoencoder(config: AutoencoderConfig) -> Table:
    """`AutoencoderKL`."""
    widths, last, latent = config.widths, len(config.widths) - 1, config.latent_channels
    table = [
        *conv("quant_conv", "encoder/moments", 2 * latent, 2 * latent, kernel=1),
        *conv("post_quant_conv", "decoder/latent", latent, latent, kernel=1),
    ]
    for half, conv_in, conv_out, norm_out in (
        ("encoder", (3, widths[0]), (widths[last], 2 * latent), widths[last]),
        ("decoder", (latent, widths[last]), (widths[0], 3), widths[0]),
    ):
        residual = _residual(widths[last], widths[last])
        ends = [
            *conv("conv_in", "conv_in", *conv_in),
            *under("mid_block.resnets.0.", "middle/residual1/", residual),
            *under("mid_block.attentions.0.", "middle/attention/", _pixel_attention(widths[last])),
            *under("mid_block.resnets.1.", "middle/residual2/", residual),
            *norm("conv_norm_out", "norm_out", norm_out),
            *conv("conv_out", "conv_out", *conv_out),
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
            name = f"{block}.downsamplers.0.conv"
            table += conv(name, f"encoder/downsample_{number}/conv", width, width)

    width = widths[last]
    for number in range(last, -1, -1):
        block = f"decoder.up_blocks.{last - number}"
        for i in range(config.blocks + 1):
            width_in, width = width, widths[number]
            path = f"decoder/level_{number}_{i}/"
            table += under(f"{block}.resnets.{i}.", path, _residual(width_in, width))
        if number > 0:
            name = f"{block}.upsamplers.0.conv"
            table += conv(name, f"decoder/upsample_{number}/conv", width, width)
    if not config.encoder:
        return [entry for entry in table if entry.path.startswith("decoder/")]
    return table


def linear(name: str, path: str, width_in: int, width: int, bias: bool = True) -> Iterator[Weight]:
    """A linear map."""
    yield Weight(f"{name}.weight", f"{path}/kernel", (width_in, width), "linear")
    if bias:
        yield Weight(f"{name}.bias", f"{path}/bias", (width,))


def conv(name: str, path: str, width_in: int, width: int, kernel: int = 3) -> Iterator[Weight]:
    """A convolution."""
    yield Weight(f"{name}.weight", f"{path}/kernel", (kernel, kernel, width_in, width), "conv")
    yield Weight(f"{name}.bias", f"{path}/bias", (width,))


def norm(name: str, path: str, width: int) -> Iterator[Weight]:
    """A norm with scale and offset."""
    yield Weight(f"{name}.weight", f"{path}/gamma", (width,))
    yield Weight(f"{name}.bias", f"{path}/beta", (width,))


def _residual(width_in: int, width: int, time_width: int | None = None) -> Table:
    return [
        *norm("norm1", "norm1", width_in),
        *conv("conv1", "conv1", width_in, width),
        *(() if time_width is None else linear("time_emb_proj", "time", time_width, width)),
        *norm("norm2", "norm2", width),
        *conv("conv2", "conv2", width, width),
        *(conv("conv_shortcut", "shortcut", width_in, width, 1) if width_in != width else ()),
    ]


def _transformer(width: int, depth: int, context_width: int, on_tokens: bool) -> Table:
    def projection(name: str, path: str) -> Iterator[Weight]:
        if on_tokens:
            return linear(name, path, width, width)
        return conv(name, path, width, width, 1)

    table = [
        *norm("norm", "norm", width),
        *projection("proj_in", "proj_in"),
        *projection("proj_out", "proj_out"),
    ]
    block = [
        *norm("norm1", "norm1", width),
        *_attention("attn1.", "self_attention", width, width),
        *norm("norm2", "norm2", width),
        *_attention("attn2.", "cross_attention", width, context_width),
        *norm("norm3", "norm3", width),
        *linear("ff.net.0.proj", "feed_forward/hidden", width, 8 * width),
        *linear("ff.net.2", "feed_forward/out", 4 * width, width),
    ]
    for i in range(depth):
        table += under(f"transformer_blocks.{i}.", f"block_{i}/", block)
    return table


def _pixel_attention(width: int) -> Table:
    attention = _attention("", "attention", width, width, bias=True)
    return [*norm("group_norm", "norm", width), *attention]


def _attention(
    name: str, path: str, width: int, context_width: int, bias: bool = False
) -> Iterator[Weight]:
    yield from linear(f"{name}to_q", f"{path}/query", width, width, bias)
    yield from linear(f"{name}to_k", f"{path}/key", context_width, width, bias)
    yield from linear(f"{name}to_v", f"{path}/value", context_width, width, bias)
    yield from linear(f"{name}to_out.0", f"{path}/out", width, width)
