"""`keras-sd benchmark`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from keras_sd.cli import backends
from keras_sd.cli.backends import Backend
from keras_sd.cli.terminal import Debug, Json


def benchmark(
    model: Annotated[str, typer.Option(help="What `keras-sd generate` takes.")] = "emoji",
    prompt: Annotated[str, typer.Option(help="What is drawn.")] = "a cat face on a blue background",
    backend: Backend = None,
    dtype: Annotated[
        str | None, typer.Option(help="The dtype policy, such as mixed_float16.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 1,
    size: Annotated[
        str | None, typer.Option(help="WIDTHxHEIGHT, or one number. Default: the model's.")
    ] = None,
    steps: Annotated[int, typer.Option(min=2, help="Of each picture.")] = 20,
    warm: Annotated[int, typer.Option(min=1, help="Pictures after the first.")] = 5,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Measure how long a picture takes here: the first, the next ones, and a step of one."""
    from keras_sd.benchmark import measure
    from keras_sd.cli.draw import parse_size

    width, height = parse_size(size)
    asked: dict[str, Any] = {} if size is None else {"width": width, "height": height}
    backends.select(backend)
    backends.settle()
    times = measure(
        model, prompt, dtype=dtype, num_steps=steps, warm=warm, batch_size=batch, **asked
    )
    if json_:
        typer.echo(json.dumps(times.as_json(), indent=1))
    else:
        typer.echo("\n".join(times.lines()))
