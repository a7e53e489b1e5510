"""The folders of diffusers' `StableDiffusionPipeline` and `StableDiffusionXLPipeline`.

`model_index.json` names the class of every component, and each component has a folder with its
settings and weights. `read_folder` says what model it is and `read_part` opens the weights of a
part; `write_folder` is the way back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_sd.config import ModelConfig
from keras_sd.weights.diffusers_folder.choice import FOLDERS, folders_of
from keras_sd.weights.diffusers_folder.configs import (
    INDEX,
    SCHEDULER,
    has_component,
    read_config,
)
from keras_sd.weights.diffusers_folder.files import PartFiles, find_weights, read_tensors
from keras_sd.weights.diffusers_folder.settings import FolderSettings
from keras_sd.weights.diffusers_folder.tokens import read_tokenizer
from keras_sd.weights.diffusers_folder.write import write_folder
from keras_sd.weights.families import family_of, unsupported
from keras_sd.weights.names import Table, diffusers
from keras_sd.weights.places import old_attention

__all__ = [
    "FOLDERS",
    "INDEX",
    "DiffusersFolder",
    "PartFiles",
    "read_folder",
    "read_part",
    "write_folder",
]


_POSITIONS = "embeddings.position_ids"
"""0, 1, 2, ...: a buffer that transformers 4 kept among the weights of the text encoder."""


@dataclass(frozen=True)
class DiffusersFolder:
    """What a folder says of its model; the weights are not opened yet.

    Attributes:
        path: of the folder.
        family: what it is, for people: "Stable Diffusion 1.x".
        config: the model's numbers.
        folders: of the parts, by our names of those.
        weights: the files of each part, by our names of the parts.
        merges: of the tokenizer: the path of their file, or the merges themselves, where they are
            inside a `tokenizer.json`; None where the folder has no tokenizer.
        vocab_size: tokens that the merges make. The text encoder may know more, which were added.
        notes: what whoever uses it should know.
        unsupported: why it cannot be run, or None.
    """

    path: Path
    family: str
    config: ModelConfig
    folders: Mapping[str, str]
    weights: Mapping[str, PartFiles]
    merges: Path | tuple[str, ...] | None
    vocab_size: int | None
    notes: tuple[str, ...]
    unsupported: str | None


def read_folder(
    folder: str | Path, variant: str | None = None, *, without: Collection[str] = ()
) -> DiffusersFolder:
    """Reads the JSON files of a folder of diffusers', and finds its weights.

    Args:
        folder: with `model_index.json`.
        variant: of the weights, such as `"fp16"` in `diffusion_pytorch_model.fp16.safetensors`. A
            part that lacks it is taken without a variant. None is the weights without a variant,
            or the only variant that there is.
        without: parts that will be taken from elsewhere: their weights need not be there, nor all
            of the autoencoder's folder.

    Raises:
        FileNotFoundError: a file is missing; the message names it.
        WeightsError: a file is damaged, or the model is not one that we know; the message names
            the file, the setting and what it may be.
    """
    folder = Path(folder)
    folders: Mapping[str, str] = FOLDERS
    if (folder / INDEX).is_file():
        index = FolderSettings.read(folder / INDEX)
        folders = folders_of(
            has_component(index, "text_encoder"), has_component(index, "text_encoder_2")
        )
    configs = {part: f"{name}/config.json" for part, name in folders.items()}
    if "autoencoder" in without and not (folder / configs["autoencoder"]).is_file():
        del configs["autoencoder"]
    needed = (INDEX, *configs.values())
    for name in needed:
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name} is missing; a folder of diffusers' has {', '.join(needed)}"
            )
    there = (*needed, SCHEDULER) if (folder / SCHEDULER).is_file() else needed
    jsons = {name: FolderSettings.read(folder / name) for name in there}
    notes: list[str] = []
    tokens = {
        part: read_tokenizer(folder / name.replace("text_encoder", "tokenizer"), notes)
        for part, name in folders.items()
        if part in ("text_encoder", "text_encoder_2")
    }
    config = read_config(folder, folders, jsons, tokens, notes)
    first = tokens["text_encoder"]
    return DiffusersFolder(
        path=folder,
        family=family_of(config),
        config=config,
        folders=folders,
        weights=find_weights(folder, folders, variant, notes, without),
        merges=first.merges,
        vocab_size=None if first.vocabulary is None else len(first.vocabulary),
        notes=tuple(notes),
        unsupported=unsupported(folder, config),
    )


def read_part(
    folder: DiffusersFolder, part: str
) -> tuple[dict[str, np.ndarray], Table, tuple[str, ...]]:
    """Opens the weights of a part.

    Args:
        folder: what `read_folder` gave.
        part: one of the config's.

    Returns:
        The tensors by the names in the files, the table that fits those names, and the names that
        are known and not part of the network, which are not among the tensors. Whether every
        tensor is there, and of the right shape, is not looked at.

    Raises:
        FileNotFoundError: a file is missing.
        WeightsError: a file is damaged, or the shards are not those of their index.
    """
    tensors = read_tensors(folder.weights[part])
    config = folder.config
    if part == "unet":
        return tensors, diffusers.unet(config.unet), ()
    if part == "autoencoder":
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        return tensors, old_attention(diffusers.autoencoder(config.autoencoder), shapes), ()
    # transformers 4 has every name under `text_model.`.
    prefix = "text_model." if any(name.startswith("text_model.") for name in tensors) else ""
    ignored = tuple(name for name in tensors if name == prefix + _POSITIONS)
    for name in ignored:
        del tensors[name]
    return tensors, diffusers.text_encoder(config.text_encoders[part], prefix), ignored
