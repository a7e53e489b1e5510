"""What a run says: on the terminal and in a file, with the seconds since it began."""

from __future__ import annotations

import time
from pathlib import Path

START = time.monotonic()

_files: list[Path] = []


def passed() -> float:
    """Seconds since the run began."""
    return time.monotonic() - START


def write_to(path: Path) -> None:
    """Also writes what is said to the end of this file."""
    _files[:] = [path]


def say(text: str) -> None:
    """Says a line."""
    line = f"[{passed():6.1f}] {text}"
    print(line, flush=True)
    for path in _files:
        with open(path, "a", encoding="utf-8") as log:
            log.write(line + "\n")
