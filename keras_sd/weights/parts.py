"""The weights of one network, and the files that hold one alone."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from keras_sd.config import SD_1, ModelConfig
from keras_sd.weights import architecture, keras_cv_h5
from keras_sd.weights.architecture import Telling
from keras_sd.weights.diffusers_folder.choice import stems
from keras_sd.weights.files import read_json
from keras_sd.weights.names import Table, own, weights_h5
from keras_sd.weights.readers import TensorFile, WeightsError, read_file
from keras_sd.weights.recognise import recognise_part

OF_TRAINING = re.compile(r"optimizer(_weights)?/")
"""What Keras saves beside the weights of a model that is being trained."""

_COMPONENTS = {
    "CLIPTextModel": "text_encoder",
    "CLIPTextModelWithProjection": "text_encoder_2",
    "UNet2DConditionModel": "unet",
    "AutoencoderKL": "autoencoder",
}
"""The classes that the folders inside of a diffusers folder name."""

_MAX_FACTS = 3
_MAX_LISTED = 10

FLOAT8 = tuple(map(np.dtype, (ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2)))
_OTHER_FLOATS = (np.dtype(ml_dtypes.bfloat16), *FLOAT8)
"""The floating-point numbers that NumPy does not take for such."""


@dataclass(frozen=True)
class Part:
    """The weights of one network.

    Attributes:
        tensors: as the file has them, by the table's names.
        table: which variable is in which tensor.
        source: the file, for messages.
        files: that the tensors are in.
    """

    tensors: Mapping[str, np.ndarray]
    table: Table
    source: str
    files: tuple[Path, ...] = ()

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

    def without_strays(self) -> tuple[Part, tuple[str, ...]]:
        """The part without the tensors that are none of its variables and do not lie in the
        network; and their names.
        """
        used, inside = {entry.name for entry in self.table}, lies_in(self.table)
        strays = {name for name in self.tensors if name not in used and not inside(name)}
        if not strays:
            return self, ()
        kept = {name: tensor for name, tensor in self.tensors.items() if name not in strays}
        return replace(self, tensors=kept), tuple(sorted(strays))

    def arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """Every variable: its path and its value, in our layout and the file's dtype."""
        for entry in self.table:
            yield entry.path, entry.ours(np.asarray(self.tensors[entry.name]))


@dataclass(frozen=True)
class Alone:
    """A file with one network, or with one half of KerasCV's autoencoder.

    Attributes:
        name: `"text_encoder"`, `"unet"`, `"autoencoder"`; or the half: `"encoder"`, `"decoder"`.
        part: its weights.
        ignored: names that are known and no part of the network.
        left_out: names that are not known and that the network does not need.
    """

    name: str
    part: Part
    ignored: tuple[str, ...]
    left_out: tuple[str, ...] = ()


def open_alone(path: Path, config: ModelConfig | None = None, wanted: str | None = None) -> Alone:
    """Opens a file that holds one part of a model.

    Args:
        path: of the file.
        config: of the model that it shall be part of; None goes by the shapes.
        wanted: the part that it shall be; a text encoder alone may be either of two.

    Raises:
        WeightsError: it is damaged, or holds something else, or is of another size.
        FileNotFoundError: there is no such file.
    """
    file = read_file(path)
    ignored: tuple[str, ...] = ()
    if name := weights_h5.part_of(file.tensors):
        table = weights_h5.TABLES[name](_own_config(name, shapes_of(file), path))
    elif file.format == "hdf5":
        found = keras_cv_h5.recognise(file)
        name, table = found.part, found.table
    else:
        name, table, ignored = recognise_part(shapes_of(file), config, path=path, wanted=wanted)
    used = {entry.name for entry in table}
    ignored += tuple(n for n in file.tensors if n not in used and OF_TRAINING.match(n))
    left_out = set(ignored)
    tensors = {n: tensor for n, tensor in file.tensors.items() if n not in left_out}
    return Alone(name, Part(tensors, table, str(path), (path,)), ignored)


def check_fits(source: object, part: str, table: Table, config: ModelConfig) -> None:
    """Refuses a part of another model.

    Args:
        source: what to call it, such as its path.
        part: one of the config's.
        table: of the part.
        config: of the model that it shall be part of.

    Raises:
        WeightsError: its variables are not those of the model; the message has some differences.
    """
    wanted = own.tables(config)[part]
    expected, found = ({entry.path: entry.shape for entry in each} for each in (wanted, table))
    if found == expected:
        return
    ours, theirs = numbers_of(wanted), numbers_of(table)
    facts = [f"{k} is {theirs[k]}, not {ours[k]}" for k in ours if theirs.get(k) != ours[k]]
    if not facts:
        odd = sorted(path for path in {*found, *expected} if found.get(path) != expected.get(path))
        facts = [f"{path} is {found.get(path)}, not {expected.get(path)}" for path in odd]
    more = f" and {len(facts) - _MAX_FACTS} more" if len(facts) > _MAX_FACTS else ""
    raise WeightsError(
        f"{source} is the {part} of another model than {printable(config.name)}: "
        + "; ".join(facts[:_MAX_FACTS])
        + more
    )


def numbers_of(table: Table) -> dict[str, Any]:
    """What the shapes of a table tell of its network, by the names of its config."""
    shapes = {entry.path: entry.shape for entry in table}
    part = "unet"
    if "embedding/tokens/embeddings" in shapes:
        part = "text_encoder"
    elif any(path.startswith(("encoder/", "decoder/")) for path in shapes):
        part = "autoencoder"
    numbers = architecture.numbers_of(part, Telling("keras_sd", shapes))
    return {name: list(n) if isinstance(n, tuple) else n for name, n in numbers.items()}


def component_of(folder: Path) -> str | None:
    """Which part of a model a folder inside of a diffusers folder holds; None for any other."""
    path = folder / "config.json"
    if not path.is_file():
        return None
    try:
        data = read_json(path)
    except WeightsError:
        return None
    classes = data.get("architectures")
    named = [data.get("_class_name"), *(classes if isinstance(classes, list) else ())]
    return next((_COMPONENTS[n] for n in named if isinstance(n, str) and n in _COMPONENTS), None)


def component_file(folder: Path, part: str) -> Path:
    """The file of weights in a folder inside of a diffusers folder.

    Raises:
        FileNotFoundError: there is none.
        WeightsError: there are several, and none goes before the others.
    """
    there = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    for suffix, stem in zip((".safetensors", ".bin"), stems(part), strict=True):
        files = [path for path in there if path.suffix == suffix]
        if plain := [path for path in files if path.stem == stem]:
            return plain[0]
        if len(files) == 1:
            return files[0]
        if files:
            names = ", ".join(path.name for path in files)
            raise WeightsError(f"{folder} has several files: {names}. Give one: {part}=FILE")
    raise FileNotFoundError(f"{folder} has no weights, no .safetensors or .bin file")


def lies_in(table: Table) -> Callable[[str], bool]:
    """Whether a name lies in a network, be it of one of its variables or not: whether it begins as
    the names of one of the network's blocks do.
    """
    names = [entry.name for entry in table]
    pairs = zip(min(names), max(names), strict=False)
    prefix = "".join(letter for letter, other in itertools.takewhile(_is_same, pairs))
    prefix = prefix[: max(prefix.rfind("."), prefix.rfind("/")) + 1]
    block = re.compile(re.escape(prefix) + r"[^./]+[./]?")
    blocks = {found[0] for name in names if (found := block.match(name))}
    return lambda name: (found := block.match(name)) is not None and found[0] in blocks


def _is_same(pair: tuple[str, str]) -> bool:
    return pair[0] == pair[1]


def is_floating(dtype: np.dtype) -> bool:
    """Whether numbers of this dtype can be weights."""
    return dtype in _OTHER_FLOATS or np.issubdtype(dtype, np.floating)


def shapes_of(file: TensorFile) -> dict[str, tuple[int, ...]]:
    """The shapes of a file's tensors, by name."""
    return {name: tuple(tensor.shape) for name, tensor in file.tensors.items()}


def listed(names: Iterable[str]) -> str:
    """The first ten of some names of a file, for a message."""
    names = list(names)
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(map(printable, names[:_MAX_LISTED])) + more


def printable(text: str) -> str:
    """Text of a file as a message may hold it: what moves a terminal's cursor stands as `repr`."""
    return text if text.isprintable() else repr(text)


def _own_config(part: str, shapes: Mapping[str, tuple[int, ...]], path: Path) -> Any:
    """The config of a network of ours, as far as its variables tell, from what Keras saved."""
    numbers = architecture.numbers_of(part, Telling("weights_h5", shapes, str(path)))
    # What no shape tells changes no shape either.
    if part == "text_encoder":
        numbers["heads"] = 1
    elif part == "unet":
        numbers |= {"heads": (1,) * len(numbers["widths"]), "groups": 1}
    else:
        numbers |= {"groups": 1, "encoder": any(name.startswith("encoder/") for name in shapes)}
    try:
        return replace(getattr(SD_1, part), **numbers)
    except ValueError as error:
        raise WeightsError(f"{path} is no {part} that keras_sd can build: {error}") from error
