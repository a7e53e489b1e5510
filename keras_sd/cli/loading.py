"""The options that say how a checkpoint is read, the same for every command that reads one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from keras_sd.cli.backends import Backend
from keras_sd.cli.terminal import Debug
from keras_sd.infotext import LOADING

Variant = Annotated[
    str | None,
    typer.Option(help="Which of several files for the same weights, such as fp16."),
]
Prediction = Annotated[
    Literal["epsilon", "v", "x0"] | None,
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
TextEncoder2 = Annotated[
    Path | None, typer.Option(help="A file or folder to take SDXL's second text encoder from.")
]
Refiner = Annotated[
    str | None,
    typer.Option(help="The model that ends a run, as --model says one: see --refine-at."),
]
Tiled = Annotated[
    bool,
    typer.Option("--tiled", help="Decode pictures above 256 pixels in strips, in less memory."),
]
LowMemory = Annotated[
    bool,
    typer.Option("--low-memory", help="Load each network when it is needed, one after another."),
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


@dataclass(frozen=True, kw_only=True)
class Options:
    """Those of every command that runs a model."""

    variant: Variant = None
    prediction: Prediction = None
    ema: Ema = False
    strict: Strict = False
    autoencoder: Autoencoder = None
    unet: Unet = None
    text_encoder: TextEncoder = None
    text_encoder_2: TextEncoder2 = None
    refiner: Refiner = None
    tiled: Tiled = False
    low_memory: LowMemory = False
    vocabulary: Vocabulary = None
    compat: Compat = None
    dtype: Dtype = None
    backend: Backend = None
    debug: Debug = False


def of(settings: Any) -> dict[str, Any]:
    """Those that were given, of an object with all of them; see `given`.

    Raises:
        ValueError: there is no such version of KerasCV.
    """
    found = given(**{name: getattr(settings, name) for name in (*LOADING, "low_memory")})
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
    if "refiner" in found and os.path.exists(found["refiner"]):  # a path goes before a name
        found["refiner"] = Path(found["refiner"])
    for name, value in found.items():
        if not isinstance(value, Path):
            continue
        file_only = name == "vocabulary"
        if not (value.is_file() if file_only else value.exists()):
            what = "file" if file_only else "file or folder"
            raise FileNotFoundError(f"--{name.replace('_', '-')}: there is no {what} {value}")
    return found


def told(options: dict[str, Any]) -> dict[str, Any]:
    """Those that a picture depends on, as its file has them."""
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in options.items()
        if name in LOADING
    }


def locate(model: str | Path, options: dict[str, Any]) -> None:
    """Finds the files of a model and of its refiner, which are fetched if need be. No Keras.

    Args:
        model: see `keras_sd.weights.presets.locate`, which has the errors.
        options: see `of`.
    """
    from keras_sd.weights.presets import locate

    needs = "vocabulary" not in options
    locate(model, options.get("variant"), needs_vocabulary=needs)
    if "refiner" not in options:
        return
    try:
        locate(options["refiner"], needs_vocabulary=needs)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"--refiner: {error}") from error


def fingerprints(source: str | Path, options: dict[str, Any]) -> dict[str, str]:
    """The SHA-256 of the files of a model by what they are, and of its refiner by `refiner`, or
    `refiner, unet` and the like where it is in several.

    Args:
        source: of the model, see `keras_sd.weights.presets.open_preset`, which has the errors.
        options: see `of`.
    """
    from keras_sd.weights import presets

    others = ("vocabulary", "dtype", "refiner", "tiled", "low_memory")
    files = {name: value for name, value in options.items() if name not in others}
    found = presets.fingerprints(presets.open_preset(source, needs_vocabulary=False, **files))
    if "refiner" in options:
        opened = presets.open_preset(options["refiner"], needs_vocabulary=False)
        for name, digest in presets.fingerprints(opened).items():
            found["refiner" if name == "model" else f"refiner, {name}"] = digest
    return found
