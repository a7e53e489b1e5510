"""Tables of prompts as requests: CSV, JSON lines, Parquet, or a prompt a line."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from keras_sd.config import Defaults
from keras_sd.forms import attach_masks, attach_pictures, request_of
from keras_sd.request import Request
from keras_sd.settings import settings
from keras_sd.start import Masking, Start

__all__ = ["ENDS", "Row", "chunks_of", "read_rows"]

ENDS = (".csv", ".jsonl", ".parquet", ".txt")
"""Of the files that are read."""

OTHER_NAMES = {
    "negative": "negative_prompt",
    "guidance": "guidance_scale",
    "unconditional_guidance_scale": "guidance_scale",
    "steps": "num_steps",
}
"""What columns may also be called: as the options are, or as the methods' arguments."""

_READ: dict[str, Callable[[str], Any]] = {"image": attach_pictures, "mask": attach_masks}
_COLUMNS = {
    "prompt",
    "negative_prompt",
    "seed",
    "few_steps",
    *_READ,
    *(name for part in (Request, Start, Masking) for name in settings(part)),
}
_ID = re.compile(r"[\w][\w.-]{0,99}")
_RESERVED = {"con", "prn", "aux", "nul", *(f"{x}{i}" for x in ("com", "lpt") for i in range(1, 10))}


@dataclass(frozen=True, eq=False)
class Row:
    """A line of a table.

    Attributes:
        number: of it, counted from 0.
        id: what its picture is called: the column `id`, or the number with six digits.
        request: for one picture, with its seed; None where it is wrong.
        kept: the columns that are no settings, as they were read.
        error: what is wrong with it.
    """

    number: int
    id: str
    request: Request | None
    kept: Mapping[str, Any]
    error: str | None = None


def read_rows(path: Path, seed: int = 0, defaults: Mapping[str, Any] | None = None) -> list[Row]:
    """All rows of a table. A row with a fault is one that says so.

    Args:
        path: of the file. A table has a column `prompt`, and may have `negative_prompt`, `seed`,
            `id`, `image` and `mask` (paths, from the table's folder) and every setting of a
            request; other columns are kept. An empty cell is a setting that is not given. A text
            file has a prompt a line.
        seed: of the first row; a row without a seed of its own has it plus its number.
        defaults: settings of rows that do not have them.

    Raises:
        ValueError: it is no such table.
        FileNotFoundError: there is no such file.
        ModuleNotFoundError: Parquet needs pyarrow, which is not installed.
    """
    found, ids = [], set()
    pictures: dict[str, Any] = {}  # those that several rows name are read once
    for number, cells in enumerate(_cells(path)):
        row = _row(number, cells, path.parent, seed, dict(defaults or {}), pictures)
        if row.id.lower() in ids:  # which some file systems cannot tell apart
            why = f"the id {row.id!r} is another row's too"
            row = replace(row, id=f"{number:06d}", request=None, error=why)
        ids.add(row.id.lower())
        found.append(row)
    if not found:
        raise ValueError(f"{path} has no rows")
    return found


def chunks_of(rows: list[Row], size: int) -> list[list[Row]]:
    """Rows that are drawn together, since they differ in prompts and seeds alone. Which are, is a
    matter of the table, so that a chunk is drawn in the same way again.

    Args:
        rows: in their order; those with a fault are left out.
        size: the most rows of a chunk.
    """
    kinds: dict[Any, list[list[Row]]] = {}
    for row in rows:
        if row.request is None:
            continue
        alone = row.request.start is not None or bool(row.request.noise)
        kind = row.number if alone else _kind(row.request)
        chunks = kinds.setdefault(kind, [[]])
        if len(chunks[-1]) == size:
            chunks.append([])
        chunks[-1].append(row)
    found = [chunk for chunks in kinds.values() for chunk in chunks]
    return sorted(found, key=lambda chunk: chunk[0].number)


def joined(rows: list[Row]) -> Request:
    """The request of all rows of a chunk."""
    requests = [row.request for row in rows if row.request is not None]
    return replace(
        requests[0],
        prompts=tuple(each.prompts[0] for each in requests),
        negative_prompts=tuple(each.negative_prompts[0] for each in requests),
        images=tuple(each.images[0] for each in requests),
    )


def _kind(request: Request) -> str:
    same = replace(request, prompts=("",), negative_prompts=("",), images=((0, 0),))
    return same.to_json()


# --- a row ----------------------------------------------------------------------------


def _row(
    number: int,
    cells: Mapping[str, Any],
    folder: Path,
    seed: int,
    given: dict[str, Any],
    pictures: dict[str, Any],
) -> Row:
    name, kept = f"{number:06d}", {}
    try:
        given["seed"] = seed + number
        for column, value in cells.items():
            column = OTHER_NAMES.get(column, column)
            if column == "id":
                name = name if _is_empty(value) else _checked_id(value)
            elif column not in _COLUMNS:
                kept[column] = None if value != value else value  # NaN is no JSON
            elif column in _READ and not _is_empty(value):
                place = str(folder / str(value))
                if (column + place) not in pictures:
                    (pictures[column + place],) = _READ[column](place)
                given[column] = pictures[column + place]
            elif not _is_empty(value) or column == "prompt":
                given[column] = _value(column, value)
        if not isinstance(given.get("prompt"), str):
            raise ValueError("there is no prompt")
        request = request_of(**given)
        request.resolved(Defaults())  # names are looked up; where the model has a default, another
        return Row(number, name, request, kept)
    except (ValueError, TypeError, LookupError, OSError) as error:
        return Row(number, name, None, kept, str(error))


def _is_empty(value: Any) -> bool:
    return value is None or value == "" or value != value  # NaN, which is not itself


def _checked_id(value: Any) -> str:
    text = str(value)
    reserved = text.partition(".")[0].lower() in _RESERVED
    if not _ID.fullmatch(text) or text.endswith(".") or len(text.encode()) > 200 or reserved:
        raise ValueError(
            f"id is {text[:100]!r}; it names a file, so it is of letters, digits, '_', '-' and "
            "'.', of at most 200 bytes, and no name that Windows keeps for itself"
        )
    return text


def _value(column: str, value: Any) -> Any:
    """A cell as a request has it; all that CSV has are strings."""
    if column in ("prompt", "negative_prompt"):
        return str(value) if isinstance(value, str | int | float) else value
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        try:
            value = json.loads(text)
        except ValueError:
            return text
    # A column of whole numbers with gaps is one of floats to many programs.
    return int(value) if isinstance(value, float) and value.is_integer() else value


# --- a file ---------------------------------------------------------------------------


def _cells(path: Path) -> Iterator[Mapping[str, Any]]:
    end = path.suffix.lower()
    if end not in ENDS:
        raise ValueError(f"{path} is no table: its name ends in {', '.join(ENDS)}")
    if end == ".parquet":
        yield from _parquet(path)
        return
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if end == ".csv":
                yield from _csv(path, csv.DictReader(file, strict=True))
            elif end == ".txt":
                yield from ({"prompt": line.rstrip("\r\n")} for line in file if line.strip())
            else:
                yield from _json_lines(path, file)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from error


def _csv(path: Path, reader: csv.DictReader) -> Iterator[Mapping[str, Any]]:
    try:
        names = [OTHER_NAMES.get(each, each) for each in reader.fieldnames or ()]
        if "prompt" not in names:
            raise ValueError(f"{path} has no column prompt; its first line names {names}")
        if len(set(names)) < len(names):
            raise ValueError(f"{path} has a column twice: {names}")
        for cells in reader:
            more = cells.pop(None, None)
            if more or None in cells.values():
                raise ValueError(f"{path}, line {reader.line_num}: another number of cells")
            yield cells
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from error


def _json_lines(path: Path, file: Any) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            cells = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number} is no JSON: {error}") from error
        if not isinstance(cells, dict):
            raise ValueError(f"{path}, line {number} is no object: {line[:80].strip()}")
        yield cells


def _parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        why = f'{path}: Parquet is read by pyarrow, which pip install "keras-sd[ray]" brings'
        raise ModuleNotFoundError(why) from error

    try:
        table = parquet.ParquetFile(path)
        if "prompt" not in table.schema_arrow.names:
            raise ValueError(f"{path} has no column prompt; it has {table.schema_arrow.names}")
        for batch in table.iter_batches():
            yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path} is no Parquet file: {error}") from error
