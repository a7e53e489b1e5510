"""A lock between processes, and between the threads of one."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_log = logging.getLogger(__name__)

_HELD = {errno.EACCES, errno.EAGAIN, getattr(errno, "EDEADLK", errno.EAGAIN)}


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Keeps others who call this from what they would do under the same lock.

    It is the system's lock of a file, so that it ends with its process, however that ends. Where
    the file system knows no locks, the log says so and there is none.

    Args:
        path: of the file, which is there only meanwhile.

    Raises:
        BlockingIOError: somebody else has it.
        OSError: the file cannot be made.
    """
    handle = _opened(path)
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file; the next who has the lock does.
            path.unlink()
        _release(handle)
        os.close(handle)


def _opened(path: Path) -> int:
    """A handle of the file, which is locked and is the one at this path."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _take(handle)
            # Whoever had it before has removed it, and there may be another by now.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), os.stat(path)):
                    return handle
        except OSError as error:
            if error.errno in _HELD:
                os.close(handle)
                raise BlockingIOError(f"{path} is locked by another process") from None
            _log.warning("%s cannot be locked (%s): see that nobody else writes there", path, error)
            return handle
        os.close(handle)


if sys.platform == "win32":

    def _take(handle: int) -> None:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

    def _release(handle: int) -> None:
        with suppress(OSError):
            msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)

else:

    def _take(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _release(handle: int) -> None:
        # Closing is not enough: a process that was forked meanwhile has the handle too.
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)
