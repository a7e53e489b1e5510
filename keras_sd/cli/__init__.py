"""The `keras-sd` command; each module has the commands that belong together.

Nothing heavy is imported before it is needed: `--help` and `samplers` need neither Keras nor NumPy,
what only reads files needs no Keras, and what draws checks all it can before it imports Keras,
which takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from keras_sd import __version__
from keras_sd.cli.benchmark import benchmark
from keras_sd.cli.checkpoints import convert, fetch, inspect, models
from keras_sd.cli.draw import generate, guidance, image_to_image, inpaint, samplers, schedules
from keras_sd.cli.draw_file import draw_file
from keras_sd.cli.lab import lab
from keras_sd.cli.new_sampler import new_sampler
from keras_sd.cli.plan import plan
from keras_sd.cli.prompt import prompt
from keras_sd.cli.replay import info, replay
from keras_sd.cli.serve import serve
from keras_sd.cli.terminal import run
from keras_sd.cli.train import train, train_emoji
from keras_sd.cli.verify import verify
from keras_sd.cli.warmup import warmup

app = typer.Typer(
    name="keras-sd",
    help="Stable Diffusion for Keras 3: pictures from a prompt, on TensorFlow, JAX or torch.",
    add_completion=False,
    # Plain help: rich would double the time that --help takes.
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    if version:
        typer.echo(f"keras-sd {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


for _command in (
    generate,
    image_to_image,
    inpaint,
    draw_file,
    info,
    replay,
    samplers,
    schedules,
    guidance,
    prompt,
    models,
    fetch,
    inspect,
    convert,
    verify,
    new_sampler,
    lab,
    plan,
    benchmark,
    warmup,
    serve,
    train,
    train_emoji,
):
    app.command(_command.__name__.replace("_", "-"))(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: What follows `keras-sd`; the process's own arguments if None.

    Returns:
        The exit status: 0, 2 for bad input, 1 for another failure, 130 when stopped by Ctrl-C.
    """
    return run(app, "keras-sd", arguments)
