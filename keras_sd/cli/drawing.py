"""The options that every command that draws has, said once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from keras_sd.cli import loading
from keras_sd.cli.backends import Backend
from keras_sd.cli.terminal import Debug

Prompt = Annotated[str, typer.Argument(help="What the picture shows.")]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What was asked for on the command line, by the names of the options."""

    model: Annotated[
        str,
        typer.Option(
            help="A name that `keras-sd models` lists, the path of a file or folder, or "
            "hf://owner/name."
        ),
    ] = "emoji"
    negative: Annotated[str | None, typer.Option(help="What it shall not show.")] = None
    sampler: Annotated[
        str | None,
        typer.Option(
            help='See `keras-sd samplers`, or as web UIs have it: "DPM++ 2M Karras". Default: the '
            "model's."
        ),
    ] = None
    schedule: Annotated[
        str | None,
        typer.Option(
            help="How noise levels are spread, see `keras-sd schedules`. Default: the model's."
        ),
    ] = None
    steps: Annotated[
        int | None, typer.Option(min=1, help="Sampler steps. Default: the model's.")
    ] = None
    guidance: Annotated[
        float | None, typer.Option(help="How closely to follow the prompt. Default: the model's.")
    ] = None
    guidance_rescale: Annotated[
        float,
        typer.Option(min=0, max=1, help="Against colours that guidance overdoes: 0.7, say."),
    ] = 0.0
    guidance_interval: Annotated[
        tuple[float, float] | None,
        typer.Option(help="Lowest and highest sigma / alpha with guidance. Default: all."),
    ] = None
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**64 - 1, help="Same seed, same picture. Default: a new one."),
    ] = None
    count: Annotated[int, typer.Option(min=1, help="Number of pictures.")] = 1
    size: Annotated[
        str | None,
        typer.Option(help="Pixels: WIDTHxHEIGHT, or one number for both. Default: the model's."),
    ] = None
    output: Annotated[
        Path | None,
        typer.Option(
            help="A .png file, or a folder. Default: a new name here, made from the prompt."
        ),
    ] = None
    variant: loading.Variant = None
    prediction: loading.Prediction = None
    ema: loading.Ema = False
    autoencoder: loading.Autoencoder = None
    unet: loading.Unet = None
    text_encoder: loading.TextEncoder = None
    vocabulary: loading.Vocabulary = None
    compat: Annotated[
        str | None,
        typer.Option(help="Draw as KerasCV did: keras_cv, or a version as keras_cv==0.9."),
    ] = None
    dtype: Annotated[
        Literal["float32", "mixed_float16", "mixed_bfloat16", "float16", "bfloat16"] | None,
        typer.Option(help="Of the networks, a Keras policy. Default: as Keras is configured."),
    ] = None
    backend: Backend = None
    debug: Debug = False


def draws(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameter `settings` is spread over the options of `Settings`."""
    own = inspect.signature(command, eval_str=True)
    shared = inspect.signature(Settings, eval_str=True).parameters

    @functools.wraps(command)
    def spread(**options: object) -> None:
        settings = {name: options.pop(name) for name in shared}
        command(**options, settings=Settings(**settings))  # type: ignore[arg-type]

    parameters = {**own.parameters, **shared}
    del parameters["settings"]
    by_name = [each.replace(kind=each.KEYWORD_ONLY) for each in parameters.values()]
    spread.__signature__ = own.replace(parameters=by_name)  # type: ignore[attr-defined]
    return spread
