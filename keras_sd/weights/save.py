"""Writing a model: as a folder of ours, or as one file that other programs read."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from keras_sd import compat
from keras_sd.config import ModelConfig
from keras_sd.files import checked_path, replace_file
from keras_sd.weights import int8
from keras_sd.weights.checkpoint import CONFIG, FORMAT, MERGES, WEIGHTS
from keras_sd.weights.diffusers_folder import INDEX
from keras_sd.weights.files import (
    Dtype,
    PresetDtype,
    replace_folder,
    require_encoder,
    tensors_of,
)
from keras_sd.weights.names import Table, original, own
from keras_sd.weights.readers import WeightsError, sha256
from keras_sd.weights.recognise import ZERO_SNR, recognise

_MAX_LISTED = 5

_log = logging.getLogger(__name__)


def save_preset(
    folder: str | Path,
    config: ModelConfig,
    arrays: Mapping[str, Any],
    merges: Sequence[str] | Path,
    words: Iterable[str] | None = None,
    *,
    dtype: PresetDtype | None = "float16",
    license: str | None = None,
) -> None:
    """Writes a preset folder, whole or not at all: if anything goes wrong, an older preset in it
    is as it was.

    Args:
        folder: is made where there is none. What else is in it stays as it is.
        config: the model's numbers.
        arrays: every variable by `part/path`, in our layout: `load.arrays_of` has a model's,
            `Checkpoint.arrays` those of a checkpoint.
        merges: of the tokenizer: pairs with a space between, in order, or the path of their file.
        words: the words the model was trained on, where it is few enough to say.
        dtype: of the numbers in the file; None is as they are. `"int8"` has a byte a number, and
            a scale an output channel, see `keras_sd.weights.int8`.
        license: of the weights.

    Raises:
        WeightsError: a weight is not finite in this dtype, or the arrays are not those of the
            config; the message names them. Nothing was written.
        FileExistsError: the folder is one of diffusers', as which it would still be read.
        ValueError: another dtype, or `folder` is empty.
        TypeError: `folder` is no path.
        BlockingIOError: another process is writing this folder.
        OSError: a file cannot be written; the message names it.
    """
    folder = checked_path(folder, "folder")
    if (folder / INDEX).exists():
        raise FileExistsError(
            f"{folder} is a folder of diffusers', for it has {INDEX}, and would still be read as "
            "one: take another name, or remove it first"
        )
    if dtype == "int8":
        tensors = int8.stored(tensors_of(arrays, own.tables(config), None))
    else:
        tensors = tensors_of(arrays, own.tables(config), dtype)
    if isinstance(merges, Path):
        text = merges.read_text(encoding="utf-8")
    else:
        text = "".join(f"{line}\n" for line in merges)

    def write_config(path: Path) -> None:
        data = {
            "format": FORMAT,
            **config.to_dict(),
            "license": license,
            "files": {name: sha256(path.with_name(name)) for name in (WEIGHTS, MERGES)},
            "words": None if words is None else sorted(words),
        }
        text_of_config = json.dumps(data, indent=1, ensure_ascii=False) + "\n"
        path.write_bytes(text_of_config.encode())

    replace_folder(
        folder,
        {
            WEIGHTS: lambda path: save_file(tensors, path),
            MERGES: lambda path: path.write_bytes(text.encode()),
            CONFIG: write_config,
        },
        keep=True,
    )


def save_checkpoint(
    path: str | Path,
    config: ModelConfig,
    arrays: Mapping[str, Any],
    *,
    dtype: Dtype | None = None,
) -> None:
    """Writes one `.safetensors` file in the layout of the original Stable Diffusion code, which
    most other programs read.

    Args:
        path: of the file; one that is there is replaced, whole or not at all.
        config: the model's numbers.
        arrays: every variable by `part/path`, see `save_preset`.
        dtype: of the numbers in the file; None is as they are.

    Raises:
        WeightsError: see `save_preset`; or the file would be read back as another model, for such
            files are known by their names and shapes. Nothing was written.
        ValueError: another dtype, or a name that does not end in `.safetensors`.
        TypeError: `path` is no path.
        OSError: the file cannot be written; the message names it.
    """
    path = checked_path(path, "path")
    if path.suffix != ".safetensors":
        raise ValueError(f"{path.name} is no name for a checkpoint; it ends in .safetensors")
    config = compat.without(config, "original")
    require_encoder(config, "original")
    tables = _original_tables(config)
    _check_said(config, tables)
    tensors = tensors_of(arrays, tables, dtype)
    if config.noise.zero_terminal_snr:
        tensors[ZERO_SNR] = np.zeros(0, "float32")
    # The names and shapes of 2.x do not say what the UNet predicts. (One entry: safetensors writes
    # several in any order, and the same model shall be the same file.)
    metadata: dict[str, str] = {"modelspec.prediction_type": config.noise.prediction}
    replace_file(path, lambda temporary: save_file(tensors, temporary, metadata))


def _original_tables(config: ModelConfig) -> dict[str, Table]:
    return {
        **original.text_encoders(config),
        "unet": original.unet(config.unet),
        "autoencoder": original.autoencoder(config.autoencoder),
    }


def _check_said(config: ModelConfig, tables: Mapping[str, Table]) -> None:
    """A single file is known by its names and shapes alone. Those of some models are another's."""
    shapes = {entry.name: entry.file_shape for table in tables.values() for entry in table}
    if config.noise.zero_terminal_snr:
        shapes[ZERO_SNR] = (0,)
    wanted = dataclasses.asdict(config)
    try:
        found = recognise(shapes, prediction=config.noise.prediction).config
    except WeightsError as error:
        raise WeightsError(f"The layout original has no place for this model: {error}") from error
    read = None if found is None else dataclasses.asdict(found)
    pads: list[tuple[str, str]] = []
    # How a run goes is not in the weights; it is the family's when the file is read.
    for data in filter(None, (wanted, read)):
        del data["name"], data["defaults"], data["noise"]["final_sigma"]
        pads.append((data.pop("pad_token"), data.pop("pad_token_2")))
    if pads[0] != pads[-1]:
        _log.warning(
            "The file cannot say that short prompts are filled with the token %r: whoever reads it "
            "takes %r.",
            *(next(each for each in zip(*pads, strict=True) if each[0] != each[1])),
        )
    odd = list(_differences(wanted, read))
    if odd:
        more = f" and {len(odd) - _MAX_LISTED} more" if len(odd) > _MAX_LISTED else ""
        raise WeightsError(
            "The layout original has no place for this model's numbers, and its file would be read "
            f"as another model: {'; '.join(odd[:_MAX_LISTED])}{more}. The layout keras_sd has one "
            "for every model, and diffusers for most"
        )


def _differences(wanted: Any, read: Any, where: str = "") -> Iterator[str]:
    if isinstance(wanted, Mapping) and isinstance(read, Mapping):
        for key, value in wanted.items():
            yield from _differences(value, read[key], f"{where}.{key}" if where else key)
    elif wanted != read:
        yield f"{where} is {wanted}, and would be {read}"
