"""The options that say how a checkpoint is read, the same for every command that reads one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

Variant = Annotated[
    str | None,
    typer.Option(help="Which of several files for the same weights, such as fp16."),
]
Prediction = Annotated[
    Literal["epsilon", "v"] | None,
    typer.Option(help="What the UNet predicts, for a file that does not say it."),
]
Ema = Annotated[
    bool,
    typer.Option("--ema", help="Take the averaged weights of the UNet, where a file has both."),
]
Strict = Annotated[
    bool,
    typer.Option("--strict", help="Refuse a checkpoint with any tensor that is not known."),
]
Autoencoder = Annotated[
    Path | None, typer.Option(help="A file or folder to take the autoencoder (VAE) from.")
]
Unet = Annotated[Path | None, typer.Option(help="A file or folder to take the UNet from.")]
TextEncoder = Annotated[
    Path | None, typer.Option(help="A file or folder to take the text encoder from.")
]
Vocabulary = Annotated[
    Path | None,
    typer.Option(help="CLIP's merges, where none lie beside the weights: .txt or .txt.gz."),
]


def given(**options: Any) -> dict[str, Any]:
    """The options that were given, each path among them known to be there.

    Raises:
        FileNotFoundError: one is not; the message names its option.
    """
    found = {name: value for name, value in options.items() if value not in (None, False)}
    for name, value in found.items():
        if not isinstance(value, Path):
            continue
        file_only = name == "vocabulary"
        if not (value.is_file() if file_only else value.exists()):
            what = "file" if file_only else "file or folder"
            raise FileNotFoundError(f"--{name.replace('_', '-')}: there is no {what} {value}")
    return found
