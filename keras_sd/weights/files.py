"""Folders that are written whole or not at all, by one process at a time; small files, read with
care; and the tensors of a file.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, cast, get_args

import ml_dtypes
import numpy as np

from keras_sd.config import ModelConfig
from keras_sd.files import flush, parents_of, told
from keras_sd.lock import lock
from keras_sd.weights.names import Table
from keras_sd.weights.readers import WeightsError, instead, is_finite, open_file

Dtype = Literal["float16", "bfloat16", "float32"]
"""Of the numbers in a file."""

PresetDtype = Dtype | Literal["int8"]
"""Of the numbers in a preset folder, which has a form of its own for int8: `weights/int8.py`."""

_MAX_JSON = 16_000_000
_MAX_LISTED = 5

# What the system puts into folders by itself.
_LITTER = {".DS_Store"}

_KINDS = ("new", "ready", "old")
"""What a folder is called meanwhile: being written, whole and to be moved, moved away."""

_log = logging.getLogger(__name__)


def replace_folder(
    out: Path, files: Mapping[str, Callable[[Path], object]], *, keep: bool = False
) -> None:
    """Writes the files of a folder, whole or not at all.

    Where `out` is not there yet, what was written becomes it at once. Where it is, the files take
    the places of the old ones, which come back if anything goes wrong. That needs no right to
    write beside `out`, which may be a volume, or the current folder. What a process that was killed
    has left is finished or removed first, and the log says so.

    Args:
        out: the folder. Of a link, what it leads to is replaced.
        files: by their names in the folder ("unet/config.json"), what writes each of them, given
            the path of a file in a folder that is there. They are written in this order. The last
            is the one without which it is no model: it is the first to go and the last to come,
            so that half a folder is never mistaken for a whole, not even by whoever finds it after
            a power cut.
        keep: leave alone what else is in `out`.

    Raises:
        FileExistsError: `out` is a file, or it has other files than these, and they are not kept.
        BlockingIOError: another process is writing this folder.
        OSError: a file cannot be written; the message names it, and says why.
    """
    out = out.resolve()
    refuse_others(out, files, keep=keep)  # before anything is made
    *_, last = files
    with parents_of(out), _locked(out) as stem:
        _clear(out, stem, last)
        _check_others(out, files, keep)  # again: what was brought back, or came meanwhile
        new, ready, old = (stem.with_name(f"{stem.name}.{kind}") for kind in _KINDS)
        try:
            with told(out, stem):
                new.mkdir()
            rights = new.stat().st_mode & 0o666
            for name, write in files.items():
                path = new / name
                with told(out / name, path):
                    path.parent.mkdir(exist_ok=True)
                    write(path)
                    path.chmod(rights)  # See `replace_file`.
                    flush(path)
            if not out.exists():
                new.rename(out)
                return
            new.rename(ready)
            old.mkdir()
            _swap(ready, out, old, last)
        except BaseException:
            with suppress(OSError):
                old.rmdir()
            if old.exists():  # It is the only place where those files are, see `_clear`.
                raise
            shutil.rmtree(ready, ignore_errors=True)
            raise
        finally:
            shutil.rmtree(new, ignore_errors=True)
        ready.rmdir()
        try:
            shutil.rmtree(old)
        except OSError as error:
            _log.warning("%s, with what was in %s before, cannot be removed: %s", old, out, error)


@contextmanager
def _locked(out: Path) -> Iterator[Path]:
    """Keeps other processes and threads from writing a folder.

    The lock is the system's, so that it ends with its process. Its file is in the folder or, while
    there is none, beside it.

    Args:
        out: the folder, whose parents are there.

    Yields:
        How the paths begin of what is written meanwhile: ".../.NAME.16 digits".

    Raises:
        BlockingIOError: another has it.
    """
    while True:
        inside = out.exists()
        # Inside a folder no name of its own: that may be mounted elsewhere under another.
        start = out / ".keras_sd" if inside else out.with_name(f".{out.name}")
        with ExitStack() as stack:
            try:
                with told(out, start):
                    stack.enter_context(lock(start.with_name(f"{start.name}.lock")))
            except BlockingIOError:
                raise BlockingIOError(
                    f"{out} is being written by another process: wait until it is done, or take "
                    "another name"
                ) from None
            if inside == out.exists():
                yield start.with_name(f"{start.name}.{secrets.token_hex(8)}")
                return


def _clear(out: Path, stem: Path, last: str) -> None:
    """Finishes or removes what processes that were killed have left; nobody else writes now.

    `.new` is not whole. From `.ready`, which is, and from `out` a killed exchange has moved files,
    as `_swap` does; it goes on from there. What is in `.old` alone is what was there before.
    """
    start = re.escape(stem.name.rsplit(".", 1)[0])
    # As the name of the folder, which it was called by before.
    named = re.compile(rf"(?P<stem>(?:{start}|\.{re.escape(out.name)})\.[0-9a-f]{{16}})\.\w+")
    stems = sorted(
        {
            match["stem"]
            for entry in stem.parent.iterdir()
            if (match := named.fullmatch(entry.name)) and entry.suffix[1:] in _KINDS
        }
    )
    for name in stems:
        new, ready, old = (stem.with_name(f"{name}.{kind}") for kind in _KINDS)
        if old.exists() and any(old.iterdir()) and new.exists():
            new.rename(ready)  # of a version that had one name for both
        if ready.exists() and stem.parent == out:
            old.mkdir(exist_ok=True)
            _swap(ready, out, old, last)
            _log.warning("%s: a killed replacement of its files is finished", out)
        elif old.exists() and stem.parent == out:
            for entry in old.iterdir():
                if not os.path.lexists(out / entry.name):
                    entry.rename(out / entry.name)
                    _log.warning(
                        "%s is back, which a killed replacement had moved", out / entry.name
                    )
        elif new.exists():
            _log.warning("%s is removed, which a killed process has left", new)
        for left in (new, ready, old):
            if left.exists():
                shutil.rmtree(left)


def refuse_others(out: Path, names: Collection[str], *, keep: bool = False) -> None:
    """Refuses a folder that has other files than those that would be written to it.

    Args:
        out: the folder, which need not be there.
        names: of the files that would be written.
        keep: what else is there stays, so that only what is in the way matters.

    Raises:
        FileExistsError: there are some, or `out` is a file.
    """
    _check_others(out, names, keep)


def _check_others(out: Path, names: Collection[str], keep: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise FileExistsError(f"{out} is a file; remove it, or take another name")
    ours = re.compile(rf"\.(keras_sd|{re.escape(out.name)})\.([0-9a-f]{{16}}\.\w+|lock)")
    replaced = {name.split("/")[0] for name in names}
    found = set()
    for entry in out.iterdir():
        if ours.fullmatch(
            entry.name
        ):  # a killed process has left it, which `replace_folder` clears
            continue
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


def plain_dtype(dtype: str | None) -> Dtype | None:
    """The dtype of a file that has no form of its own for int8.

    Raises:
        ValueError: it is another than those that `Dtype` names.
    """
    if dtype is None or dtype in get_args(Dtype):
        return cast(Dtype | None, dtype)
    raise ValueError(
        f"dtype is {', '.join(get_args(Dtype))} or None, not {dtype!r}; the layout keras_sd alone "
        "has int8 too"
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
    dtype = plain_dtype(dtype)
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
