"""A file of a ControlNet as a value: its layout, its base, its tensors. No model is needed.

| layout | names |
|---|---|
| diffusers | `ControlNetModel`: a folder with `config.json`, or its file alone |
| original | `control_model.` before the names of the UNet; or without it; or beside a whole model |

In a file with a tensor `difference`, the weights that the UNet has too are differences from it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_sd.adapters.files import FAMILIES
from keras_sd.config import MAX_LEVELS, ControlConfig, ModelConfig, UNetConfig
from keras_sd.files import checked_path
from keras_sd.weights.diffusers_folder.configs import read_control
from keras_sd.weights.diffusers_folder.settings import FolderSettings
from keras_sd.weights.names import Table, diffusers, original, under
from keras_sd.weights.parts import Part, listed, printable
from keras_sd.weights.readers import TensorFile, WeightsError, read_file, shown

__all__ = ["ControlFile", "control_file_of", "is_control", "open_control"]

_STEM = "diffusion_pytorch_model"
_MARKS = {
    ("diffusers", ""): "controlnet_cond_embedding.conv_in.weight",
    ("original", original.CONTROL): f"{original.CONTROL}input_hint_block.0.weight",
    ("original", ""): "input_hint_block.0.weight",
}
"""A tensor that every file of a layout has, by the layout and what its names begin with."""

_OTHERS = {
    "lora_controlnet": "a Control-LoRA",
    "task_embedding": "a ControlNet for several tasks (Union)",
}
"""Relatives with another network, by a tensor that only they have."""

_OF_XL = ("add_embedding.", "label_emb.")
"""What the names of those for XL begin with that no other has."""
_DIFFERENCE = "difference"
_KEY = "attn2.to_k.weight"


@dataclass(frozen=True)
class ControlFile:
    """A file of a ControlNet.

    Attributes:
        path: of the file.
        layout: `"diffusers"` or `"original"`.
        prefix: what its names begin with.
        tensors: of the ControlNet, by the file's names.
        hint_channels: of the picture that it is shown.
        hint_widths: see `keras_sd.config.ControlConfig`.
        context: features of a token that it attends to; 0 where it attends to no text.
        xl: it is told the numbers of XL.
        linear_projection: see `keras_sd.config.UNetConfig`.
        difference: the weights that a UNet has too are differences from it.
        said: what the `config.json` beside it says and no shape: `heads`, `groups` and `pooled`.
        left_out: tensors beside it, as of the model that some files hold too.
        notes: what whoever uses it should know.
        file: the file, open.
    """

    path: Path
    layout: str
    prefix: str
    tensors: Mapping[str, Any]
    hint_channels: int
    hint_widths: tuple[int, ...]
    context: int
    xl: bool
    linear_projection: bool
    difference: bool
    said: Mapping[str, Any]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]
    file: TensorFile

    @property
    def base(self) -> str:
        """The family that it was made for."""
        if self.xl:
            return FAMILIES[2048]
        return FAMILIES.get(self.context, f"a model with {self.context} features a token")

    def config(self, model: ModelConfig) -> ControlConfig:
        """Its numbers, as far as the model has them.

        Raises:
            WeightsError: it was made for another family.
        """
        unet = model.unet
        if (self.context or unet.context_width, self.xl) != (
            unet.context_width,
            unet.pooled_width > 0,
        ):
            features = f" ({self.context} features a token)" if self.context else ""
            raise WeightsError(
                f"{self.path} is a ControlNet for {self.base}, in the layout of {self.layout}"
                f"{features}; the model {printable(model.name)} has {unet.context_width} features "
                f"a token{' and is told sizes, as XL' if unet.pooled_width else ''}. Take a model "
                "of that family"
            )
        said = dict(self.said)
        for name, ours in (("heads", unet.heads), ("groups", unet.groups)):
            if said.pop(name, ours) != ours:
                raise WeightsError(
                    f"{self.path} is a ControlNet for another model than {printable(model.name)}: "
                    f"{name} is {self.said[name]}, not {ours}"
                )
        if self.xl:  # small ones have fewer transformers than the UNet
            said |= self._depths(unet)
        return ControlConfig.of(
            unet,
            in_channels=model.autoencoder.latent_channels,
            linear_projection=self.linear_projection if self.context else unet.linear_projection,
            hint_channels=self.hint_channels,
            hint_widths=self.hint_widths,
            **said,
        )

    def _depths(self, unet: UNetConfig) -> dict[str, Any]:
        """Transformer blocks at each resolution and in the middle, by the names in the file."""
        ours = self.layout == "diffusers"
        levels = range(len(unet.widths))
        places = [
            f"down_blocks.{i}.attentions.0."
            if ours
            else f"input_blocks.{1 + i * (unet.blocks + 1)}.1."
            for i in levels
        ]
        places.append("mid_block.attentions.0." if ours else "middle_block.1.")
        *depths, middle = (
            len(
                {
                    found[1]
                    for name in self.tensors
                    if (
                        found := re.match(
                            rf"{re.escape(self.prefix + place)}transformer_blocks\.(\d+)\.", name
                        )
                    )
                }
            )
            for place in places
        )
        return {"depths": tuple(depths), "middle_depth": middle}

    def table(self, config: ControlConfig) -> Table:
        """Which variable is in which tensor."""
        if self.layout == "diffusers":
            return under(self.prefix, "", diffusers.control(config))
        return original.control(config, self.prefix)

    def part(self, config: ControlConfig) -> Part:
        """Its weights."""
        return Part(self.tensors, self.table(config), str(self.path), (self.path,))


def open_control(path: str | os.PathLike[str]) -> ControlFile:
    """Opens a file of a ControlNet, or the folder of diffusers that it is in.

    Args:
        path: of the file or folder.

    Raises:
        WeightsError: it is damaged, or is something else, which the message names.
        FileNotFoundError: there is no such file.
    """
    path = checked_path(path, "path", "the path of a ControlNet")
    if path.is_dir():
        path = _in_folder(path)
    return control_file_of(read_file(path), path)


def is_control(names: Iterable[str]) -> bool:
    """Whether a file is a ControlNet, or a model with one, by the names of its tensors."""
    return not set(names).isdisjoint(_MARKS.values())


def control_file_of(file: TensorFile, path: Path) -> ControlFile:
    """The ControlNet of an open file; the errors are those of `open_control`."""
    names = file.tensors
    if found := next((name for name in names if name in _OTHERS), None):
        raise WeightsError(
            f"{path} is {_OTHERS[found]}, as its {shown(found)} shows; keras_sd reads ControlNets "
            "that hold all of their weights, for one task"
        )
    place = next((place for place, mark in _MARKS.items() if mark in names), None)
    if place is None:
        raise WeightsError(
            f"{path} is no ControlNet: none of its {len(names)} tensors is named as the first of "
            f"one. It has {listed(names) or 'none'}. `keras-sd inspect` says what it is"
        )
    layout, prefix = place
    inside = {name: tensor for name, tensor in names.items() if name.startswith(prefix)}
    xl = any(name.removeprefix(prefix).startswith(_OF_XL) for name in inside)
    marks = {_DIFFERENCE, prefix + _DIFFERENCE}
    channels, widths = _hint(path, layout, prefix, inside)
    projections = (tensor for name, tensor in inside.items() if name.endswith("proj_in.weight"))
    projection = next(projections, None)
    tensors = {name: tensor for name, tensor in inside.items() if name not in marks}
    ignored = {name for name in tensors if original.is_ignored(name)}
    tensors = {name: tensor for name, tensor in tensors.items() if name not in ignored}
    left_out = (*(name for name in names if name not in inside and name not in marks), *ignored)
    said, notes = _settings(path, layout)
    if left_out:
        notes.append(f"Left out are {len(left_out)} tensors beside it: {listed(left_out)}.")
    return ControlFile(
        path,
        layout,
        prefix,
        tensors,
        hint_channels=channels,
        hint_widths=widths,
        context=_context(path, inside, xl),
        xl=xl,
        linear_projection=projection is not None and len(projection.shape) == 2,
        difference=not marks.isdisjoint(names),
        said=said,
        left_out=tuple(sorted(left_out)),
        notes=tuple(notes),
        file=file,
    )


def _in_folder(folder: Path) -> Path:
    for suffix in (".safetensors", ".bin"):
        if (path := folder / f"{_STEM}{suffix}").is_file():
            return path
    files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin"))
    if not files:
        raise FileNotFoundError(f"{folder} is a folder without {_STEM}.safetensors or .bin")
    if len(files) > 1:
        names = ", ".join(path.name for path in files)
        raise WeightsError(f"{folder} has several files: {names}. Give the path of one")
    return files[0]


def _context(path: Path, tensors: Mapping[str, Any], xl: bool) -> int:
    """Features of a token that it attends to; 0 for XL's smallest, which attend to none."""
    found = {tensor.shape[-1] for name, tensor in tensors.items() if _is_key(name, tensor)}
    if not found and xl:
        part = next((name for name in tensors if "attentions." in name or "proj_in." in name), None)
        if part is None:
            return 0
        raise WeightsError(
            f"{path} is a ControlNet for {FAMILIES[2048]} that is not whole or of the middle size, "
            f"whose transformers have no blocks, as {shown(part)} shows; keras_sd reads the large "
            "and the small ones"
        )
    if len(found) != 1:
        told = "none of its tensors" if not found else "its tensors differ: one of them"
        raise WeightsError(
            f"{path} is a ControlNet that is not whole: {told} tells the features of a token that "
            "it attends to"
        )
    return int(found.pop())


def _is_key(name: str, tensor: Any) -> bool:
    return name.endswith(_KEY) and len(tensor.shape) == 2


def _hint(
    path: Path, layout: str, prefix: str, tensors: Mapping[str, Any]
) -> tuple[int, tuple[int, ...]]:
    """The channels of the hint and the widths on its way, from the shapes."""

    def shape(i: int) -> tuple[int, ...] | None:
        """Of the i-th convolution."""
        name = f"{prefix}input_hint_block.{2 * i}.weight"
        if layout == "diffusers":
            place = "conv_in" if i == 0 else f"blocks.{i - 1}"
            name = f"{prefix}controlnet_cond_embedding.{place}.weight"
        tensor = tensors.get(name)
        return None if tensor is None else tuple(tensor.shape)

    shapes = [found for i in range(0, 2 * MAX_LEVELS, 2) if (found := shape(i)) is not None]
    if any(len(each) != 4 or 0 in each for each in shapes):
        raise WeightsError(f"{path}: the convolutions of the hint are of the shapes {shapes}")
    if layout == "original" and shape(2 * len(shapes) - 1) is None:
        shapes.pop()  # the last of all, which brings the features to the UNet's
    return shapes[0][1], tuple(each[0] for each in shapes)


def _settings(path: Path, layout: str) -> tuple[dict[str, Any], list[str]]:
    """What `config.json` says beside a file of diffusers, and notes."""
    beside = path.with_name("config.json")
    if layout != "diffusers" or not path.stem.startswith(_STEM) or not beside.is_file():
        return {}, []
    notes: list[str] = []
    return read_control(FolderSettings.read(beside), notes), notes
