"""What of a table was drawn: a folder of pictures, and a record of the chunks that are done.

A chunk's record is written after its pictures, whole or not at all. So wherever the drawing is cut
off, a chunk is done or it is drawn again, and no row is in the record twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from keras_sd.files import checked_path, replace_file
from keras_sd.lock import lock
from keras_sd.tables.rows import Row

__all__ = ["MANIFEST", "Record"]

MANIFEST = "manifest.jsonl"
"""A line a row, in their order: number, id, file or error, request, and the columns kept."""

_RECORD = ".record"


class Record:
    """The record of a folder.

    Args:
        folder: of the pictures; it is made where there is none.

    Raises:
        ValueError: it is there, has something in it, and no record.
    """

    def __init__(self, folder: Path):
        self.folder = checked_path(folder, "output")
        self._place = self.folder / _RECORD
        if not self._place.is_dir() and self.folder.exists() and any(self.folder.iterdir()):
            raise ValueError(f"{folder} is not empty, and no record says that it is of a table")

    @contextmanager
    def alone(self, job: Mapping[str, Any]) -> Iterator[None]:
        """The folder for the job, and for nobody else meanwhile.

        Args:
            job: all that decides what is drawn, in JSON's types.

        Raises:
            ValueError: the folder is of another job, or somebody is at it.
        """
        self._place.mkdir(parents=True, exist_ok=True)
        try:
            with lock(self._place / "lock"):
                self._check(job)
                yield
        except BlockingIOError as error:
            raise ValueError(f"Another process is drawing into {self.folder}") from error

    def _check(self, job: Mapping[str, Any]) -> None:
        path = self._place / "job.json"
        if not path.exists():
            _write(path, json.dumps(job, indent=1))
            return
        before = json.loads(path.read_text(encoding="utf-8"))
        other = [name for name in {**before, **job} if before.get(name) != job.get(name)]
        if other:
            told = "; ".join(
                f"{each} was {before.get(each)}, now {job.get(each)}" for each in other
            )
            raise ValueError(f"{self.folder} was begun with something else, take another: {told}")

    def done(self) -> set[int]:
        """The numbers of the rows that have their line, and their picture if it names one."""
        chunks = [chunk for chunk in self._chunks() if all(map(self._is_there, chunk))]
        return {row["row"] for chunk in chunks for row in chunk}

    def _is_there(self, line: Mapping[str, Any]) -> bool:
        return "file" not in line or (self.folder / line["file"]).is_file()

    def write(self, chunk: Sequence[Row], lines: Sequence[Mapping[str, Any]]) -> None:
        """Writes that a chunk is done, when its pictures are there.

        Args:
            chunk: its rows.
            lines: what the manifest says of each.
        """
        made = [
            {"row": row.number, "id": row.id, **line, **({"kept": row.kept} if row.kept else {})}
            for row, line in zip(chunk, lines, strict=True)
        ]
        text = "".join(json.dumps(line, default=str, allow_nan=False) + "\n" for line in made)
        _write(self._place / f"{chunk[0].number:06d}.jsonl", text)

    def finish(self, wrong: Sequence[Row]) -> tuple[int, int]:
        """Writes the manifest.

        Args:
            wrong: rows that were never drawn, for a fault of theirs.

        Returns:
            The number of pictures, and of rows without one.
        """
        lines = [line for chunk in self._chunks() for line in chunk]
        known = {line["row"] for line in lines}  # of a row whose picture's source is gone since
        lines += [
            {"row": row.number, "id": row.id, "error": row.error}
            for row in wrong
            if row.number not in known
        ]
        lines.sort(key=lambda line: line["row"])
        text = "".join(json.dumps(line) + "\n" for line in lines)
        _write(self.folder / MANIFEST, text)
        return sum("file" in line for line in lines), sum("error" in line for line in lines)

    def _chunks(self) -> Iterator[list[dict[str, Any]]]:
        for path in sorted(self._place.glob("[0-9]*.jsonl")):
            yield list(map(json.loads, path.read_text(encoding="utf-8").splitlines()))


def _write(path: Path, text: str) -> None:
    replace_file(path, lambda part: part.write_text(text, encoding="utf-8"))
