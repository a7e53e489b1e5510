"""The options that say how a checkpoint is read, the same for every command that reads one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from keras_sd.infotext import LOADING

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
Compat = Annotated[
    str | None,
    typer.Option(help="Draw as KerasCV did: keras_cv, or a version as keras_cv==0.9."),
]
Dtype = Annotated[
    Literal["float32", "mixed_float16", "mixed_bfloat16", "float16", "bfloat16"] | None,
    typer.Option(help="Of the networks, a Keras policy. Default: as Keras is configured."),
]


def of(settings: Any) -> dict[str, Any]:
    """Those that were given, of an object with all of them; see `given`.

    Raises:
        ValueError: there is no such version of KerasCV.
    """
    found = given(**{name: getattr(settings, name) for name in LOADING})
    if "compat" in found:
        from keras_sd import compat

        compat.get(found["compat"])
    return found


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
