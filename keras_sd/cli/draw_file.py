"""`keras-sd draw-file`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_sd import __version__
from keras_sd.cli import backends, loading
from keras_sd.cli.draw import parse_size
from keras_sd.cli.drawing import FewSteps, Model, draws
from keras_sd.cli.terminal import rows_bar, say
from keras_sd.request import Request
from keras_sd.start import Masking, Start

if TYPE_CHECKING:
    from keras_sd.tables.rows import Row


@dataclass(frozen=True, kw_only=True)
class FileOptions(loading.Options):
    """What was asked for on the command line, by the names of the options."""

    output: Annotated[
        Path, typer.Option(help="A folder: a new one, or one that this table was begun in.")
    ]
    model: Model = "emoji"
    negative: Annotated[str | None, typer.Option(help="Of rows that have none.")] = None
    size: Annotated[
        str | None, typer.Option(help="Likewise: WIDTHxHEIGHT, or one number for both.")
    ] = None
    few_steps: FewSteps = None
    seed: Annotated[
        int, typer.Option(min=0, max=2**63, help="Of the first row; each has one more.")
    ] = 0
    batch: Annotated[
        int, typer.Option(min=1, max=256, help="Rows drawn at once, if they differ in text alone.")
    ] = 4
    skip_wrong: Annotated[
        bool, typer.Option("--skip-wrong", help="Leave rows out that have a fault.")
    ] = False
    ray: Annotated[bool, typer.Option("--ray", help="Draw in the processes of a Ray cluster.")] = (
        False
    )
    ray_address: Annotated[
        str | None, typer.Option(help="Of the cluster. Default: one on this machine.")
    ] = None
    actors: Annotated[int, typer.Option(min=1, help="Models, with --ray.")] = 1


@draws(Request, Start, Masking, options=FileOptions)
def draw_file(
    table: Annotated[
        Path, typer.Argument(help="CSV, JSON lines or Parquet with a column prompt, or .txt.")
    ],
    *,
    given: dict[str, Any],
    settings: FileOptions,
) -> None:
    """Draw a picture of every row of TABLE into a folder, and a manifest.

    Cut off, and called again, it draws what is left. Options are for rows without their own.
    """
    from keras_sd.tables.record import MANIFEST, Record
    from keras_sd.tables.rows import chunks_of, read_rows
    from keras_sd.weights.readers import sha256

    # 1. What can be known without Keras.
    options = loading.of(settings)
    width, height = parse_size(settings.size)
    known: dict[str, Any] = {"width": width, "height": height, "negative_prompt": settings.negative}
    known["few_steps"] = settings.few_steps
    known |= {name: each for name, each in given.items() if each != _default(name)}
    defaults = {name: each for name, each in known.items() if each is not None}
    rows = read_rows(table, settings.seed, defaults)
    wrong = [row for row in rows if row.request is None]
    if wrong and not settings.skip_wrong:
        told = "\n".join(f"  row {row.number}: {row.error}" for row in wrong[:10])
        more = f"\n  and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        raise ValueError(
            f"{len(wrong)} of {len(rows)} rows are wrong (--skip-wrong leaves them out):\n"
            f"{told}{more}"
        )
    record = Record(settings.output)
    backends.select(settings.backend)
    # 2. What is left of it.
    source, made = _made(settings.model, options)
    job = {**made, "table": sha256(table), "batch": settings.batch, "seed": settings.seed}
    job["defaults"] = {name: str(each) for name, each in sorted(defaults.items())}
    with record.alone(job):
        done = record.done()
        chunks = chunks_of(rows, settings.batch)
        left = [chunk for chunk in chunks if chunk[0].number not in done]
        if done:
            say(f"note: {len(done)} rows are done, {sum(map(len, left))} are left")
        # 3. The pictures.
        if left:
            with rows_bar(len(rows) - len(wrong), len(done)) as advance:
                for count, _ in _drawn(left, source, options, settings, made):
                    advance(count)
        pictures, failed = record.finish(wrong)
    typer.echo(settings.output / MANIFEST)
    say(f"{pictures} pictures, {failed} rows without one")
    if failed > len(wrong):
        raise RuntimeError(f"{failed - len(wrong)} rows could not be drawn; the manifest says why")


def _drawn(
    chunks: list[list[Row]],
    source: Any,
    options: dict[str, Any],
    settings: FileOptions,
    made: dict[str, Any],
) -> Iterator[tuple[int, int]]:
    if settings.ray:
        from keras_sd.tables.on_ray import draw_on_ray

        folder = settings.output.absolute()
        ray: dict[str, Any] = {"actors": settings.actors, "address": settings.ray_address}
        yield from draw_on_ray(chunks, source, options, folder, made, **ray)
        return
    from keras_sd.model import Model
    from keras_sd.tables.painter import Painter

    painter = Painter(Model.from_preset(source, **options), settings.output, made)
    for chunk in chunks:
        yield len(chunk), painter.draw(chunk)


def _made(model: str, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """What `from_preset` takes, and what the pictures' files say of the model."""
    loading.locate(model, options)
    backends.settle()
    import keras

    source = Path(model).absolute() if os.path.exists(model) else model
    weights = loading.fingerprints(source, options)
    return source, {
        "model": model,
        **loading.told(options),
        "weights": weights,
        "backend": keras.backend.backend(),
        "version": __version__,
    }


def _default(name: str) -> Any:
    from keras_sd.settings import settings

    for part in (Request, Start, Masking):
        if name in settings(part):
            return settings(part)[name].default
    raise LookupError(name)
