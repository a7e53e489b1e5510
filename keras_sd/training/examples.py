"""Pictures with captions, as people have them in a folder; all of them are looked at before any
work starts.

- With `metadata.jsonl`, as Hugging Face's imagefolder has it: a line of JSON a picture, whose
  `file_name` it is, with its caption in `text`.
- A folder that `save_to_disk` of Hugging Face's `datasets` has written: pictures in the column
  `image`, captions in `text` or `caption`.
- Pictures alone: the caption is in a text file beside each, of its stem: `cat.png`, `cat.txt`.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from keras_sd.checks import check_area
from keras_sd.files import checked_path
from keras_sd.image import read_image
from keras_sd.weights.readers import sha256

__all__ = ["ENDS", "Example", "ExamplesError", "read_examples"]

ENDS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""Of the files that are pictures."""

METADATA = "metadata.jsonl"
_OF_DATASETS = ("dataset_info.json", "dataset_dict.json", "state.json")
_CAPTIONS = ("text", "caption")
_MOST_LISTED = 10

_Row = tuple[str, str | None, Any, str | None]
"""Name, caption, picture and problem."""
_THREADS = 4


class ExamplesError(ValueError):
    """A folder of pictures cannot be trained on; the message names each file and what it lacks."""


@dataclass(frozen=True)
class Example:
    """A picture and its caption.

    Attributes:
        name: for people.
        caption: what a prompt for it would be; "" is none.
        sha256: of the picture's file or, where it is in a table, of its pixels.
        size: height and width in pixels.
        read: gives its pixels, uint8 `(height, width, 3)`.
    """

    name: str
    caption: str
    sha256: str
    size: tuple[int, int]
    read: Callable[[], np.ndarray]


def read_examples(folder: str | Path, caption: str | None = None) -> list[Example]:
    """The pictures of a folder, in the order of their names; each was decoded once.

    Args:
        folder: of one of these kinds.
        caption: of those that have none; None is an error then.

    Raises:
        ExamplesError: there are no pictures, or some have no caption or cannot be read; the message
            has up to ten of them.
        FileNotFoundError: there is no such folder.
        ImportError: the folder is one of `datasets`, which is not installed.
    """
    folder = checked_path(folder, "folder", "a folder of pictures")
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}")
    if (folder / METADATA).is_file():
        rows: Iterable[_Row] = _of_metadata(folder)
    elif any((folder / name).is_file() for name in _OF_DATASETS):
        rows = _of_datasets(folder)
    else:
        rows = _beside(folder)
    with ThreadPoolExecutor(_THREADS) as pool:  # what decodes lets others run
        found = list(pool.map(partial(_looked_at, caption), rows))
    if not found:
        raise ExamplesError(
            f"{folder} has no pictures: they end in {', '.join(ENDS)}, or {METADATA} names them"
        )
    if wrong := [each for each in found if isinstance(each, str)]:
        more = len(wrong) - _MOST_LISTED
        raise ExamplesError(
            f"{len(wrong)} of the {len(found)} pictures in {folder} cannot be trained on: "
            + "; ".join(wrong[:_MOST_LISTED])
            + (f"; and {more} more" if more > 0 else "")
        )
    return [each for each in found if isinstance(each, Example)]


def _looked_at(caption: str | None, row: _Row) -> Example | str:
    """The example, or what is wrong with it."""
    name, text, source, problem = row
    if problem is not None:
        return f"{name}: {problem}"
    text = caption if text is None else text
    if text is None:
        return f"{name}: it has no caption"
    try:
        pixels = read_image(source)
        check_area(*pixels.shape[:2])
        if isinstance(source, Path):
            digest = sha256(source)
        else:
            shape = repr(pixels.shape).encode()
            digest = hashlib.sha256(shape + pixels.tobytes()).hexdigest()
    except (OSError, ValueError, TypeError) as error:
        return f"{name}: {error}"
    return Example(name, text, digest, pixels.shape[:2], partial(read_image, source))


def _of_metadata(folder: Path) -> Iterator[_Row]:
    lines = (folder / METADATA).read_bytes().splitlines()
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{METADATA}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield where, None, None, f"it is no JSON ({error})"
            continue
        file = row.get("file_name") if isinstance(row, dict) else None
        if not isinstance(file, str) or not file:
            yield where, None, None, "it has no file_name"
            continue
        path = folder / file
        text = next((row[key] for key in _CAPTIONS if isinstance(row.get(key), str)), None)
        problem = None
        if not path.resolve().is_relative_to(folder.resolve()):
            problem = "it is not in the folder"
        elif not path.is_file():
            problem = f"there is no such file ({where})"
        elif file in seen:
            problem = f"it comes a second time ({where})"
        seen.add(file)
        yield file, text, path, problem


def _beside(folder: Path) -> Iterator[_Row]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDS)
    for path in paths:
        text = problem = None
        beside = path.with_suffix(".txt")
        if beside.is_file():
            try:
                text = " ".join(beside.read_text(encoding="utf-8-sig").split())
            except (OSError, UnicodeDecodeError) as error:
                problem = f"{beside.name} cannot be read ({error})"
        yield str(path.relative_to(folder)), text, path, problem


def _of_datasets(folder: Path) -> Iterator[_Row]:
    if find_spec("datasets") is None:
        raise ImportError(
            f"{folder} is a folder of Hugging Face's datasets, which reads it and is not "
            'installed: pip install "keras-sd[datasets]"'
        )
    table = importlib.import_module("datasets").load_from_disk(str(folder))
    if not hasattr(table, "features"):  # several, by the names of their splits
        splits: Sequence[str] = list(table)
        if "train" not in splits:
            raise ExamplesError(f"{folder} has the splits {', '.join(splits)}, and no 'train'")
        table = table["train"]
    columns = list(table.features)
    text = next((name for name in _CAPTIONS if name in columns), None)
    if "image" not in columns:
        raise ExamplesError(f"{folder} has the columns {', '.join(columns)}, and no 'image'")
    for number in range(len(table)):
        row = table[number]
        caption = row[text] if text else None
        picture = row["image"]
        problem = None if picture is not None else "it has no picture"
        yield f"row {number}", caption if isinstance(caption, str) else None, picture, problem
