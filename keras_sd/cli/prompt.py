"""`keras-sd prompt`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from keras_sd.checks import whole
from keras_sd.cli import addons, loading
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
    embeddings: addons.Embeddings = None,
    negative: Annotated[
        bool, typer.Option("--negative", help="Read it as a negative prompt, which has no AND.")
    ] = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Show how a prompt is understood: weights, chunks of tokens, edits over the steps, tags.

    Loads no backend.
    """
    from keras_sd.embeddings.using import named_in
    from keras_sd.prompts import explain, parse
    from keras_sd.weights.presets import open_preset
    from keras_sd.weights.vocabulary import tokenizer_of

    whole("--steps", steps, 1, 1_000_000)
    read = parse(text, style, negative=negative)
    loading.given(vocabulary=vocabulary)
    named = addons.given(None, embeddings).embeddings
    checkpoint = open_preset(model, needs_vocabulary=vocabulary is None)
    tokenizer = tokenizer_of(checkpoint, vocabulary)
    with addons.naming("--embedding"):
        tokenizer = named_in(checkpoint.config, tokenizer, *named)
    room = tokenizer.max_length - 2
    explained = explain(read, tokenizer.words, room=room, num_steps=steps)
    if json_:
        typer.echo(json.dumps(explained.to_dict(), indent=1))
        return
    for line in str(explained).splitlines():
        typer.echo(printable(line))
