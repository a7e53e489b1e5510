"""`keras-sd info` and `replay`: how a picture says that it was made, and the picture made again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from keras_sd.cli import addons, backends, controls, loading
from keras_sd.cli.draw import check_output, loaded, made_of, output_paths, save
from keras_sd.cli.drawing import Output, draws
from keras_sd.cli.terminal import Debug, Json, printable, steps_bar, table
from keras_sd.config import Prediction

if TYPE_CHECKING:
    from keras_sd.provenance import Provenance
    from keras_sd.provenance.difference import Difference

Picture = Annotated[Path, typer.Argument(help="A PNG, JPEG or WebP file.")]


# --- info -----------------------------------------------------------------------------


def info(image: Picture, json_: Json = False, debug: Debug = False) -> None:
    """Say how a picture was made: by keras_sd, A1111, ComfyUI, InvokeAI or NovelAI.

    It needs no backend, and opens nothing but the picture.
    """
    from keras_sd.provenance import read_provenance

    found = read_provenance(image)
    if json_:
        typer.echo(json.dumps(found.to_dict(), indent=1, allow_nan=False))
        return
    typer.echo(printable(f"{image}: {found.program}"))
    for line in table([(f"  {name}", text) for name, text in _said(found)]):
        typer.echo(line)


def _said(found: Provenance) -> Iterator[tuple[str, str]]:
    """A row a fact; of a text, a row a line."""
    size = f"{found.width}x{found.height}" if found.width and found.height else None
    facts: dict[str, Any] = {
        "prompt": found.prompt,
        "negative prompt": found.negative_prompt or None,
        "steps": found.num_steps,
        "sampler": found.sampler,
        "schedule": found.schedule,
        "guidance": found.guidance_scale,
        "seed": found.seed,
        "size": size,
        "model": found.model,
        "model hash": found.model_hash,
        "strength": found.strength,
        **{name.replace("_", " "): value for name, value in found.loading.items()},
        **{f"extended, {side}": pixels for side, pixels in found.extended.items()},
    }
    rows = [(name, value) for name, value in facts.items() if value is not None]
    for each in found.request.attachments() if found.request else ():
        rows.append(("made of", f"{each.name or 'an array'}, SHA-256 {each.sha256}"))
    for kind, used in (("adapter", found.adapters), ("embedding", found.embeddings)):
        for file in used:
            much = f", strength {file.strength:g}" if kind == "adapter" else ""
            rows.append((kind, f"{file.name}{much}, SHA-256 {file.sha256}"))
    if found.starts and found.request is None:
        rows.append(("began at", "a picture" + (" and a mask" if found.masked else "")))
    rows += found.others.items()
    rows += (("not understood", sentence) for sentence in found.unread)
    for name, value in rows:
        for line in str(value).splitlines() or [""]:
            yield name, line
            name = ""


# --- replay ---------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ReplayOptions(loading.Options):
    """What was asked for on the command line, by the names of the options."""

    model: Annotated[
        str | None,
        typer.Option(help="As for generate. Default: the picture's, where it is one by name."),
    ] = None
    output: Output = None
    adapters_dir: addons.AdaptersDir = None
    embeddings_dir: addons.EmbeddingsDir = None
    controls_dir: controls.Dir = None
    control_image: controls.Shown = None


@draws(options=ReplayOptions)
def replay(
    image: Picture,
    start: Annotated[
        str | None, typer.Option(help="The picture that it began at, where it began at one.")
    ] = None,
    mask: Annotated[str | None, typer.Option(help="What of that was painted, likewise.")] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Exit status 1 unless every pixel is the same.")
    ] = False,
    json_: Json = False,
    *,
    settings: ReplayOptions,
) -> None:
    """Make a picture again from what its file says, and say how far the new one is from it.

    A picture of keras_sd is made of its request; of another program's the settings that have a
    counterpart here are followed, and the others are listed.
    """
    from keras_sd.checks import SettingError
    from keras_sd.image import read_image, read_mask
    from keras_sd.provenance import read_provenance
    from keras_sd.provenance.difference import difference
    from keras_sd.provenance.follow import follow

    # 1. What can be known without Keras.
    found = read_provenance(image)
    original = read_image(image)
    arrays: dict[str, Any] = {}
    for name, path, read in (("start", start, read_image), ("mask", mask, read_mask)):
        try:
            arrays[name] = None if path is None else read(path)
        except (ValueError, OSError) as error:
            raise ValueError(f"--{name}: {error}") from error
    by_tags = addons.of_request(found.request, settings.adapters_dir)
    steering = controls.found_again(found.request, settings.controls_dir, settings.control_image)
    try:
        followed = follow(found, **arrays, adapters=by_tags, controls=steering.controls)
    except SettingError as error:
        if error.name not in arrays:
            raise
        raise ValueError(f"--{error.name} {error.problem}") from error
    request, left = followed.request, [*found.unread, *followed.left]
    beside = addons.found_again(
        found.adapters, found.embeddings, settings.adapters_dir, settings.embeddings_dir
    )
    options = {**_loading_of(found, settings, left), **loading.of(settings)}
    model, variant = _model(found, settings)
    if own := _refiner(found, settings):
        options["refiner"] = own
    options |= {"variant": variant} if variant else {}
    prompt, seed = str(request.prompts[0]), int(request.images[0][0] or 0)
    (planned,) = output_paths(settings.output, prompt, seed, 1)
    if planned.exists() and os.path.samefile(planned, image):
        raise ValueError(f"--output: {planned} is the picture itself, which would be replaced.")
    check_output(settings.output, prompt, seed, 1)
    backends.select(settings.backend)

    # 2. The model and the picture.
    one_file = isinstance(model, Path) and model.is_file()  # of a variant, if it has some
    load = {name: v for name, v in options.items() if not (one_file and name == "variant")}
    pipeline, weights = loaded(model, load)
    with beside.beside(pipeline) as drawing, steps_bar() as advance:
        images = drawing.draw(steering.opened(request, drawing), advance)

    # 3. The file, and how far it is.
    told = options | ({"refiner": found.loading["refiner"]} if own else {})
    made = made_of(images, settings.model or found.model or "", told, weights())
    made |= beside.made()
    if found.extended:
        made["extended"] = dict(found.extended)
    left += _others(found, made)
    (place,) = output_paths(settings.output, prompt, seed, 1)
    save(place, images[0], made)
    apart = difference(original, images[0])
    _tell(image, place, (original.shape, images[0].shape), apart, left, json_)
    if exact and (apart is None or apart.largest):
        raise typer.Exit(1)


def _loading_of(found: Provenance, settings: ReplayOptions, left: list[str]) -> dict[str, Any]:
    """The options about loading that the file holds, but for paths, which are its maker's."""
    from keras_sd import compat

    allowed: dict[str, tuple[Any, ...]] = {
        "prediction": get_args(Prediction),
        "ema": (True,),
        "strict": (True,),
        "tiled": (True,),
        "compat": tuple(compat.NAMES),
        "dtype": get_args(get_args(get_args(loading.Dtype)[0])[0]),
    }
    options: dict[str, Any] = {}
    for name, value in found.loading.items():
        if name in ("variant", "refiner") or getattr(settings, name):
            continue
        if value in allowed.get(name, ()):
            options[name] = value
        else:
            option = f"--{name.replace('_', '-')}"
            left.append(f"{option}: it was {value!r}; give the option for the same")
    return options


def _model(found: Provenance, settings: ReplayOptions) -> tuple[str | Path, str | None]:
    """What is loaded, and the variant of it: what was asked for, else the path of the model that
    the picture names, where that is in the package or was fetched. No path and no address in a
    picture is ever followed.

    Raises:
        ValueError: it is none of these.
    """
    if settings.model is not None:
        return settings.model, settings.variant
    return _here("--model", found.model, settings.variant or found.loading.get("variant"))


def _refiner(found: Provenance, settings: ReplayOptions) -> Path | None:
    """The path of the refiner that the picture names; None where another was asked for, or it
    names none. It is trusted no more than the model's name.

    Raises:
        ValueError: it is no model on this machine.
    """
    named = found.loading.get("refiner")
    if settings.refiner is not None or named is None:
        return None
    return _here("--refiner", named, None)[0]


def _here(option: str, name: Any, variant: Any) -> tuple[Path, str | None]:
    from keras_sd.weights.fetch import list_sources
    from keras_sd.weights.presets import PRESETS, list_presets

    if name in list_presets():
        return PRESETS / str(name), None
    for source in list_sources():
        if source.path and (source.name, source.variant) == (name, variant):
            return source.path, source.variant
    said = f"it says {name!r}, which is no model by name on this machine"
    raise ValueError(
        f"{option} is needed: {said if name else 'the picture does not say its model'}. "
        "Give a name that `keras-sd models` lists, or the path of a file or folder"
    )


_SHA256 = " SHA-256"


def _others(found: Provenance, made: dict[str, Any]) -> Iterator[str]:
    """What differs beside the request: the weights, and what they were run on."""
    weights = made.get("weights", {})
    said: dict[str, Any] = {
        name.removesuffix(_SHA256): value
        for name, value in found.others.items()
        if name.endswith(_SHA256)
    }
    if found.model_hash or not said:
        said["model"] = found.model_hash
    for name in {**said, **weights}:
        digest, here = said.get(name), weights.get(name)
        given = str(digest or "").lower().removeprefix("sha256:")
        if not digest or not here:
            whose = "the picture's" if not digest else "those here"
            yield f"weights: of the {name}, the SHA-256 of {whose} is not known"
        elif len(given) < 10 or set(given) - set("0123456789abcdef"):
            yield f"weights: {digest} is no SHA-256, so the {name} is not compared"
        elif not here.startswith(given):
            yield f"weights: the {name} is another: {here[: len(given)]}, not {given}"
    for name in ("backend", "version"):
        was = found.others.get(name, made[name]) if found.program == "keras_sd" else made[name]
        if was != made[name]:
            yield f"{name}: it was {was}, this is {made[name]}; the last bits may differ"


def _tell(
    image: Path,
    path: Path,
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    apart: Difference | None,
    left: list[str],
    json_: bool,
) -> None:
    sizes = [f"{shape[1]}x{shape[0]}" for shape in shapes]
    if json_:
        told = {
            "picture": str(path),
            "original": str(image),
            "sizes": {"picture": sizes[1], "original": sizes[0]},
            "difference": apart and apart.to_dict(),
            "not_followed": left,
        }
        typer.echo(json.dumps(told, indent=1))
        return
    if apart is None:
        far = f"not known: the picture is {sizes[1]}, the original {sizes[0]}"
    elif not apart.largest:
        far = "none: every pixel is the same"
    else:
        far = (
            f"at most {apart.largest} of 255, {apart.mean:.3g} on average; "
            f"{apart.pixels:.1%} of the pixels differ"
        )
    rows = [("picture", str(path)), ("size", sizes[1]), ("difference", far)]
    rows += [("not followed", sentence) for sentence in left]
    for line in table(rows):
        typer.echo(line)
