"""Which files a preset's name or path stands for."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from reprlib import repr as shown
from typing import Any

from keras_sd.files import checked_path
from keras_sd.weights import fetch
from keras_sd.weights.checkpoint import CONFIG, WEIGHTS, Checkpoint, open_checkpoint
from keras_sd.weights.readers import sha256

PRESETS = Path(__file__).parent.parent / "presets"
"""The presets in the package."""

_log = logging.getLogger(__name__)


def list_presets() -> list[str]:
    """The names of the presets in the package."""
    return sorted(path.parent.name for path in PRESETS.glob(f"*/{CONFIG}"))


def here(preset: str | Path) -> Path | None:
    """The path that a preset is, or that is in the package under this name; None where it is
    neither. A path that exists goes before any name: with a folder `emoji` here, "emoji" is that
    folder (logged); a `Path` is never a name.

    Args:
        preset: see `locate`.
    """
    if preset == "":
        return None
    # Path.expanduser raises where a user is unknown; here that is a path like any other.
    path = Path(os.path.expanduser(checked_path(preset, "preset", "a name or a path")))
    packaged = isinstance(preset, str) and preset in list_presets()
    try:
        there = path.exists()
    except OSError as error:  # it is too long, say
        why = f"{error.strerror}: {shown(preset)}"
        raise ValueError(f"preset is no name and no path: {why}") from None
    if not there:
        return PRESETS / preset if packaged else None
    if packaged or (isinstance(preset, str) and preset in fetch.SOURCES):
        _log.warning(
            "%s is a path here, so this is not the model of that name", Path(preset).absolute()
        )
    return path


def locate(
    preset: str | Path, variant: str | None = None, *, needs_vocabulary: bool = True
) -> Path:
    """The file or folder that a preset stands for; only names and `hf://` may use the network.

    Args:
        preset: the path of a file or folder, a name in the package, a name that `fetch` knows, or
            `hf://owner/name[@revision]`; see `here` for what goes before what.
        variant: of the files in a folder, such as `"fp16"`, where they have to be fetched.
        needs_vocabulary: CLIP's will be asked for, if none lies beside the weights. Beside a single
            file there is none, so it is fetched before one is that comes by a name or `hf://`: it
            is small, and without it the weights would be of no use.

    Raises:
        FileNotFoundError: there is no such preset.
        FetchError: it could not be fetched; an OSError.
    """
    if (path := here(preset)) is not None:
        return path
    if needs_vocabulary and isinstance(preset, str) and fetch.is_one_file(preset, variant):
        fetch.provide_vocabulary()
    return fetch.resolve(preset, variant=variant, others=list_presets())


def open_preset(
    preset: str | Path,
    *,
    variant: str | None = None,
    needs_vocabulary: bool = True,
    strict: bool = False,
    **options: Any,
) -> Checkpoint:
    """Opens what a preset stands for.

    Args:
        preset: see `locate`.
        variant: of the files, such as `"fp16"`.
        needs_vocabulary: see `locate`.
        strict: a tensor that is not known makes it unfit, see `open_checkpoint`.
        **options: more of `open_checkpoint`.

    Raises:
        FileNotFoundError: see `locate`.
        WeightsError: see `open_checkpoint`.
    """
    path = locate(preset, variant, needs_vocabulary=needs_vocabulary)
    # Of a name, the variant is a file of its own; in a folder it is looked for.
    fetched = path != Path(os.path.expanduser(preset)) and path.is_file()
    checkpoint = open_checkpoint(
        path, variant=None if fetched else variant, strict=strict, **options
    )
    known = fetch.SOURCES.get(preset) if fetched and isinstance(preset, str) else None
    if known is None or known.defaults is None:
        return checkpoint
    return replace(checkpoint, config=replace(checkpoint.config, defaults=known.defaults))


def fingerprints(checkpoint: Checkpoint) -> dict[str, str]:
    """The SHA-256 of the files that weights are in, in hexadecimal.

    Args:
        checkpoint: whose files are read, each of them whole.

    Returns:
        By `"model"` that of the file of a model, or of our folder; by `"unet"` and the like that of
        a file with one part; by `"unet-1"`, `"unet-2"` those of a part in several files.

    Raises:
        OSError: a file cannot be read.
    """
    files: dict[str, Path] = {}
    for name, part in checkpoint.parts.items():
        for number, path in enumerate(part.files, 1):
            if path in (checkpoint.path, checkpoint.path / WEIGHTS):
                files["model"] = path
            else:
                files[name if len(part.files) == 1 else f"{name}-{number}"] = path
    return {name: sha256(path) for name, path in files.items()}
