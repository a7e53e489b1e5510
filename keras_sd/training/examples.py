"""Pictures with captions, as people have them in a folder; all of them are looked at before any
work starts.

- With `metadata.jsonl`, as Hugging Face's imagefolder has it: a line of JSON a picture, whose
  `file_name` it is, with its caption in `text`.
- A folder that `save_to_disk` of Hugging Face's `datasets` has written: pictures in the column
  `image`, captions in `text` or `caption`.
- Pictures alone: the caption is in a text file beside each, of its stem: `cat.png`, `cat.txt`.
  Hidden files are none of them, for a writer that was killed leaves such; nor are the outputs of
  trainings among them.

A picture may have a hint, which a ControlNet is shown: in the column `conditioning_image`, or under
its name in another folder.
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
from typing import Any, NamedTuple

import numpy as np

from keras_sd.checks import check_area
from keras_sd.files import checked_path
from keras_sd.image import read_image
from keras_sd.weights.readers import sha256

__all__ = [
    *("ENDS", "Example", "ExamplesError", "Picture"),
    *("RUN", "is_listed", "pictures_in", "read_examples"),
]

ENDS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""Of the files that are pictures."""

RUN = Path("state", "run.json")
"""In the output of a training: the note that says of what it is a run."""

METADATA = "metadata.jsonl"
_OF_DATASETS = ("dataset_info.json", "dataset_dict.json", "state.json")
_CAPTIONS = ("text", "caption")
_HINTS = ("conditioning_image", "conditioning_image_file_name")
"""As Hugging Face's examples for ControlNets call the column, and its imagefolder the paths."""
_MOST_LISTED = 10
_THREADS = 4


class _Row(NamedTuple):
    """A picture before it is looked at: a path, or what a table has."""

    name: str
    caption: str | None = None
    picture: Any = None
    problem: str | None = None
    hint: Any = None


class ExamplesError(ValueError):
    """A folder of pictures cannot be trained on; the message names each file and what it lacks."""


@dataclass(frozen=True)
class Picture:
    """A picture that can be read.

    Attributes:
        sha256: of its file or, where it is in a table, of its pixels.
        size: height and width in pixels.
        read: gives its pixels, uint8 `(height, width, 3)`.
    """

    sha256: str
    size: tuple[int, int]
    read: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Example(Picture):
    """A picture and its caption.

    Attributes:
        name: for people.
        caption: what a prompt for it would be; "" is none.
        hint: what a ControlNet is shown of it, of its shape; None where none was asked for.
    """

    name: str
    caption: str
    hint: Picture | None = None


def read_examples(
    folder: str | Path,
    caption: str | None = None,
    *,
    hinted: bool = False,
    hints: str | Path | None = None,
    without: Sequence[str | Path] = (),
) -> list[Example]:
    """The pictures of a folder, in the order of their names; each was decoded once.

    Args:
        folder: of one of these kinds.
        caption: of those that have none; None is an error then.
        hinted: whether each has a hint, which is looked at, too.
        hints: the folder of the hints, each of its picture's name up to the ending; None is the
            column.
        without: see `pictures_in`; a file that lists the pictures may name those, too.

    Raises:
        ExamplesError: there are no pictures, or some have no caption, or no hint of their shape, or
            cannot be read; the message has up to ten of them.
        FileNotFoundError: there is no such folder.
        ImportError: the folder is one of `datasets`, which is not installed.
    """
    folder = checked_path(folder, "folder", "a folder of pictures")
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}")
    columns = _HINTS if hinted and hints is None else ()
    if (folder / METADATA).is_file():
        rows: Iterable[_Row] = _of_metadata(folder, columns)
    elif any((folder / name).is_file() for name in _OF_DATASETS):
        rows = _of_datasets(folder, columns)
    else:
        rows = _beside(folder, without if hints is None else [*without, hints])
    if hinted and hints is not None:
        rows = _with_hints(rows, folder, checked_path(hints, "hints", "a folder of hints"))
    with ThreadPoolExecutor(_THREADS) as pool:  # what decodes lets others run
        found = list(pool.map(partial(_looked_at, caption, hinted), rows))
    if not found:
        left_out = _apart(folder, without, folder.rglob("*"))
        apart = "".join(f"; those in {each} are none of them" for each in left_out)
        raise ExamplesError(
            f"{folder} has no pictures: they end in {', '.join(ENDS)} and are not hidden, or "
            f"{METADATA} names them{apart}"
        )
    if wrong := [each for each in found if isinstance(each, str)]:
        more = len(wrong) - _MOST_LISTED
        raise ExamplesError(
            f"{len(wrong)} of the {len(found)} pictures in {folder} cannot be trained on: "
            + "; ".join(wrong[:_MOST_LISTED])
            + (f"; and {more} more" if more > 0 else "")
        )
    return [each for each in found if isinstance(each, Example)]


def is_listed(folder: Path) -> bool:
    """Whether a file in a folder says which its pictures are, so that another is none of them."""
    return any((folder / name).is_file() for name in (METADATA, *_OF_DATASETS))


def pictures_in(folder: Path, without: Iterable[str | Path] = ()) -> Iterator[Path]:
    """The pictures in a folder and the folders in it, in the order of their names, but hidden ones.

    Args:
        folder: which is there.
        without: folders whose pictures are left out, as are those of other trainings' outputs; one
            that has the whole folder in it leaves nothing out.
    """
    root, paths = folder.resolve(), sorted(folder.rglob("*"))
    apart = [each.resolve() for each in _apart(folder, without, paths)]
    for path in paths:
        inside = path.relative_to(folder)
        if (
            path.suffix.lower() in ENDS
            and not any(part.startswith(".") for part in inside.parts)
            and not any((root / inside).is_relative_to(each) for each in apart)
        ):
            yield path


def _apart(folder: Path, others: Iterable[str | Path], paths: Iterable[Path]) -> list[Path]:
    """Those of other folders, and of the outputs of trainings among the paths in a folder, that lie
    in it, and are not the folder itself.
    """
    root, outputs = folder.resolve(), (path for path in paths if (path / RUN).is_file())
    found = dict.fromkeys(map(Path, (*others, *outputs)))
    return [each for each in found if root in each.resolve().parents]


def _looked_at(caption: str | None, hinted: bool, row: _Row) -> Example | str:
    """The example, or what is wrong with it."""
    name, text, source, problem, shown = row
    if problem is not None:
        return f"{name}: {problem}"
    text = caption if text is None else text
    if text is None:
        return f"{name}: it has no caption"
    try:
        picture = _picture(source)
    except (OSError, ValueError, TypeError) as error:
        return f"{name}: {error}"
    hint = None
    if hinted and shown is None:
        return f"{name}: it has no hint, {_HINTS[0]!r}"
    if hinted:
        try:
            hint = _picture(shown)
        except (OSError, ValueError, TypeError) as error:
            return f"{name}: its hint cannot be used: {error}"
        if not _is_of_shape(hint.size, picture.size):
            sizes = ["x".join(map(str, reversed(each.size))) for each in (hint, picture)]
            return f"{name}: its hint is of another shape, {sizes[0]}; the picture is {sizes[1]}"
    return Example(**vars(picture), name=name, caption=text, hint=hint)


def _picture(source: Any) -> Picture:
    """Raises:
    OSError, ValueError, TypeError: it is none.
    """
    pixels = read_image(source)
    check_area(*pixels.shape[:2])
    if isinstance(source, Path):
        digest = sha256(source)
    else:
        shape = repr(pixels.shape).encode()
        digest = hashlib.sha256(shape + pixels.tobytes()).hexdigest()
    return Picture(digest, pixels.shape[:2], partial(read_image, source))


def _is_of_shape(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether a picture is another one made larger or smaller: by its longer side, the shorter one
    is right to a pixel.
    """
    return abs(one[0] * other[1] - one[1] * other[0]) <= max(other)


def _with_hints(rows: Iterable[_Row], folder: Path, hints: Path) -> Iterator[_Row]:
    """The rows with the hints of another folder, which may lie in that of the pictures."""
    if not hints.is_dir():
        raise FileNotFoundError(f"There is no folder {hints}")
    if folder.resolve().is_relative_to(hints.resolve()):
        raise ExamplesError(f"{hints} is the folder of the hints, and has the pictures in it")
    there: dict[Path, list[Path]] = {}
    for path in pictures_in(hints):
        there.setdefault(path.relative_to(hints).with_suffix(""), []).append(path)
    for row in rows:
        if row.problem is not None:
            yield row
        elif not isinstance(row.picture, Path):
            yield row._replace(problem="it is in a table, whose hints are in a column")
        else:
            name = row.picture.relative_to(folder).with_suffix("")
            found, problem = there.get(name, []), None
            if not found:
                problem = f"it has no hint: {hints} has no picture {name}"
            elif len(found) > 1:
                files = ", ".join(each.name for each in found)
                problem = f"it has several hints: {hints} has {files}"
            yield row._replace(problem=problem, hint=next(iter(found), None))


def _of_metadata(folder: Path, hints: Sequence[str]) -> Iterator[_Row]:
    lines = (folder / METADATA).read_bytes().splitlines()
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{METADATA}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield _Row(where, problem=f"it is no JSON ({error})")
            continue
        file = row.get("file_name") if isinstance(row, dict) else None
        if not isinstance(file, str) or not file:
            yield _Row(where, problem="it has no file_name")
            continue
        text = next((row[key] for key in _CAPTIONS if isinstance(row.get(key), str)), None)
        shown = next((row[key] for key in hints if isinstance(row.get(key), str)), None)
        problem = _missing(folder, file, where)
        if problem is None and file in seen:
            problem = f"it comes a second time ({where})"
        if problem is None and shown and (wrong := _missing(folder, shown, where)):
            problem = f"its hint {shown} cannot be used: {wrong}"
        seen.add(file)
        yield _Row(file, text, folder / file, problem, folder / shown if shown else None)


def _missing(folder: Path, file: str, where: str) -> str | None:
    """What is wrong with a path that a line names, or None.

    It is looked at as it is written, for a link may lead anywhere: in the cache of Hugging Face's
    hub, all pictures are links to a folder of another name.
    """
    path = Path(file)
    if path.anchor or ".." in path.parts:
        return "it is not in the folder"
    return None if (folder / path).is_file() else f"there is no such file ({where})"


def _beside(folder: Path, without: Iterable[str | Path]) -> Iterator[_Row]:
    for path in pictures_in(folder, without):
        text = problem = None
        beside = path.with_suffix(".txt")
        if beside.is_file():
            try:
                text = " ".join(beside.read_text(encoding="utf-8-sig").split())
            except (OSError, UnicodeDecodeError) as error:
                problem = f"{beside.name} cannot be read ({error})"
        yield _Row(str(path.relative_to(folder)), text, path, problem)


def _of_datasets(folder: Path, hints: Sequence[str]) -> Iterator[_Row]:
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
    shown = next((name for name in hints if name in columns), None)
    if "image" not in columns:
        raise ExamplesError(f"{folder} has the columns {', '.join(columns)}, and no 'image'")
    for number in range(len(table)):
        row = table[number]
        caption = row[text] if text else None
        picture = row["image"]
        problem = None if picture is not None else "it has no picture"
        caption = caption if isinstance(caption, str) else None
        yield _Row(f"row {number}", caption, picture, problem, row[shown] if shown else None)
