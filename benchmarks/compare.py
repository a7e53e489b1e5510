"""How long a picture takes, here and in other programs, on the same weights.

python benchmarks/compare.py --help
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_sd.cli import backends
from keras_sd.cli.terminal import Debug, run, runs_bar, say

_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compare(
    model: Annotated[
        str,
        typer.Option(
            help="emoji; random-sd-1.5 or random-sd-2.1, which are made on the spot with random "
            "weights; or what `keras-sd generate` takes."
        ),
    ] = "emoji",
    backend: Annotated[
        str | None,
        typer.Option(help="Of keras_sd, with commas between. Default: those installed."),
    ] = None,
    system: Annotated[
        str | None,
        typer.Option(
            help="keras_sd, diffusers, keras_cv, with commas between. Default: those that are "
            "installed, or whose Python is named."
        ),
    ] = None,
    variants: Annotated[
        str | None,
        typer.Option(help="Rows: standard, mixed, xla, xla-mixed, with commas between."),
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="Of the mixed rows: mixed_float16, mixed_bfloat16, ...")
    ] = "mixed_float16",
    prompt: Annotated[str | None, typer.Option(help="Default: one that fits the model.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 1,
    size: Annotated[
        str | None, typer.Option(help="WIDTHxHEIGHT, or one number. Default: the model's.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Of DDIM. Default: the model's.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="Processes for each row.")] = 5,
    warm: Annotated[int, typer.Option(min=1, help="Warm pictures in each process.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Processors for each.")] = _CORES,
    output: Annotated[
        Path | None, typer.Option(help="A new folder. Default: named after model and time.")
    ] = None,
    diffusers_python: Annotated[
        str | None, typer.Option(help="Interpreter of an environment with diffusers.")
    ] = None,
    keras_cv_python: Annotated[
        str | None, typer.Option(help="Interpreter of an environment with keras-cv 0.9.")
    ] = None,
    twice: Annotated[
        bool, typer.Option("--twice", help="Measure the first row twice, to see the noise.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds for one process.")] = 3600.0,
    history: Annotated[
        Path | None,
        typer.Option(help="A file that the result is added to; says what changed since the last."),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the weights that are made.")] = False,
    debug: Debug = False,
) -> None:
    """Measure how long a picture takes, beside other programs on the same weights.

    Writes results.json, table.md, plot.png and a picture of each row to a folder, prints the table.
    """
    from comparison.cases import SYSTEMS, VARIANTS
    from keras_sd.cli.draw import parse_size

    width, height = parse_size(size)
    installed = backends.installed()
    chosen = _names("backend", backend, backends.BACKENDS) or installed
    if missing := [name for name in chosen if name not in installed]:
        raise ValueError(f"--backend: {', '.join(missing)} is not installed")
    if not chosen:
        there = ", ".join(backends.BACKENDS)
        raise ValueError(f"No backend is installed; keras_sd runs on {there}")
    pythons = _pythons(
        _names("system", system, SYSTEMS),
        {"diffusers": diffusers_python, "keras_cv": keras_cv_python},
    )
    from comparison import table
    from comparison.cases import cases_of
    from comparison.history import append, entry
    from comparison.session import Settings
    from comparison.session import benchmark as measure

    settings = Settings(
        model=model,
        output=output or Path(f"benchmark-{Path(model).name}-{time.strftime('%Y%m%d-%H%M%S')}"),
        pythons=pythons,
        backends=tuple(chosen),
        threads=threads,
        variants=tuple(_names("variants", variants, tuple(VARIANTS)) or VARIANTS),
        dtype=dtype,
        prompt=prompt,
        batch=batch,
        height=height,
        width=width,
        steps=steps,
        runs=runs,
        warm=warm,
        timeout=timeout,
        twice=twice,
        keep=keep,
    )
    count = runs * len(
        cases_of(pythons, chosen, settings.variants, settings.dtype, twice=settings.twice)
    )
    with runs_bar(count) as advance:

        def done(case: Any, error: str | None) -> None:
            advance(case.name)
            if error is not None:
                say(f"note: {case.name} failed: {error}")

        results = measure(settings, say, done)
    typer.echo(table.markdown(results))
    if history is not None:
        for line in append(history, entry(results, _commit())):
            typer.echo(line)
    say(f"{settings.output} has everything")


def _commit() -> str | None:
    """The commit of the source tree that this file is in."""
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _names(option: str, text: str | None, known: tuple[str, ...]) -> list[str]:
    """The names in an option, each one of those that there are; none where it was not given."""
    found = [] if text is None else [name.strip() for name in text.split(",")]
    if odd := [name for name in found if name not in known]:
        raise ValueError(f"--{option}: {', '.join(odd)!r}; there are {', '.join(known)}")
    return [name for name in known if name in found]


def _pythons(asked: list[str], given: dict[str, str | None]) -> dict[str, str]:
    """The interpreter of each system that is measured."""
    found = {"keras_sd": sys.executable}
    for system, python in given.items():
        if python is not None:
            found[system] = python
        elif importlib.util.find_spec(system) is not None:
            found[system] = sys.executable
    if missing := [name for name in asked if name not in found]:
        options = ", ".join(f"--{name.replace('_', '-')}-python" for name in missing)
        raise ValueError(
            f"--system: {', '.join(missing)} is not installed here; {options} names the Python of "
            "an environment that has it"
        )
    return {name: python for name, python in found.items() if not asked or name in asked}


app = typer.Typer(add_completion=False, rich_markup_mode=None)
app.command()(compare)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command: `keras_sd.cli.terminal.run`."""
    return run(app, "compare.py", arguments)


if __name__ == "__main__":
    sys.exit(main())
