"""The image encoder of CLIP in a file, as transformers has it. No Keras is needed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_sd.adapter_configs import ImageEncoderConfig
from keras_sd.files import checked_path
from keras_sd.weights.diffusers_folder.settings import FolderSettings
from keras_sd.weights.names.steering import image_encoder
from keras_sd.weights.parts import Part, listed
from keras_sd.weights.readers import TensorFile, WeightsError, read_file

__all__ = [
    "ENCODERS",
    "ImageEncoderFile",
    "encoder_file_of",
    "encoder_name",
    "feature_width",
    "is_encoder",
    "open_image_encoder",
]

ENCODERS = {(1024, 768): "ViT-L/14", (1280, 1024): "ViT-H/14", (1664, 1280): "ViT-bigG/14"}
"""Encoders by the features of a patch, and those of the whole picture."""

_TOLD = {"ViT-L/14": (16, "quick_gelu"), "ViT-H/14": (16, "gelu"), "ViT-bigG/14": (16, "gelu")}
"""What no shape of theirs tells: heads and activation."""

_FOLDER = "image_encoder"
_STEMS = ("model.safetensors", "pytorch_model.bin", "model.fp16.safetensors")
_MARK = "vision_model.embeddings.class_embedding"
_PREFIXES = ("vision_model.", "visual_projection.")
_BUFFER = "vision_model.embeddings.position_ids"


@dataclass(frozen=True)
class ImageEncoderFile:
    """A file with an image encoder.

    Attributes:
        path: of the file.
        config: its numbers.
        tensors: of the encoder, by the file's names.
        left_out: tensors beside it, as of CLIP's text encoder.
    """

    path: Path
    config: ImageEncoderConfig
    tensors: Mapping[str, Any]
    left_out: tuple[str, ...]

    @property
    def name(self) -> str:
        """What it is called, by its size."""
        return encoder_name(self.config)

    def part(self) -> Part:
        """Its weights."""
        return Part(self.tensors, image_encoder(self.config), str(self.path), (self.path,))


def encoder_name(config: ImageEncoderConfig) -> str:
    """What an encoder of this size is called."""
    sizes = config.width, config.projection_width
    return ENCODERS.get(sizes, f"one of {sizes[0]} features a patch and {sizes[1]} a picture")


def feature_width(config: ImageEncoderConfig, kind: str) -> int:
    """Features that an encoder gives an IP-Adapter of a kind, `"base"` or `"plus"`."""
    return config.projection_width if kind == "base" else config.width


def is_encoder(names: Iterable[str]) -> bool:
    """Whether a file has an image encoder, by the names of its tensors."""
    return _MARK in set(names)


def open_image_encoder(path: str | os.PathLike[str]) -> ImageEncoderFile:
    """Opens an image encoder: a file, the folder that transformers has written, or one that has it
    in `image_encoder`.

    Args:
        path: of the file or folder. `config.json` beside the file says its heads and activation;
            without one, those of the sizes in `ENCODERS` are known.

    Raises:
        WeightsError: it is damaged, or is something else, which the message names.
        FileNotFoundError: there is no such file.
    """
    path = checked_path(path, "path", "the path of an image encoder")
    path = _in_folder(path) if path.is_dir() else path
    return encoder_file_of(read_file(path), path)


def encoder_file_of(file: TensorFile, path: Path) -> ImageEncoderFile:
    """The image encoder of an open file; the errors are those of `open_image_encoder`."""
    names = file.tensors
    if not is_encoder(names):
        raise WeightsError(
            f"{path} is no image encoder: it has no {_MARK} among {len(names)} tensors, but "
            f"{listed(names) or 'none'}. It should be CLIP's, as `models/image_encoder` of "
            "h94/IP-Adapter is"
        )
    tensors = {n: t for n, t in names.items() if n.startswith(_PREFIXES) and n != _BUFFER}
    left_out = tuple(sorted(n for n in names if n not in tensors and n != _BUFFER))
    return ImageEncoderFile(path, _config(path, tensors), tensors, left_out)


def _in_folder(folder: Path) -> Path:
    inner = folder / _FOLDER
    if not any((folder / stem).is_file() for stem in _STEMS) and inner.is_dir():
        folder = inner
    for stem in _STEMS:
        if (path := folder / stem).is_file():
            return path
    raise FileNotFoundError(f"{folder} is a folder without {', '.join(_STEMS)}")


def _config(path: Path, tensors: Mapping[str, Any]) -> ImageEncoderConfig:
    def shape(name: str, dimensions: int) -> tuple[int, ...]:
        found = getattr(tensors.get(name), "shape", None)
        if found is None or len(found) != dimensions or 0 in found:
            raise WeightsError(
                f"{path} is an image encoder that is not whole: {name} is {found}, not of "
                f"{dimensions} dimensions"
            )
        return tuple(map(int, found))

    width, channels, patch, _ = shape("vision_model.embeddings.patch_embedding.weight", 4)
    places, _ = shape("vision_model.embeddings.position_embedding.weight", 2)
    mlp_width, _ = shape("vision_model.encoder.layers.0.mlp.fc1.weight", 2)
    projection, _ = shape("visual_projection.weight", 2)
    found = (re.match(r"vision_model\.encoder\.layers\.(\d{1,4})\.", name) for name in tensors)
    layers = {match[1] for match in found if match}
    side = round((places - 1) ** 0.5)
    if channels != 3 or side**2 != places - 1:
        raise WeightsError(
            f"{path} is an image encoder of another kind: of {channels} channels and {places} "
            "places, not of 3 channels and a square and one place"
        )
    numbers = {
        "image_size": side * patch,
        "patch": patch,
        "width": width,
        "depth": len(layers),
        "mlp_width": mlp_width,
        "projection_width": projection,
    }
    beside = path.with_name("config.json")
    told = _told(beside, width) if beside.is_file() else None
    if told is None:
        name = ENCODERS.get((width, projection))
        if name is None:
            raise WeightsError(
                f"{path} is an image encoder of {width} features a patch and {projection} a "
                "picture, whose heads and activation no shape tells: give the folder that it is in "
                "with its config.json"
            )
        told = dict(zip(("heads", "activation"), _TOLD[name], strict=True))
    try:
        return ImageEncoderConfig(**numbers, **told)
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from None


def _told(path: Path, width: int) -> dict[str, Any] | None:
    """What `config.json` says that no shape tells; None where it is of something else."""
    given = FolderSettings.read(path)
    if given.values.get("model_type") == "clip":
        inner = given.take("vision_config")
        if not isinstance(inner, dict):
            given.refuse("vision_config", "an object")
        given = FolderSettings(path, inner)
    elif given.values.get("model_type") != "clip_vision_model":
        return None
    if given.size("hidden_size", 768) != width:
        given.refuse("hidden_size", f"{width}, as the weights beside it have")
    return {
        "heads": given.size("num_attention_heads", 12),
        "activation": given.choice(
            "hidden_act", "quick_gelu", {name: name for name in ("quick_gelu", "gelu")}
        ),
        "epsilon": given.number("layer_norm_eps", 1e-5, below=1.0),
    }
