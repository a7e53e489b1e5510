"""`keras-sd train` and `keras-sd train-emoji`: all about them is in `keras_sd.training`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keras_sd.cli import backends
from keras_sd.cli.backends import Backend
from keras_sd.cli.terminal import Debug, say


def train(
    config: Annotated[Path, typer.Option(help="TOML file: see docs/training.md for its settings.")],
    check: Annotated[
        bool, typer.Option("--check", help="Look at settings and pictures, and train nothing.")
    ] = False,
    backend: Backend = None,
    debug: Debug = False,
) -> None:
    """Train a model, a LoRA or a word on pictures of your own; goes on where it was stopped."""
    from keras_sd.training.config import read_config

    settings = read_config(config)
    backends.select(backend)
    backends.settle()
    from keras_sd.training import run

    if check:
        _, examples = run.check(settings)
        say(f"{len(examples)} pictures, {settings.train.steps} steps of {settings.train.method}")
        return
    run.train(settings, report=say)


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
    backends.settle()
    from keras_sd.training.emoji import main_train

    main_train(output=output, font=font, seed=seed)
