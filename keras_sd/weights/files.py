"""Files: what is written to them, whole or not at all; and small ones, read with care."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import ml_dtypes
import numpy as np

from keras_sd.weights.names import Table
from keras_sd.weights.readers import WeightsError

Dtype = Literal["float16", "bfloat16", "float32"]
"""Of the numbers in a file."""

_MAX_JSON = 16_000_000


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file beside its place and moves it there, whole or not at all.

    Args:
        path: of the file; one that is there is replaced at once.
        write: is given the path of an empty file to write.
    """
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        write(Path(temporary))
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: of the file.

    Raises:
        WeightsError: it is too large, no JSON, or not an object.
        FileNotFoundError: there is no such file.
    """
    if path.stat().st_size > _MAX_JSON:
        raise WeightsError(f"{path} is larger than {_MAX_JSON} bytes")
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is no JSON: {error}") from error
    if not isinstance(data, dict):
        raise WeightsError(f"{path} is not a JSON object")
    return data


def tensors_of(
    arrays: Mapping[str, Any], tables: Mapping[str, Table], dtype: Dtype | None
) -> dict[str, np.ndarray]:
    """The tensors of a file: contiguous, in the layout and with the names of the tables.

    Args:
        arrays: by `part/path`, in our layout.
        tables: of the parts that the file has.
        dtype: of the tensors; None is as they are.

    Raises:
        WeightsError: a number is not finite in this dtype, or the arrays are not the tables'.
        ValueError: another dtype.
    """
    if dtype is not None and dtype not in get_args(Dtype):
        raise ValueError(f"dtype is {', '.join(get_args(Dtype))} or None, not {dtype!r}")
    entries = {f"{part}/{entry.path}": entry for part, table in tables.items() for entry in table}
    odd = sorted(set(arrays) ^ set(entries))
    if odd:
        raise WeightsError(f"Not saved, for the weights are not those of the config: {odd[:10]}")
    wanted = None if dtype is None else np.dtype(getattr(ml_dtypes, dtype, dtype))
    found: dict[str, list[np.ndarray]] = {}
    damaged = []
    # Several variables that are one tensor there stand in its order in the table.
    for path, entry in entries.items():
        array = np.asarray(arrays[path])
        with np.errstate(over="ignore"):
            array = array if wanted is None else array.astype(wanted, copy=False)
        if not np.isfinite(array).all():
            damaged.append(path)
        found.setdefault(entry.name, []).append(entry.theirs(array))
    if damaged:
        raise WeightsError(
            f"Not saved, for these are not finite as {dtype or 'they are'}: {', '.join(damaged)}"
        )
    # A tensor that came from such a file is laid out as it shall be, and is not copied.
    return {
        name: np.ascontiguousarray(arrays[0] if len(arrays) == 1 else np.concatenate(arrays))
        for name, arrays in found.items()
    }
