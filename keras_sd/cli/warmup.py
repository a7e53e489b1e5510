"""`keras-sd warmup`."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from keras_sd.cli import backends, loading
from keras_sd.cli.drawing import draws
from keras_sd.cli.terminal import say


@draws(options=loading.Options)
def warmup(
    model: Annotated[str, typer.Option(help="What `keras-sd generate` takes.")] = "emoji",
    size: Annotated[
        list[str] | None,
        typer.Option(help="WIDTHxHEIGHT, or one number; several times. Default: the model's."),
    ] = None,
    count: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Pictures of a request; several times. Default: 1."),
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="As in the requests to come; 1 is another program.")
    ] = None,
    *,
    settings: loading.Options,
) -> None:
    """Compile a model for pictures to come, and keep that on disk: their first is quicker then.

    Prints the folder. It is for jax and TensorFlow: torch keeps nothing on disk.
    """
    from keras_sd.cli.draw import loaded, parse_size
    from keras_sd.executables import VARIABLE
    from keras_sd.forms import blank_request, request_of

    options = loading.of(settings)
    wanted: list[dict[str, Any]] = []
    sizes: list[str | None] = [*size] if size else [None]
    for text in sizes:
        width, height = parse_size(text)
        given: dict[str, Any] = {} if text is None else {"width": width, "height": height}
        if guidance is not None:
            given["guidance_scale"] = guidance
        request_of("", **given)
        wanted += [{"count": number, **given} for number in count or [1]]
    backends.select(settings.backend)
    backends.settle()
    from keras_sd.backend import NAME, keep_executables

    if NAME not in ("jax", "tensorflow"):
        raise ValueError(f"{NAME} keeps nothing on disk, so there is nothing to warm up")
    if (folder := keep_executables()) is None:
        raise ValueError(
            f"What is compiled is not kept: {VARIABLE} is 'off', or its folder cannot be written to"
        )
    pipeline, _ = loaded(model, options)
    for each in wanted:
        began = time.perf_counter()
        drawn, tall, wide, _ = pipeline.draw(blank_request(pipeline.model, **each)).shape
        took = time.perf_counter() - began
        say(f"{wide}x{tall}, {drawn} picture{'s' if drawn > 1 else ''}: {took:.1f} s")
    typer.echo(folder)
