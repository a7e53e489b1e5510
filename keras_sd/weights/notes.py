"""Notes of which files were checked, so that the next use needs no hash."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from keras_sd.files import replace_file

DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""A SHA-1 of git's, or a SHA-256."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_NOTE_FORMAT = 1
_MAX_NOTE = 1_000_000


@dataclass(frozen=True)
class File:
    """A file of a repository: 64 digits are its SHA-256, 40 the SHA-1 that git gives it."""

    name: str
    size: int
    digest: str


@dataclass(frozen=True)
class Note:
    """What was checked: the files of a request, and when they were last changed, in nanoseconds."""

    address: str
    variant: str | None
    pinned: bool
    commit: str
    files: tuple[tuple[File, int], ...]

    def is_untouched(self, folder: Path) -> bool:
        """Whether all files are in a repository's folder, as they were when they were checked."""
        try:
            times = [
                (folder / "snapshots" / self.commit / file.name).stat() for file, _ in self.files
            ]
        except OSError:
            return False
        return [(now.st_size, now.st_mtime_ns) for now in times] == [
            (file.size, changed) for file, changed in self.files
        ]


def read_note(path: Path) -> Note | None:
    """A note, or None where there is none that can be relied on: then nothing was checked."""
    try:
        with open(path, "rb") as file:
            note = json.loads(file.read(_MAX_NOTE))
        files = tuple(
            (File(name, int(entry["size"]), entry["digest"]), int(entry["changed"]))
            for name, entry in note["files"].items()
        )
        good = (
            note["format"] == _NOTE_FORMAT
            and is_commit(note["commit"])
            and files
            and all(DIGEST.fullmatch(file.digest) for file, _ in files)
            and not any(".." in PurePosixPath(file.name).parts for file, _ in files)
        )
        found = Note(note["address"], note["variant"], note["pinned"], note["commit"], files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return found if good else None


def write_note(path: Path, note: Note) -> None:
    """Writes what `read_note` reads.

    Raises:
        OSError: the note cannot be written.
    """
    data = {
        "format": _NOTE_FORMAT,
        "address": note.address,
        "variant": note.variant,
        "pinned": note.pinned,
        "commit": note.commit,
        "files": {
            file.name: {"size": file.size, "changed": changed, "digest": file.digest}
            for file, changed in note.files
        },
    }
    replace_file(path, lambda part: part.write_text(json.dumps(data, indent=1)))


def is_commit(revision: str) -> bool:
    """Whether a revision is a commit, which never changes, and no branch or tag."""
    return _COMMIT.fullmatch(revision) is not None
