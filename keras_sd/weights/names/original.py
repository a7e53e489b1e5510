"""The names of single files: CompVis' latent diffusion, and Stability's with OpenCLIP for 2.x.

Every table is that of `diffusers` with the entries renamed: the networks are the same, and only
the places are counted differently.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from keras_sd.config import (
    AutoencoderConfig,
    ControlConfig,
    ModelConfig,
    TextEncoderConfig,
    UNetConfig,
)
from keras_sd.weights.names import Table, Weight, diffusers

UNET = "model.diffusion_model."
AUTOENCODER = "first_stage_model."
CLIP = "cond_stage_model.transformer.text_model."
OPENCLIP = "cond_stage_model.model."
EMBEDDERS = "conditioner.embedders."
"""What the names of all text encoders of SDXL begin with, which go by a number."""
CLIP_XL = f"{EMBEDDERS}0.transformer.text_model."
OPENCLIP_XL = f"{EMBEDDERS}1.model."
OPENCLIP_REFINER = f"{EMBEDDERS}0.model."
CONTROL = "control_model."
"""What the names of a part begin with."""

# The parts of a residual block: layers of a torch Sequential are known by number.
_RESIDUAL = {
    "norm1.": "in_layers.0.",
    "conv1.": "in_layers.2.",
    "time_emb_proj.": "emb_layers.1.",
    "norm2.": "out_layers.0.",
    "conv2.": "out_layers.3.",
    "conv_shortcut.": "skip_connection.",
}

_AUTOENCODER = {
    "down_blocks.": "down.",
    "mid_block.resnets.0.": "mid.block_1.",
    "mid_block.resnets.1.": "mid.block_2.",
    "mid_block.attentions.0.": "mid.attn_1.",
    ".resnets.": ".block.",
    ".downsamplers.0.": ".downsample.",
    ".upsamplers.0.": ".upsample.",
    ".group_norm.": ".norm.",
    ".to_q.": ".q.",
    ".to_k.": ".k.",
    ".to_v.": ".v.",
    ".to_out.0.": ".proj_out.",
    "conv_shortcut.": "nin_shortcut.",
    "conv_norm_out.": "norm_out.",
}

_OPENCLIP = {
    "embeddings.token_embedding.": "token_embedding.",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.": "ln_final.",
}
_OPENCLIP_LAYER = {
    "layer_norm1.": "ln_1.",
    "self_attn.q_proj.": "attn.in_proj_",
    "self_attn.k_proj.": "attn.in_proj_",
    "self_attn.v_proj.": "attn.in_proj_",
    "self_attn.out_proj.": "attn.out_proj.",
    "layer_norm2.": "ln_2.",
    "mlp.fc1.": "mlp.c_fc.",
    "mlp.fc2.": "mlp.c_proj.",
}

# What training left in a file, and what a model has no variable for: tables that follow from the
# betas, the discriminator of the autoencoder, the end of CLIP that compares text with images, and
# the empty tensors by which a file says how it was trained.
_IGNORED = re.compile(
    r"""
    betas | (sqrt_|log_)?(one_minus_)?(recip_|recipm1_)?alphas_cumprod(_prev)?
    | posterior_(variance|log_variance_clipped|mean_coef[12])
    | lvlb_weights | logvar | scale_factor | v_pred | ztsnr
    | (first_stage_model\.)?loss\..*
    | (first_stage_model\.)?model_ema\.(decay|num_updates|(en|de)coder.*|(post_)?quant_conv.*)
    | embedding_manager\..*
    | (.*\.)?position_ids
    | (cond_stage_model\.(.*\.)?)?(text_projection(\.weight)?|logit_scale|attn_mask)
    | conditioner\.embedders\.\d+\.(model\.)?(logit_scale|attn_mask)
    | edm_(mean|std)
    | conditioner\.embedders\.0\.transformer\.text_projection(\.weight)?
    """,
    re.VERBOSE,
)


def unet(config: UNetConfig, prefix: str = UNET) -> Table:
    """The UNet. Its blocks are counted through all resolutions."""
    return _placed(diffusers.unet(config), _unet_places(config), prefix)


def control(config: ControlConfig, prefix: str = CONTROL) -> Table:
    """A ControlNet. Some files have its names without the prefix."""
    hint = "controlnet_cond_embedding."
    blocks = 2 * len(config.hint_widths) - 2
    places = {
        **_unet_places(config),
        f"{hint}conv_in.": "input_hint_block.0.",
        **{f"{hint}blocks.{i}.": f"input_hint_block.{2 + 2 * i}." for i in range(blocks)},
        f"{hint}conv_out.": f"input_hint_block.{2 + 2 * blocks}.",
        "controlnet_mid_block.": "middle_block_out.0.",
    }
    table = diffusers.control(config)
    for entry in table:
        if zero := re.match(r"controlnet_down_blocks\.(\d+)\.", entry.name):
            places[zero[0]] = f"zero_convs.{zero[1]}.0."
    return _placed(table, places, prefix)


def _placed(table: Table, places: Mapping[str, str], prefix: str) -> Table:
    def renamed(name: str) -> str:
        block = next(place for place in places if name.startswith(place))
        inside = name.removeprefix(block)
        return places[block] + (_moved(inside, _RESIDUAL) if ".resnets." in block else inside)

    return [replace(entry, name=prefix + renamed(entry.name)) for entry in table]


def autoencoder(
    config: AutoencoderConfig, prefix: str = AUTOENCODER, *, pointwise: bool = True
) -> Table:
    """The autoencoder. A file with it alone has its names without the prefix.

    Args:
        config: the network's numbers.
        prefix: what the names begin with.
        pointwise: the attention's weights are 1x1 convolutions, (out, in, 1, 1), as they were
            trained; some converted files have them as (out, in).
    """
    last = len(config.widths) - 1

    def renamed(entry: Weight) -> Weight:
        # The way up is counted from the finest resolution too, the last that it comes to.
        name = re.sub(r"up_blocks\.(\d+)", lambda n: f"up.{last - int(n[1])}", entry.name)
        for theirs, here in _AUTOENCODER.items():
            name = name.replace(theirs, here)
        attends = ".attn_1." in name and entry.layout == "linear"
        layout = "pointwise" if attends and pointwise else entry.layout
        return replace(entry, name=prefix + name, layout=layout)

    return [renamed(entry) for entry in diffusers.autoencoder(config)]


def clip(config: TextEncoderConfig, prefix: str = CLIP) -> Table:
    """The text encoder of 1.x, with the names of transformers. Some files lack `text_model.`."""
    return diffusers.text_encoder(config, prefix)


def openclip(config: TextEncoderConfig, prefix: str = OPENCLIP) -> Table:
    """The text encoder of 2.x, and the second of SDXL. The file keeps query, key and value in one
    tensor, and the projection as it is multiplied with.
    """

    def renamed(entry: Weight) -> Weight:
        layer = re.fullmatch(r"encoder\.layers\.(\d+)\.(.*)", entry.name)
        if entry.path == "projection/kernel":
            return replace(entry, name=f"{prefix}text_projection", layout="same")
        if layer is None:
            return replace(entry, name=prefix + _moved(entry.name, _OPENCLIP))
        inside = _moved(layer[2], _OPENCLIP_LAYER)
        name = f"{prefix}transformer.resblocks.{layer[1]}.{inside}"
        third = re.match(r"self_attn\.([qkv])_", layer[2])
        return replace(entry, name=name, part=third and ("qkv".index(third[1]), 3))

    return [renamed(entry) for entry in diffusers.text_encoder(config)]


def text_encoder(config: TextEncoderConfig) -> Table:
    """The text encoder as the files of its family have it: CLIP of 1.x, or OpenCLIP of 2.x."""
    return clip(config) if config.activation == "quick_gelu" else openclip(config)


def text_encoders(config: ModelConfig) -> dict[str, Table]:
    """Those of a model: of 1.x or 2.x one, of SDXL both, of its refiner OpenCLIP's alone."""
    first, second = config.text_encoder, config.text_encoder_2
    if second is not None:
        return {
            "text_encoder": clip(first, CLIP_XL),
            "text_encoder_2": openclip(second, OPENCLIP_XL),
        }
    if config.unet.pooled_width:
        return {"text_encoder": openclip(first, OPENCLIP_REFINER)}
    return {"text_encoder": text_encoder(first)}


def ema_name(name: str) -> str:
    """What a file with a moving average of the UNet calls the average of a weight.

    Args:
        name: of the weight itself: `model.diffusion_model.out.2.bias`.

    Returns:
        `model_ema.diffusion_modelout2bias`, for example.
    """
    return "model_ema." + name.removeprefix("model.").replace(".", "")


def is_ignored(name: str) -> bool:
    """Whether a file of this layout may have the tensor though no part of the model needs it."""
    return _IGNORED.fullmatch(name) is not None


def _unet_places(config: UNetConfig) -> dict[str, str]:
    """Where the blocks of diffusers are. One resolution has `stride` places on the way down (the
    last is for the downsampling) and on the way up (the upsampling shares the last).
    """
    stride = config.blocks + 1
    places = {
        "time_embedding.linear_1.": "time_embed.0.",
        "time_embedding.linear_2.": "time_embed.2.",
        "time_embedding.cond_proj.": "time_embed.cond_proj.",
        "add_embedding.linear_1.": "label_emb.0.0.",
        "add_embedding.linear_2.": "label_emb.0.2.",
        "conv_in.": "input_blocks.0.0.",
        "mid_block.resnets.0.": "middle_block.0.",
        "mid_block.attentions.0.": "middle_block.1.",
        "mid_block.resnets.1.": "middle_block.2.",
        "conv_norm_out.": "out.0.",
        "conv_out.": "out.2.",
    }
    for level in range(len(config.depths)):
        depth = config.depth_up(len(config.depths) - 1 - level, config.blocks)
        first, last = level * stride, level * stride + config.blocks
        for i in range(stride):
            places[f"down_blocks.{level}.resnets.{i}."] = f"input_blocks.{1 + first + i}.0."
            places[f"down_blocks.{level}.attentions.{i}."] = f"input_blocks.{1 + first + i}.1."
            places[f"up_blocks.{level}.resnets.{i}."] = f"output_blocks.{first + i}.0."
            places[f"up_blocks.{level}.attentions.{i}."] = f"output_blocks.{first + i}.1."
        places[f"down_blocks.{level}.downsamplers.0.conv."] = f"input_blocks.{1 + last}.0.op."
        # Behind the block and, where there is one, its transformer.
        behind = 2 if depth else 1
        places[f"up_blocks.{level}.upsamplers.0."] = f"output_blocks.{last}.{behind}."
    return places


def _moved(name: str, places: Mapping[str, str]) -> str:
    """The name with the one of the `places` that it begins with replaced."""
    place = next(place for place in places if name.startswith(place))
    return places[place] + name.removeprefix(place)
