"""`keras-sd lab`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keras_sd.cli import backends
from keras_sd.cli.backends import Backend
from keras_sd.cli.terminal import Debug, runs_bar, say, table

if TYPE_CHECKING:
    from keras_sd.lab import Row


def lab(
    samplers: Annotated[
        str | None, typer.Option(help="Names with commas between. Default: all installed.")
    ] = None,
    schedules: Annotated[
        str | None, typer.Option(help="Names with commas between. Default: some of each kind.")
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(help="Numbers with commas. Default: 5,10,20,40, and 3,6,12 for --emoji."),
    ] = None,
    emoji: Annotated[
        bool, typer.Option("--emoji", help="Run them on the embedded model too; takes minutes.")
    ] = False,
    font: Annotated[
        Path | None, typer.Option(help="NotoColorEmoji.ttf, for --emoji. Default: look for it.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="A new folder. Default: named after the time.")
    ] = None,
    backend: Backend = None,
    debug: Debug = False,
) -> None:
    """Measure samplers: error against evaluations of the model, and with which schedule.

    On Gaussian mixtures, whose exact solution is known. Writes plots and CSV to a folder, prints
    a table.
    """
    from keras_sd.lab import (
        emoji_fidelity,
        mixture_errors,
        plot,
        plot_budget,
        sampling_floor,
        write_csv,
    )
    from keras_sd.lab.emoji import EMOJI_SCHEDULES, EMOJI_STEPS
    from keras_sd.lab.errors import SCHEDULES, STEPS, TABLE
    from keras_sd.lab.plots import NEEDED
    from keras_sd.lab.runs import chosen_samplers, chosen_schedules

    if find_spec("matplotlib") is None:
        raise ValueError(NEEDED)
    chosen, scales, counts = _words(samplers), _words(schedules), _counts(steps, len(TABLE))
    names = [name for name, _ in chosen_samplers(chosen)]
    if not names:
        raise ValueError("there is no sampler to measure: none is installed")
    chosen_schedules(scales or ())
    folder = output or Path(f"lab-{time.strftime('%Y%m%d-%H%M%S')}")
    if folder.exists():
        raise FileExistsError(f"--output: {folder} is there already; give a new folder")
    if emoji:
        from keras_sd.training.pictures import find_font

        find_font(font)
        backends.select(backend)
        backends.settle()

    with _made(folder):
        with runs_bar(len(names)) as done:
            rows = mixture_errors(chosen, scales or SCHEDULES, counts or STEPS, done=done)
        write_csv(rows, folder / "mixtures.csv")
    _show(rows)
    if not all(row.failure for row in rows):
        plot(rows, folder / "mixtures.png")
        plot_budget(rows, folder / "mixtures-budget.png")
    if any(row.measure == "w2" for row in rows):
        typer.echo(f"Exact samples have a Wasserstein-2 distance of {sampling_floor():.2g}.")
    if emoji:
        with runs_bar(len(names)) as done:
            rows = emoji_fidelity(
                chosen, scales or EMOJI_SCHEDULES, counts or EMOJI_STEPS, font=font, done=done
            )
        write_csv(rows, folder / "emoji.csv")
        _show(rows)
        for measure in ("latent", "subject"):
            some = [row for row in rows if row.measure == measure]
            if not all(row.failure for row in some):
                plot(some, folder / f"emoji-{measure}.png")
                plot_budget(some, folder / f"emoji-{measure}-budget.png")
    say(f"{folder} has everything")


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """A new folder, made before the work whose results it is for; none is left behind empty."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # there is something in one of them
            for each in missing:
                each.rmdir()
        raise


def _words(text: str | None) -> list[str] | None:
    if text is None:
        return None
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise ValueError(f"{text!r} names nothing; give names with commas between")
    return words


def _counts(text: str | None, most: int) -> list[int] | None:
    words = _words(text)
    if words is None:
        return None
    if odd := [word for word in words if not word.isdecimal() or int(word) < 1]:
        raise ValueError(f"--steps: {odd[0]!r} is no number of steps, as in 5,10,20")
    counts = sorted({int(word) for word in words})
    if counts[-1] > most:
        raise ValueError(
            f"--steps: {counts[-1]} is more than the {most} timesteps that models are trained on"
        )
    return counts


def _show(rows: Sequence[Row]) -> None:
    """A table a measure: of each sampler and number of steps the best schedule; then what went
    wrong.
    """
    from keras_sd.lab.rows import MEASURES

    for measure in dict.fromkeys(row.measure for row in rows):
        typer.echo(f"{MEASURES[measure].title}, with the best schedule:")
        for line in table(list(_table([row for row in rows if row.measure == measure]))):
            typer.echo(line)
        typer.echo()
    wrong = Counter((row.sampler, row.failure) for row in rows if row.failure)
    for (sampler, failure), count in wrong.items():
        say(f"note: {sampler} failed in {count} run{'s' if count > 1 else ''}: {failure}")


def _table(rows: Sequence[Row]) -> Iterator[list[str]]:
    from keras_sd.lab import best

    counts = list(dict.fromkeys(row.steps for row in rows))
    yield ["sampler", "evaluations", *(f"{count} steps" for count in counts)]
    for name in dict.fromkeys(row.sampler for row in rows):
        found = [
            best([row for row in rows if (row.sampler, row.steps) == (name, count)])
            for count in counts
        ]
        yield [
            name,
            "/".join(str(row.evaluations) if row else "-" for row in found),
            *(f"{row.value:.3g} {row.schedule}" if row else "failed" for row in found),
        ]
