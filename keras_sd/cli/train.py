"""`keras-sd train-emoji`: everything about it is in keras_sd.training.emoji."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keras_sd.cli import backends
from keras_sd.cli.backends import Backend
from keras_sd.cli.terminal import Debug


def train_emoji(
    output: Annotated[
        Path, typer.Argument(help="Folder for checkpoints, sample sheets and the finished preset.")
    ],
    font: Annotated[
        Path | None, typer.Option(help="NotoColorEmoji.ttf. Default: look for it.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same training.")] = 0,
    backend: Backend = None,
    debug: Debug = False,
) -> None:
    """Train the embedded model again, from the emoji font; goes on where it was stopped."""
    backends.select(backend)
    backends.silence()
    from keras_sd.training.emoji import main_train

    main_train(output=output, font=font, seed=seed)
