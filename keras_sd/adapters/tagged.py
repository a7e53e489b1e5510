"""Tags of prompts, `<lora:name:0.8>`, as adapters of the request."""

from __future__ import annotations

import difflib
import functools
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from keras_sd.adaptations import Adaptation
from keras_sd.adapters.files import open_adapter
from keras_sd.files import checked_path
from keras_sd.prompts import PromptError, Tag, parse
from keras_sd.request import Request
from keras_sd.start import Attachment

__all__ = ["ENDS", "adapter_file", "adapter_names", "files_in", "tagged"]

ENDS = (".safetensors", ".pt", ".bin", ".ckpt", ".pth")
"""Of the files in a folder of adapters."""


def tagged(request: Request, folder: str | os.PathLike[str] | None) -> Request:
    """The request with the adapters that its prompts name by tags. Those that it has already, as
    one that was drawn before, are not looked for again.

    Args:
        request: what to draw.
        folder: of the adapters; None is none, and tags stay an error of the run.

    Raises:
        keras_sd.prompts.PromptError: a tag names no file in the folder, or asks for what is not
            done; or the pictures of the request have other tags, while the weights are of all.
        WeightsError: a file is no adapter.
        FileNotFoundError: there is no such folder.
    """
    if folder is None or request.adapters or request.prompt_style == "plain":
        return request
    wanted = [_tags(text, request.prompt_style) for text in dict.fromkeys(request.prompts)]
    if any(_asked(tags) != _asked(wanted[0]) for tags in wanted):
        raise PromptError(
            "The prompts of one request name other adapters: weights are of all its pictures. Draw "
            "those of each choice in a request of their own"
        )
    found = [_adaptation(tag, Path(folder)) for tag in wanted[0]]
    return replace(request, adapters=tuple(found)) if found else request


def adapter_file(folder: str | os.PathLike[str], name: str) -> Path:
    """The file of that stem in a folder, or in one within it. A name is compared with names of
    files, and never a path.

    Args:
        folder: of the adapters.
        name: of one.

    Raises:
        FileNotFoundError: there is no such folder, or no such file in it.
        ValueError: there are several.
    """
    folder = checked_path(folder, "adapters_dir", "the folder of the adapters")
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}")
    files = list(files_in(folder))
    found = [path for path in files if path.stem == name]
    if len(found) > 1:
        listed = ", ".join(str(path.relative_to(folder)) for path in found)
        raise ValueError(f"There are several adapters {name!r}: {listed}")
    if not found:
        names = [path.stem for path in files]
        close = difflib.get_close_matches(name, names, n=3) or sorted(names)[:5]
        there = f"there are {', '.join(close)}" if close else "the folder has none"
        # Clients of a server read this too, whose folders are not their business.
        raise FileNotFoundError(f"There is no adapter {name!r}; {there}")
    return found[0]


def adapter_names(folder: str | os.PathLike[str]) -> list[str]:
    """The stems of the files in a folder of adapters, which prompts may name.

    Args:
        folder: of the adapters.
    """
    return sorted({path.stem for path in files_in(Path(folder))})


def files_in(folder: Path) -> Iterator[Path]:
    """Those that may be adapters, in a folder and those within it, in their order."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(place, name) for name in sorted(names) if name.endswith(ENDS))


def _tags(text: object, style: str) -> tuple[Tag, ...]:
    return parse(text, style).tags if isinstance(text, str) else ()


def _asked(tags: tuple[Tag, ...]) -> list[Tag]:
    """What tags ask for, however it is written."""
    return [replace(tag, source="") for tag in tags]


@functools.lru_cache(maxsize=16)
def _opened(path: Path, size: int, changed: int) -> Attachment:
    """An adapter, which is opened and hashed once as long as its file is the same."""
    return open_adapter(path).attachment()


def _adaptation(tag: Tag, folder: Path) -> Adaptation:
    if not tag.known:
        raise PromptError(f"{tag.source} is of a kind that nothing here obeys; leave it out")
    if tag.rank is not None:
        raise PromptError(f"{tag.source} cuts the adapter to a rank, which is not done here")
    try:
        path = adapter_file(folder, tag.name)
        file = path.stat()
        attachment = _opened(path, file.st_size, file.st_mtime_ns)
    except (FileNotFoundError, ValueError) as error:
        raise PromptError(f"{tag.source}: {error}") from error
    other = None if tag.text_encoder == tag.unet else tag.text_encoder
    return Adaptation(attachment, tag.unet, other)
