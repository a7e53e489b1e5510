"""A checkpoint: a file or folder of weights of any layout, opened and checked, nothing loaded.

`open_checkpoint` says what a path holds and where each variable of ours is in it. Everything that
is done with weights (running, converting, inspecting) starts from the `Checkpoint` it gives.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np

from keras_sd import config as configs
from keras_sd.config import ModelConfig
from keras_sd.weights import diffusers_folder, recognise
from keras_sd.weights.families import unsupported
from keras_sd.weights.files import read_json
from keras_sd.weights.names import Table, keras_cv, original, own, under, weights_h5
from keras_sd.weights.readers import (
    TensorFile,
    WeightsError,
    hdf5,
    read_file,
    release,
    sha256,
)

CONFIG, WEIGHTS, MERGES = "config.json", "model.safetensors", "merges.txt"
"""The files of a preset folder."""

FORMAT = 1
"""Of preset folders."""

Prediction = Literal["epsilon", "v"]
"""Of a UNet: the noise, or `alpha * noise - sigma * x0`."""

PARTS = ("text_encoder", "unet", "autoencoder")
"""Of a model, by the names that they have everywhere."""

_OF_TRAINING = re.compile(r"optimizer(_weights)?/")
"""What Keras saves beside the weights of a model that is being trained."""

_COMPAT = {"keras_cv": configs.keras_cv}
"""Whose arithmetic weights may need, by name."""

_MAX_LISTED = 10


@dataclass(frozen=True)
class Part:
    """The weights of one network.

    Attributes:
        tensors: as the file has them, by the table's names.
        table: which variable is in which tensor.
        source: the file, for messages.
    """

    tensors: Mapping[str, np.ndarray]
    table: Table
    source: str

    def problems(self) -> dict[str, list[str]]:
        """What does not fit, by kind, from names, shapes and dtypes alone; empty where all do."""
        wanted = {entry.name: entry for entry in self.table}
        both = [name for name in wanted if name in self.tensors]
        found = {
            "unexpected": sorted(set(self.tensors) - set(wanted)),
            "missing": sorted(set(wanted) - set(self.tensors)),
            "misshapen": [
                f"{name} is {shape}, not {wanted[name].file_shape} ({wanted[name].path} "
                f"{wanted[name].shape})"
                for name in both
                if (shape := tuple(self.tensors[name].shape)) != wanted[name].file_shape
            ],
            "not floating": [
                f"{name} ({self.tensors[name].dtype})"
                for name in both
                if not is_floating(self.tensors[name].dtype)
            ],
        }
        return {kind: names for kind, names in found.items() if names}

    def not_finite(self) -> list[str]:
        """The names of the tensors with a NaN or an infinity; reads all of the numbers."""
        found = []
        for entry in self.table:
            tensor = self.tensors[entry.name]
            if entry.name not in found and not np.isfinite(np.asarray(tensor)).all():
                found.append(entry.name)
            release(tensor)
        return found

    def arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """Every variable: its path and its value, in our layout and the file's dtype."""
        for entry in self.table:
            yield entry.path, entry.ours(np.asarray(self.tensors[entry.name]))


@dataclass(frozen=True)
class Checkpoint:
    """A model's weights as they lie on the disk.

    Attributes:
        path: of the file or folder.
        layout: `"keras_sd"`, `"diffusers"`, `"original"` or `"keras_cv"`.
        family: what it is, for people: "Stable Diffusion 1.x".
        config: the model's numbers.
        parts: `text_encoder`, `unet` and `autoencoder`.
        merges: of the tokenizer: the path of their file, or the merges; None where there are none
            beside the weights.
        vocab_size: tokens that the merges make, where the text encoder may know more; None is as
            many as it knows.
        words: the words the model was trained on, or None where there is no list.
        license: of the weights, or None where nothing says.
        leftover: names in the files that belong to no part and are not known.
        ignored: names that are known and no part of the model, such as a table of betas.
        notes: what whoever uses it should know.
        unsupported: why it cannot be run, or None.
    """

    path: Path
    layout: str
    family: str
    config: ModelConfig
    parts: dict[str, Part]
    merges: Path | tuple[str, ...] | None = None
    vocab_size: int | None = None
    words: tuple[str, ...] | None = None
    license: str | None = None
    leftover: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unsupported: str | None = None

    def problems(self) -> dict[str, list[str]]:
        """What does not fit, of all parts together; see `Part.problems`."""
        found: dict[str, list[str]] = {}
        if self.leftover:
            found["unexpected"] = list(self.leftover)
        if absent := [
            f"{part} (give one: {part}=FILE)" for part in PARTS if part not in self.parts
        ]:
            found["missing"] = absent
        for part in self.parts.values():
            for kind, names in part.problems().items():
                found.setdefault(kind, []).extend(names)
        return found

    def check(self) -> None:
        """Refuses a checkpoint that does not fit its config, from its headers alone.

        Raises:
            WeightsError: a tensor has no variable, a variable no tensor, or a shape or dtype does
                not fit. The message lists all of them.
        """
        refuse(str(self.path), self.problems())

    def arrays(self) -> dict[str, np.ndarray]:
        """Every variable by `part/path`, in our layout and the file's dtype: views of the file
        where the format allows it."""
        return {
            f"{name}/{path}": array
            for name, part in self.parts.items()
            for path, array in part.arrays()
        }


def open_checkpoint(
    path: str | Path,
    *,
    text_encoder: str | Path | None = None,
    unet: str | Path | None = None,
    autoencoder: str | Path | None = None,
    prediction: Prediction | None = None,
    ema: bool = False,
    variant: str | None = None,
    compat: str | None = None,
) -> Checkpoint:
    """Opens a checkpoint of any layout. Only headers are read; no network, no Keras.

    Args:
        path: of a file or folder, see docs/checkpoints.md.
        text_encoder: path of a file whose text encoder takes the place of the checkpoint's.
        unet: likewise.
        autoencoder: likewise.
        prediction: what the UNet gives, for files that cannot say it.
        ema: take the averaged weights of the UNet, from a file that has both.
        variant: of the files in a diffusers folder, such as `"fp16"`.
        compat: `"keras_cv"` for the arithmetic of KerasCV.

    Raises:
        WeightsError: it is damaged, or no Stable Diffusion 1.x or 2.x, or holds a part only; the
            message says what it is.
        FileNotFoundError: there is no such file or folder, or a file of it is missing.
        ValueError: an option that is unknown, or that this layout does not have.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no checkpoint {path}")
    for name, value, allowed in (
        ("prediction", prediction, ("epsilon", "v")),
        ("compat", compat, tuple(_COMPAT)),
    ):
        if value is not None and value not in allowed:
            raise ValueError(f"{name} is {' or '.join(map(repr, allowed))}, not {value!r}")
    if path.is_dir():
        checkpoint = _open_folder(path, variant, ema)
    elif variant is not None:
        raise ValueError(f"variant {variant!r} is of files in a folder, and {path} is one file")
    else:
        checkpoint = _open_file(path, prediction, ema)

    replaced = {"text_encoder": text_encoder, "unet": unet, "autoencoder": autoencoder}
    parts = dict(checkpoint.parts)
    for part, file in replaced.items():
        if file is not None:
            parts[part] = open_part(part, file, checkpoint.config)
    config = checkpoint.config
    if prediction is not None:
        config = replace(config, noise=replace(config.noise, prediction=prediction))
    if compat is not None:
        config = _COMPAT[compat](config)
    return replace(checkpoint, parts=parts, config=config)


def open_part(part: str, path: str | Path, config: ModelConfig) -> Part:
    """Opens a file that holds one part of a model.

    Args:
        part: `"text_encoder"`, `"unet"` or `"autoencoder"`.
        path: of the file.
        config: of the model it shall be part of.

    Raises:
        WeightsError: the file is damaged, holds something else, or is of another size.
        FileNotFoundError: there is no such file.
    """
    file = read_file(path)
    found: str
    if own_part := weights_h5.part_of(file.tensors):
        found, table = own_part, weights_h5.TABLES[own_part](getattr(config, own_part))
    elif file.format == "hdf5":
        file, of_keras_cv = read_keras_cv(Path(path))
        found, table = of_keras_cv.part, of_keras_cv.table
    else:
        found, table = recognise.recognise_part(_shapes(file), config, path=Path(path))
    if found != part:
        raise WeightsError(f"{path} is no {part}, it holds the {found}")
    used = {entry.name for entry in table}
    tensors = {
        name: tensor
        for name, tensor in file.tensors.items()
        if name in used or not (original.is_ignored(name) or _OF_TRAINING.match(name))
    }
    return Part(tensors, table, str(path))


def _open_folder(folder: Path, variant: str | None, ema: bool) -> Checkpoint:
    if ema:
        raise ValueError(f"{folder} is a folder: its files have the averaged weights or not")
    if (folder / "model_index.json").is_file():
        return _open_diffusers(folder, variant)
    if variant is not None:
        raise ValueError(f"variant {variant!r} is of a diffusers folder, and {folder} is none")
    if (folder / CONFIG).is_file():
        return read_preset(folder)
    if paths := sorted(folder.glob("*.h5")):
        return _open_keras_cv(folder, paths)
    there = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
    raise WeightsError(
        f"{folder} is no checkpoint: a preset folder has {CONFIG}, a diffusers folder "
        f"model_index.json, one of KerasCV .h5 files. It has {there}"
    )


def _open_diffusers(folder: Path, variant: str | None) -> Checkpoint:
    found = diffusers_folder.read_folder(folder, variant)
    parts: dict[str, Part] = {}
    ignored: list[str] = []
    for part in PARTS:
        tensors, table, known = diffusers_folder.read_part(found, part)
        parts[part] = Part(tensors, table, str(folder / diffusers_folder.FOLDERS[part]))
        ignored += known
    return Checkpoint(
        folder,
        "diffusers",
        found.family,
        found.config,
        parts,
        merges=found.merges,
        vocab_size=found.vocab_size,
        ignored=tuple(ignored),
        notes=found.notes,
        unsupported=found.unsupported,
    )


def _open_keras_cv(folder: Path, paths: list[Path]) -> Checkpoint:
    """A folder with the files of KerasCV's classes, as its cache is one."""
    files: dict[str, tuple[TensorFile, keras_cv.Recognised]] = {}
    for path in paths:
        file, found = read_keras_cv(path)
        if found.part in files:
            raise WeightsError(
                f"{folder} has two files with the {found.part}, {files[found.part][0].path.name} "
                f"and {path.name}: keep one of them there"
            )
        files[found.part] = (file, found)
    if "unet" not in files:
        raise WeightsError(f"{folder} has no diffusion model of KerasCV's, only {', '.join(files)}")
    config = files["unet"][1].config
    if "text_encoder" in files:
        text = files["text_encoder"][1].config.text_encoder
        if text.width != config.unet.context_width:
            raise WeightsError(
                f"{folder}: the text encoder gives {text.width} features a token, the diffusion "
                f"model expects {config.unet.context_width}: one is of 1.x, the other of 2.x"
            )
        config = replace(config, text_encoder=text)
    notes = [
        "KerasCV computed with other epsilons and another gelu than Stable Diffusion was trained "
        "with. Weights that were trained with KerasCV expect that: compat='keras_cv'."
    ]
    parts: dict[str, Part] = {
        part: _keras_cv_part(*files[part]) for part in ("text_encoder", "unet") if part in files
    }
    match [half for half in ("encoder", "decoder") if half in files]:
        case ["encoder", "decoder"]:
            encoder, decoder = (_keras_cv_part(*files[half]) for half in ("encoder", "decoder"))
            parts["autoencoder"] = Part(
                {**encoder.tensors, **decoder.tensors},
                encoder.table + decoder.table,
                f"{encoder.source} and {decoder.source}",
            )
        case [half]:
            notes.append(f"{folder} has the {half} of the autoencoder without its other half.")
    return Checkpoint(
        folder,
        "keras_cv",
        f"Stable Diffusion {'2.x base' if config.unet.linear_projection else '1.x'} of KerasCV",
        config,
        parts,
        notes=tuple(notes),
    )


def read_keras_cv(path: Path) -> tuple[TensorFile, keras_cv.Recognised]:
    file = read_file(path)
    # Keras 3 names the weights; before, only their order says which is which.
    names_say = any(name.startswith("layers/") for name in file.tensors)
    order = None if names_say or file.format != "hdf5" else hdf5.keras2_order(path)
    found = keras_cv.recognise(_shapes(file), order)
    if found is None:
        raise WeightsError(f"{path} is none of the files that KerasCV's classes write")
    return file, found


def _keras_cv_part(file: TensorFile, found: keras_cv.Recognised) -> Part:
    """The names of two files may be the same, so each has its file's name before it."""
    prefix = f"{file.path.name}: "
    tensors = {n: tensor for n, tensor in file.tensors.items() if not _OF_TRAINING.match(n)}
    return Part(
        {prefix + name: tensor for name, tensor in tensors.items()},
        under(prefix, "", found.table),
        str(file.path),
    )


def _open_file(path: Path, prediction: Prediction | None, ema: bool) -> Checkpoint:
    file = read_file(path)
    found = recognise.recognise(
        _shapes(file), file.metadata, path=path, prediction=prediction, ema=ema
    )
    if found.config is None:
        raise WeightsError(
            f"{path} holds the weights of a preset folder, whose {CONFIG} has the numbers of the "
            "model: give the folder"
        )
    parts = {
        part: Part(
            {entry.name: file.tensors[entry.name] for entry in table if entry.name in file.tensors},
            table,
            str(path),
        )
        for part, table in found.tables.items()
    }
    return Checkpoint(
        path,
        found.layout,
        found.family,
        found.config,
        parts,
        leftover=found.leftover,
        ignored=found.ignored,
        notes=found.notes,
        unsupported=found.unsupported,
    )


def read_preset(folder: str | Path) -> Checkpoint:
    """Opens a preset folder, whose files have to be as they were saved.

    Args:
        folder: with `config.json`, `model.safetensors` and `merges.txt`.

    Raises:
        FileNotFoundError: one of the files is missing.
        WeightsError: a file is not the one that was saved; the message names it.
    """
    folder = Path(folder)
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"The preset {folder} is not complete: {CONFIG} is missing")
    data = read_json(path)
    files, words, licence = (data.pop(key, None) for key in ("files", "words", "license"))
    number = data.pop("format", None)
    if number != FORMAT:
        raise WeightsError(f"{path}: format is {number!r}; this version reads {FORMAT}")
    if not isinstance(files, dict) or not {WEIGHTS, MERGES} <= set(files):
        raise WeightsError(f"{path}: files must give the sha256 of {WEIGHTS} and {MERGES}")
    if words is not None and not _is_strings(words):
        raise WeightsError(f"{path}: words is not a list of strings")
    try:
        config = ModelConfig.from_dict(data)
    except (ValueError, TypeError) as error:
        raise WeightsError(f"{path}: {error}") from error
    for name, expected in files.items():
        if Path(name).name != name:
            raise WeightsError(f"{path}: {name!r} is not the name of a file in the same folder")
        file = folder / name
        if not file.is_file():
            raise FileNotFoundError(f"The preset {folder} is not complete: {name} is missing")
        found = sha256(file)
        if found != expected:
            raise WeightsError(
                f"{file} is damaged or was changed: its sha256 is {found}, {CONFIG} says "
                f"{expected}. Copy the preset again."
            )
    tensors = read_file(folder / WEIGHTS).tensors
    parts = {
        part: Part(_under(f"{part}/", tensors), table, str(folder / WEIGHTS))
        for part, table in own.tables(config).items()
    }
    return Checkpoint(
        folder,
        "keras_sd",
        config.name,
        config,
        parts,
        merges=folder / MERGES,
        words=None if words is None else tuple(words),
        license=licence,
        leftover=_leftover(tensors, parts),
        unsupported=unsupported(folder, config),
    )


def refuse(source: str, problems: Mapping[str, Iterable[str]]) -> None:
    """Raises one error with everything that does not fit; nothing where all does.

    Args:
        source: the file or folder.
        problems: names by what is wrong with them.

    Raises:
        WeightsError: there are problems.
    """
    lines = []
    for kind, found in problems.items():
        names = list(found)
        if names:
            more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
            lines.append(f"  {len(names)} {kind}: {', '.join(names[:_MAX_LISTED])}{more}")
    if lines:
        raise WeightsError("\n".join([f"{source} does not fit, nothing was loaded:", *lines]))


def is_floating(dtype: np.dtype) -> bool:
    """Whether numbers of this dtype can be weights."""
    return dtype == ml_dtypes.bfloat16 or np.issubdtype(dtype, np.floating)


def _under(prefix: str, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _shapes(file: TensorFile) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in file.tensors.items()}


def _leftover(tensors: Mapping[str, Any], parts: Mapping[str, Part]) -> tuple[str, ...]:
    return tuple(
        name for name in tensors if not any(name in part.tensors for part in parts.values())
    )


def _is_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
