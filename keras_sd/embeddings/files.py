"""A file of an embedding as a value. No model is needed, and nothing in the file is executed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from keras_sd.adapters.files import is_adapter
from keras_sd.checks import flag
from keras_sd.files import checked_path
from keras_sd.weights.parts import is_floating, listed
from keras_sd.weights.places import marked_in
from keras_sd.weights.readers import (
    TensorFile,
    WeightsError,
    is_finite,
    read_file,
    sha256,
    shown,
)

__all__ = [
    "FAMILIES",
    "MAX_VECTORS",
    "XL",
    "XL_KEYS",
    "Embedding",
    "embedding_of",
    "is_embedding",
    "open_embedding",
]

MAX_VECTORS = 75
"""Of an embedding: as many as a chunk of CLIP's has room for."""

MAX_WIDTH = 8192
"""Features of a vector; the widest text encoder of Stable Diffusion has 1280."""

FAMILIES = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x"}
"""By the features of a vector."""

XL = "Stable Diffusion XL"
"""Whose embeddings have vectors for two text encoders."""

_IN_TABLE = "string_to_param."
XL_KEYS = ("clip_l", "clip_g")
"""The tensors of a file for XL, of the first and of the second text encoder."""
_KOHYA = "emb_params"
_SAID = ("name", "step", "sd_checkpoint", "sd_checkpoint_name", "ss_sd_model_name", "author")
_SAID_PREFIX = "modelspec."
_MAX_LETTERS = 200


@dataclass(frozen=True, eq=False)
class Embedding:
    """Vectors that were learned to stand for a thing or a style.

    Attributes:
        name: the stem of its file.
        vectors: float32 `(count, features)`, read-only; of XL's, those of the first text encoder.
        token: the word that it was trained for, where the file says one.
        layout: who writes such files: "A1111", "diffusers", "kohya"; or "XL", "XL, clip_l alone".
        path: of the file.
        sha256: of the file.
        facts: what else the file says of itself: step, checkpoint, author, ...
        vectors_2: of XL's, as many of the second text encoder.
    """

    name: str
    vectors: np.ndarray
    token: str | None
    layout: str
    path: Path
    sha256: str
    facts: Mapping[str, str] = field(default_factory=dict)
    vectors_2: np.ndarray | None = None

    @property
    def family(self) -> str:
        """The family that it was made for, by the features of a vector."""
        if self.vectors_2 is not None:
            return XL
        width = self.vectors.shape[1]
        return FAMILIES.get(width, f"a text encoder of {width} features")

    def __len__(self) -> int:
        """Vectors."""
        return len(self.vectors)


def open_embedding(path: str | os.PathLike[str], *, clip_l_alone: bool = False) -> Embedding:
    """Reads a file of an embedding.

    Args:
        path: of a `.pt`, `.bin` or `.safetensors` file.
        clip_l_alone: of a file for Stable Diffusion XL, which has vectors for two text encoders,
            take those of the first alone, CLIP's, whose features are those of 1.x, for such a
            model. They were not trained to be used so.

    Raises:
        WeightsError: it is damaged, is no embedding, or has too many vectors or some that are not
            finite.
        FileNotFoundError: there is no such file.
        TypeError: `path` is no path.
    """
    flag("clip_l_alone", clip_l_alone)
    path = Path(os.path.expanduser(checked_path(path, "embedding", "the path of a file")))
    return embedding_of(read_file(path), path, clip_l_alone=clip_l_alone)


def embedding_of(file: TensorFile, path: Path, *, clip_l_alone: bool = False) -> Embedding:
    """The embedding in a file that is open; the errors are those of `open_embedding`."""
    key, layout = _key(file, path, clip_l_alone)
    token = None
    if layout == "A1111":
        token = key.removeprefix(_IN_TABLE)
        token = None if token == "*" else token
    elif layout == "diffusers":
        token = key
    facts = {
        name: text if len(text) <= _MAX_LETTERS else text[:_MAX_LETTERS] + "..."
        for name, text in file.metadata.items()
        if name in _SAID or name.startswith(_SAID_PREFIX)
    }
    vectors = _vectors(file.tensors[key], f"{path}: {shown(key)}")
    second = None
    if layout == "XL":
        second = _vectors(file.tensors[XL_KEYS[1]], f"{path}: {shown(XL_KEYS[1])}")
        if len(second) != len(vectors):
            raise WeightsError(
                f"{path} has {len(vectors)} vectors for one text encoder of {XL} and {len(second)} "
                "for the other; they are as many"
            )
    return Embedding(path.stem, vectors, token, layout, path, sha256(path), facts, second)


def is_embedding(tensors: Iterable[str]) -> bool:
    """Whether a file is an embedding, be it one that is read or not, by its tensors' names."""
    names = set(tensors)
    if not names:
        return False
    return (
        all(name.startswith(_IN_TABLE) for name in names)
        or names <= {*XL_KEYS}
        or names == {_KOHYA}
        or (len(names) == 1 and _is_word(next(iter(names))))
    )


def _is_word(name: str) -> bool:
    """Whether a name may be the word of diffusers: `<cat-toy>`, and no path of a weight."""
    return "." not in name.strip("<>") or name.startswith("<")


def _key(file: TensorFile, path: Path, clip_l_alone: bool) -> tuple[str, str]:
    """The name of the tensor that has the vectors, and whose layout that is."""
    names = list(file.tensors)
    if is_adapter(names):
        raise WeightsError(
            f"{path} is an adapter, such as a LoRA, and no embedding, as {shown(names[0])} shows; "
            "a model takes it by merge_adapters"
        )
    if parts := marked_in({name: tuple(t.shape) for name, t in file.tensors.items()}):
        raise WeightsError(
            f"{path} is no embedding: it holds {' and '.join(parts)}, a checkpoint or a part of "
            "one, which from_preset loads"
        )
    if not is_embedding(file.tensors):
        raise WeightsError(
            f"{path} is no embedding that keras_sd reads: it has {len(names)} tensors, "
            f"{listed(names)}. An embedding has one, by its word, by {_KOHYA} or in "
            "string_to_param, or for Stable Diffusion XL clip_l and clip_g"
        )
    if not set(names) <= {*XL_KEYS}:
        if len(names) > 1:
            words = listed([name.removeprefix(_IN_TABLE) for name in names])
            raise WeightsError(f"{path} has {len(names)} embeddings, {words}; one a file is read")
        layout = "A1111" if names[0].startswith(_IN_TABLE) else "diffusers"
        return names[0], "kohya" if names[0] == _KOHYA else layout
    missing = [name for name in XL_KEYS if name not in names]
    if missing and not (clip_l_alone and XL_KEYS[0] in names):
        raise WeightsError(
            f"{path} has one half of an embedding for {XL}, {names[0]}: it lacks {missing[0]}"
        )
    return XL_KEYS[0], "XL, clip_l alone" if clip_l_alone else "XL"


def _vectors(tensor: Any, where: str) -> np.ndarray:
    shape = tuple(tensor.shape)
    if not is_floating(tensor.dtype):
        raise WeightsError(f"{where} holds {tensor.dtype}, no vectors")
    count, width = shape if len(shape) == 2 else (1, *shape) if len(shape) == 1 else (0, 0)
    if not (count and width):
        raise WeightsError(f"{where} is of shape {shape}; vectors are (count, features)")
    if count > MAX_VECTORS or width > MAX_WIDTH:
        raise WeightsError(
            f"{where} is {count} vectors of {width} features; at most {MAX_VECTORS} of "
            f"{MAX_WIDTH} are read"
        )
    with np.errstate(over="ignore"):
        vectors = np.array(tensor).astype(np.float32).reshape(count, width)
    if not is_finite(vectors):
        raise WeightsError(f"{where} is not finite")
    vectors.flags.writeable = False
    return vectors
