"""Writing a preset folder, which `keras_sd.weights.load` reads."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import keras
import numpy as np
from keras import ops
from safetensors.numpy import save_file

from keras_sd.config import ModelConfig
from keras_sd.weights.load import CONFIG, FORMAT, MERGES, WEIGHTS, variables_of
from keras_sd.weights.readers import WeightsError, sha256


def save_preset(
    folder: str | Path,
    config: ModelConfig,
    models: Mapping[str, keras.Model],
    merges: Sequence[str] | Path,
    words: Iterable[str] | None = None,
    *,
    dtype: Literal["float16", "float32"] = "float16",
    license: str | None = None,
) -> None:
    """Writes a preset folder. Files that are there already are replaced, each at once; the config,
    which has the others' sha256, comes last, so that half a folder is never mistaken for a whole.

    Args:
        folder: is made where there is none.
        config: the model's numbers.
        models: the networks: `text_encoder`, `unet`, `autoencoder`.
        merges: of the tokenizer: pairs with a space between, in order, or the path of their file.
        words: the words the model was trained on, where it is few enough to say.
        dtype: of the numbers in the file.
        license: of the weights.

    Raises:
        WeightsError: a weight is not finite in this dtype; the message names it. Nothing was
            written.
        ValueError: another dtype.
    """
    if dtype not in ("float16", "float32"):
        raise ValueError(f"dtype is 'float16' or 'float32', not {dtype!r}")
    folder = Path(folder)
    tensors = {
        f"{part}/{path}": _array(variable, dtype)
        for part, model in models.items()
        for path, variable in variables_of(model).items()
    }
    damaged = [name for name, array in tensors.items() if not np.isfinite(array).all()]
    if damaged:
        raise WeightsError(f"Not saved, for these are not finite as {dtype}: {', '.join(damaged)}")
    if isinstance(merges, Path):
        text = merges.read_text(encoding="utf-8")
    else:
        text = "".join(f"{line}\n" for line in merges)

    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / WEIGHTS, lambda path: save_file(tensors, path))
    _replace(folder / MERGES, lambda path: path.write_bytes(text.encode()))
    data = {
        "format": FORMAT,
        **config.to_dict(),
        "license": license,
        "files": {name: sha256(folder / name) for name in (WEIGHTS, MERGES)},
        "words": None if words is None else sorted(words),
    }
    text_of_config = json.dumps(data, indent=1, ensure_ascii=False) + "\n"
    _replace(folder / CONFIG, lambda path: path.write_bytes(text_of_config.encode()))


def _array(variable: keras.Variable, dtype: str) -> np.ndarray:
    value = ops.convert_to_numpy(variable.value)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(value.astype(dtype, copy=False))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file beside its place and moves it there, whole or not at all."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        write(Path(temporary))
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
