"""`keras-sd plan`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_sd.cli import loading
from keras_sd.cli.drawing import FewSteps, Model, draws, flag_of
from keras_sd.cli.terminal import Json, say, table
from keras_sd.request import Request


@dataclass(frozen=True, kw_only=True)
class _Options(loading.Options):
    """Those that `keras-sd generate` has too."""

    model: Model = "emoji"
    count: Annotated[int, typer.Option(min=1, help="Number of pictures.")] = 1
    size: Annotated[
        str | None,
        typer.Option(help="Pixels: WIDTHxHEIGHT, or one number for both. Default: the model's."),
    ] = None
    few_steps: FewSteps = None
    control: Annotated[
        list[Path] | None, typer.Option(help="A ControlNet; several times for several.")
    ] = None


@draws(Request, options=_Options)
def plan(
    memory: Annotated[
        float | None,
        typer.Option(help="GB to plan for. Default: what is free on this machine."),
    ] = None,
    json_: Json = False,
    *,
    given: dict[str, Any],
    settings: _Options,
) -> None:
    """Say what `keras-sd generate` with these options takes, memory and time, and draw nothing.

    Loads no weights and no backend. Exit status: 0 when it fits or nobody knows, 2 when it does
    not; then the error says what would.
    """
    from keras_sd import planning
    from keras_sd.checks import SettingError
    from keras_sd.cli.draw import parse_size

    width, height = parse_size(settings.size)
    if settings.size is not None:
        given = {**given, "width": width, "height": height}
    options = loading.of(settings)
    try:
        found = planning.plan(
            settings.model,
            batch_size=settings.count,
            few_steps=settings.few_steps,
            dtype=settings.dtype,
            backend=settings.backend,
            low_memory=settings.low_memory,
            tiled=settings.tiled,
            refiner=options.get("refiner"),
            control=settings.control or (),
            variant=settings.variant,
            memory=None if memory is None else memory * 1e9,
            **given,
        )
    except SettingError as error:
        name = {"dtype": "--dtype", "backend": "--backend", "memory": "--memory"}.get(error.name)
        name = name or flag_of(error.name)
        raise ValueError(f"{name} {error.problem}") from error
    if json_:
        typer.echo(json.dumps(found.as_json(), indent=1))
    else:
        typer.echo(found.title)
        for line in table(found.rows()):
            typer.echo(line)
        for note in found.notes:
            say(f"note: {note}")
    found.check()
