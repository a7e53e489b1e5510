"""`keras-sd new-sampler`: everything about it is in keras_sd.new_sampler."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keras_sd.cli.terminal import Debug, say


def new_sampler(
    name: Annotated[str, typer.Argument(help="Of the sampler and its distribution: acme-heun.")],
    output: Annotated[
        Path | None, typer.Option(help="A new folder. Default: NAME, in the current one.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Write a distribution with a sampler of your own, which works; print its path.

    It registers the sampler, and has tests for the three backends.
    """
    from keras_sd.new_sampler import Names
    from keras_sd.new_sampler import new_sampler as write

    folder = write(name, output)
    typer.echo(folder)
    names = Names.of(name)
    say(
        f"the method is in {folder / 'src' / names.package / '__init__.py'}; "
        f'pip install -e "{folder}[test]", then pytest {folder}'
    )
