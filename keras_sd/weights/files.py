"""Files: what is written to them, whole or not at all; and small ones, read with care."""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, get_args

import ml_dtypes
import numpy as np

from keras_sd.config import ModelConfig
from keras_sd.weights.names import Table
from keras_sd.weights.readers import WeightsError, instead, is_finite, open_file

Dtype = Literal["float16", "bfloat16", "float32"]
"""Of the numbers in a file."""

_MAX_JSON = 16_000_000
_MAX_LISTED = 5

# What the system puts into folders by itself.
_LITTER = {".DS_Store"}

_log = logging.getLogger(__name__)


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file beside its place and moves it there, whole or not at all.

    Args:
        path: of the file; one that is there is replaced at once. Of a link, what it leads to is
            replaced. Folders that are missing are made.
        write: is given the path of an empty file to write.
    """
    path = path.resolve()
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with _parents_of(path):
        try:
            temporary.touch(exist_ok=False)
            rights = temporary.stat().st_mode & 0o666
            write(temporary)
            # safetensors puts a file of its own there, which nobody else may read.
            temporary.chmod(rights)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def new_folder(
    out: Path, names: Collection[str], last: str, *, keep: bool = False
) -> Iterator[Path]:
    """A folder to write files to, which are those of `out` in the end, whole or not at all.

    Where `out` is not there yet, what was written becomes it at once. Where it is, the files take
    the places of the old ones, which come back if anything goes wrong. That needs no right to
    write beside `out`, which may be a volume, or the current folder.

    Args:
        out: the folder. Of a link, what it leads to is replaced.
        names: of all files that are written: "unet/config.json".
        last: the file of them without which it is no model. It is the first to go and the last to
            come, so that half a folder is never mistaken for a whole, not even by whoever finds
            it after a power cut.
        keep: leave alone what else is in `out`.

    Raises:
        FileExistsError: `out` is a file, or it has other files than these, and they are not kept.
    """
    out = out.resolve()
    refuse_others(out, names, keep=keep)
    stem = (out if out.exists() else out.parent) / f".{out.name}.{secrets.token_hex(8)}"
    new, old = (stem.with_name(f"{stem.name}.{kind}") for kind in ("new", "old"))
    with _parents_of(out):
        try:
            new.mkdir()
            yield new
            rights = new.stat().st_mode & 0o666  # See `replace_file`.
            for name in names:
                (new / name).chmod(rights)
            if not out.exists():
                new.rename(out)
                return
            old.mkdir()
            _swap(new, out, old, last)
        except BaseException:
            with suppress(OSError):
                old.rmdir()  # It is empty, or the only place where those files are.
            raise
        finally:
            shutil.rmtree(new, ignore_errors=True)
    try:
        shutil.rmtree(old)
    except OSError as error:
        _log.warning("%s, with what was in %s before, cannot be removed: %s", old, out, error)


def refuse_others(out: Path, names: Collection[str], *, keep: bool = False) -> None:
    """Refuses a folder that has other files than those that would be written to it.

    Args:
        out: the folder, which need not be there.
        names: of the files that would be written.
        keep: what else is there stays, so that only what is in the way matters.

    Raises:
        FileExistsError: there are some, or `out` is a file.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise FileExistsError(f"{out} is a file; remove it, or take another name")
    replaced = {name.split("/")[0] for name in names}
    found = set()
    for entry in out.iterdir():
        if not keep or entry.name in replaced:
            inside = entry.rglob("*") if entry.is_dir() and not entry.is_symlink() else [entry]
            found |= {
                path.relative_to(out).as_posix()
                for path in inside
                if (path.is_symlink() or not path.is_dir()) and path.name not in _LITTER
            }
    if others := sorted(found - set(names)):
        more = f" and {len(others) - _MAX_LISTED} more" if len(others) > _MAX_LISTED else ""
        raise FileExistsError(
            f"{out} has other files too, which would be lost: {', '.join(others[:_MAX_LISTED])}"
            f"{more}. Take another name, or remove them"
        )


def _swap(new: Path, out: Path, old: Path, last: str) -> None:
    """Moves what is in `new` to `out`, and what has these names there to `old`, or nothing."""
    names = sorted((entry.name for entry in new.iterdir()), key=lambda name: name == last)
    steps = [(out / name, old / name) for name in reversed(names) if os.path.lexists(out / name)]
    steps += [(new / name, out / name) for name in names]
    try:
        for source, target in steps:
            source.rename(target)
    except BaseException:
        for source, target in reversed(steps):
            if os.path.lexists(target) and not os.path.lexists(source):
                target.rename(source)
        raise


@contextmanager
def _parents_of(path: Path) -> Iterator[None]:
    """Makes the folders that a path is in, which are gone again if anything goes wrong."""
    missing = [parent for parent in path.parents if not parent.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for parent in missing:
            with suppress(OSError):  # Somebody else has put something there meanwhile.
                parent.rmdir()
        raise


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: of the file.

    Raises:
        WeightsError: it is too large, no JSON, or not an object.
        FileNotFoundError: there is no such file.
    """
    with open_file(path) as file:
        text = file.read(_MAX_JSON + 1)
    if len(text) > _MAX_JSON:
        raise WeightsError(f"{path} is larger than {_MAX_JSON} bytes")
    if said := instead(text[:1024]):
        raise WeightsError(f"{path} {said}")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is no JSON: {error}") from error
    if not isinstance(data, dict):
        raise WeightsError(f"{path} is not a JSON object")
    return data


def require_encoder(config: ModelConfig, layout: str) -> None:
    """Refuses a model that has no image encoder, for a layout whose readers expect one.

    Raises:
        WeightsError: there is none.
    """
    if not config.autoencoder.encoder:
        raise WeightsError(
            f"The layout {layout} has no place for a model without an image encoder. The layout "
            "keras_sd has; or put KerasCV's vae_encoder.h5 beside its other files, and load again"
        )


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
    odd += [
        f"{path} {shape}, not {entry.shape}"
        for path, entry in entries.items()
        if path in arrays and (shape := tuple(np.shape(arrays[path]))) != entry.shape
    ]
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
        if not is_finite(array):
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
