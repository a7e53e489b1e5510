"""What a training run keeps on disk to go on from: bit-exact, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from keras_sd.backend import NAME, to_numpy
from keras_sd.files import replace_file

__all__ = ["check_run", "damaged", "load_state", "note_run", "save_state"]

_BATCHES = "batches"
_WEIGHTS = "weights"

DIVERGED = (
    "the training has diverged: take another output and a lower train.learning_rate. A state that "
    "was saved before is kept"
)
"""What to say of losses and weights that are no numbers."""


def damaged(path: Path, error: object) -> str:
    """What to say of a file that a training run cannot go on from."""
    return (
        f"{path} is damaged, or of another model ({error}): remove it, and run again; what it held "
        "is then made anew"
    )


def check_run(folder: Path, name: str, run: Mapping[str, Any], known: Sequence[str] = ()) -> None:
    """Refuses a folder where something else was made, by the note that `note_run` has left.

    Args:
        folder: is there.
        name: of the file of the note.
        run: what the run is a function of, in JSON's types.
        known: names of files that may be there without the note.

    Raises:
        ValueError: the folder has another run's state, or files of which nothing says what they
            are; the message has the settings that differ.
    """
    path, run = folder / name, json.loads(json.dumps(run))  # without tuples
    if path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            changed = sorted(_changed(before, run))
        except (ValueError, AttributeError) as error:
            raise ValueError(damaged(path, error)) from error
        if changed:
            raise ValueError(
                f"{folder} has the state of a run with another {', '.join(changed)}: take another "
                "folder, or the same settings, or remove it"
            )
        return
    there = {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")}
    if left := sorted(there - set(known)):
        raise ValueError(
            f"{folder} has {', '.join(left[:5])}, and nothing says what run they are of: take "
            "another folder, or remove them"
        )


def note_run(folder: Path, name: str, run: Mapping[str, Any]) -> None:
    """Notes what is made in a folder: before it is made, and when all that could be refused is
    known to be well, so that nothing else than a run is noted.

    Raises:
        OSError: the note cannot be written; the message names it.
    """
    text = json.dumps(run, indent=1)
    replace_file(folder / name, lambda at: at.write_text(text, encoding="utf-8"))


def _changed(before: Any, now: Any, where: str = "") -> Iterator[str]:
    """The names of what differs, with dots between those of a section and its settings."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in before.keys() | now.keys():
            yield from _changed(before.get(key), now.get(key), f"{where}.{key}".lstrip("."))
    elif before != now:
        yield where


def save_state(path: Path, trainer: keras.Model, batches: int) -> None:
    """Writes the trained weights and all that the optimizer keeps.

    Args:
        path: of the file, which is replaced whole or not at all.
        trainer: compiled.
        batches: that it has seen.

    Raises:
        FloatingPointError: a weight is not finite; what was saved before stays.
        OSError: it cannot be written; the message names it.
    """
    arrays = {n: np.asarray(to_numpy(v.value), order="C") for n, v in _kept(trainer).items()}
    odd = [
        name
        for name, array in arrays.items()
        if name.startswith(_WEIGHTS) and not np.isfinite(array).all()
    ]
    if odd:
        raise FloatingPointError(
            f"After {batches} batches {len(odd)} weights are not finite, first {odd[0]}: {DIVERGED}"
        )
    # The same numbers would go on elsewhere with other bits.
    about = {_BATCHES: json.dumps({"batches": batches, "backend": NAME})}
    replace_file(path, lambda at: save_file(arrays, at, about))


def load_state(path: Path, trainer: keras.Model) -> int:
    """Reads what `save_state` has written, into a trainer that is compiled and built alike.

    Returns:
        The batches that the run has seen; 0, and nothing is changed, where there is no file.

    Raises:
        ValueError: the file is damaged, or is of another run or backend; the message names it, and
            nothing was changed.
    """
    if not path.exists():
        return 0
    variables = _kept(trainer)
    try:
        with safe_open(path, "numpy") as file:
            about = json.loads((file.metadata() or {})[_BATCHES])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        batches = int(about["batches"])
        odd = sorted(variables.keys() ^ arrays.keys())
        odd += [
            f"{name} {arrays[name].shape}"
            for name, variable in variables.items()
            if name in arrays and arrays[name].shape != tuple(variable.shape)
        ]
        if odd:
            raise ValueError(f"it differs in {', '.join(odd[:3])}")
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(damaged(path, error)) from error
    if about["backend"] != NAME:
        raise ValueError(
            f"{path} is of a run on {about['backend']}, which goes on there to the bit; this is "
            f"{NAME}: set KERAS_BACKEND={about['backend']}, or take another folder"
        )
    for name, variable in variables.items():
        variable.assign(arrays[name])
    return batches


def _kept(trainer: keras.Model) -> dict[str, keras.Variable]:
    """The variables by name. Networks may have layers of one name, so their number goes before."""
    return {
        f"{kind}/{number}/{variable.path}": variable
        for kind, variables in (
            (_WEIGHTS, trainer.trainable_variables),
            ("optimizer", trainer.optimizer.variables),
        )
        for number, variable in enumerate(variables)
    }
