"""From any layout that is read to any that is written, without Keras."""

from __future__ import annotations

import logging
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

from keras_sd.config import AutoencoderConfig, ModelConfig, UNetConfig, keras_cv
from keras_sd.weights.checkpoint import Checkpoint
from keras_sd.weights.diffusers_folder.write import write_folder
from keras_sd.weights.files import Dtype
from keras_sd.weights.save import save_checkpoint, save_preset
from keras_sd.weights.vocabulary import tokenizer_of

Layout = Literal["keras_sd", "diffusers", "original"]
"""That can be written: our folder, a folder of diffusers', one file of the original code's."""

_MAX_LISTED = 5

_log = logging.getLogger(__name__)


def convert(
    checkpoint: Checkpoint,
    out: str | Path,
    *,
    to: Layout,
    dtype: Dtype | None = None,
    vocabulary: str | Path | None = None,
    force: bool = False,
) -> None:
    """Writes a checkpoint in another layout, or another dtype, whole or not at all.

    Args:
        checkpoint: what `open_checkpoint` gave; a model that keras_sd cannot run yet can be
            converted all the same.
        out: the path of the file (`"original"`) or folder (the others) to write.
        to: the layout.
        dtype: of the numbers; None is as they are, bit for bit.
        vocabulary: path of CLIP's merges for a folder, where the checkpoint has none beside it.
        force: replace `out`. A folder is replaced if there is nothing in it but files that the new
            one has too.

    Raises:
        WeightsError: the checkpoint does not fit its config, a number is not finite in this dtype,
            or the layout has no way to say what the model is. Nothing was written.
        FileExistsError: there is something at `out` already that is not to be replaced.
        FileNotFoundError: there is no vocabulary; the message says how to get it.
        ValueError: `out` is a part of what is read, or no name for this layout.
    """
    out = Path(out)
    _check_place(checkpoint, out, to, force)
    checkpoint.check()
    config = checkpoint.config
    if to != "keras_sd" and (plain := _without_keras_cv(config)) != config:
        _log.warning(
            "KerasCV computes with other epsilons and another gelu than the model was trained "
            "with, which the layout %s cannot say: only the weights are KerasCV's in it.",
            to,
        )
        config = plain
    if to == "original":
        save_checkpoint(out, config, checkpoint.arrays(), dtype=dtype)
        return
    merges = tokenizer_of(checkpoint, vocabulary).merges
    about = {"license": checkpoint.license, "list of words": checkpoint.words}
    if lost := [name for name, value in about.items() if value is not None and to == "diffusers"]:
        _log.warning("The layout diffusers has no place for its %s.", " and its ".join(lost))
    with _new_folder(out) as folder:
        if to == "diffusers":
            write_folder(folder, config, checkpoint.arrays(), merges, dtype=dtype)
        else:
            save_preset(
                folder,
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


def _without_keras_cv(config: ModelConfig) -> ModelConfig:
    """The config as it was before `keras_cv` changed its arithmetic, if it did."""
    text = config.text_encoder
    gelu = "gelu" if text.activation == "gelu_tanh" else text.activation
    plain = replace(
        config,
        text_encoder=replace(text, activation=gelu),
        unet=replace(
            config.unet, transformer_epsilon=UNetConfig.transformer_epsilon, gelu=UNetConfig.gelu
        ),
        autoencoder=replace(config.autoencoder, epsilon=AutoencoderConfig.epsilon),
        pad_token="zero" if config.unet.linear_projection else "end",
    )
    return plain if keras_cv(plain) == config else config


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder to write to that becomes `out` at the end, or is gone if anything went wrong."""
    out = out.resolve()  # What a link leads to, and not the link, is replaced.
    new, old = (
        out.with_name(f".{out.name}.{secrets.token_hex(8)}.{kind}") for kind in ("new", "old")
    )
    new.mkdir(parents=True)
    try:
        yield new
        if not out.exists():
            new.rename(out)
            return
        if others := _files(out) - _files(new):
            raise FileExistsError(
                f"{out} has other files too, which would be lost: "
                f"{', '.join(sorted(map(str, others))[:_MAX_LISTED])}. Take another name"
            )
        out.rename(old)
        new.rename(out)
        shutil.rmtree(old)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


def _files(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()}
