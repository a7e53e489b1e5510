"""Writing a ControlNet as diffusers does: a folder of two files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from keras_sd.config import ControlConfig
from keras_sd.files import checked_path
from keras_sd.weights.diffusers_folder.configs import VERSION
from keras_sd.weights.files import Dtype, replace_folder, tensors_of
from keras_sd.weights.names import diffusers
from keras_sd.weights.readers import WeightsError

__all__ = ["save_control", "settings_of"]

_PART = "ControlNet"
_WEIGHTS, _CONFIG = "diffusion_pytorch_model.safetensors", "config.json"


def save_control(
    folder: str | Path,
    config: ControlConfig,
    arrays: Mapping[str, Any],
    *,
    dtype: Dtype | None = None,
) -> None:
    """Writes a folder that `from_pretrained` of diffusers' `ControlNetModel` loads, and
    `keras_sd.ControlNet.from_file`: whole or not at all.

    Args:
        folder: is made where there is none; of one that is there, the two files are replaced.
        config: the network's numbers.
        arrays: every variable by its path, in our layout.
        dtype: of the numbers in the file; None is as they are.

    Raises:
        WeightsError: a number is not finite in this dtype, the arrays are not those of the config,
            or diffusers has no such network. Nothing was written.
        FileExistsError: the folder has other files.
        ValueError: another dtype, or `folder` is empty.
        TypeError: `folder` is no path.
        BlockingIOError: another process is writing this folder.
        OSError: a file cannot be written; the message names it.
    """
    folder = checked_path(folder, "folder")
    text = json.dumps(settings_of(config), indent=2) + "\n"
    named = {f"{_PART}/{path}": array for path, array in arrays.items()}
    tensors = tensors_of(named, {_PART: diffusers.control(config)}, dtype)
    replace_folder(
        folder,
        {
            _CONFIG: lambda path: path.write_bytes(text.encode()),
            _WEIGHTS: lambda path: save_file(tensors, path, {"format": "pt"}),
        },
    )


def settings_of(config: ControlConfig) -> dict[str, Any]:
    """What diffusers makes the network of."""
    cross = [depth > 0 for depth in config.depths]
    layers = [max(depth, 1) for depth in config.depths]
    if not cross[-1]:  # the last one is also the middle's
        layers[-1] = max(config.depth_of_middle, 1)
    elif config.depth_of_middle not in (0, layers[-1]):
        raise WeightsError(
            f"diffusers has no ControlNet whose middle has {config.depth_of_middle} transformer "
            f"blocks beside {layers[-1]} in the last level"
        )
    found: dict[str, Any] = {
        "_class_name": "ControlNetModel",
        "_diffusers_version": VERSION,
        "act_fn": "silu",
        "attention_head_dim": list(config.heads),
        "block_out_channels": list(config.widths),
        "conditioning_channels": config.hint_channels,
        "conditioning_embedding_out_channels": list(config.hint_widths),
        "controlnet_conditioning_channel_order": "rgb",
        "cross_attention_dim": config.context_width,
        "down_block_types": ["CrossAttnDownBlock2D" if c else "DownBlock2D" for c in cross],
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "global_pool_conditions": config.pooled,
        "in_channels": config.in_channels,
        "layers_per_block": config.blocks,
        "mid_block_type": "UNetMidBlock2DCrossAttn" if config.depth_of_middle else "UNetMidBlock2D",
        "norm_eps": 1e-5,
        "norm_num_groups": config.groups,
        "transformer_layers_per_block": layers,
        "use_linear_projection": config.linear_projection,
    }
    if config.pooled_width:
        found["addition_embed_type"] = "text_time"
        found["addition_time_embed_dim"] = config.number_width
        found["projection_class_embeddings_input_dim"] = config.added_width
    return found
