"""Writing a file whole or not at all, and saying which file it was where that fails."""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_STALE = 24 * 3600
"""Seconds after which a file that is being written is one whose writer was killed."""

_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}

# Where the libraries of safetensors and HDF5 put the system's number into a sentence.
_NUMBER = re.compile(r"(?:os error|errno =) (\d+)")

_log = logging.getLogger(__name__)


def checked_path(
    path: str | os.PathLike[str], name: str, what: str = "the path to write to"
) -> Path:
    """What was given as the place of something.

    Args:
        path: of a file or a folder.
        name: of the argument, for messages.
        what: it is, likewise.

    Raises:
        TypeError: it is no path.
        ValueError: it is empty, which would be the current folder.
    """
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise TypeError(f"{name} is {what}, not {path!r}")
    if not os.fspath(path):
        raise ValueError(f"{name} is empty; the current folder is '.'")
    return Path(path)


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file beside its place and moves it there, whole or not at all.

    Args:
        path: of the file; one that is there is replaced at once. Of a link, what it leads to is
            replaced. Folders that are missing are made.
        write: is given the path of an empty file to write, whose name ends like that of `path`.

    Raises:
        OSError: it cannot be written; the message names it, and says why.
    """
    path = path.resolve()
    temporary = path.with_name(f".{secrets.token_hex(8)}.{path.name}")
    with told(path, temporary), parents_of(path):
        _remove_stale(path)
        try:
            temporary.touch(exist_ok=False)
            rights = temporary.stat().st_mode & 0o666
            write(temporary)
            # safetensors puts a file of its own there, which nobody else may read.
            temporary.chmod(rights)
            flush(temporary)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _remove_stale(path: Path) -> None:
    """Removes what a process that was killed has left of this file."""
    ours = re.compile(rf"\.[0-9a-f]{{16}}\.{re.escape(path.name)}")
    for entry in path.parent.iterdir():
        with suppress(FileNotFoundError):  # another process did the same
            if ours.fullmatch(entry.name) and time.time() - entry.stat().st_mtime > _STALE:
                entry.unlink()
                _log.warning("%s is removed, which a killed process has left", entry)


@contextmanager
def told(path: Path, at: Path) -> Iterator[None]:
    """Makes an error of writing one that names the file and says what to do, whichever library it
    comes from.

    Args:
        path: of the file, for people.
        at: where it is written meanwhile.

    Raises:
        OSError: it cannot be written. What was there before is as it was, which is the caller's
            promise.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError):
            number = error.errno
            if error.filename is not None and not str(error.filename).startswith(str(at)):
                raise  # of another file
        elif match := _NUMBER.search(str(error)):
            number = int(match[1])
        else:
            raise
        reason = f"{error}" if number is None else os.strerror(number)
        advice = "make room there, or take another place" if number in _FULL else "nothing changed"
        # The class that the system's number has: PermissionError and others.
        kind: type[OSError] = type(OSError(number, "")) if number else OSError
        if isinstance(error, OSError) and not number:
            kind = type(error)
        made = kind(f"Cannot write {path}: {reason}; {advice}.")
        made.errno = number
        raise made from error


@contextmanager
def parents_of(path: Path) -> Iterator[None]:
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


def flush(path: Path) -> None:
    """Waits until a file is on the disk, so that no power cut leaves its name without its
    contents.
    """
    with path.open("rb+") as file:
        os.fsync(file.fileno())
