"""Where what was compiled is kept, so that the next process need not compile it again.

With XLA, compiling takes most of the time of the first picture. jax and TensorFlow can keep their
executables in a folder; by default they do not. jax is given one of ours by
`keras_sd.backend.compile_step`, unless one was chosen already (`JAX_COMPILATION_CACHE_DIR`).
TensorFlow reads of it from the environment, once, when it is imported, so that only who owns the
process can do it: the command does (`keep_for_tensorflow`).
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import re
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = [
    *("MAX_BYTES", "VARIABLE", "chosen", "folder", "keep_for_tensorflow", "made", "of_tensorflow"),
]

logger = logging.getLogger("keras_sd")

VARIABLE = "KERAS_SD_EXECUTABLES"
"""The environment variable with the folder, or `off`."""

MAX_BYTES = 2 * 2**30
"""Of the executables of one kind of processor: those that were not used for longest make room, of
TensorFlow's those that were written first."""

_FLAGS = "TF_XLA_FLAGS"
_FOLDER_FLAG = "--tf_xla_persistent_cache_directory="


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


def chosen() -> Path | None:
    """`folder`; None, too, for who has no home, which is logged."""
    try:
        return folder()
    except RuntimeError as error:
        logger.info("What is compiled is not kept: %s", error)
        return None


def made(place: Path) -> bool:
    """Makes a folder that this user alone can look into, and those that it is in.

    Args:
        place: of the folder.

    Returns:
        Whether it is there and can be written to; if not, the reason is logged.
    """
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        logger.info("What is compiled is not kept: %s", error)
        return False
    if not os.access(place, os.W_OK):
        logger.info("What is compiled is not kept: %s cannot be written to", place)
        return False
    return True


def keep_for_tensorflow() -> Path | None:
    """Has TensorFlow, which is imported later, keep what XLA compiles, in `folder` under its own
    version, unless `TF_XLA_FLAGS` names another place.

    TensorFlow says of each executable that it finds on which processor it was made, in lines of
    2,000 letters, unless `TF_CPP_MIN_LOG_LEVEL` is 3.

    Returns:
        The folder; None where it is switched off or cannot be made, or TensorFlow is not there, or
        is imported already. Where a folder cannot be used, the reason is logged.
    """
    if (there := of_tensorflow()) is not None:
        return there
    whole, release = chosen(), _version_of_tensorflow()
    if whole is None or release is None or "tensorflow" in sys.modules:
        return None
    kept = whole / f"tensorflow-{release}"
    if re.search(r"\s", str(kept)):
        logger.info("What is compiled is not kept: TensorFlow's flags have no spaces, as %s", kept)
        return None
    # The outer one, which jax may have, is nobody else's either.
    if not (made(whole) and made(kept)):
        return None
    _make_room(kept)
    flags = os.environ.get(_FLAGS, "").split()
    # Its strict comparison of what is to be compiled with what was is its default.
    flags += [f"{_FOLDER_FLAG}{kept}", "--tf_xla_persistent_cache_prefix=keras_sd"]
    os.environ[_FLAGS] = " ".join(flags)
    return kept


def of_tensorflow() -> Path | None:
    """Where TensorFlow keeps what XLA compiles, as `TF_XLA_FLAGS` says; None if it does not."""
    for flag in os.environ.get(_FLAGS, "").split():
        if (place := flag.removeprefix(_FOLDER_FLAG)) != flag and place:
            return Path(place)
    return None


def _version_of_tensorflow() -> str | None:
    for name in ("tensorflow", "tensorflow-cpu"):
        with suppress(PackageNotFoundError):
            return version(name)
    return None


def _make_room(kept: Path) -> None:
    """Removes the files that were written first, until the others are few enough, and those that a
    machine which stopped has left empty: TensorFlow would end with an error at them.
    """
    files = []
    for file in kept.iterdir():
        with suppress(FileNotFoundError):  # another process may make room, too
            files.append((file.stat(), file))
    total = sum(stat.st_size for stat, _ in files)
    for stat, file in sorted(files, key=lambda each: each[0].st_mtime):
        if total > MAX_BYTES or stat.st_size == 0:
            file.unlink(missing_ok=True)
            total -= stat.st_size


def _processor() -> str:
    """What of a processor decides which code it runs, in a few letters."""
    features = platform.processor()
    with suppress(OSError):  # other systems than Linux have no such file
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        told = ("model name", "flags", "Features", "CPU implementer", "CPU part")
        features = "\n".join(sorted({line for line in lines if line.startswith(told)}))
    digest = hashlib.sha256(f"{platform.machine()}\n{features}".encode()).hexdigest()
    return f"{platform.machine() or 'unknown'}-{digest[:12]}"
