"""The names of the networks by which pictures steer a run: CLIP's image encoder as transformers
has it (CLIPVisionModelWithProjection), IP-Adapters and T2I-Adapters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from keras_sd.adapter_configs import FeatureConfig, ImageEncoderConfig, ImagePromptConfig
from keras_sd.config import UNetConfig
from keras_sd.weights.names import Table, Weight, diffusers, under
from keras_sd.weights.names.diffusers import conv, linear, norm

IMAGE_PROJ, IP_ADAPTER = "image_proj.", "ip_adapter."
"""What the names of an IP-Adapter begin with: of its projector, and of its attention."""


def image_encoder(config: ImageEncoderConfig) -> Table:
    """`CLIPVisionModelWithProjection`."""
    width, patch = config.width, config.patch
    table = [
        Weight("embeddings.class_embedding", "embedding/whole", (width,)),
        Weight(
            "embeddings.patch_embedding.weight",
            "embedding/kernel",
            (patch, patch, 3, width),
            "conv",
        ),
        Weight(
            "embeddings.position_embedding.weight", "embedding/positions", (config.tokens, width)
        ),
        *norm("pre_layrnorm", "norm_in", width),  # as it is spelt in every file
        *norm("post_layernorm", "norm", width),
    ]
    layer = diffusers.text_layer(width, config.mlp_width)
    for i in range(config.depth):
        table += under(f"encoder.layers.{i}.", f"layer_{i}/", layer)
    projection = linear("visual_projection", "projection", width, config.projection_width, False)
    return [*under("vision_model.", "", table), *projection]


def image_prompt(config: ImagePromptConfig, unet: UNetConfig, by_diffusers: bool = False) -> Table:
    """An IP-Adapter as its authors name it.

    Args:
        config: the network's numbers.
        unet: of the UNet that it is made for.
        by_diffusers: the names of the projector are those that diffusers has for it.
    """
    projector = _diffusers_projector(config) if by_diffusers else _projector(config)
    table = under(IMAGE_PROJ, "", projector)
    names = [name for name, _ in unet.cross_attentions]
    # The attentions are counted with those of pixels on themselves, so that every second has a
    # number; the middle comes last.
    order = sorted(range(len(names)), key=lambda i: names[i] == "middle")
    for number, i in enumerate(order):
        for name, path in (("to_k_ip", f"key_{i}"), ("to_v_ip", f"value_{i}")):
            whole = f"{IP_ADAPTER}{2 * number + 1}.{name}"
            table += linear(whole, path, config.context_width, config.widths[i], False)
    return table


def _projector(config: ImagePromptConfig) -> Table:
    context, width = config.context_width, config.width
    if config.kind == "base":
        return [
            *linear("proj", "projector", config.feature_width, config.tokens * context),
            *norm("norm", "norm", context),
        ]
    inner = config.heads * config.head_width
    layer = [
        *norm("0.norm1", "norm1", width),
        *norm("0.norm2", "norm2", width),
        *linear("0.to_q", "query", width, inner, False),
        *(
            replace(entry, part=(i, 2))
            for i, path in enumerate(("key", "value"))
            for entry in linear("0.to_kv", path, width, inner, False)
        ),
        *linear("0.to_out", "out", inner, width, False),
        *norm("1.0", "norm3", width),
        *linear("1.1", "hidden", width, config.mlp_width, False),
        *linear("1.3", "out2", config.mlp_width, width, False),
    ]
    return _plus(config, layer)


def _diffusers_projector(config: ImagePromptConfig) -> Table:
    if config.kind == "base":
        table = _projector(config)
        return [replace(e, name=e.name.replace("proj.", "image_embeds.")) for e in table]
    width, inner = config.width, config.heads * config.head_width
    layer = [
        *norm("ln0", "norm1", width),
        *norm("ln1", "norm2", width),
        *linear("attn.to_q", "query", width, inner, False),
        *linear("attn.to_k", "key", width, inner, False),
        *linear("attn.to_v", "value", width, inner, False),
        *linear("attn.to_out.0", "out", inner, width, False),
        *norm("ff.0", "norm3", width),
        *linear("ff.1.net.0.proj", "hidden", width, config.mlp_width, False),
        *linear("ff.1.net.2", "out2", config.mlp_width, width, False),
    ]
    return _plus(config, layer)


def _plus(config: ImagePromptConfig, layer: Table) -> Table:
    width, context = config.width, config.context_width
    table = [
        Weight("latents", "projector/queries", (1, config.tokens, width)),
        *linear("proj_in", "projector/proj_in", config.feature_width, width),
        *linear("proj_out", "projector/proj_out", width, context),
        *norm("norm_out", "norm", context),
    ]
    for i in range(config.depth):
        table += under(f"layers.{i}.", f"projector/layer_{i}/", layer)
    return table


def features(config: FeatureConfig, by_diffusers: bool) -> Table:
    """A T2I-Adapter: `T2IAdapter` of diffusers, or as its authors name it, who count the blocks of
    all levels of the full kinds in one row.

    Args:
        config: the network's numbers.
        by_diffusers: the names are those of diffusers.
    """
    light, blocks = config.kind == "light", config.blocks
    width = config.hint_channels * config.factor**2
    table: Table = []
    if not light:
        table += conv("conv_in", "conv_in", width, config.widths[0])
        width = config.widths[0]

    def level(i: int, width_in: int, width: int) -> Iterator[Weight]:
        inner = width // 4 if light else width
        first = f"body.{i}" if light or by_diffusers else f"body.{i * blocks}"
        if light or width_in != width:
            yield from conv(f"{first}.in_conv", f"level_{i}/conv_in", width_in, inner, 1)
        for j in range(blocks):
            name = f"body.{i}.resnets.{j}"
            if not by_diffusers:
                name = f"body.{i}.body.{j}" if light else f"body.{i * blocks + j}"
            path = f"level_{i}/block_{j}"
            yield from conv(f"{name}.block1", f"{path}/conv1", inner, inner)
            yield from conv(f"{name}.block2", f"{path}/conv2", inner, inner, 3 if light else 1)
        if light:
            yield from conv(f"{first}.out_conv", f"level_{i}/conv_out", inner, width, 1)

    for i, (width_in, each) in enumerate(pairwise((width, *config.widths))):
        table += level(i, width_in, each)
    return table
