"""The weights of one network, and the files that hold one alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from keras_sd.config import SD_1, ModelConfig
from keras_sd.weights import keras_cv_h5
from keras_sd.weights.diffusers_folder.files import stems
from keras_sd.weights.files import read_json
from keras_sd.weights.names import Table, own, weights_h5
from keras_sd.weights.readers import TensorFile, WeightsError, read_file
from keras_sd.weights.recognise import recognise_part

OF_TRAINING = re.compile(r"optimizer(_weights)?/")
"""What Keras saves beside the weights of a model that is being trained."""

_COMPONENTS = {
    "CLIPTextModel": "text_encoder",
    "UNet2DConditionModel": "unet",
    "AutoencoderKL": "autoencoder",
}
"""The classes that the folders inside of a diffusers folder name."""

_MAX_FACTS = 3

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
    """

    name: str
    part: Part
    ignored: tuple[str, ...]


def open_alone(path: Path, config: ModelConfig | None = None) -> Alone:
    """Opens a file that holds one part of a model.

    Args:
        path: of the file.
        config: of the model that it shall be part of; None goes by the shapes.

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
        name, table, ignored = recognise_part(shapes_of(file), config, path=path)
    used = {entry.name for entry in table}
    ignored += tuple(n for n in file.tensors if n not in used and OF_TRAINING.match(n))
    left_out = set(ignored)
    tensors = {n: tensor for n, tensor in file.tensors.items() if n not in left_out}
    return Alone(name, Part(tensors, table, str(path), (path,)), ignored)


def check_fits(source: object, part: str, table: Table, config: ModelConfig) -> None:
    """Refuses a part of another model.

    Args:
        source: what to call it, such as its path.
        part: `"text_encoder"`, `"unet"` or `"autoencoder"`.
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
    """What the shapes tell of a network's architecture, by the names of its config."""
    shapes = {entry.path: entry.shape for entry in table}

    def last(path: str, axis: int = -1) -> list[int]:
        """An axis of the variables at level 0, 1, ..., as far as there are any."""
        found: list[int] = []
        while (shape := shapes.get(path.format(len(found)))) is not None:
            found.append(shape[axis])
        return found

    if "embedding/tokens/embeddings" in shapes:
        (vocabulary, width), (length, _) = (
            shapes[f"embedding/{name}/embeddings"] for name in ("tokens", "positions")
        )
        mlp = last("layer_{}/hidden/kernel")
        numbers = {"vocab_size": vocabulary, "max_length": length, "width": width}
        return {**numbers, "depth": len(mlp), "mlp_width": mlp[0]}
    for half, latent in (
        ("encoder", "encoder/moments/kernel"),
        ("decoder", "decoder/latent/kernel"),
    ):
        if latent in shapes:
            channels = shapes[latent][3] // (2 if half == "encoder" else 1)
            widths = last(half + "/level_{}_0/conv1/kernel")
            return {"latent_channels": channels, "widths": widths}
    widths = last("down_{}_0/residual/conv1/kernel")
    block = "down_{}_0/transformer/block_{{}}/norm1/gamma"
    return {
        "in_channels": shapes["conv_in/kernel"][2],
        "out_channels": shapes["conv_out/kernel"][3],
        "widths": widths,
        "depths": [len(last(block.format(level))) for level in range(len(widths))],
        "context_width": shapes["middle/transformer/block_0/cross_attention/key/kernel"][0],
    }


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


def is_floating(dtype: np.dtype) -> bool:
    """Whether numbers of this dtype can be weights."""
    return dtype in _OTHER_FLOATS or np.issubdtype(dtype, np.floating)


def shapes_of(file: TensorFile) -> dict[str, tuple[int, ...]]:
    """The shapes of a file's tensors, by name."""
    return {name: tuple(tensor.shape) for name, tensor in file.tensors.items()}


def printable(text: str) -> str:
    """Text of a file as a message may hold it: what moves a terminal's cursor stands as `repr`."""
    return text if text.isprintable() else repr(text)


def _own_config(part: str, shapes: Mapping[str, tuple[int, ...]], path: Path) -> Any:
    """The config of a network of ours, as far as its variables tell, from what Keras saved."""

    def shape(name: str, rank: int) -> tuple[int, ...]:
        if name not in shapes:
            raise WeightsError(f"{path} is not whole: it has no {name}")
        if len(shapes[name]) != rank:
            raise WeightsError(f"{path}: {name} cannot be of shape {shapes[name]}")
        return shapes[name]

    def named(name: str) -> list[str]:
        """The names of the layers of a list: `layer`, `layer_1`, ..."""
        found: list[str] = []
        while (one := name.format(f"_{len(found)}" if found else "")) in shapes:
            found.append(one)
        return found

    def levels(blocks: str, between: str) -> tuple[list[str], int]:
        """The first block at each resolution, and how many one has."""
        found, count = named(blocks), 1 + len(named(between))
        each = max(len(found) // count, 1)
        return found[::each][:count], each

    if part == "text_encoder":
        vocab_size, width = shape("embedding/tokens/vars/0", 2)
        numbers: dict[str, Any] = {
            "vocab_size": vocab_size,
            "width": width,
            "max_length": shape("embedding/positions/vars/0", 2)[0],
            "depth": len(named("blocks/text_layer{}/hidden/vars/0")),
            "mlp_width": shape("blocks/text_layer/hidden/vars/0", 2)[1],
            "heads": 1,
        }
    elif part == "unet":
        conv = "/residual/conv1/vars/0"
        firsts, blocks = levels("down/level{}" + conv, "downsamples/downsample{}/conv/vars/0")
        transformers = "/transformer/blocks/transformer_block{}/norm1/vars/0"
        # Keras counts the middle after the levels on the way down.
        middle = f"layers/level_{len(named('down/level{}' + conv))}"
        key = "/transformer/blocks/transformer_block/cross_attention/key/vars/0"
        numbers = {
            "in_channels": shape("conv_in/vars/0", 4)[2],
            "out_channels": shape("conv_out/vars/0", 4)[3],
            "widths": tuple(shape(name, 4)[3] for name in firsts),
            "depths": tuple(len(named(name.removesuffix(conv) + transformers)) for name in firsts),
            "heads": (1,) * len(firsts),
            "blocks": blocks,
            "context_width": shape(middle + key, 2)[0],
            "groups": 1,
        }
    else:
        # The way up begins with the smallest resolution, and has a block more at each.
        firsts, blocks = levels(
            "decoder/levels/residual_block{}/conv1/vars/0",
            "decoder/upsamples/upsample{}/conv/vars/0",
        )
        numbers = {
            "latent_channels": shape("decoder/latent/vars/0", 4)[2],
            "widths": tuple(shape(name, 4)[3] for name in reversed(firsts)),
            "blocks": blocks - 1,
            "groups": 1,
            "encoder": any(name.startswith("encoder/") for name in shapes),
        }
    try:
        return replace(getattr(SD_1, part), **numbers)
    except (ValueError, ZeroDivisionError) as error:
        raise WeightsError(f"{path} is no {part} that keras_sd can build: {error}") from error
