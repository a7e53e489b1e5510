"""What a checkpoint is and whether it is whole, for people and for programs. Nothing is loaded."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from keras_sd.weights.checkpoint import Checkpoint, open_checkpoint
from keras_sd.weights.int8 import Int8
from keras_sd.weights.parts import Part, numbers_of, open_alone
from keras_sd.weights.readers import WeightsError, is_finite, open_file, read_file, release

_CHUNK = 1 << 22

Progress = Callable[[int, int], object]
"""Is called with the bytes that were read and those that there are to read."""


@dataclass(frozen=True)
class FileReport:
    """A file of weights. `sha256` is None where the file was not read."""

    path: str
    format: str | None
    size: int
    sha256: str | None


@dataclass(frozen=True)
class PartReport:
    """A network: where its weights are, how many, and its numbers as the shapes tell them."""

    source: str
    tensors: int
    parameters: int
    bytes: int
    dtypes: dict[str, int]
    numbers: dict[str, Any]


@dataclass(frozen=True)
class Report:
    """What `inspect` found.

    Attributes:
        path: of the file or folder.
        error: why it cannot be read, or None. Where there is one, most of the rest is empty.
        family: what it is, for people.
        layout: `"keras_sd"`, `"diffusers"`, `"original"` or `"keras_cv"`; None for a part alone.
        prediction: what the UNet gives, `"epsilon"`, `"v"` or `"x0"`.
        prediction_from: how that is known.
        parts: by `text_encoder`, `unet` and `autoencoder`.
        files: the files of weights, with their sha256 if they were read.
        problems: names by what is wrong with them: `"unexpected"`, `"missing"`, `"misshapen"`,
            `"not floating"`, `"not finite"`.
        numbers_read: every number was looked at; otherwise headers only.
        ignored: tensors that are known and no part of the model.
        left_out: tensors that are not known and that the model does not need, and second copies.
        vocabulary: the merges beside the weights: their path, `"in tokenizer.json"`, or None.
        words: how many words the model was trained on, where there is a list.
        license: of the weights, where something says it.
        notes: what whoever uses it should know.
        unsupported: why keras_sd cannot run it, or None.
        config: the model's numbers, as a preset's `config.json` has them; empty for a part alone.
    """

    path: str
    error: str | None = None
    family: str | None = None
    layout: str | None = None
    prediction: str | None = None
    prediction_from: str | None = None
    parts: dict[str, PartReport] = field(default_factory=dict)
    files: list[FileReport] = field(default_factory=list)
    problems: dict[str, list[str]] = field(default_factory=dict)
    numbers_read: bool = False
    ignored: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    vocabulary: str | None = None
    words: int | None = None
    license: str | None = None
    notes: list[str] = field(default_factory=list)
    unsupported: str | None = None
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """It can be read, every tensor has its variable and every variable its tensor, and no
        number that was looked at is a NaN or an infinity.
        """
        return self.error is None and not self.problems

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON types, with `good`."""
        return {"good": self.good, **dataclasses.asdict(self)}


def inspect(
    path: str | Path,
    *,
    variant: str | None = None,
    ema: bool = False,
    strict: bool = False,
    numbers: bool = True,
    progress: Progress | None = None,
) -> Report:
    """Says what a checkpoint, or a file with one part of a model, is, and what is wrong with it.

    Args:
        path: of a file or folder.
        variant: of the files in a diffusers folder, such as `"fp16"`.
        ema: look at the averaged weights of the UNet, as `open_checkpoint` takes them.
        strict: a tensor that is not known is a problem, see `open_checkpoint`.
        numbers: read all of it: look at every number, compute the files' sha256. Otherwise the
            headers are read, and those files whose own layout asks for a checksum.
        progress: is told how far the reading is.

    Returns:
        The report; a file that is damaged, or is no checkpoint, is one with an `error`.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: a variant of something that has none.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file or folder {path}")
    try:
        report, parts, files = _open(path, variant, ema, strict)
    except (WeightsError, FileNotFoundError) as error:
        report, parts, files = Report(str(path), error=str(error)), {}, []
        files = [path] if path.is_file() else []
    report = dataclasses.replace(
        report,
        parts={name: _part(part) for name, part in parts.items()},
        files=[FileReport(str(file), _format(file), file.stat().st_size, None) for file in files],
    )
    return _read(report, parts, progress) if numbers else report


def _open(
    path: Path, variant: str | None, ema: bool, strict: bool
) -> tuple[Report, dict[str, Part], list[Path]]:
    """What the headers say, the parts, and the files."""
    try:
        checkpoint = open_checkpoint(path, variant=variant, ema=ema, strict=strict)
    except WeightsError as error:
        if not path.is_file():
            raise
        # A part alone is no checkpoint; it is welcome here all the same.
        try:
            alone = open_alone(path)
        except WeightsError:
            raise error from None
        part, strays = (alone.part, ()) if strict else alone.part.without_strays()
        report = Report(
            str(path),
            family=f"the {alone.name.replace('_', ' ')} of a model, alone",
            problems=part.problems(),
            ignored=list(alone.ignored),
            left_out=list(strays),
        )
        return report, {alone.name: part}, [path]
    report = Report(
        str(path),
        family=checkpoint.family,
        layout=checkpoint.layout,
        prediction=checkpoint.config.noise.prediction,
        prediction_from=checkpoint.prediction_from,
        problems=checkpoint.problems(),
        ignored=list(checkpoint.ignored),
        left_out=list(checkpoint.left_out),
        vocabulary=_vocabulary(checkpoint),
        words=None if checkpoint.words is None else len(checkpoint.words),
        license=checkpoint.license,
        notes=list(checkpoint.notes),
        unsupported=checkpoint.unsupported,
        config=checkpoint.config.to_dict(),
    )
    return report, checkpoint.parts, list(checkpoint.files)


def _read(report: Report, parts: Mapping[str, Part], progress: Progress | None) -> Report:
    """The report with all that takes reading the numbers."""
    total = sum(file.size for file in report.files)
    total += sum(part.bytes for part in report.parts.values())
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    files = [
        dataclasses.replace(file, sha256=_sha256(Path(file.path), advance)) for file in report.files
    ]
    problems = dict(report.problems)
    for part in parts.values():
        for kind, name in _damage(part, advance):
            problems.setdefault(kind, []).append(name)
    read = report.error is None
    return dataclasses.replace(report, files=files, problems=problems, numbers_read=read)


def _damage(part: Part, advance: Callable[[int], object]) -> list[tuple[str, str]]:
    """The tensors whose numbers are no numbers, or cannot be read."""
    found = []
    for name in _present(part):
        tensor = part.tensors[name]
        try:
            if not is_finite(np.asarray(tensor)):
                found.append(("not finite", name))
        except WeightsError as error:
            found.append(("unreadable", f"{name} ({error})"))
        release(tensor)
        advance(_bytes(tensor))
    return found


def _sha256(path: Path, advance: Callable[[int], object]) -> str:
    digest = hashlib.sha256()
    with open_file(path) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            advance(len(chunk))
    return digest.hexdigest()


def _format(path: Path) -> str | None:
    try:
        return read_file(path).format
    except WeightsError:
        return None


def _vocabulary(checkpoint: Checkpoint) -> str | None:
    match checkpoint.merges:
        case None:
            return None
        case Path() as path:
            return str(path)
        case _:
            return "in tokenizer.json"


def _part(part: Part) -> PartReport:
    tensors = [part.tensors[name] for name in _present(part)]
    return PartReport(
        part.source,
        len(tensors),
        sum(math.prod(tensor.shape) for tensor in tensors),
        sum(_bytes(tensor) for tensor in tensors),
        dict(Counter(str(_stored(tensor).dtype) for tensor in tensors)),
        numbers_of(part.table),
    )


def _present(part: Part) -> list[str]:
    """The tensors that belong to the part and are there, each once."""
    return list(dict.fromkeys(e.name for e in part.table if e.name in part.tensors))


def _stored(tensor: Any) -> Any:
    """A tensor as the file has it."""
    return tensor.numbers if isinstance(tensor, Int8) else tensor


def _bytes(tensor: Any) -> int:
    scale = 2 * len(tensor.scale) if isinstance(tensor, Int8) else 0
    return math.prod(tensor.shape) * int(_stored(tensor).dtype.itemsize) + scale
