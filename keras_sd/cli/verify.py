"""`keras-sd verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from keras_sd.cli import addons, backends, loading
from keras_sd.cli.drawing import draws
from keras_sd.cli.terminal import Json, printable


@draws(options=loading.Options)
def verify(
    adapter: Annotated[str, typer.Argument(help="A LoRA file: FILE, or FILE:STRENGTH.")],
    model: Annotated[str, typer.Option(help="What `keras-sd generate` takes.")] = "emoji",
    prompt: Annotated[str, typer.Option(help="Of the prediction that is compared.")] = "",
    json_: Json = False,
    *,
    settings: loading.Options,
) -> None:
    """Measure what an adapter does to a model: to its weights, and to one prediction.

    Exits with status 1 where it does nothing, or where a weight is not as before after it.
    """
    from keras_sd.cli.draw import loaded

    options = loading.of(settings)
    ((opened, strength, _),) = addons.given([adapter], None).adapters
    backends.select(settings.backend)
    pipeline, _ = loaded(model, options)
    from keras_sd.effect import effect_of

    found = effect_of(pipeline.model, (opened, strength), prompt)
    if json_:
        typer.echo(json.dumps(found.as_json(), indent=1))
    else:
        typer.echo(printable(f"{Path(opened.path).name} at strength {strength:g} in {model}"))
        for part, each in found.parts.items():
            typer.echo(
                f"{part}: {each.weights} weights changed, by {each.median:.2%} of their length "
                f"(median), {each.largest:.2%} at most ({each.where})"
            )
        typer.echo(f"first prediction: changed by {found.prediction:.2%} of its length")
        typer.echo(f"taken out: {'as before, bit for bit' if found.restored else 'NOT as before'}")
    if not found.prediction or not found.restored:
        raise typer.Exit(1)
