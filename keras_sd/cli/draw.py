"""`keras-sd generate`, `image-to-image`, `inpaint` and `samplers`."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_sd import __version__
from keras_sd.cli import addons, backends, controls, image_prompts, loading
from keras_sd.cli.drawing import DrawOptions, Prompt, draws, flag_of
from keras_sd.cli.terminal import Debug, say, steps_bar, table
from keras_sd.request import Request
from keras_sd.start import Attachment, Masking, Start

if TYPE_CHECKING:
    from keras_sd.gallery import Images
    from keras_sd.pipeline import StableDiffusion
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

    given["image"] = read_given("--image", attach_pictures, image)
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
    (picture,) = read_given("--image", attach_pictures, image)
    if mask is not None:
        given["image"], given["mask"] = picture, read_given("--mask", attach_masks, mask)
    elif given["mask_convention"] != "white_repaints":
        raise ValueError("--mask-convention says what --mask means, and there is none")
    else:
        wider, painted = extend_canvas(picture.data, **sides)
        given["image"], given["mask"] = Attachment.of(wider, picture.name), painted
    extended = {side: pixels for side, pixels in sides.items() if pixels}
    _draw(_request(prompt, given, settings), settings, extended)


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
        request = request_of(
            *(prompt, settings.negative, settings.count),
            seed=seed,
            few_steps=settings.few_steps,
            **given,
        )
    except SettingError as error:
        flag = flag_of(error.name)
        raise ValueError(f"{flag} {error.problem}" if flag != error.name else str(error)) from error
    # Names are looked up; where the model has a default, another's stands for it.
    resolved = request.resolved(Defaults())
    if resolved.start is not None:
        canvas_of(resolved.start, len(resolved), *resolved.size, factor=1)
    return request


def _draw(request: Request, settings: DrawOptions, extended: dict[str, int] | None = None) -> None:
    """Checks the rest, loads, draws and saves.

    Args:
        request: what to draw.
        settings: the options.
        extended: by how many pixels the picture that it begins at was extended, by sides.
    """
    # 1. What can be known without Keras.
    options = loading.of(settings)
    beside, steering, shown = (
        addons.given(settings.adapter, settings.embedding, settings.adapters_dir),
        controls.given(settings),
        image_prompts.given(settings),
    )
    request = shown.asked(steering.asked(request))
    prompt, seed = str(request.prompts[0]), int(request.images[0][0] or 0)
    check_output(settings.output, prompt, seed, settings.count)
    backends.select(settings.backend)
    # 2. The model.
    pipeline, weights = loaded(settings.model, options)
    # 3. The pictures.
    with beside.beside(pipeline) as drawing, steps_bar() as advance:
        opened = shown.opened(steering.opened(request, drawing), drawing)
        images = drawing.draw(opened, advance)
    # 4. The files. Names are chosen now: others may have appeared while the pictures were drawn.
    made = made_of(images, settings.model, options, weights()) | beside.made()
    if extended:
        made["extended"] = extended
    paths = output_paths(settings.output, prompt, seed, settings.count)
    for index, path in enumerate(paths):
        save(path, images[index], made)
        typer.echo(path)
    drawn = images.request
    told = {"seed": seed, **made, "sampler": drawn.sampler, "schedule": drawn.schedule}
    told |= {"steps": drawn.num_steps, "guidance": drawn.guidance_scale}
    for name in ("weights", "extended", "adapters", "embeddings"):
        told.pop(name, None)
    say(", ".join(f"{name} {value}" for name, value in told.items() if value is not None))


def loaded(
    model: str | Path, options: dict[str, Any]
) -> tuple[StableDiffusion, Callable[[], dict[str, str]]]:
    """The pipeline of a model, and what gives the SHA-256 of its files, which are read meanwhile.

    Args:
        model: a name, or a path, which goes before a name; a Path is never a name.
        options: about loading, see `loading.of`.
    """
    loading.locate(model, options)
    backends.settle()
    from keras_sd.pipeline import StableDiffusion

    # That a path goes before a name was noted above.
    source = Path(model) if os.path.exists(model) else model
    pipeline = StableDiffusion.from_preset(source, **options)
    digests: Future[dict[str, str]] = Future()

    def read() -> None:
        try:
            digests.set_result(loading.fingerprints(source, options))
        except BaseException as error:
            digests.set_exception(error)

    # A daemon, so that Ctrl-C does not wait for gigabytes.
    Thread(target=read, daemon=True).start()

    def weights() -> dict[str, str]:
        try:
            return digests.result()
        except (OSError, ValueError) as error:  # No reason to lose a picture.
            say(f"note: the weights' SHA-256 is not written: {error}")
            return {}

    return pipeline, weights


def made_of(
    images: Images, model: str, options: dict[str, Any], weights: dict[str, str]
) -> dict[str, Any]:
    """What the files of pictures hold, but for the request of each."""
    import keras

    return {
        "model": model,
        **loading.told(options),
        **({"weights": weights} if weights else {}),
        "width": int(images.shape[-2]),
        "height": int(images.shape[-3]),
        "backend": keras.backend.backend(),
        "version": __version__,
    }


def save(path: Path, picture: Images, made: dict[str, Any]) -> None:
    """Writes one picture, with how it was made."""
    from keras_sd.image import save_png
    from keras_sd.infotext import infotext

    this = {"request": picture.request.to_dict(), **made}
    save_png(path, picture, this, infotext(this))


def samplers(debug: Debug = False) -> None:
    """List the installed samplers: name, distribution, version and where it is."""
    from keras_sd.registry import list_samplers

    _list(list_samplers())


def schedules(debug: Debug = False) -> None:
    """List the installed schedules: name, distribution, version and where it is."""
    from keras_sd.registry import list_schedules

    _list(list_schedules())


def guidance(debug: Debug = False) -> None:
    """List the installed guidance: name, distribution, version and where it is."""
    from keras_sd.registry import list_guidance

    _list(list_guidance())


def _list(found: Iterable[Declared]) -> None:
    rows = [("name", "distribution", "version", "where")]
    rows += [(each.name, each.distribution, each.version, each.value) for each in found]
    for line in table(rows):
        typer.echo(line)


# --- input ----------------------------------------------------------------------------


def read_given(
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


def output_paths(output: Path | None, prompt: str, seed: int, count: int) -> list[Path]:
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


def check_output(output: Path | None, prompt: str, seed: int, count: int) -> None:
    from keras_sd.image import check_writable

    if output is not None and not os.path.isdir(output) and output.suffix.lower() != ".png":
        raise ValueError(
            f"--output is {output}: neither a folder that exists nor a name that ends in .png."
        )
    for path in output_paths(output, prompt, seed, count):
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
