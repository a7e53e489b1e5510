"""What the command says: lines on stderr, tables, progress bars. Nothing heavy is imported here."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.main import get_command

if TYPE_CHECKING:
    from rich.progress import Progress

    from keras_sd.sampling import Step

Json = Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def printable(text: str) -> str:
    """The text in one line, and nothing in it that a terminal would obey: names of tensors and the
    like come from files, and may be made to move the cursor. Such characters stand as escapes.
    """
    line = " ".join(text.splitlines()) if "\n" in text else text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)


def say(line: str) -> None:
    """A line on stderr: stdout is for what was asked for."""
    typer.echo(printable(line), err=True)


def report(error: Exception) -> int:
    """Print an error in one line and return the exit status it deserves."""
    # Typer's own errors, about the command line, bring a message and a status.
    usage: Any = getattr(error, "format_message", None)
    message = " ".join((usage() if usage else str(error)).split()) or type(error).__name__
    if usage:
        say(f"error: {message}")
        return int(getattr(error, "exit_code", 2))
    if isinstance(error, (ValueError, TypeError, FileNotFoundError, FileExistsError)):
        say(f"error: {message}")
        return 2
    if isinstance(error, OSError):
        say(f"error: {message}")
        return 1
    say(f"error: {type(error).__name__}: {message} (--debug shows where)")
    return 1


def run(app: typer.Typer, name: str, arguments: Sequence[str] | None) -> int:
    """Run a command.

    Args:
        app: with its commands.
        name: what it is called in its help.
        arguments: What follows the name; the process's own arguments if None.

    Returns:
        The exit status: 0, 2 for bad input, 1 for another failure, 130 when stopped by Ctrl-C.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        with notes():
            status = get_command(app).main(arguments, prog_name=name, standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        status = 130
    except Exception as error:
        if "--debug" in arguments:
            raise
        status = report(error)
    if status == 130:
        say("stopped")
    return status if isinstance(status, int) else 0


@contextmanager
def notes() -> Iterator[None]:
    """Show what the library logs, unknown words of a prompt for one, as notes on stderr."""
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: say(f"note: {record.getMessage()}")  # type: ignore[method-assign]
    logger = logging.getLogger("keras_sd")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a table whose columns are as wide as they have to be."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def size(count: int) -> str:
    """Bytes for people, as shops and download pages count them: 4265146304 is "4.27 GB"."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count} bytes"


@contextmanager
def steps_bar() -> Iterator[Callable[[Step], None]]:
    """A bar of sampler steps, if stderr is a terminal; yields the callback that moves it. How many
    are run, the first of them says.
    """
    with _bar() as progress:
        if progress is None:
            yield lambda step: None
            return
        # The first step compiles the model, which can take longer than all the others together.
        task = progress.add_task("preparing", total=None)

        def advance(step: Step) -> None:
            progress.update(task, description="drawing", completed=step.index, total=step.total)

        yield advance


@contextmanager
def bytes_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """A bar of bytes, if stderr is a terminal; yields what is called with (done, total)."""
    with _bar(of_bytes=True) as progress:
        if progress is None:
            yield lambda done, total: None
            return
        task = progress.add_task(description, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def runs_bar(total: int) -> Iterator[Callable[[str], None]]:
    """A bar of runs, or a line for each where stderr is no terminal; yields what is called with the
    name of the one that is done.
    """
    with _bar() as progress:
        if progress is None:
            numbers = iter(range(1, total + 1))
            yield lambda name: say(f"{next(numbers)}/{total} {name}")
            return
        task = progress.add_task("measuring", total=total)
        yield lambda name: progress.update(task, description=name, advance=1)


@contextmanager
def rows_bar(total: int, done: int) -> Iterator[Callable[[int], None]]:
    """A bar of a table's rows, if stderr is a terminal; yields what is called with how many more
    are done.
    """
    with _bar() as progress:
        if progress is None:
            yield lambda count: None
            return
        task = progress.add_task("drawing", total=total, completed=done)
        yield lambda count: progress.update(task, advance=count)


@contextmanager
def _bar(of_bytes: bool = False) -> Iterator[Progress | None]:
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn() if of_bytes else MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield progress
