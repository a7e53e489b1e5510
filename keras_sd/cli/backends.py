"""What Keras will run on, settled before it is imported."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from keras_sd import choose, executables, machine
from keras_sd.choose import BACKENDS, installed
from keras_sd.cli.terminal import say

Backend = Annotated[
    str | None,
    typer.Option(
        help=f"What Keras runs on: {', '.join(BACKENDS)}. Default: as Keras is configured."
    ),
]


def select(asked: str | None) -> None:
    """Settle what Keras will run on: `--backend`, or what `keras_sd` settled when it was imported.

    Raises:
        ValueError: There is no such backend, it is not installed, or none is; or Keras cannot be
            imported.
    """
    there = installed()
    pip = ", or ".join(f'pip install "keras-sd[{name}]"' for name in BACKENDS)
    if asked is not None and asked not in BACKENDS:
        raise ValueError(f"--backend is {asked!r}; it is one of {', '.join(BACKENDS)}.")
    if not there:
        raise ValueError(
            f"no backend is installed, and Keras needs one. Install one of them: {pip}"
        )
    if choose.broken is not None:
        raise ValueError(choose.broken)
    wanted = asked or os.environ.get("KERAS_BACKEND")
    if wanted in BACKENDS and wanted not in there:
        source = "--backend" if asked else "KERAS_BACKEND"
        raise ValueError(
            f"{source} is {wanted}, which is not installed: {pip}. Installed: {', '.join(there)}."
        )
    if asked is not None:
        os.environ["KERAS_BACKEND"] = asked
    elif choose.picked is not None:
        backend, reason = choose.picked
        say(f"note: running on {backend} ({reason})")


def settle() -> None:
    """What only who owns the process does to it, before a backend is imported: the start-up chatter
    stays off the terminal, what TensorFlow compiles is kept, and so is memory.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "keras" not in sys.modules and choose.expected() == "tensorflow":
        executables.keep_for_tensorflow()
    machine.keep_memory()
