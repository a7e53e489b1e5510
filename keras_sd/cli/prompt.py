"""`keras-sd prompt`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from keras_sd.checks import whole
from keras_sd.cli import loading
from keras_sd.cli.terminal import Debug, Json, printable
from keras_sd.prompt_styles import STYLES


def prompt(
    text: Annotated[str, typer.Argument(help="The prompt.")],
    style: Annotated[
        str, typer.Option(help=f"Whose grammar it is written in: {', '.join(STYLES)}.")
    ] = "plain",
    steps: Annotated[int, typer.Option(help="Sampler steps, which edits are spread over.")] = 20,
    model: Annotated[
        str, typer.Option(help="Whose tokens are counted: a name, a path, or hf://owner/name.")
    ] = "emoji",
    vocabulary: loading.Vocabulary = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Show how a prompt is understood: weights, chunks of tokens, edits over the steps, tags.

    Loads no backend.
    """
    from keras_sd.prompts import explain, parse
    from keras_sd.weights.presets import open_preset
    from keras_sd.weights.vocabulary import tokenizer_of

    whole("--steps", steps, 1, 1_000_000)
    read = parse(text, style)
    loading.given(vocabulary=vocabulary)
    checkpoint = open_preset(model, needs_vocabulary=vocabulary is None)
    tokenizer = tokenizer_of(checkpoint, vocabulary)
    room = tokenizer.max_length - 2
    explained = explain(read, tokenizer.words, room=room, num_steps=steps)
    if json_:
        typer.echo(json.dumps(explained.to_dict(), indent=1))
        return
    for line in str(explained).splitlines():
        typer.echo(printable(line))
