"""From any layout that is read to any that is written, without Keras."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from keras_sd.files import checked_path
from keras_sd.weights.checkpoint import NAMES, Checkpoint
from keras_sd.weights.diffusers_folder.write import write_folder
from keras_sd.weights.files import PresetDtype, plain_dtype, refuse_others
from keras_sd.weights.save import save_checkpoint, save_preset
from keras_sd.weights.vocabulary import tokenizer_of

Layout = Literal["keras_sd", "diffusers", "original"]
"""That can be written: our folder, a folder of diffusers', one file of the original code's."""

_log = logging.getLogger(__name__)


def convert(
    checkpoint: Checkpoint,
    out: str | Path,
    *,
    to: Layout,
    dtype: PresetDtype | None = None,
    vocabulary: str | Path | None = None,
    force: bool = False,
) -> None:
    """Writes a checkpoint in another layout, or another dtype, whole or not at all.

    Args:
        checkpoint: what `open_checkpoint` gave; a model that keras_sd cannot run yet can be
            converted all the same.
        out: the path of the file (`"original"`) or folder (the others) to write.
        to: the layout.
        dtype: of the numbers; None is as they are, bit for bit, but for int8, which becomes
            float32. Only the layout keras_sd has int8.
        vocabulary: path of CLIP's merges for a folder, where the checkpoint has none beside it.
        force: replace `out`. A folder is replaced if there is nothing in it but files that the new
            one has too.

    Raises:
        WeightsError: the checkpoint does not fit its config, a number is not finite in this dtype,
            or the layout has no way to say what the model is. Nothing was written.
        FileExistsError: there is something at `out` already that is not to be replaced.
        FileNotFoundError: there is no vocabulary; the message says how to get it.
        BlockingIOError: another process is writing `out`.
        OSError: a file cannot be written; the message names it.
        TypeError: `out` is no path.
        ValueError: `out` is empty, is a part of what is read, or no name for this layout; or the
            layout has no such dtype.
    """
    out = checked_path(out, "out")
    plain = None if to == "keras_sd" else plain_dtype(dtype)
    _check_place(checkpoint, out, to, force)
    checkpoint.check()
    config = checkpoint.config
    if to == "original":
        save_checkpoint(out, config, checkpoint.arrays(), dtype=plain)
        return
    merges = tokenizer_of(checkpoint, vocabulary).merges
    about = {"license": checkpoint.license, "list of words": checkpoint.words}
    if lost := [name for name, value in about.items() if value is not None and to == "diffusers"]:
        _log.warning("The layout diffusers has no place for its %s.", " and its ".join(lost))
    if to == "diffusers":
        write_folder(out, config, checkpoint.arrays(), merges, dtype=plain)
    else:
        save_preset(
            out,
            config,
            checkpoint.arrays(),
            merges,
            checkpoint.words,
            dtype=dtype,
            license=checkpoint.license,
        )


def _check_place(checkpoint: Checkpoint, out: Path, to: Layout, force: bool) -> None:
    if (to == "original") != (out.suffix == ".safetensors"):
        ends = "a file, whose name ends in" if to == "original" else "a folder, no name with"
        raise ValueError(f"{out}: the layout {to} is {ends} .safetensors")
    place = out.resolve()
    for source in (checkpoint.path, *(Path(part.source) for part in checkpoint.parts.values())):
        read = source.resolve()
        if place.is_relative_to(read) or read.is_relative_to(place):
            raise ValueError(f"{out} would be written over {source}, which is read from")
    if not out.exists():
        return
    if out.is_dir() == (to == "original"):
        kind = "a folder" if out.is_dir() else "a file"
        raise FileExistsError(f"{out} is {kind}; remove it, or take another name")
    empty = out.is_dir() and not any(out.iterdir())
    if not force and not empty:
        raise FileExistsError(f"{out} exists; take another name, or replace it with force")
    if to == "keras_sd":
        # Saving a model leaves what else is in its folder alone; replacing a folder is another
        # matter, and so it is for the layout diffusers, whose writer sees to it.
        refuse_others(out, NAMES)
