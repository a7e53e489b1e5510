"""Adapters and embeddings of the commands that draw: given, told to the picture, found again."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_sd.checks import real

if TYPE_CHECKING:
    from keras_sd.adapters import Adapter
    from keras_sd.embeddings import Embedding
    from keras_sd.pipeline import StableDiffusion
    from keras_sd.provenance.origin import Used
    from keras_sd.request import Request

Adapters = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter",
        metavar="FILE[:STRENGTH]",
        help="A LoRA file, and how much of it: style.safetensors:0.8. May be given several times.",
    ),
]
Embeddings = Annotated[
    list[Path] | None,
    typer.Option(
        "--embedding",
        metavar="FILE",
        help="An embedding that the prompts name by its file's stem. May be given several times.",
    ),
]
TaggedDir = Annotated[
    Path | None,
    typer.Option(
        "--adapters-dir",
        help="The folder of the adapters that prompts name: <lora:name:0.8> in their style.",
    ),
]
AdaptersDir = Annotated[
    Path | None, typer.Option(help="The folder of the adapters that the picture was made with.")
]
EmbeddingsDir = Annotated[Path | None, typer.Option(help="Likewise of the embeddings.")]

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)")


@dataclass(frozen=True)
class Addons:
    """What is used beside a model.

    Attributes:
        adapters: each with its strength and the SHA-256 of its file.
        embeddings: those that prompts may name.
        adapters_dir: the folder of adapters that prompts name by tags.
    """

    adapters: tuple[tuple[Adapter, float, str], ...] = ()
    embeddings: tuple[Embedding, ...] = ()
    adapters_dir: Path | None = None

    @contextmanager
    def beside(self, pipeline: StableDiffusion) -> Iterator[StableDiffusion]:
        """The pipeline with them, for a block; its model is as before after it."""
        if self.embeddings:
            pipeline = pipeline.with_embeddings(*self.embeddings)
        pipeline.adapters_dir = self.adapters_dir
        if not self.adapters:
            yield pipeline
            return
        with pipeline.with_adapters(*((each, strength) for each, strength, _ in self.adapters)):
            yield pipeline

    def made(self) -> dict[str, Any]:
        """What the file of a picture says of them."""
        found = {
            "adapters": [
                {"name": each.name, "sha256": digest, "strength": strength}
                for each, strength, digest in self.adapters
            ],
            "embeddings": [{"name": each.name, "sha256": each.sha256} for each in self.embeddings],
        }
        return {name: rows for name, rows in found.items() if rows}


def given(
    adapters: Sequence[str] | None,
    embeddings: Sequence[Path] | None,
    adapters_dir: Path | None = None,
) -> Addons:
    """What the options name, read. No backend is needed.

    Raises:
        ValueError: a file is none of these, or a strength is no number; the message names the
            option.
        FileNotFoundError: there is no such file, likewise.
    """
    from keras_sd.adapters import open_adapter
    from keras_sd.embeddings import open_embedding

    merged = []
    for text in adapters or ():
        place, strength = _strength(text)
        with naming("--adapter"):
            adapter = open_adapter(place)
            merged.append((adapter, strength, adapter.sha256))
    named = []
    for path in embeddings or ():
        with naming("--embedding"):
            named.append(open_embedding(path))
    if adapters_dir is not None and not adapters_dir.is_dir():
        raise FileNotFoundError(f"--adapters-dir: there is no folder {adapters_dir}")
    return Addons(tuple(merged), tuple(named), adapters_dir)


def found_again(
    adapters: Sequence[Used],
    embeddings: Sequence[Used],
    adapters_dir: Path | None,
    embeddings_dir: Path | None,
) -> Addons:
    """Those that a picture was made with, by their SHA-256, in the folders that are given. A name
    in a picture is compared with the names of files, and never a path.

    Raises:
        ValueError: one is not there; the message names it and the option.
    """
    from keras_sd.adapters import open_adapter
    from keras_sd.embeddings import open_embedding

    merged = []
    for used in adapters:
        adapter = open_adapter(find("adapter", used, adapters_dir))
        merged.append((dataclasses.replace(adapter, name=used.name), used.strength, used.sha256))
    named = []
    for used in embeddings:
        embedding = open_embedding(find("embedding", used, embeddings_dir))
        named.append(dataclasses.replace(embedding, name=used.name))
    return Addons(tuple(merged), tuple(named))


def of_request(request: Request | None, adapters_dir: Path | None) -> list[Adapter]:
    """The adapters of a picture's request, as tags of its prompt bring them; found in the same way.

    Raises:
        ValueError: see `found_again`.
    """
    from keras_sd.adapters import open_adapter
    from keras_sd.provenance.origin import Used

    adapted = () if request is None else request.adapters
    wanted = [Used(each.file.name or "", each.file.sha256, each.strength) for each in adapted]
    return [open_adapter(find("adapter", used, adapters_dir)) for used in wanted]


def find(kind: str, used: Used, folder: Path | None) -> Path:
    """The file that a picture was made with, by its SHA-256.

    Args:
        kind: what it is; the option is called by it.
        used: what the picture says.
        folder: of the option, or None.

    Raises:
        ValueError: no folder was given, or none of its files is it; the message names both.
        FileNotFoundError: there is no such folder.
    """
    from keras_sd.adapters.tagged import files_in
    from keras_sd.weights.readers import sha256, shown

    option = f"--{kind}s-dir"
    made = f"the picture was made with the {kind} {shown(used.name)}, SHA-256 {used.sha256}"
    if folder is None:
        raise ValueError(f"{option} is needed, the folder with its file: {made}")
    if not folder.is_dir():
        raise FileNotFoundError(f"{option}: there is no folder {folder}")

    def is_called(path: Path) -> bool:
        """By its stem, or by a folder that it is in, as those of PEFT and diffusers are."""
        return used.name in (path.stem, *path.relative_to(folder).parts)

    files = sorted(files_in(folder), key=lambda each: not is_called(each))  # those are first
    for each in files:
        if sha256(each) == used.sha256:
            return each
    other = files[0].relative_to(folder) if files and is_called(files[0]) else None
    another = f"; {other} there is another" if other else ""
    raise ValueError(f"{option}: no file in {folder} is it: {made}{another}")


def _strength(text: str) -> tuple[str, float]:
    """The path and the strength of `FILE` or `FILE:STRENGTH`."""
    path, colon, number = text.rpartition(":")
    if not colon or Path(text).exists() or not _NUMBER.fullmatch(number):
        return text, 1.0
    return path, real("--adapter", float(number))


@contextmanager
def naming(option: str) -> Iterator[None]:
    """What is wrong inside is wrong with an option, which the error names."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{option}: there is no file {error.filename or error}") from error
    except (ValueError, OSError) as error:
        raise ValueError(f"{option}: {error}") from error
