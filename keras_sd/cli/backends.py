"""What Keras will run on, settled before it is imported."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Annotated

import typer

from keras_sd.cli.terminal import say

# In the order in which one is picked where none is named, and each needs a different `pip install`.
BACKENDS = ("jax", "tensorflow", "torch")

Backend = Annotated[
    str | None,
    typer.Option(
        help=f"What Keras runs on: {', '.join(BACKENDS)}. Default: as Keras is configured."
    ),
]


def installed() -> list[str]:
    """Those that Keras could run on here."""
    return [name for name in BACKENDS if _is_installed(name)]


def select(asked: str | None) -> None:
    """Settle what Keras will run on, and set KERAS_BACKEND where Keras would not find it by itself.

    In this order: `--backend`, KERAS_BACKEND, Keras' own configuration, the first one installed.
    """
    there = installed()
    pip = ", or ".join(f'pip install "keras-sd[{name}]"' for name in BACKENDS)
    if asked is not None and asked not in BACKENDS:
        raise ValueError(f"--backend is {asked!r}; it is one of {', '.join(BACKENDS)}.")
    if not there:
        raise ValueError(
            f"no backend is installed, and Keras needs one. Install one of them: {pip}"
        )
    wanted = asked or os.environ.get("KERAS_BACKEND")
    if wanted in BACKENDS and wanted not in there:
        source = "--backend" if asked else "KERAS_BACKEND"
        raise ValueError(
            f"{source} is {wanted}, which is not installed: {pip}. Installed: {', '.join(there)}."
        )
    if not wanted:
        configured = _configured()
        if configured in BACKENDS and configured not in there:
            wanted = there[0]
            say(f"note: running on {wanted} (Keras is configured for {configured}, not installed)")
    if wanted:
        os.environ["KERAS_BACKEND"] = wanted


def silence() -> None:
    """Keep the backends' start-up chatter off the terminal. Only the command does this."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def _is_installed(module: str) -> bool:
    spec = importlib.util.find_spec(module)
    # What pip has left behind of an uninstalled package is a folder without an __init__.
    return spec is not None and spec.origin is not None


def _configured() -> str:
    """What Keras takes by itself: its configuration file's, else TensorFlow."""
    folder = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
    try:
        config = json.loads((Path(folder) / "keras.json").read_text(encoding="utf-8"))
        return str(config.get("backend", "tensorflow"))
    except (OSError, ValueError, AttributeError):
        return "tensorflow"
