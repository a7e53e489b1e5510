"""Loading weights into networks, all of them or none, and models from preset folders."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import ml_dtypes
import numpy as np

from keras_sd.config import ModelConfig
from keras_sd.networks import Autoencoder, TextEncoder, UNet
from keras_sd.networks.initializers import weights_follow
from keras_sd.tokenizer import Tokenizer
from keras_sd.weights.names import Table, Weight
from keras_sd.weights.readers import WeightsError, read_safetensors, sha256

PRESETS = Path(__file__).parent.parent / "presets"
"""The presets in the package."""

CONFIG, WEIGHTS, MERGES = "config.json", "model.safetensors", "merges.txt"
"""The files of a preset folder."""

FORMAT = 1
"""Of preset folders."""

_MAX_CONFIG = 16_000_000
_MAX_LISTED = 10


@dataclass(frozen=True)
class Preset:
    """A preset folder whose files are as they were saved.

    Attributes:
        config: the model's numbers.
        weights: path of the weights; its names are `text_encoder/...`, `unet/...` and
            `autoencoder/...` with the paths of our variables.
        merges: path of the tokenizer's merges.
        words: the words the model was trained on, or None where there is no list.
        license: of the weights, or None.
    """

    config: ModelConfig
    weights: Path
    merges: Path
    words: tuple[str, ...] | None
    license: str | None


def load_weights(
    models: Mapping[str, keras.Model],
    tensors: Mapping[str, Any],
    table: Table | None = None,
    *,
    source: str = "the weights",
) -> None:
    """Fills every variable of several networks from one collection of tensors, or changes nothing.

    Args:
        models: the networks by the name that their paths begin with: `{"unet": unet}`.
        tensors: arrays by name, such as `read_safetensors` gives.
        table: which tensor goes where, with paths such as `unet/conv_in/kernel`; None is our own
            format, where the paths are the names.
        source: what an error calls the tensors, such as their path.

    Raises:
        WeightsError: a tensor has no variable, a variable no tensor, a shape or dtype does not
            fit, or a number is not finite. The message lists all of them; nothing was changed.
    """
    variables = {
        f"{part}/{path}": variable
        for part, model in models.items()
        for path, variable in variables_of(model).items()
    }
    _load(variables, tensors, table, source)


def load_state_dict(
    model: keras.Model,
    state_dict: Mapping[str, Any],
    table: Table,
    *,
    source: str = "the state dict",
) -> None:
    """Fills every variable of one network from tensors with foreign names, or changes nothing.

    Args:
        model: the network.
        state_dict: arrays by name, such as `read_safetensors` gives.
        table: which tensor goes where, see `keras_sd.weights.names`.
        source: what an error calls the tensors, such as their path.

    Raises:
        WeightsError: see `load_weights`.
    """
    _load(variables_of(model), state_dict, table, source)


def variables_of(model: keras.Model) -> dict[str, keras.Variable]:
    """The weights of a network by path, without the network's own name."""
    return {variable.path.split("/", 1)[1]: variable for variable in model.weights}


def read_preset(folder: str | Path) -> Preset:
    """Checks a preset folder, before anything is built.

    Args:
        folder: with `config.json`, `model.safetensors` and `merges.txt`.

    Raises:
        FileNotFoundError: the folder or one of its files is missing.
        WeightsError: a file is not the one that was saved; the message names it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no preset folder {folder}")
    path = folder / CONFIG
    data = _read_config(path)
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
    known = None if words is None else tuple(words)
    return Preset(config, folder / WEIGHTS, folder / MERGES, known, licence)


def load_preset(preset: str | Path) -> dict[str, Any]:
    """The parts of a model, ready to run: the arguments of `StableDiffusion`.

    Args:
        preset: the name of a preset in the package (`list_presets`), or the path of a folder.

    Raises:
        FileNotFoundError: there is no such preset, or a file of it is missing.
        WeightsError: a file is damaged, or the weights are not those of the config.
    """
    found = read_preset(_folder(preset))
    config = found.config
    tensors = read_safetensors(found.weights)
    tokenizer = Tokenizer(
        found.merges,
        max_length=config.text_encoder.max_length,
        vocab_size=config.text_encoder.vocab_size,
        pad=config.pad_token,
    )
    with weights_follow():
        models = {
            "text_encoder": TextEncoder(config.text_encoder),
            "unet": UNet(config.unet),
            "autoencoder": Autoencoder(config.autoencoder),
        }
    load_weights(models, tensors, source=str(found.weights))
    return {"config": config, **models, "tokenizer": tokenizer, "words": found.words}


def list_presets() -> list[str]:
    """The names of the presets in the package."""
    return sorted(path.parent.name for path in PRESETS.glob(f"*/{CONFIG}"))


def _folder(preset: str | Path) -> Path:
    names = list_presets()
    if preset in names:
        return PRESETS / preset
    if Path(preset).is_dir():
        return Path(preset)
    close = difflib.get_close_matches(str(preset), names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise FileNotFoundError(
        f"No preset {str(preset)!r}.{hint} In the package: {', '.join(names) or 'none'}; "
        "or give the path of a preset folder."
    )


def _load(
    variables: Mapping[str, keras.Variable],
    tensors: Mapping[str, Any],
    table: Table | None,
    source: str,
) -> None:
    entries = [Weight(path, path) for path in variables] if table is None else table
    paths = [entry.path for entry in entries]
    if sorted(paths) != sorted(variables):
        odd = sorted(set(paths) ^ set(variables)) or "a path twice"
        raise WeightsError(f"The table does not fit the network: {odd}")
    names = {entry.name for entry in entries}
    present = [entry for entry in entries if entry.name in tensors]

    _refuse(
        source,
        unexpected=sorted(set(tensors) - names),
        missing=sorted(names - set(tensors)),
        misshapen=[
            f"{entry.name} is {tuple(tensors[entry.name].shape)} and gives {entry.path} {ours}, "
            f"which is {tuple(variables[entry.path].shape)}"
            for entry in present
            if (ours := entry.shape(tensors[entry.name].shape))
            != tuple(variables[entry.path].shape)
        ],
        not_floating=[
            f"{entry.name} ({tensors[entry.name].dtype})"
            for entry in present
            if not _is_floating(tensors[entry.name].dtype)
        ],
    )

    # Twice over the data: no variable is touched before all numbers are known to be good, and no
    # more than one tensor is in memory at a time.
    def converted(entry: Weight) -> np.ndarray:
        dtype = _numpy_dtype(variables[entry.path])
        with np.errstate(over="ignore"):
            return np.asarray(tensors[entry.name]).astype(dtype, copy=False)

    _refuse(
        source,
        not_finite=[entry.name for entry in entries if not np.isfinite(converted(entry)).all()],
    )
    for entry in entries:
        # A copy of its own: jax keeps what it is given, which may be a view of the file.
        variables[entry.path].assign(np.array(entry.ours(converted(entry)), order="C"))


def _refuse(source: str, **problems: Sequence[str]) -> None:
    lines = []
    for kind, names in problems.items():
        if names:
            more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
            listed = ", ".join(names[:_MAX_LISTED])
            lines.append(f"  {len(names)} {kind.replace('_', ' ')}: {listed}{more}")
    if lines:
        raise WeightsError("\n".join([f"{source} does not fit, nothing was loaded:", *lines]))


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"The preset {path.parent} is not complete: {CONFIG} is missing")
    if path.stat().st_size > _MAX_CONFIG:
        raise WeightsError(f"{path} is larger than {_MAX_CONFIG} bytes")
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is no JSON: {error}") from error
    if not isinstance(data, dict):
        raise WeightsError(f"{path} is not a JSON object")
    return data


def _is_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_floating(dtype: np.dtype) -> bool:
    return dtype == ml_dtypes.bfloat16 or np.issubdtype(dtype, np.floating)


def _numpy_dtype(variable: keras.Variable) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if variable.dtype == "bfloat16" else variable.dtype)
