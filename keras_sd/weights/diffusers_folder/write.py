"""Writing a folder that diffusers loads."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from keras_sd import compat
from keras_sd.config import ModelConfig, TextEncoderConfig, UNetConfig
from keras_sd.files import checked_path
from keras_sd.specs import parse_spec
from keras_sd.tokenizer import END, START, UNMERGED, Tokenizer, read_merges
from keras_sd.weights.diffusers_folder.choice import folders_of, stems
from keras_sd.weights.diffusers_folder.configs import (
    CHANNELS,
    CHANNELS_XL,
    CLASSES,
    CLASSES_XL,
    INDEX,
    SCHEDULER,
    VERSION,
    read_config,
)
from keras_sd.weights.diffusers_folder.schedulers import KINDS, SIGMAS, SPACINGS
from keras_sd.weights.diffusers_folder.settings import FolderSettings
from keras_sd.weights.diffusers_folder.tokens import PADS, Tokens
from keras_sd.weights.files import (
    Dtype,
    refuse_others,
    replace_folder,
    require_encoder,
    tensors_of,
)
from keras_sd.weights.names import diffusers
from keras_sd.weights.readers import WeightsError


def write_folder(
    folder: str | Path,
    config: ModelConfig,
    arrays: Mapping[str, Any],
    merges: Sequence[str] | Path,
    dtype: Dtype | None = None,
) -> None:
    """Writes a folder that `from_pretrained` of `diffusers.StableDiffusionPipeline`, or of
    `diffusers.StableDiffusionXLPipeline`, loads, whole or not at all: if anything goes wrong, an
    older one is as it was.

    What diffusers has no setting for (the usual number of steps) is in `model_index.json` under
    `_keras_sd`.

    Args:
        folder: is made where there is none. One that is there is written over only if every file
            in it is replaced: others could be read in place of ours, as shards, variants and
            newer tokenizers are.
        config: the model's numbers.
        arrays: every variable by `part/path`, in our layout.
        merges: of the tokenizer: pairs with a space between, in order, or the path of their file.
        dtype: of the numbers in the files, `"float16"`, `"bfloat16"` or `"float32"`; None is as
            they are.

    Raises:
        WeightsError: diffusers has no such model, the arrays are not those of the config, or a
            number is not finite in this dtype. Nothing was written.
        FileExistsError: the folder has other files, which the message names.
        ValueError: another dtype, the merges are not those of the config, or `folder` is empty.
        TypeError: `folder` is no path.
        BlockingIOError: another process is writing this folder.
        OSError: a file cannot be written; the message names it.
    """
    folder = checked_path(folder, "folder")
    config = compat.without(config, "diffusers")
    require_encoder(config, "diffusers")
    lines = read_merges(merges) if isinstance(merges, Path) else list(merges)
    tokenizer = Tokenizer(lines[: max(config.text_encoder.vocab_size - UNMERGED, 0)])
    vocabulary = tokenizer.vocabulary
    jsons = to_jsons(folder, config, vocabulary)
    texts = {name: _text(values) for name, values in jsons.items()}
    header = "#version: 0.2"
    for name in tokenizers_of(config).values():
        merged = [header, *lines[: len(vocabulary) - UNMERGED], ""]
        texts[f"{name}/merges.txt"] = "\n".join(merged)
    folders = folders_in(config)
    files = {part: f"{name}/{stems(part)[0]}.safetensors" for part, name in folders.items()}
    refuse_others(folder, {*texts, *files.values()})
    tables = {
        **{
            part: diffusers.text_encoder(encoder, "text_model.")
            for part, encoder in config.text_encoders.items()
        },
        "unet": diffusers.unet(config.unet),
        "autoencoder": diffusers.autoencoder(config.autoencoder),
    }
    parts = {name: name.split("/")[0] for name in arrays}
    if odd := sorted(name for name, part in parts.items() if part not in tables):
        raise WeightsError(f"Not saved, for the weights are not those of the config: {odd[:10]}")
    tensors = {
        part: tensors_of(
            {name: arrays[name] for name in arrays if parts[name] == part}, {part: table}, dtype
        )
        for part, table in tables.items()
    }

    def tensor_file(part: str) -> Callable[[Path], object]:
        return lambda path: save_file(tensors[part], path, metadata={"format": "pt"})

    def text_file(text: str) -> Callable[[Path], object]:
        return lambda path: path.write_bytes(text.encode())

    index = texts.pop(INDEX)
    replace_folder(
        folder,
        {
            **{name: tensor_file(part) for part, name in files.items()},
            **{name: text_file(text) for name, text in texts.items()},
            INDEX: text_file(index),
        },
    )


def _text(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def folders_in(config: ModelConfig) -> dict[str, str]:
    """What diffusers calls the folders of a model's parts."""
    both = config.text_encoder_2 is not None
    return folders_of(both or not config.unet.pooled_width, config.unet.pooled_width > 0 or both)


def tokenizers_of(config: ModelConfig) -> dict[str, str]:
    """Likewise of its tokenizers, by text encoder."""
    return {
        part: name.replace("text_encoder", "tokenizer")
        for part, name in folders_in(config).items()
        if part in config.text_encoders
    }


def to_jsons(
    folder: Path, config: ModelConfig, vocabulary: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """The JSON files of a folder, which read back as the config.

    Args:
        folder: for messages.
        config: the model's numbers.
        vocabulary: of the tokenizer.

    Returns:
        What the files hold, by their path in the folder.

    Raises:
        WeightsError: diffusers has no such model.
    """
    scheduler = _scheduler_of(config)
    folders, pads = folders_in(config), (config.pad_token, config.pad_token_2)
    encoders = dict(zip(config.text_encoders, pads, strict=False))
    index: dict[str, Any] = {
        "_class_name": _pipeline_of(config),
        "_diffusers_version": VERSION,
        **_components(config),
        "scheduler": ["diffusers", scheduler],
        "feature_extractor": [None, None],
    }
    if config.unet.pooled_width:
        index["image_encoder"] = [None, None]
        index["force_zeros_for_empty_prompt"] = config.defaults.empty_negative == "zeros"
        if config.unet.numbers == 5:
            index["requires_aesthetics_score"] = True
    else:
        index |= {"safety_checker": [None, None], "requires_safety_checker": False}
    jsons = {
        INDEX: index,
        "unet/config.json": _unet_json(config),
        "vae/config.json": _autoencoder_json(config),
        SCHEDULER: _scheduler_json(config, scheduler),
    }
    for part, pad in encoders.items():
        text = config.text_encoders[part]
        jsons[f"{folders[part]}/config.json"] = _text_encoder_json(text, pad, len(vocabulary))
        name = tokenizers_of(config)[part]
        for file, values in _tokenizer_jsons(text, pad, vocabulary).items():
            jsons[f"{name}/{file}"] = values

    def read() -> ModelConfig:
        given = {name: FolderSettings(folder / name, values) for name, values in jsons.items()}
        tokens = {
            part: Tokens(vocabulary=tuple(vocabulary), pad=pad) for part, pad in encoders.items()
        }
        return read_config(folder, folders, given, tokens, [])

    defaults = dataclasses.asdict(read().defaults)
    wanted = dataclasses.asdict(config.defaults)
    index["_keras_sd"] = {
        "name": config.name,
        "defaults": {key: value for key, value in wanted.items() if value != defaults[key]},
    }
    found = read()
    if found != config:
        odd = [
            field.name
            for field in dataclasses.fields(config)
            if getattr(found, field.name) != getattr(config, field.name)
        ]
        raise WeightsError(f"{config.name}: diffusers has no settings for its {', '.join(odd)}")
    return jsons


def _components(config: ModelConfig) -> dict[str, list[str | None]]:
    """The class of each, or that it is left out."""
    xl = config.unet.pooled_width > 0
    there = {*folders_in(config).values(), *tokenizers_of(config).values()}
    return {
        name: ["transformers" if name.startswith(("text_", "tokenizer")) else "diffusers", first]
        if name in there
        else [None, None]
        for name, (first, *_) in (CLASSES_XL if xl else CLASSES).items()
    }


def _pipeline_of(config: ModelConfig) -> str:
    channels, latent = config.unet.in_channels, config.autoencoder.latent_channels
    for pipeline, wanted in (CHANNELS_XL if config.unet.pooled_width else CHANNELS).items():
        if channels == wanted(latent):
            # The refiner goes on with what another model began.
            refines = config.unet.numbers == 5
            return pipeline.replace("XLPipe", "XLImg2ImgPipe") if refines else pipeline
    raise WeightsError(
        f"{config.name}: diffusers has no pipeline for a UNet that takes {channels} channels where "
        f"a latent has {latent}"
    )


_SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "pndm": "PNDMScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_ancestral": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "lms": "LMSDiscreteScheduler",
    "dpm2": "KDPM2DiscreteScheduler",
    "dpm2_ancestral": "KDPM2AncestralDiscreteScheduler",
    "dpmpp_sde": "DPMSolverSDEScheduler",
}
"""By our names; those of them with settings are written without. For the others it is DDIM's."""

_ZERO_SNR = ("DDIMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")
"""Which have that noise."""


def _scheduler_of(config: ModelConfig) -> str:
    name = _SCHEDULERS.get(_parsed(config.defaults.sampler)[0], "DDIMScheduler")
    noise = config.noise
    ends_there = KINDS[name].end not in ("zero", "first") or KINDS[name].end == noise.final_sigma
    if not ends_there or (noise.zero_terminal_snr and name not in _ZERO_SNR):
        return "DDIMScheduler"
    return name


def _parsed(spec: str) -> tuple[str, dict[str, Any]]:
    """A sampler's or schedule's name and settings; whatever a config may hold there."""
    try:
        return parse_spec(spec)
    except ValueError:
        return spec, {}


def _one_or_all(values: Sequence[int]) -> int | list[int]:
    return values[0] if len(set(values)) == 1 else list(values)


def _unet_json(config: ModelConfig) -> dict[str, Any]:
    unet, factor = config.unet, config.autoencoder.factor
    cross = [depth > 0 for depth in unet.depths]
    if unet.up_depths and cross[::-1] != _attending_ups(unet):
        raise WeightsError(
            f"{config.name}: diffusers has no UNet with the transformers of up_depths "
            f"{unet.up_depths} beside depths {unet.depths}"
        )
    layers = [max(depth, 1) for depth in unet.depths]
    if not cross[-1]:
        layers[-1] = max(unet.depth_of_middle, 1)
    size = (config.defaults.height // factor, config.defaults.width // factor)
    found: dict[str, Any] = {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": VERSION,
        "act_fn": "silu",
        "attention_head_dim": _one_or_all(unet.heads),
        "block_out_channels": list(unet.widths),
        "cross_attention_dim": unet.context_width,
        "down_block_types": ["CrossAttnDownBlock2D" if c else "DownBlock2D" for c in cross],
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": unet.in_channels,
        "layers_per_block": unet.blocks,
        "mid_block_type": "UNetMidBlock2DCrossAttn" if unet.depth_of_middle else "UNetMidBlock2D",
        "norm_eps": 1e-5,
        "norm_num_groups": unet.groups,
        "out_channels": unet.out_channels,
        "sample_size": _one_or_all(size),
        "transformer_layers_per_block": _one_or_all(layers),
        "up_block_types": ["CrossAttnUpBlock2D" if c else "UpBlock2D" for c in cross[::-1]],
        "use_linear_projection": unet.linear_projection,
    }
    if unet.up_depths:
        found["reverse_transformer_layers_per_block"] = [
            [max(depth, 1) for depth in row] for row in _rows_up(unet)
        ]
    if unet.guidance_width:
        found["time_cond_proj_dim"] = unet.guidance_width
    if unet.pooled_width:
        found["addition_embed_type"] = "text_time"
        found["addition_time_embed_dim"] = unet.number_width
        found["projection_class_embeddings_input_dim"] = unet.added_width
    return found


def _rows_up(unet: UNetConfig) -> list[list[int]]:
    levels = range(len(unet.widths) - 1, -1, -1)
    return [[unet.depth_up(level, i) for i in range(unet.blocks + 1)] for level in levels]


def _attending_ups(unet: UNetConfig) -> list[bool | None]:
    """Of each level on the way up, whether its blocks attend; None where some do."""
    rows = [[depth > 0 for depth in row] for row in _rows_up(unet)]
    return [row[0] if len(set(row)) == 1 else None for row in rows]


def _autoencoder_json(config: ModelConfig) -> dict[str, Any]:
    autoencoder = config.autoencoder
    levels = len(autoencoder.widths)
    return {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": VERSION,
        "act_fn": "silu",
        "block_out_channels": list(autoencoder.widths),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "in_channels": 3,
        "latent_channels": autoencoder.latent_channels,
        "layers_per_block": autoencoder.blocks,
        "norm_num_groups": autoencoder.groups,
        "out_channels": 3,
        "sample_size": max(config.defaults.height, config.defaults.width),
        "scaling_factor": autoencoder.scale,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


def _text_encoder_json(text: TextEncoderConfig, pad: str, tokens: int) -> dict[str, Any]:
    projects = text.projection_width > 0
    return {
        "architectures": ["CLIPTextModelWithProjection" if projects else "CLIPTextModel"],
        "bos_token_id": tokens - 2,
        "eos_token_id": tokens - 1,
        "hidden_act": text.activation,
        "hidden_size": text.width,
        "intermediate_size": text.mlp_width,
        "layer_norm_eps": text.epsilon,
        "max_position_embeddings": text.max_length,
        "model_type": "clip_text_model",
        "num_attention_heads": text.heads,
        "num_hidden_layers": text.depth,
        "pad_token_id": tokens - 1 if pad == "end" else 0,
        "projection_dim": text.projection_width or text.width,
        "vocab_size": text.vocab_size,
    }


def _scheduler_json(config: ModelConfig, name: str) -> dict[str, Any]:
    noise = config.noise
    schedule, settings = _parsed(config.defaults.schedule or "leading")
    of_sigmas = schedule in SIGMAS.values() and KINDS[name].grid == "each"
    spacing = settings.get("spacing", "linspace") if of_sigmas else schedule
    values = {
        "_class_name": name,
        "_diffusers_version": VERSION,
        "beta_end": noise.beta_end,
        "beta_schedule": noise.beta_schedule,
        "beta_start": noise.beta_start,
        "num_train_timesteps": noise.num_train_timesteps,
        "prediction_type": {"v": "v_prediction", "x0": "sample"}.get(noise.prediction, "epsilon"),
        "steps_offset": 1,
        "timestep_spacing": spacing if spacing in SPACINGS else "leading",
        "trained_betas": None,
    }
    zero = noise.final_sigma == "zero"
    if name in _ZERO_SNR:
        values["rescale_betas_zero_snr"] = noise.zero_terminal_snr
    if name == "PNDMScheduler":
        return values | {"set_alpha_to_one": zero, "skip_prk_steps": True}
    if name == "DDIMScheduler":
        return values | {"set_alpha_to_one": zero, "clip_sample": False, "thresholding": False}
    if name == "EulerDiscreteScheduler":
        values["final_sigmas_type"] = "zero" if zero else "sigma_min"
    if name == "EulerAncestralDiscreteScheduler":  # which knows no other sigmas
        return values
    return values | {key: schedule == ours for key, ours in SIGMAS.items()}


def _tokenizer_jsons(
    text: TextEncoderConfig, pad: str, vocabulary: Sequence[str]
) -> dict[str, dict[str, Any]]:
    pads = {ours: theirs for theirs, ours in PADS.items()}
    special = {
        "bos_token": START,
        "eos_token": END,
        "pad_token": pads[pad],
        "unk_token": END,
    }
    return {
        "vocab.json": {token: number for number, token in enumerate(vocabulary)},
        "special_tokens_map.json": special,
        "tokenizer_config.json": {
            "add_prefix_space": False,
            "do_lower_case": True,
            "model_max_length": text.max_length,
            "tokenizer_class": "CLIPTokenizer",
            **special,
        },
    }
