"""`keras-sd generate`, `image-to-image`, `inpaint` and `samplers`."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_sd import __version__
from keras_sd.cli import backends, loading
from keras_sd.cli.drawing import DrawOptions, Prompt, draws, flag_of
from keras_sd.cli.terminal import Debug, say, steps_bar, table
from keras_sd.request import Request
from keras_sd.start import Attachment, Masking, Start

if TYPE_CHECKING:
    from keras_sd.registry import Declared

Source = Annotated[
    str,
    typer.Option("--image", help="The picture to begin with: PNG, JPEG, WEBP, BMP or TIFF."),
]


@draws(Request)
def generate(prompt: Prompt, *, given: dict[str, Any], settings: DrawOptions) -> None:
    """Draw a picture of PROMPT, save it as PNG, print its path.

    How it was made, the whole request, is stored in the file.
    """
    _draw(_request(prompt, given, settings), settings)


@draws(Request, Start)
def image_to_image(
    prompt: Prompt, image: Source, *, given: dict[str, Any], settings: DrawOptions
) -> None:
    """Draw PROMPT beginning with a picture, save it as PNG, print its path.

    How it was made, the whole request, is stored in the file; of the picture, its name and hash.
    """
    from keras_sd.forms import attach_pictures

    given["image"] = _read("--image", attach_pictures, image)
    _draw(_request(prompt, given, settings), settings)


@draws(Request, Start, Masking)
def inpaint(
    prompt: Prompt,
    image: Source,
    mask: Annotated[
        str | None, typer.Option(help="A picture of the same size: white is painted, black kept.")
    ] = None,
    extend_left: Annotated[
        int, typer.Option(min=0, help="Instead of a mask: paint so many pixels on this side.")
    ] = 0,
    extend_right: Annotated[int, typer.Option(min=0, help="Likewise.")] = 0,
    extend_top: Annotated[int, typer.Option(min=0, help="Likewise.")] = 0,
    extend_bottom: Annotated[int, typer.Option(min=0, help="Likewise.")] = 0,
    *,
    given: dict[str, Any],
    settings: DrawOptions,
) -> None:
    """Paint PROMPT into a part of a picture, or around it, save it as PNG, print its path.

    How it was made, the whole request, is stored in the file; of picture and mask, name and hash.
    """
    from keras_sd.forms import attach_masks, attach_pictures
    from keras_sd.inpainting import extend_canvas

    sides = {"left": extend_left, "right": extend_right, "top": extend_top, "bottom": extend_bottom}
    if (mask is None) == (not any(sides.values())):
        raise ValueError(
            "give --mask, the part that is painted, or --extend-left, -right, -top or -bottom, "
            "what is painted around the picture: one of the two"
        )
    (picture,) = _read("--image", attach_pictures, image)
    if mask is not None:
        given["image"], given["mask"] = picture, _read("--mask", attach_masks, mask)
    elif given["mask_convention"] != "white_repaints":
        raise ValueError("--mask-convention says what --mask means, and there is none")
    else:
        wider, painted = extend_canvas(picture.data, **sides)
        given["image"], given["mask"] = Attachment.of(wider, picture.name), painted
    _draw(_request(prompt, given, settings), settings)


def _request(prompt: str, given: dict[str, Any], settings: DrawOptions) -> Request:
    """What is asked for, as far as it can be checked without Keras and without the model."""
    from keras_sd.checks import SettingError
    from keras_sd.config import Defaults
    from keras_sd.forms import request_of
    from keras_sd.inpainting import canvas_of

    width, height = parse_size(settings.size)
    if settings.size is not None:
        given = {**given, "width": width, "height": height}
    seed = secrets.randbelow(2**32) if settings.seed is None else settings.seed
    try:
        request = request_of(prompt, settings.negative, settings.count, seed=seed, **given)
    except SettingError as error:
        flag = flag_of(error.name)
        raise ValueError(f"{flag} {error.problem}" if flag != error.name else str(error)) from error
    # Names are looked up; where the model has a default, another's stands for it.
    resolved = request.resolved(Defaults())
    if resolved.start is not None:
        canvas_of(resolved.start, len(resolved), *resolved.size, factor=1)
    return request


def _draw(request: Request, settings: DrawOptions) -> None:
    """Checks the rest, loads, draws and saves."""
    # 1. What can be known without Keras.
    options = loading.given(
        variant=settings.variant,
        prediction=settings.prediction,
        ema=settings.ema,
        strict=settings.strict,
        autoencoder=settings.autoencoder,
        unet=settings.unet,
        text_encoder=settings.text_encoder,
        vocabulary=settings.vocabulary,
        compat=settings.compat,
        dtype=settings.dtype,
    )
    if settings.compat is not None:
        from keras_sd import compat

        compat.get(settings.compat)
    prompt, seed = str(request.prompts[0]), int(request.images[0][0] or 0)
    _check_output(settings.output, prompt, seed, settings.count)
    backends.select(settings.backend)
    from keras_sd.weights.presets import locate

    locate(settings.model, settings.variant, needs_vocabulary=settings.vocabulary is None)

    # 2. The model.
    backends.silence()
    from keras_sd.pipeline import StableDiffusion

    # That a path goes before a name was noted above, and a Path is never a name.
    source = Path(settings.model) if os.path.exists(settings.model) else settings.model
    pipeline = StableDiffusion.from_preset(source, **options)

    # 3. The pictures.
    with steps_bar() as advance:
        images = pipeline.draw(request, advance)

    # 4. The files. Names are chosen now: others may have appeared while the pictures were drawn.
    import keras

    from keras_sd.image import save_png
    from keras_sd.infotext import infotext

    made = {
        "model": settings.model,
        **{name: str(v) if isinstance(v, Path) else v for name, v in options.items()},
        "width": int(images.shape[2]),
        "height": int(images.shape[1]),
        "backend": keras.backend.backend(),
        "version": __version__,
    }
    paths = _output_paths(settings.output, prompt, seed, settings.count)
    for index, path in enumerate(paths):
        this = {"request": images[index].request.to_dict(), **made}
        save_png(path, images[index], this, infotext(this))
        typer.echo(path)
    drawn = images.request
    told = {"seed": seed, **made, "sampler": drawn.sampler, "schedule": drawn.schedule}
    told |= {"steps": drawn.num_steps, "guidance": drawn.guidance_scale}
    say(", ".join(f"{name} {value}" for name, value in told.items() if value is not None))


def samplers(debug: Debug = False) -> None:
    """List the installed samplers: name, distribution, version and where it is."""
    from keras_sd.registry import list_samplers

    _list(list_samplers())


def schedules(debug: Debug = False) -> None:
    """List the installed schedules: name, distribution, version and where it is."""
    from keras_sd.registry import list_schedules

    _list(list_schedules())


def _list(found: Iterable[Declared]) -> None:
    rows = [("name", "distribution", "version", "where")]
    rows += [(each.name, each.distribution, each.version, each.value) for each in found]
    for line in table(rows):
        typer.echo(line)


# --- input ----------------------------------------------------------------------------


def _read(
    option: str, read: Callable[[str], tuple[Attachment, ...]], path: str
) -> tuple[Attachment, ...]:
    try:
        return read(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{option}: {error}") from error


def parse_size(text: str | None) -> tuple[int | None, int | None]:
    """`"64x32"` to (64, 32), `"64"` to (64, 64), None to (None, None): width and height."""
    if text is None:
        return None, None
    match = re.fullmatch(r"\s*(\d{1,6})(?:\s*[xX\u00d7]\s*(\d{1,6}))?\s*", text)
    if match is None:
        raise ValueError(
            f"--size is {text!r}; it is WIDTHxHEIGHT, as 64x64, or one number for both."
        )
    # Here and not at the top: `--help` has no use for it.
    from keras_sd.checks import check_size

    width = check_size("--size: width", int(match[1]))
    return width, check_size("--size: height", int(match[2] or match[1]))


def _output_paths(output: Path | None, prompt: str, seed: int, count: int) -> list[Path]:
    """Where `count` images go. A file that was named may exist already; a name made here is new."""
    if output is not None and not os.path.isdir(output):
        if count == 1:
            return [output]
        return [output.with_stem(f"{output.stem}-{i}") for i in range(1, count + 1)]
    stem = f"{_slug(prompt)}-{seed}"
    folder = output or Path()
    paths: list[Path] = []
    number = 1
    while len(paths) < count:
        path = folder / (f"{stem}.png" if number == 1 else f"{stem}-{number}.png")
        if not os.path.lexists(path):
            paths.append(path)
        number += 1
    return paths


def _check_output(output: Path | None, prompt: str, seed: int, count: int) -> None:
    from keras_sd.image import check_writable

    if output is not None and not os.path.isdir(output) and output.suffix.lower() != ".png":
        raise ValueError(
            f"--output is {output}: neither a folder that exists nor a name that ends in .png."
        )
    for path in _output_paths(output, prompt, seed, count):
        try:
            check_writable(path)
        except OSError as error:
            raise ValueError(f"--output: {error}") from error
        if path.exists():
            say(f"note: {path} will be replaced")


def _slug(prompt: str) -> str:
    words = "-".join(re.findall(r"\w+", prompt.lower()))
    # File systems count bytes: at most 255 of them, and room for seed, number and ending is needed.
    return words.encode("utf-8")[:80].decode("utf-8", "ignore").strip("-_") or "image"
