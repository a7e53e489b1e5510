"""Where what was compiled is kept, so that the next process need not compile it again.

On jax, compiling takes most of the time of the first picture. jax can keep its executables in a
folder; by default it does not. `keras_sd.backend.compile_step` gives it one of ours, unless one was
chosen already (`JAX_COMPILATION_CACHE_DIR`).
"""

from __future__ import annotations

import hashlib
import os
import platform
from contextlib import suppress
from pathlib import Path

__all__ = ["MAX_BYTES", "VARIABLE", "folder"]

VARIABLE = "KERAS_SD_EXECUTABLES"
"""The environment variable with the folder, or `off`."""

MAX_BYTES = 2 * 2**30
"""Of the executables of one kind of processor: those that were not used for longest make room."""


def folder() -> Path | None:
    """The folder for executables that this machine's processor can run.

    It is in the folder of Keras (`KERAS_HOME`), or where `VARIABLE` says, and has the processor in
    its name: a home may be shared by machines, and code for another processor ends a process.

    Returns:
        Its path; None where it is switched off.
    """
    chosen = os.environ.get(VARIABLE, "")
    if chosen.lower() in ("off", "0"):
        return None
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    place = Path(chosen).expanduser() if chosen else home / "keras_sd" / "executables"
    return place.absolute() / _processor()


def _processor() -> str:
    """What of a processor decides which code it runs, in a few letters."""
    features = platform.processor()
    with suppress(OSError):  # other systems than Linux have no such file
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        told = ("model name", "flags", "Features", "CPU implementer", "CPU part")
        features = "\n".join(sorted({line for line in lines if line.startswith(told)}))
    digest = hashlib.sha256(f"{platform.machine()}\n{features}".encode()).hexdigest()
    return f"{platform.machine() or 'unknown'}-{digest[:12]}"
