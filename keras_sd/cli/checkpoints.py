"""`keras-sd models`, `fetch`, `inspect` and `convert`: checkpoints, without Keras."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from keras_sd.cli import adapters, loading
from keras_sd.cli.terminal import Debug, Json, bytes_bar, printable, say, size, table

if TYPE_CHECKING:
    from keras_sd.addons import AdapterReport
    from keras_sd.weights.inspection import PartReport, Report


_LISTED = 10
_NAMES = {"text_encoder": "text encoder", "text_encoder_2": "text encoder 2", "unet": "UNet"}


# --- models, fetch --------------------------------------------------------------------


def models(json_: Json = False, debug: Debug = False) -> None:
    """List the models that go by a name: in the package, fetched, and to be fetched."""
    found = list(_models())
    if json_:
        typer.echo(json.dumps({"models": found}, indent=1))
        return
    rows = [("name", "variant", "size", "license", "what", "where")]
    for each in found:
        where = each["path"] or "not here yet"
        if each["path"] and not each["verified"]:
            where += " (not checked yet)"
        # What follows the license's name is in --json.
        license, *_ = (each["license"] or "").split(";")
        amount = size(each["bytes"])
        rows.append((each["name"], each["variant"] or "", amount, license, each["title"], where))
    for line in table(rows):
        typer.echo(line)
    say('Any other model is a path, or "hf://owner/name".')


def _models() -> Iterator[dict]:
    from keras_sd.weights.checkpoint import CONFIG
    from keras_sd.weights.fetch import list_sources
    from keras_sd.weights.files import read_json
    from keras_sd.weights.presets import PRESETS, list_presets

    for name in list_presets():
        folder = PRESETS / name
        config = read_json(folder / CONFIG)
        yield {
            "name": name,
            "variant": None,
            "title": "the model in the package",
            "license": config["license"],
            "bytes": sum(file.stat().st_size for file in folder.iterdir()),
            "path": str(folder),
            "verified": True,
        }
    for source in list_sources():
        yield {
            "name": source.name,
            "variant": source.variant,
            "title": source.title,
            "license": source.license,
            "bytes": source.bytes if source.path else source.size,
            "path": str(source.path) if source.path else None,
            "verified": source.verified,
        }


def fetch(
    name: Annotated[
        str, typer.Argument(help="As `keras-sd models` lists it, or hf://owner/name[@revision].")
    ],
    variant: loading.Variant = None,
    debug: Debug = False,
) -> None:
    """Download a model, or clip-vocabulary, once; check it; print its path."""
    from keras_sd.weights import fetch as source
    from keras_sd.weights.presets import PRESETS, list_presets

    if name in list_presets():
        say(f"note: {name} is in the package")
        typer.echo(PRESETS / name)
    else:
        typer.echo(source.fetch(name, variant=variant))


# --- inspect --------------------------------------------------------------------------


def inspect(
    path: Annotated[
        str, typer.Argument(help="A file or folder, or the name of a model that is here.")
    ],
    variant: loading.Variant = None,
    ema: loading.Ema = False,
    strict: loading.Strict = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Headers only: no NaN is found, no sha256 computed.")
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help=f"Every name, not the first {_LISTED} of a kind.")
    ] = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Say what a checkpoint, a LoRA, a ControlNet or the like is, and whether it is whole. Loads no
    backend.

    Exit status: 0 when all is well, 1 when something is wrong with it.
    """
    from keras_sd.addons import inspect as look_at_adapter
    from keras_sd.weights.inspection import inspect as look

    place, left = _here(path, variant)
    most = None if full else _LISTED
    if place.exists() and (adapter := look_at_adapter(place, numbers=not quick)):
        _tell(adapter, adapters.lines(adapter, most), json_)
        return
    with bytes_bar("reading") as advance:
        report = look(
            place, variant=left, ema=ema, strict=strict, numbers=not quick, progress=advance
        )
    _tell(report, _lines(report, most), json_)


def _tell(report: Report | AdapterReport, lines: Iterator[str], json_: bool) -> None:
    if json_:
        typer.echo(json.dumps(report.to_dict(), indent=1))
    else:
        for line in lines:
            typer.echo(line)
    if not report.good:
        raise typer.Exit(1)


def _here(name: str, variant: str | None) -> tuple[Path, str | None]:
    """What a path or a name stands for on this machine, where nothing is fetched for it; and the
    variant, if that is still to be looked for in there.
    """
    from keras_sd.weights.fetch import list_sources
    from keras_sd.weights.presets import here

    if (path := here(name)) is not None:
        return path, variant
    known = {(source.name, source.variant): source.path for source in list_sources()}
    if found := known.get((name, variant)):
        return found, variant if found.is_dir() else None
    if any(name == other for other, _ in known) or name.startswith("hf://"):
        option = f" --variant {variant}" if variant else ""
        raise FileNotFoundError(
            f"{name} is not on this machine; `keras-sd fetch {name}{option}` gets it"
        )
    raise FileNotFoundError(f"There is no file or folder {name}; `keras-sd models` lists names")


def _lines(report: Report, most: int | None) -> Iterator[str]:
    """The report for people: a line a fact, its name in front."""
    yield printable(f"{report.path}: {report.family}" if report.family else report.path)
    rows = []
    if report.error:
        rows.append(("error", " ".join(report.error.split())))
    if report.layout:
        formats = sorted({file.format for file in report.files if file.format})
        rows.append(("layout", ", ".join([report.layout, *formats])))
        rows.append(("prediction", f"{report.prediction} (known from: {report.prediction_from})"))
        rows.append(("can be run", f"no: {report.unsupported}" if report.unsupported else "yes"))
    for name, part in report.parts.items():
        rows.append((_NAMES.get(name, name), _part(part)))
    if report.layout:
        rows.append(("vocabulary", report.vocabulary or "none beside the weights"))
    if report.words is not None:
        rows.append(("words", f"{report.words} that it was trained on"))
    if report.license:
        rows.append(("license", report.license))
    for file in report.files:
        rows.append(("file", f"{file.path}, {size(file.size)} ({file.size} bytes)"))
        if file.sha256:
            rows.append(("sha256", file.sha256))
    if report.ignored:
        count = f"{len(report.ignored)} tensors that are known and no part of the model"
        rows.append(("ignored", f"{count}: {_some(report.ignored, most)}"))
    if report.left_out:
        count = f"{len(report.left_out)} that nothing here needs"
        rows.append(("left out", f"{count}: {_some(report.left_out, most)}"))
    rows += [("note", note) for note in report.notes]
    for kind, names in report.problems.items():
        rows.append((f"{kind}!", f"{len(names)}: {_some(names, most)}"))
    if report.good:
        looked = "" if report.numbers_read else "; numbers not looked at"
        rows.append(("result", f"whole: every tensor fits{looked or ', every number is finite'}"))
    yield from table([(f"  {name}", text) for name, text in rows])


def _part(part: PartReport) -> str:
    dtypes = ", ".join(
        name if len(part.dtypes) == 1 else f"{name} ({count})"
        for name, count in sorted(part.dtypes.items())
    )
    numbers = ", ".join(f"{key} {value}" for key, value in part.numbers.items())
    counts = f"{part.parameters:,} parameters in {part.tensors} tensors"
    return f"{counts}, {dtypes}, {size(part.bytes)}; {numbers}"


def _some(names: list[str], most: int | None) -> str:
    from keras_sd.weights.parts import printable

    shown = [printable(name) for name in names[:most]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more (--full lists them)" if more else "")


# --- convert --------------------------------------------------------------------------


def convert(
    source: Annotated[
        str, typer.Argument(metavar="IN", help="A file or folder, or a name, which is fetched.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file or folder to write.")],
    to: Annotated[
        Literal["keras_sd", "diffusers", "original"] | None,
        typer.Option(help="The layout. Default: original, if OUT ends in .safetensors."),
    ] = None,
    dtype: Annotated[
        Literal["float16", "bfloat16", "float32", "int8"] | None,
        typer.Option(
            help="Of the numbers; int8 in the layout keras_sd alone. Default: as they are, bit for "
            "bit (of int8: float32)."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
    variant: loading.Variant = None,
    prediction: loading.Prediction = None,
    ema: loading.Ema = False,
    strict: loading.Strict = False,
    autoencoder: loading.Autoencoder = None,
    unet: loading.Unet = None,
    text_encoder: loading.TextEncoder = None,
    text_encoder_2: loading.TextEncoder2 = None,
    vocabulary: loading.Vocabulary = None,
    debug: Debug = False,
) -> None:
    """Write checkpoint IN as OUT in another layout or dtype, whole or not at all; print its path.

    keras_sd and diffusers are folders, original is one file that most programs read. No backend is
    needed.
    """
    if to is None:
        if out.suffix != ".safetensors":
            raise ValueError(
                f"--to is missing, and {out} does not tell: keras_sd and diffusers write a folder, "
                "original a file that ends in .safetensors"
            )
        to = "original"
    options = loading.given(
        prediction=prediction,
        ema=ema,
        strict=strict,
        autoencoder=autoencoder,
        unet=unet,
        text_encoder=text_encoder,
        text_encoder_2=text_encoder_2,
    )
    merges = loading.given(vocabulary=vocabulary).get("vocabulary")
    needed = to != "original" and merges is None

    from keras_sd.weights.convert import convert as write
    from keras_sd.weights.presets import open_preset

    checkpoint = open_preset(source, variant=variant, needs_vocabulary=needed, **options)
    for note in checkpoint.notes:
        say(f"note: {note}")
    if checkpoint.unsupported:
        say(f"note: {checkpoint.unsupported}")
    write(checkpoint, out, to=to, dtype=dtype, vocabulary=merges, force=force)
    typer.echo(out)
