"""The settings of diffusers and transformers as a `ModelConfig`.

A setting that is not in its file has diffusers' default. Each one that changes what a network
computes is taken over or refused by name.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_sd.config import (
    MAX_BLOCKS,
    MAX_DEPTH,
    MAX_LAYERS,
    MAX_LEVELS,
    MAX_MLP_WIDTH,
    MAX_VOCABULARY,
    SD_1,
    SD_2,
    SDXL,
    AutoencoderConfig,
    ModelConfig,
    TextEncoderConfig,
    UNetConfig,
)
from keras_sd.weights.diffusers_folder.schedulers import read_scheduler
from keras_sd.weights.diffusers_folder.settings import FolderSettings
from keras_sd.weights.diffusers_folder.tokens import Tokens, check_tokens
from keras_sd.weights.readers import WeightsError, shown

INDEX = "model_index.json"
"""The file that makes a folder one of diffusers'."""

SCHEDULER = "scheduler/scheduler_config.json"
"""The noise that the model was trained with. A folder without it is taken to have SD's."""

VERSION = "0.30.0"
"""Of diffusers, in what we write: before 0.9, some settings had another meaning."""

# Pipelines that a UNet's channels and a folder's components say everything of; another's name makes
# a note.
_PIPELINES = (
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionInstructPix2PixPipeline",
    "StableDiffusionDepth2ImgPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
)
# Those that we write: the channels that their UNet takes, from those of a latent.
CHANNELS: dict[str, Callable[[int], int]] = {
    "StableDiffusionPipeline": lambda latent: latent,
    "StableDiffusionInpaintPipeline": lambda latent: 2 * latent + 1,
    "StableDiffusionInstructPix2PixPipeline": lambda latent: 2 * latent,
}
CHANNELS_XL = {
    name.replace("Diffusion", "DiffusionXL"): CHANNELS[name] for name in tuple(CHANNELS)[:2]
}
CLASSES = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
}
CLASSES_XL = {
    **CLASSES,
    "text_encoder_2": ("CLIPTextModelWithProjection",),
    "tokenizer_2": CLASSES["tokenizer"],
}
_FOREIGN = ("text_encoder_3", "transformer", "prior", "decoder")
"""Components by which others than Stable Diffusion 1.x, 2.x and XL are known."""

_LEFT_OUT = ("feature_extractor", "image_encoder", "safety_checker", "depth_estimator")
"""Components that take no part in making a picture from a text."""

# FolderSettings that have to be one of these; the first is diffusers' default.
_UNET: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "class_embeddings_concat": (False,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": (None,),
    "downsample_padding": (1,),
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_scale_factor": (1,),
    "norm_eps": (1e-5,),
    "num_attention_heads": (None,),
    "num_class_embeds": (None,),
    "resnet_out_scale_factor": (1,),
    "resnet_skip_time_act": (False,),
    "resnet_time_scale_shift": ("default",),
    "time_embedding_act_fn": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
}
_AUTOENCODER: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "in_channels": (3,),
    "latents_mean": (None,),
    "latents_std": (None,),
    "mid_block_add_attention": (True,),
    "out_channels": (3,),
    "shift_factor": (None,),
    "use_post_quant_conv": (True,),
    "use_quant_conv": (True,),
}
# Of a ControlNet: what its shapes do not tell.
_CONTROL: dict[str, tuple[Any, ...]] = {
    "_class_name": ("ControlNetModel",),
    "addition_embed_type": (None, "text_time"),
    "mid_block_type": ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D"),
    **{
        name: _UNET[name]
        for name in (
            *("act_fn", "class_embed_type"),
            *("downsample_padding", "encoder_hid_dim", "encoder_hid_dim_type", "flip_sin_to_cos"),
            *("freq_shift", "mid_block_scale_factor", "norm_eps"),
            *("num_attention_heads", "num_class_embeds", "resnet_time_scale_shift"),
        )
    },
    "controlnet_conditioning_channel_order": ("rgb",),
    "only_cross_attention": (False,),
}
_CONTROL_TOLD = (
    *("block_out_channels", "conditioning_channels", "conditioning_embedding_out_channels"),
    *("cross_attention_dim", "down_block_types", "in_channels", "layers_per_block"),
    *("transformer_layers_per_block", "use_linear_projection"),
    *("addition_time_embed_dim", "projection_class_embeddings_input_dim"),
)
# Settings without a say in what a network computes: training, precision, and where it came from.
_UNET_IDLE = ("dropout", "upcast_attention", "addition_embed_type_num_heads")
_AUTOENCODER_IDLE = ("force_upcast", "sample_size")


def read_config(
    folder: Path,
    folders: Mapping[str, str],
    jsons: Mapping[str, FolderSettings],
    tokens: Mapping[str, Tokens],
    notes: list[str],
) -> ModelConfig:
    """Reads the settings of all components.

    Args:
        folder: for messages, and the model's name.
        folders: inside of it, by part.
        jsons: the files by their path in the folder. The scheduler's and the autoencoder's may be
            missing: then those are Stable Diffusion's.
        tokens: of the tokenizers, by text encoder.
        notes: gets what whoever uses the model should know.

    Returns:
        The model's numbers.

    Raises:
        WeightsError: the model is not one that we know; the message names the file, the setting
            and what it may be.
    """
    index = jsons[INDEX]
    scheduler_class = _read_index(index, notes)
    xl = "text_encoder_2" in folders.values()
    encoders = {
        part: _read_text_encoder(jsons[f"{folders[part]}/config.json"], xl, folders[part])
        for part in tokens
    }
    pooled = list(encoders.values())[-1].projection_width
    unet, sample_size = _read_unet(jsons["unet/config.json"], pooled, notes)
    vae = jsons.get("vae/config.json")
    autoencoder = AutoencoderConfig() if vae is None else _read_autoencoder(vae, notes)
    noise, defaults = read_scheduler(jsons.get(SCHEDULER), scheduler_class, notes)
    height, width = (size * autoencoder.factor for size in sample_size)
    for part, each in tokens.items():
        check_tokens(folder, each, encoders[part], notes)
    first, last = tokens["text_encoder"], list(tokens.values())[-1]
    if None not in (first.vocabulary, last.vocabulary) and first.vocabulary != last.vocabulary:
        raise WeightsError(f"{folder}: the two tokenizers have other tokens, and SDXL's have one")
    if xl:
        defaults = dataclasses.replace(
            defaults,
            guidance_scale=SDXL.defaults.guidance_scale,
            empty_negative="zeros"
            if index.flag("force_zeros_for_empty_prompt", True)
            else "encoded",
        )
        aesthetic = index.flag("requires_aesthetics_score", False)
        if aesthetic != (unet.numbers == 5):
            index.refuse(
                "requires_aesthetics_score", f"what suits a UNet of {unet.numbers} numbers"
            )
    data: dict[str, Any] = {
        "name": folder.resolve().name,
        **{part: dataclasses.asdict(each) for part, each in encoders.items()},
        "unet": dataclasses.asdict(unet),
        "autoencoder": dataclasses.asdict(autoencoder),
        "noise": dataclasses.asdict(noise),
        "defaults": {**dataclasses.asdict(defaults), "height": height, "width": width},
        "pad_token": first.pad or _pad_token(unet, len(encoders)),
    }
    if len(encoders) > 1:
        data["pad_token_2"] = last.pad or SDXL.pad_token_2
    own = index.take("_keras_sd", {})
    if not isinstance(own, dict) or not isinstance(own.get("defaults", {}), dict):
        index.refuse("_keras_sd", "an object with a name and defaults")
    if unknown := sorted(set(own) - {"name", "defaults"}):
        index.refuse("_keras_sd", f"an object with a name and defaults; it has {unknown[0]!r} too")
    data["defaults"] |= own.get("defaults", {})
    data["name"] = own.get("name", data["name"])
    try:
        config = ModelConfig.from_dict(data)
    except (ValueError, TypeError, RecursionError) as error:
        raise WeightsError(f"{folder}: {error}") from error
    return config


def _pad_token(unet: UNetConfig, encoders: int) -> str:
    """In which the families differ."""
    if encoders > 1:
        return SDXL.pad_token
    return (SD_2 if unet.linear_projection else SD_1).pad_token


def has_component(index: FolderSettings, name: str) -> bool:
    """Whether a folder has a component, or says nothing of it, as of a `text_encoder`.

    Args:
        index: of `model_index.json`.
        name: of the component.
    """
    value = index.values.get(name, [None, None] if name.endswith("_2") else None)
    return value != [None, None]


def _read_index(index: FolderSettings, notes: list[str]) -> str | None:
    """The class of the scheduler, where the components are those of Stable Diffusion."""
    # Code of one's own is [module, class].
    pipeline = index.take("_class_name")
    custom = isinstance(pipeline, list) and len(pipeline) == 2
    named = pipeline[1] if custom else pipeline
    if named is not None and not isinstance(named, str):
        index.refuse("_class_name", "the name of a pipeline of diffusers', or a module and a class")
    for name in _FOREIGN:
        if (found := _class_of(index, name)) is not None:
            raise WeightsError(
                f"{index.path}: it has a {name}, {shown(found)}, which Stable Diffusion 1.x, 2.x "
                "and XL do not have; 3 and others cannot be run"
            )
    for name, classes in CLASSES_XL.items():
        found = _class_of(index, name)
        if found is not None and found not in classes:
            index.refuse(name, " or ".join(classes))
    for name in index.values:
        known = name in (*CLASSES_XL, *_LEFT_OUT, "scheduler", "_class_name")
        if not known and isinstance(index.values[name], list) and _class_of(index, name):
            notes.append(f"{INDEX}: {name} is left out, nothing here uses it")
    if named is None or named not in _PIPELINES:
        notes.append(
            f"{INDEX}: the folder is of {'no pipeline' if named is None else shown(named)}; its "
            "text encoder, UNet and autoencoder are run as Stable Diffusion, and what else that "
            "pipeline does is not"
        )
    return _class_of(index, "scheduler")


def _class_of(index: FolderSettings, name: str) -> str | None:
    """The class of a component, or None where the folder leaves it out."""
    value = index.take(name, [None, None])
    if (
        not isinstance(value, list)
        or len(value) != 2
        or not all(item is None or isinstance(item, str) for item in value)
    ):
        index.refuse(name, "a library and a class")
    return value[1]


def _read_unet(
    given: FolderSettings, pooled: int, notes: list[str]
) -> tuple[UNetConfig, tuple[int, int]]:
    """The config, and the usual height and width of a latent.

    Args:
        given: of the UNet.
        pooled: features of the pooled vector that the text encoders give.
        notes: gets what is not known.
    """
    given.fixed({"_class_name": (CLASSES["unet"][0],), **_UNET})
    levels = _level_count(given, (320, 640, 1280, 1280))
    widths = given.sizes("block_out_channels", (320, 640, 1280, 1280), levels)
    down = _block_types(given, "down_block_types", ("CrossAttnDownBlock2D", "DownBlock2D"), levels)
    up = _block_types(given, "up_block_types", ("CrossAttnUpBlock2D", "UpBlock2D"), levels)
    if up != down[::-1]:
        given.refuse("up_block_types", "down_block_types in reverse")
    blocks = given.same_size("layers_per_block", 2, levels, most=MAX_BLOCKS)
    depths = given.rows_of_sizes("transformer_layers_per_block", 1, levels, blocks, MAX_DEPTH)
    if any(len(set(row)) > 1 for row in depths):
        given.refuse("transformer_layers_per_block", "one number at each level")
    layers = [row[0] for row in depths]
    ups: tuple[int, ...] = ()
    if given.take("reverse_transformer_layers_per_block") is not None:
        rows = given.rows_of_sizes(
            "reverse_transformer_layers_per_block", 1, levels, blocks + 1, MAX_DEPTH
        )
        ups = tuple(n if attends else 0 for row, attends in zip(rows, up, strict=True) for n in row)
    middle = given.choice(
        "mid_block_type",
        "UNetMidBlock2DCrossAttn",
        {"UNetMidBlock2DCrossAttn": layers[-1], "UNetMidBlock2D": 0},
    )
    only_cross = given.take("only_cross_attention", False)
    if only_cross not in (False, [False] * levels):
        given.refuse("only_cross_attention", "False")
    context_width = given.same_size("cross_attention_dim", 1280, levels)
    time_width = given.take("time_embedding_dim")
    if time_width not in (None, 4 * widths[0]):
        given.refuse("time_embedding_dim", f"None or {4 * widths[0]}")
    config = _made(
        given,
        UNetConfig,
        in_channels=given.size("in_channels", 4),
        out_channels=given.size("out_channels", 4),
        widths=widths,
        # The heads at each level, whatever the name says: diffusers keeps it for old files.
        heads=given.sizes("attention_head_dim", 8, levels),
        depths=tuple(n if attends else 0 for n, attends in zip(layers, down, strict=True)),
        blocks=blocks,
        context_width=context_width,
        groups=given.size("norm_num_groups", 32),
        linear_projection=given.flag("use_linear_projection", False),
        middle_depth=middle,
        up_depths=ups,
        **_read_added(given, pooled),
    )
    sample_size = given.take("sample_size")
    sizes = (64, 64) if sample_size is None else given.sizes("sample_size", 64, 2)
    # Files of diffusers before 0.9 say 32 and mean 64; diffusers corrects them too.
    version = given.values.get("_diffusers_version")
    if isinstance(version, str) and re.match(r"0\.[0-8]\.", version) and max(sizes) < 64:
        sizes = (64, 64)
    _note_unknown(given, _UNET_IDLE, notes)
    return config, (sizes[0], sizes[1])


def _read_added(given: FolderSettings, pooled: int) -> dict[str, int]:
    """What a UNet is told beside a text: numbers of `UNetConfig`."""
    found = {}
    if given.take("time_cond_proj_dim") is not None:
        found["guidance_width"] = given.size("time_cond_proj_dim", 256)
    wanted = "text_time" if pooled else None
    if given.take("addition_embed_type") != wanted:
        given.refuse("addition_embed_type", f"{wanted!r}, as the text encoders are")
    if not pooled:
        given.fixed(
            {"addition_time_embed_dim": (None,), "projection_class_embeddings_input_dim": (None,)}
        )
        return found
    width = given.size("addition_time_embed_dim", 256)
    whole = given.size("projection_class_embeddings_input_dim", SDXL.unet.added_width)
    numbers, rest = divmod(whole - pooled, width)
    if rest or numbers not in (5, 6):
        given.refuse(
            "projection_class_embeddings_input_dim",
            f"{pooled} of the pooled vector and 5 or 6 times {width}",
        )
    return {**found, "pooled_width": pooled, "numbers": numbers, "number_width": width}


def read_control(given: FolderSettings, notes: list[str]) -> dict[str, Any]:
    """What the `config.json` of a `ControlNetModel` says that its shapes do not tell.

    Args:
        given: the settings.
        notes: gets what is not known.

    Returns:
        `heads`, `groups` and `pooled`, as `keras_sd.config.ControlConfig` has them.

    Raises:
        WeightsError: a setting is one that we do not know.
    """
    given.fixed(_CONTROL)
    levels = _level_count(given, (320, 640, 1280, 1280))
    found = {
        "heads": given.sizes("attention_head_dim", 8, levels),
        "groups": given.size("norm_num_groups", 32),
        "pooled": given.flag("global_pool_conditions", False),
    }
    _note_unknown(given, (*_UNET_IDLE, *_CONTROL_TOLD), notes)
    return found


def _read_autoencoder(given: FolderSettings, notes: list[str]) -> AutoencoderConfig:
    given.fixed({"_class_name": (CLASSES["vae"][0],), **_AUTOENCODER})
    levels = _level_count(given, (64,))
    _block_types(given, "down_block_types", ("DownEncoderBlock2D",), levels)
    _block_types(given, "up_block_types", ("UpDecoderBlock2D",), levels)
    config = _made(
        given,
        AutoencoderConfig,
        latent_channels=given.size("latent_channels", 4),
        widths=given.sizes("block_out_channels", (64,), levels),
        blocks=given.size("layers_per_block", 1, most=MAX_BLOCKS),
        groups=given.size("norm_num_groups", 32),
        scale=given.number("scaling_factor", 0.18215, below=1e6),
    )
    _note_unknown(given, _AUTOENCODER_IDLE, notes)
    return config


def _read_text_encoder(given: FolderSettings, xl: bool, folder: str) -> TextEncoderConfig:
    if given.values.get("model_type") == "clip":  # of a whole CLIP: the text's settings are inside
        inner = given.take("text_config")
        if not isinstance(inner, dict):
            given.refuse("text_config", "an object")
        given = FolderSettings(given.path, inner)
    given.fixed({"model_type": ("clip_text_model",)})
    config: TextEncoderConfig = _made(
        given,
        TextEncoderConfig,
        vocab_size=given.size("vocab_size", 49408, most=MAX_VOCABULARY),
        max_length=given.size("max_position_embeddings", 77),
        width=given.size("hidden_size", 512),
        depth=given.size("num_hidden_layers", 12, most=MAX_LAYERS),
        heads=given.size("num_attention_heads", 8),
        mlp_width=given.size("intermediate_size", 2048, most=MAX_MLP_WIDTH),
        activation=given.choice(
            "hidden_act", "quick_gelu", {name: name for name in ("quick_gelu", "gelu")}
        ),
        epsilon=given.number("layer_norm_eps", 1e-5, below=1.0),
        penultimate=xl,
        projection_width=given.size("projection_dim", 512) if folder == "text_encoder_2" else 0,
    )
    return config


def _level_count(given: FolderSettings, default: Sequence[int]) -> int:
    value = given.take("block_out_channels", default)
    if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= MAX_LEVELS:
        given.refuse("block_out_channels", f"a list of 1 to {MAX_LEVELS} widths")
    return len(value)


def _block_types(given: FolderSettings, key: str, types: Sequence[str], levels: int) -> list[bool]:
    """For each level whether it is of the first of the `types`."""
    cross, plain = types[0], types[-1]
    default: list[str] = [cross]
    if cross != plain:  # diffusers' defaults have four levels
        default = [cross] * 3 + [plain] if "Down" in cross else [plain] + [cross] * 3
    value = given.take(key, default)
    if (
        not isinstance(value, list)
        or len(value) != levels
        or any(item not in types for item in value)
    ):
        given.refuse(key, f"{levels} times {' or '.join(types)}, one for each block_out_channels")
    return [item == cross for item in value]


def _made(given: FolderSettings, config: Any, **values: Any) -> Any:
    try:
        return config(**values)
    except ValueError as error:
        raise WeightsError(f"{given.path}: {error}") from error


def _note_unknown(given: FolderSettings, idle: Iterable[str], notes: list[str]) -> None:
    unknown = [shown(key) for key in given.untaken() if key not in idle]
    if unknown:
        more = f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
        file = f"{given.path.parent.name}/{given.path.name}"
        notes.append(f"{file}: not known, and left out, are {', '.join(unknown[:10])}{more}")
