"""Which backend Keras runs on, where Keras by itself would take one that is not installed.

Keras takes KERAS_BACKEND, else what its `keras.json` names, else TensorFlow, and fails at its
import when that is missing. So this is settled before Keras is imported: `keras_sd` calls `settle`
first of all, since every import of a module of ours goes through it; the command asks once more, to
be able to refuse. Standard library only.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any

# In the order in which one is picked where none is named.
BACKENDS = ("jax", "tensorflow", "torch")

# What `settle` found, for the command, which tells it to people: the backend that it picked, and
# why; and what is wrong with Keras' own configuration.
picked: tuple[str, str] | None = None
broken: str | None = None


def installed() -> list[str]:
    """Those that Keras could run on here."""
    return [name for name in BACKENDS if _is_installed(name)]


def expected() -> str:
    """The backend that Keras has, or will have when it is imported."""
    if "keras" in sys.modules:
        return str(sys.modules["keras"].config.backend())
    _, config = _configuration()
    named = config.get("backend") if isinstance(config, dict) else None
    return os.environ.get("KERAS_BACKEND") or str(named or "tensorflow")


def expected_policy() -> str:
    """The name of the dtype policy that networks have where none is named."""
    if "keras" in sys.modules:
        return str(sys.modules["keras"].config.dtype_policy().name)
    _, config = _configuration()
    named = config.get("floatx") if isinstance(config, dict) else None
    return str(named or "float32")


def settle() -> None:
    """Set KERAS_BACKEND to the first one installed, where Keras would take one that is not.

    A variable that is set is left alone, and so is Keras where it is imported already. What is
    picked is logged as information: nothing is wrong with it. Not even where `keras.json` names
    another, for Keras writes that file by itself, with what it ran on first.
    """
    global picked, broken
    picked = broken = None
    if "keras" in sys.modules:
        return
    file, config = _configuration()
    if not isinstance(config, dict):
        broken = (
            f"{file} holds {config!r:.40}, and with that Keras cannot be imported: delete the "
            'file, or put an object there, as {"backend": "jax"}.'
        )
        _logger().warning(broken)
        return
    if os.environ.get("KERAS_BACKEND"):
        return
    wanted = config.get("backend", "tensorflow")
    if wanted not in BACKENDS or _is_installed(wanted):
        return
    there = installed()
    if not there:
        return  # Keras will say what it lacks, where it is needed; much of keras_sd does without
    source = f"{file} names" if "backend" in config else "Keras' default is"
    picked = there[0], f"{source} {wanted}, which is not installed"
    os.environ["KERAS_BACKEND"] = there[0]
    _logger().info("running on %s: %s", *picked)


def _is_installed(module: str) -> bool:
    spec = importlib.util.find_spec(module)
    # What pip has left behind of an uninstalled package is a folder without an __init__.
    return spec is not None and spec.origin is not None


def _configuration() -> tuple[str, object]:
    """Keras' file, and what is in it: an empty object where Keras goes on without."""
    import json

    file = os.path.join(
        os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras"), "keras.json"
    )
    try:
        with open(file, encoding="utf-8") as content:
            return file, json.load(content)
    except (OSError, ValueError, RecursionError):
        return file, {}


def _logger() -> Any:
    import logging  # only where there is something to say

    return logging.getLogger("keras_sd")
