"""A file of an adapter as a value: what it changes, by its own names. No model is needed."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from keras_sd.adapters.kinds import (
    OF_BIAS,
    OF_IA3,
    REFUSED,
    ROLES,
    TELLING,
    Kind,
    as_float32,
    described,
    kind_of,
)
from keras_sd.files import checked_path
from keras_sd.start import Attachment
from keras_sd.weights.files import read_json
from keras_sd.weights.parts import is_floating, listed
from keras_sd.weights.readers import TensorFile, WeightsError, is_finite, read_file, sha256, shown

__all__ = [
    *("PEFT_CLASSES", "PEFT_PREFIX", "PEFT_SETTINGS", "PEFT_WEIGHTS"),
    *("Adapter", "Change", "adapter_of", "file_in", "is_adapter", "open_adapter"),
]

PEFT_SETTINGS = "adapter_config.json"
PEFT_WEIGHTS = "adapter_model.safetensors"
"""The files of a folder that PEFT's `save_pretrained` writes."""

PEFT_PREFIX = "base_model.model."
"""What it has before the names of tensors."""

PEFT_CLASSES = {
    "UNet2DConditionModel": "unet",
    "CLIPTextModel": "text_encoder",
    "CLIPTextModelWithProjection": "text_encoder_2",
}
"""Parts by the class that PEFT's settings say: a folder of PEFT's is of one network."""

_IN_FOLDERS = (
    "pytorch_lora_weights.safetensors",
    PEFT_WEIGHTS,
    "pytorch_lora_weights.bin",
    "adapter_model.bin",
)
_METADATA = "lora_adapter_metadata"

_ENDS = sorted({*ROLES, *REFUSED}, key=len, reverse=True)
_ON_INPUT = ".on_input"

# PEFT's patterns are regular expressions; those of trainers are names.
_PATTERN = re.compile(r"[\w.-]+")

FAMILIES = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}
"""Families by the features of a token that the UNet attends to."""

_TO_CONTEXT = tuple(
    f"attn2{dot}{end}" for dot in ("_", ".", ".processor.") for end in ("to_k", "to_v")
)
_OF_XL = ("lora_te1_", "lora_te2_", "text_encoder_2.", "lora_unet_label_emb_", "add_embedding.")


@dataclass(frozen=True)
class Change:
    """The change of one weight or of one bias.

    Attributes:
        name: of the place, as the file has it; with its part before it where the settings of PEFT
            say of which text encoder it is.
        tensors: of the file, by role.
        keys: their names in the file, by role.
        shapes: their shapes, by role.
        scale: what the product of the factors is multiplied by: alpha / rank. Of OFT it is the
            bound, alpha.
        alpha: as the file says, or None.
    """

    name: str
    tensors: Mapping[str, Any]
    keys: Mapping[str, str]
    scale: float
    alpha: float | None

    @property
    def kind(self) -> Kind:
        """How it is written. It is not kept: a kind is made of functions, which have no copies."""
        kind = kind_of(self.tensors)
        assert kind is not None, self.name
        return kind

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the tensors, by role, but the alpha."""
        return _shapes(self.tensors)

    @property
    def of_bias(self) -> bool:
        """Whether it changes the bias of its place."""
        return not OF_BIAS.isdisjoint(self.tensors)

    @property
    def rank(self) -> int | None:
        """Of the factors, or None where there are none."""
        return self.kind.rank(self.shapes)

    @property
    def description(self) -> str:
        """The kind, for people."""
        return described(self.kind, self.shapes)

    def factors(self) -> dict[str, np.ndarray]:
        """The numbers by role, in float32.

        Raises:
            WeightsError: one is a NaN or an infinity.
        """
        found = {role: as_float32(self.tensors[role]) for role in self.shapes}
        for role, array in found.items():
            if not is_finite(array):
                raise WeightsError(f"{shown(self.keys[role])} is not finite")
        return found


@dataclass(frozen=True)
class Adapter:
    """A file of an adapter.

    Attributes:
        path: of the file.
        name: its stem; of a folder that was opened, the folder's name.
        changes: all of them.
        strays: names of tensors that belong to no change.
        metadata: what the file says of itself.
        notes: what whoever uses it should know.
        file: the file, open.
    """

    path: Path
    name: str
    changes: tuple[Change, ...]
    strays: tuple[str, ...]
    metadata: Mapping[str, str]
    notes: tuple[str, ...]
    file: TensorFile

    @cached_property
    def sha256(self) -> str:
        """Of the file."""
        return sha256(self.path)

    def attachment(self) -> Attachment:
        """What a request holds of it: the hash of the file, and its name."""
        return Attachment(self.sha256, self.name, self)

    @property
    def context(self) -> int | None:
        """Features of a token in the model that it was made for; None where it does not say."""
        for change in self.changes:
            if change.name.endswith(_TO_CONTEXT) and not change.of_bias:
                shape = change.kind.shape(change.shapes)
                if shape is not None and len(shape) > 1:
                    return shape[1]
        return None

    @property
    def base(self) -> str | None:
        """The family that it was made for, where a shape or a name tells."""
        if (context := self.context) is not None:
            other = f"a model whose context has {context} features"
            return FAMILIES.get(context, other)
        if any(change.name.startswith(_OF_XL) for change in self.changes):
            return "Stable Diffusion XL"
        return None


def is_adapter(names: Iterable[str]) -> bool:
    """Whether tensors with these names are an adapter, be it of a kind that is read or not."""
    ends = tuple(TELLING)
    return any(name.endswith(ends) for name in names)


def open_adapter(path: str | os.PathLike[str]) -> Adapter:
    """Opens a file of an adapter; its numbers are read when they are used.

    Args:
        path: of a `.safetensors`, `.pt` or `.bin` file; or of a folder as `save_pretrained` of PEFT
            and `save_lora_weights` of diffusers write it.

    Raises:
        WeightsError: it is damaged, is no adapter, is of a kind that is not read, or lacks a half
            of a change.
        FileNotFoundError: there is no such file, or none in the folder.
        TypeError: `path` is no path.
    """
    path = Path(os.path.expanduser(checked_path(path, "adapter", "the path of a file")))
    if not path.is_dir():
        return adapter_of(read_file(path), path)
    found = file_in(path)
    if found is None:
        raise FileNotFoundError(_not_in(path))
    called = os.path.basename(os.path.abspath(path))
    return replace(adapter_of(read_file(found), found), name=called)


def adapter_of(file: TensorFile, path: Path) -> Adapter:
    """The adapter in a file that is open.

    Args:
        file: its tensors.
        path: of it.

    Raises:
        WeightsError: see `open_adapter`.
    """
    if not is_adapter(file.tensors):
        raise WeightsError(
            f"{path} is no adapter: none of its {len(file.tensors)} tensors is named as one of a "
            "LoRA or a relative. `keras-sd inspect` says what it is"
        )
    groups, strays = _groups(file, path)
    settings = _Settings(file, path)
    changes: list[Change] = []
    broken: list[str] = []
    for name, keys in groups.items():
        for roles in _halves(keys):
            kind = kind_of(roles)
            if kind is None:
                broken.append(f"{name} (it has {', '.join(keys[role] for role in roles)} alone)")
                continue
            changes.append(_change(file, path, name, kind, roles, settings))
    if broken:
        raise WeightsError(
            f"{path} is not whole: {len(broken)} places have not all that a change is made of: "
            + listed(broken)
        )
    unsaid = sum("down" in c.tensors and c.alpha is None for c in changes)
    notes = []
    if unsaid:
        notes.append(
            f"It does not say the alpha of {unsaid} changes, which are taken as they are "
            "(alpha = rank)."
        )
    about = file.metadata, tuple(notes), file
    return Adapter(path, path.stem, tuple(changes), strays, *about)


def file_in(folder: Path) -> Path | None:
    """The file of the adapter in a folder of PEFT or diffusers, or None."""
    return next((folder / name for name in _IN_FOLDERS if (folder / name).is_file()), None)


def _not_in(folder: Path) -> str:
    """What to say of a folder that has no such file."""
    lacks = f"{folder} is a folder without {' or '.join(_IN_FOLDERS)}"
    inside = sorted(each.name for each in folder.iterdir() if each.is_dir() and file_in(each))
    return f"{lacks}; its {' and '.join(inside)} each have one" if inside else lacks


def _groups(file: TensorFile, path: Path) -> tuple[dict[str, dict[str, str]], tuple[str, ...]]:
    """The names of the tensors by place and role; and those that are none of these."""
    groups: dict[str, dict[str, str]] = {}
    strays = []
    for key in file.tensors:
        end = next((end for end in _ENDS if key.endswith(end)), None)
        if end in REFUSED:
            raise WeightsError(
                f"{path} is an adapter of the kind {REFUSED[end]}, as its {shown(key)} shows; "
                "keras_sd does not read those. It reads LoRA (convolutions, Tucker cores and DoRA "
                "too), LoHa, LoKr, GLoRA, IA3, OFT and BOFT of LyCORIS, full differences and norms"
            )
        name = key.removesuffix(end or OF_IA3)
        if end is None and key.endswith(OF_IA3) and f"{name}{_ON_INPUT}" in file.tensors:
            role = "ia3_in" if _on_input(file, path, f"{name}{_ON_INPUT}") else "ia3_out"
        elif end is None:
            strays.append(key)
            continue
        elif end == _ON_INPUT and f"{name}{OF_IA3}" in file.tensors:
            continue  # said with the tensor beside it
        else:
            role = ROLES[end]
        keys = groups.setdefault(name, {})
        if role in keys:
            both = f"{shown(keys[role])} and {shown(key)}"
            raise WeightsError(f"{path} has {both}, which are the same")
        keys[role] = key
    return groups, tuple(strays)


def _on_input(file: TensorFile, path: Path, key: str) -> bool:
    """Whether an IA3 is of the inputs of its layer."""
    tensor = file.tensors[key]
    if math.prod(tensor.shape) != 1:
        raise WeightsError(f"{path}: {shown(key)} is {tuple(tensor.shape)}, not one number")
    return bool(np.asarray(tensor).reshape(()) != 0)


def _halves(keys: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """The tensors of a weight's change, and those of a bias, which is always whole."""
    of_weight = {role: key for role, key in keys.items() if role not in OF_BIAS}
    for role in sorted(OF_BIAS & keys.keys()):
        yield {role: keys[role]}
    if of_weight.keys() - {"alpha"} or len(of_weight) == len(keys):
        yield of_weight


def _change(
    file: TensorFile, path: Path, name: str, kind: Kind, keys: dict[str, str], settings: _Settings
) -> Change:
    tensors = {role: file.tensors[key] for role, key in keys.items()}
    for role, tensor in tensors.items():
        if role != "alpha" and not is_floating(tensor.dtype):
            raise WeightsError(f"{path}: {shown(keys[role])} holds {tensor.dtype}, no weights")
    shapes = _shapes(tensors)
    if kind.shape(shapes) is None or 0 in map(math.prod, shapes.values()):
        found = ", ".join(f"{keys[role]} {shape}" for role, shape in shapes.items())
        raise WeightsError(f"{path}: these do not fit together: {found}")
    rank = kind.rank(shapes)
    alpha, scale = _alpha(path, keys, tensors), 1.0
    if kind.turned is not None:
        scale = alpha or 0.0
    elif alpha is None:
        alpha, scale = settings.scale(name, rank)
    elif kind.scaled(tensors) and rank:
        scale = alpha / rank
    return Change(settings.named(name), tensors, keys, scale, alpha)


def _shapes(tensors: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {role: tuple(t.shape) for role, t in tensors.items() if role != "alpha"}


def _alpha(path: Path, keys: Mapping[str, str], tensors: Mapping[str, Any]) -> float | None:
    if "alpha" not in tensors:
        return None
    tensor = tensors["alpha"]
    if math.prod(tensor.shape) != 1:
        raise WeightsError(f"{path}: {shown(keys['alpha'])} is {tensor.shape}, not one number")
    alpha = float(as_float32(tensor).reshape(()))
    if not math.isfinite(alpha):
        raise WeightsError(f"{path}: {shown(keys['alpha'])} is {alpha}")
    return alpha


class _Settings:
    """PEFT's settings: its tensors do not say their alpha, nor which network they are of."""

    def __init__(self, file: TensorFile, path: Path):
        self.path = path
        self.data: Mapping[str, Any] = {}
        beside = path.with_name(PEFT_SETTINGS)
        if text := file.metadata.get(_METADATA):
            try:
                data = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise WeightsError(f"{path}: its metadata {_METADATA} is no JSON") from error
            if not isinstance(data, dict):
                raise WeightsError(f"{path}: its metadata {_METADATA} is not a JSON object")
            self.data = data
        elif path.stem == "adapter_model" and beside.is_file():
            self.data = read_json(beside)

    def named(self, name: str) -> str:
        """The name of a place, with its part before it if it is of the text encoder said here."""
        mapping = self.data.get("auto_mapping")
        said = mapping.get("base_model_class") if isinstance(mapping, dict) else None
        part = PEFT_CLASSES.get(said) if isinstance(said, str) else None
        if part in (None, "unet") or not name.startswith(PEFT_PREFIX):
            return name
        return f"{part}.{name}"

    def scale(self, name: str, rank: int | None) -> tuple[float | None, float]:
        """The alpha of a place, and the scale that it has: alpha / rank, or / sqrt(rank)."""
        if not self.data or not rank:
            return None, 1.0
        name = name.removeprefix(PEFT_PREFIX)
        part, dot, rest = name.partition(".")
        # In the file of a pipeline, both are under the name of the part.
        prefix = part + dot if f"{part}.lora_alpha" in self.data else ""
        name = rest if prefix else name
        alpha = self.data.get(f"{prefix}lora_alpha")
        patterns = self.data.get(f"{prefix}alpha_pattern") or {}
        if not isinstance(patterns, dict):
            raise WeightsError(f"{self.path}: its alpha_pattern is {shown(patterns)}")
        for pattern, value in patterns.items():
            if not _PATTERN.fullmatch(pattern):
                raise WeightsError(
                    f"{self.path}: its alpha_pattern {shown(pattern)} is more than a name, which "
                    "keras_sd does not read"
                )
            if name == pattern or name.endswith(f".{pattern}"):
                alpha = value
                break
        if alpha is None:
            return None, 1.0
        if isinstance(alpha, bool) or not isinstance(alpha, int | float):
            raise WeightsError(f"{self.path}: the lora_alpha of {name} is {shown(alpha)}")
        if not math.isfinite(alpha):
            raise WeightsError(f"{self.path}: the lora_alpha of {name} is {alpha}")
        rs = self.data.get(f"{prefix}use_rslora")
        return float(alpha), alpha / (math.sqrt(rank) if rs else rank)
