"""A file of a T2I-Adapter as a value: its kind, its layout, its tensors. No model is needed.

| layout | names |
|---|---|
| original | `conv_in`, `body.0.block1`, of all levels in one row; light: `body.0.body.0.block1` |
| diffusers | `T2IAdapter`, a folder with `config.json` or its file: `adapter.body.0.resnets.0` |
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_sd.adapter_configs import FeatureConfig
from keras_sd.files import checked_path
from keras_sd.weights.diffusers_folder.settings import FolderSettings
from keras_sd.weights.names import under
from keras_sd.weights.names.steering import features
from keras_sd.weights.parts import Part, listed
from keras_sd.weights.readers import TensorFile, WeightsError, read_file

__all__ = ["FeatureFile", "feature_file_of", "holds_features", "is_features", "open_features"]

_STEM = "diffusion_pytorch_model"
_CLASS = "T2IAdapter"
_MARKS = {
    ("diffusers", "adapter."): "adapter.body.0.resnets.0.block1.weight",
    ("diffusers", ""): "body.0.resnets.0.block1.weight",
    ("original", "adapter."): re.compile(r"adapter\.body\.0\.(body\.0\.)?block1\.weight"),
    ("original", ""): re.compile(r"body\.0\.(body\.0\.)?block1\.weight"),
}
"""A tensor that every file of a layout has, by the layout and what its names begin with."""

_CELLS = {64: (1, 8), 192: (3, 8), 256: (1, 16), 768: (3, 16)}
"""Channels of the picture and pixels of a cell's side, by the numbers of a cell."""

_KINDS = {"full_adapter": "full", "full_adapter_xl": "full_xl", "light_adapter": "light"}


@dataclass(frozen=True)
class FeatureFile:
    """A file of a T2I-Adapter.

    Attributes:
        path: of the file.
        layout: `"diffusers"` or `"original"`.
        prefix: what its names begin with.
        tensors: by the file's names.
        config: its numbers.
    """

    path: Path
    layout: str
    prefix: str
    tensors: Mapping[str, Any]
    config: FeatureConfig

    @property
    def base(self) -> str:
        """The family that it was made for, as far as its kind tells."""
        xl = self.config.kind == "full_xl"
        return "Stable Diffusion XL" if xl else "Stable Diffusion 1.x or 2.x"

    def part(self) -> Part:
        """Its weights."""
        table = under(self.prefix, "", features(self.config, self.layout == "diffusers"))
        return Part(self.tensors, table, str(self.path), (self.path,))


def open_features(path: str | os.PathLike[str]) -> FeatureFile:
    """Opens a file of a T2I-Adapter, or the folder of diffusers that it is in.

    Args:
        path: of the file or folder.

    Raises:
        WeightsError: it is damaged, or is something else, which the message names.
        FileNotFoundError: there is no such file.
    """
    path = checked_path(path, "path", "the path of a T2I-Adapter")
    if path.is_dir():
        files = [path / f"{_STEM}{suffix}" for suffix in (".safetensors", ".bin")]
        there = [each for each in files if each.is_file()]
        if not there:
            raise FileNotFoundError(f"{path} is a folder without {_STEM}.safetensors or .bin")
        path = there[0]
    return feature_file_of(read_file(path), path)


def _place(names: Iterable[str]) -> tuple[str, str] | None:
    """The layout of a file and what its names begin with; None where it is something else."""
    known = set(names)
    for place, mark in _MARKS.items():
        if mark in known or (
            isinstance(mark, re.Pattern) and any(mark.fullmatch(name) for name in known)
        ):
            return place
    return None


def is_features(names: Iterable[str]) -> bool:
    """Whether a file is a T2I-Adapter, by the names of its tensors."""
    return _place(names) is not None


def holds_features(path: Path) -> bool:
    """Whether a file, or a folder of diffusers, is a T2I-Adapter.

    Raises:
        WeightsError: it is damaged.
        FileNotFoundError: there is no such file.
    """
    if not path.is_dir():
        return is_features(read_file(path).tensors)
    config = path / "config.json"
    return config.is_file() and FolderSettings.read(config).values.get("_class_name") == _CLASS


def feature_file_of(file: TensorFile, path: Path) -> FeatureFile:
    """The T2I-Adapter of an open file; the errors are those of `open_features`."""
    tensors = file.tensors
    place = _place(tensors)
    if place is None:
        raise WeightsError(
            f"{path} is no T2I-Adapter: none of its {len(tensors)} tensors is named as the first "
            f"of one. It has {listed(tensors) or 'none'}. `keras-sd inspect` says what it is"
        )
    layout, prefix = place
    return FeatureFile(path, layout, prefix, tensors, _config(path, layout, prefix, tensors))


def _config(path: Path, layout: str, prefix: str, tensors: Mapping[str, Any]) -> FeatureConfig:
    def shape(name: str) -> tuple[int, ...]:
        found = getattr(tensors.get(f"{prefix}{name}.weight"), "shape", None)
        if found is None or len(found) != 4 or 0 in found:
            raise WeightsError(
                f"{path} is a T2I-Adapter that is not whole: {prefix}{name}.weight is {found}, not "
                "the kernel of a convolution"
            )
        return tuple(map(int, found))

    def count(pattern: str) -> int:
        found = (re.match(re.escape(prefix) + pattern, name) for name in tensors)
        return len({match[1] for match in found if match})

    light = f"{prefix}body.0.out_conv.weight" in tensors
    told = _told(path, layout)
    if light:
        levels = count(r"body\.(\d{1,3})\.out_conv\.")
        inner = "resnets" if layout == "diffusers" else "body"
        blocks = count(rf"body\.0\.{inner}\.(\d{{1,3}})\.")
        widths = tuple(shape(f"body.{i}.out_conv")[0] for i in range(levels))
        cell = shape("body.0.in_conv")[1]
    elif layout == "diffusers":
        levels = count(r"body\.(\d{1,3})\.")
        blocks = count(r"body\.0\.resnets\.(\d{1,3})\.")
        widths = tuple(shape(f"body.{i}.resnets.0.block1")[0] for i in range(levels))
        cell = shape("conv_in")[1]
    else:  # two blocks a level, as in all that there are
        blocks = 2
        levels = count(r"body\.(\d{1,3})\.") // blocks
        widths = tuple(shape(f"body.{blocks * i}.block1")[0] for i in range(levels))
        cell = shape("conv_in")[1]
    factor = told.get("factor")
    channels = cell // factor**2 if factor else 0
    if not factor:
        if cell not in _CELLS:
            raise WeightsError(
                f"{path} is a T2I-Adapter with {cell} numbers a cell, which is none of "
                f"{', '.join(map(str, _CELLS))}: give the folder that it is in with its config.json"
            )
        channels, factor = _CELLS[cell]
    kind = "light" if light else "full_xl" if factor == 16 else "full"
    kind = told.get("kind", kind)
    if (kind == "light") != light or channels * factor**2 != cell:
        raise WeightsError(
            f"{path.with_name('config.json')} is of another T2I-Adapter than the weights beside "
            f"it: {kind}, {factor} pixels a cell, of which the weights take {cell} numbers"
        )
    try:
        return FeatureConfig(kind, widths, channels, factor, blocks)
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from None


def _told(path: Path, layout: str) -> dict[str, Any]:
    """What `config.json` says beside a file of diffusers."""
    beside = path.with_name("config.json")
    if layout != "diffusers" or not path.stem.startswith(_STEM) or not beside.is_file():
        return {}
    given = FolderSettings.read(beside)
    given.fixed({"_class_name": (_CLASS,)})
    return {
        "kind": given.choice("adapter_type", "full_adapter", _KINDS),
        "factor": given.size("downscale_factor", 8),
    }
