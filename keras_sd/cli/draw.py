"""`keras-sd generate`, `image-to-image`, `inpaint` and `samplers`."""

from __future__ import annotations

import math
import os
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from keras_sd import __version__
from keras_sd.cli import backends, loading
from keras_sd.cli.drawing import Prompt, Settings, draws
from keras_sd.cli.terminal import Debug, say, steps_bar, table

if TYPE_CHECKING:
    import numpy as np

    from keras_sd.registry import Declared

Source = Annotated[
    str,
    typer.Option("--image", help="The picture to begin with: PNG, JPEG, WEBP, BMP or TIFF."),
]
StepsMode = Annotated[
    Literal["run", "schedule"],
    typer.Option(help="Run --steps steps, or the part of them that --strength says."),
]
Resize = Annotated[
    Literal["stretch", "crop", "pad"] | None,
    typer.Option(help="Bring the picture to --size. Default: its own size is drawn."),
]


@draws
def generate(prompt: Prompt, *, settings: Settings) -> None:
    """Draw a picture of PROMPT, save it as PNG, print its path.

    Prompt, seed and settings are stored in the file.
    """
    _draw("text_to_image", prompt, settings)


@draws
def image_to_image(
    prompt: Prompt,
    image: Source,
    strength: Annotated[
        float, typer.Option(help="How much of it is made anew, above 0 to 1.")
    ] = 0.8,
    steps_mode: StepsMode = "run",
    resize: Resize = None,
    *,
    settings: Settings,
) -> None:
    """Draw PROMPT beginning with a picture, save it as PNG, print its path.

    Prompt, seed, settings and the picture's name are stored in the file.
    """
    from keras_sd.image import read_image

    _check_strength(strength)
    picture = _read("--image", read_image, image)
    _check_sizes(picture, settings, at_size=resize is not None)
    run = {"strength": strength, "steps_mode": steps_mode, "resize": resize}
    noted = {"source": Path(image).name, **run}
    _draw("image_to_image", prompt, settings, {"image": picture, **run}, noted)


@draws
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
    mask_convention: Annotated[
        Literal["white_repaints", "keras_cv"],
        typer.Option(help="keras_cv: white is kept, black painted."),
    ] = "white_repaints",
    mask_blur: Annotated[
        float, typer.Option(min=0, help="Soften the mask's edges by so many pixels.")
    ] = 0,
    only_masked: Annotated[
        bool,
        typer.Option("--only-masked", help="Draw the mask's surroundings alone, at --size."),
    ] = False,
    padding: Annotated[
        int, typer.Option(min=0, help="How far they reach around it, in pixels.")
    ] = 32,
    resamples: Annotated[
        int, typer.Option(min=1, help="How often each step is taken; more fits better.")
    ] = 1,
    strength: Annotated[
        float, typer.Option(help="How much of what is painted is made anew, above 0 to 1.")
    ] = 1.0,
    steps_mode: StepsMode = "run",
    resize: Resize = None,
    *,
    settings: Settings,
) -> None:
    """Paint PROMPT into a part of a picture, or around it, save it as PNG, print its path.

    Prompt, seed, settings and the names of picture and mask are stored in the file.
    """
    from keras_sd.image import read_image, read_mask
    from keras_sd.inpainting import extend_canvas, masked_canvas

    _check_strength(strength)
    picture = _read("--image", read_image, image)
    sides = {"left": extend_left, "right": extend_right, "top": extend_top, "bottom": extend_bottom}
    new = {f"extend_{side}": pixels for side, pixels in sides.items() if pixels}
    if (mask is None) != bool(new):
        raise ValueError(
            "give --mask, the part that is painted, or --extend-left, -right, -top or -bottom, "
            "what is painted around the picture: one of the two"
        )
    if mask is not None:
        painted = _read("--mask", read_mask, mask)
    elif mask_convention == "keras_cv":
        raise ValueError("--mask-convention says what --mask means, and there is none")
    else:
        picture, painted = extend_canvas(picture, **sides)
    _check_sizes(picture, settings, at_size=only_masked or resize is not None)
    masking: dict[str, Any] = {
        "resize": resize,
        "mask_convention": mask_convention,
        "mask_blur": mask_blur,
        "only_masked": only_masked,
        "padding": padding,
    }
    # What does not depend on the model's size; here the picture's own stands for it.
    height, width = picture.shape[:2]
    masked_canvas(picture, painted, 1, height, width, factor=1, **masking)
    run = {"strength": strength, "steps_mode": steps_mode, **masking}
    given = {"image": picture, "mask": painted, "num_resamples": resamples, **run}
    names = {"source": Path(image).name, "mask": Path(mask).name if mask else None}
    _draw("inpaint", prompt, settings, given, {**names, **new, "resamples": resamples, **run})


def _draw(
    method: str,
    prompt: str,
    settings: Settings,
    run: Mapping[str, Any] | None = None,
    noted: Mapping[str, Any] | None = None,
) -> None:
    """Checks, loads, draws and saves.

    Args:
        method: of the pipeline.
        run: what it takes beside the settings that all have.
        noted: how the files say that.
    """
    # 1. What can be known without Keras.
    width, height = parse_size(settings.size)
    guidance, schedule, seed = settings.guidance, settings.schedule, settings.seed
    if guidance is not None and not math.isfinite(guidance):
        raise ValueError(f"--guidance is {guidance}; it is a finite number, usually 1 to 15.")
    from keras_sd.guidance import Guidance

    Guidance(guidance or 1.0, settings.guidance_rescale, settings.guidance_interval)
    seed = secrets.randbelow(2**32) if seed is None else seed
    _check_output(settings.output, prompt, seed, settings.count)
    options = loading.given(
        variant=settings.variant,
        prediction=settings.prediction,
        ema=settings.ema,
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
    backends.select(settings.backend)
    sampler = settings.sampler
    if sampler is not None:
        from keras_sd.aliases import resolve
        from keras_sd.registry import get_sampler

        sampler, named = resolve(sampler)
        schedule = schedule or named
        get_sampler(sampler)
    if schedule is not None:
        from keras_sd.aliases import resolve_schedule
        from keras_sd.registry import get_schedule

        schedule = resolve_schedule(schedule)
        get_schedule(schedule)
    from keras_sd.weights.presets import locate

    locate(settings.model, settings.variant, needs_vocabulary=settings.vocabulary is None)

    # 2. The model.
    backends.silence()
    from keras_sd.pipeline import StableDiffusion

    # That a path goes before a name was noted above, and a Path is never a name.
    source = Path(settings.model) if os.path.exists(settings.model) else settings.model
    pipeline = StableDiffusion.from_preset(source, height=height, width=width, **options)
    defaults = pipeline.config.defaults
    sampler = sampler or defaults.sampler
    steps = settings.steps or defaults.num_steps
    guidance = defaults.guidance_scale if guidance is None else guidance
    if settings.compat is None:  # which has a schedule of its own
        schedule = schedule or defaults.schedule

    # 3. The pictures.
    with steps_bar() as advance:
        images = getattr(pipeline, method)(
            prompt,
            negative_prompt=settings.negative,
            batch_size=settings.count,
            num_steps=steps,
            unconditional_guidance_scale=guidance,
            seed=seed,
            sampler=sampler,
            schedule=schedule,
            guidance_rescale=settings.guidance_rescale,
            guidance_interval=settings.guidance_interval,
            callback=advance,
            **(run or {}),
        )

    # 4. The files. Names are chosen now: others may have appeared while the pictures were drawn.
    import keras

    from keras_sd.image import save_png

    made = {
        "model": settings.model,
        **{name: str(v) if isinstance(v, Path) else v for name, v in options.items()},
        "sampler": sampler,
        "schedule": schedule,
        "steps": steps,
        "guidance": guidance,
        **loading.given(
            guidance_rescale=settings.guidance_rescale or None,
            guidance_interval=settings.guidance_interval,
        ),
        **(noted or {}),
        "width": int(images.shape[2]),
        "height": int(images.shape[1]),
        "backend": keras.backend.backend(),
        "version": __version__,
    }
    paths = _output_paths(settings.output, prompt, seed, settings.count)
    for index, path in enumerate(paths):
        this = {"prompt": prompt, "negative_prompt": settings.negative, "seed": seed}
        save_png(path, images[index], {**this, "image": index, **made})
        typer.echo(path)
    told = ", ".join(f"{name} {value}" for name, value in made.items() if value is not None)
    say(f"seed {seed}, {told}")


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


def _check_strength(strength: float) -> None:
    if not 0 < strength <= 1:
        raise ValueError(f"--strength is {strength}; it is above 0, to 1.")


def _read(option: str, read: Callable[[str], np.ndarray], path: str) -> np.ndarray:
    try:
        return read(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{option}: {error}") from error


def _check_sizes(picture: np.ndarray, settings: Settings, at_size: bool) -> None:
    """A run is as large as its picture, or it is `at_size`, which --size may say."""
    from keras_sd.config import check_size

    if at_size:
        return
    if settings.size is not None:
        raise ValueError(
            "--size is what a picture is brought to by --resize stretch, crop or pad; without it, "
            "the picture is drawn as large as it is"
        )
    height, width = picture.shape[:2]
    try:
        check_size(f"--image is {width}x{height}: its width", width)
        check_size(f"--image is {width}x{height}: its height", height)
    except ValueError as error:
        raise ValueError(f"{error}; or --resize stretch, crop or pad") from None


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
    from keras_sd.config import check_size

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
