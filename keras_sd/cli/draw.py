"""`keras-sd generate` and `keras-sd samplers`."""

from __future__ import annotations

import math
import os
import re
import secrets
from pathlib import Path
from typing import Annotated, Literal

import typer

from keras_sd import __version__
from keras_sd.cli import backends, loading
from keras_sd.cli.backends import Backend
from keras_sd.cli.terminal import Debug, say, steps_bar, table


def generate(
    prompt: Annotated[str, typer.Argument(help="What the picture shows.")],
    model: Annotated[
        str,
        typer.Option(
            help="A name that `keras-sd models` lists, the path of a file or folder, or "
            "hf://owner/name."
        ),
    ] = "emoji",
    negative: Annotated[str | None, typer.Option(help="What it shall not show.")] = None,
    sampler: Annotated[
        str | None, typer.Option(help="See `keras-sd samplers`. Default: the model's.")
    ] = None,
    schedule: Annotated[
        str | None, typer.Option(help="How noise levels are spread. Default: the model's.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Sampler steps. Default: the model's.")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="How closely to follow the prompt. Default: the model's.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**64 - 1, help="Same seed, same picture. Default: a new one."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Number of pictures.")] = 1,
    size: Annotated[
        str | None,
        typer.Option(help="Pixels: WIDTHxHEIGHT, or one number for both. Default: the model's."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="A .png file, or a folder. Default: a new name here, made from the prompt."
        ),
    ] = None,
    variant: loading.Variant = None,
    prediction: loading.Prediction = None,
    ema: loading.Ema = False,
    autoencoder: loading.Autoencoder = None,
    unet: loading.Unet = None,
    text_encoder: loading.TextEncoder = None,
    vocabulary: loading.Vocabulary = None,
    compat: Annotated[
        Literal["keras_cv"] | None, typer.Option(help="Compute as KerasCV did, for its weights.")
    ] = None,
    backend: Backend = None,
    debug: Debug = False,
) -> None:
    """Draw a picture of PROMPT, save it as PNG, print its path.

    Prompt, seed and settings are stored in the file.
    """
    # 1. What can be known without Keras.
    width, height = _parse_size(size)
    if guidance is not None and not math.isfinite(guidance):
        raise ValueError(f"--guidance is {guidance}; it is a finite number, usually 1 to 15.")
    if schedule is not None:
        from keras_sd.schedules import get_schedule

        get_schedule(schedule)
    seed = secrets.randbelow(2**32) if seed is None else seed
    _check_output(output, prompt, seed, count)
    options = loading.given(
        variant=variant,
        prediction=prediction,
        ema=ema,
        autoencoder=autoencoder,
        unet=unet,
        text_encoder=text_encoder,
        vocabulary=vocabulary,
        compat=compat,
    )
    backends.select(backend)
    if sampler is not None:
        from keras_sd.registry import get_sampler

        get_sampler(sampler)
    from keras_sd.weights.presets import locate

    locate(model, variant, needs_vocabulary=vocabulary is None)

    # 2. The model.
    backends.silence()
    from keras_sd.pipeline import StableDiffusion

    # That a path goes before a name was noted above, and a Path is never a name.
    source = Path(model) if os.path.exists(model) else model
    pipeline = StableDiffusion.from_preset(source, height=height, width=width, **options)
    defaults = pipeline.config.defaults
    sampler = sampler or defaults.sampler
    schedule = schedule or defaults.schedule
    steps = steps or defaults.num_steps
    guidance = defaults.guidance_scale if guidance is None else guidance

    # 3. The pictures.
    with steps_bar(steps) as advance:
        images = pipeline.text_to_image(
            prompt,
            negative_prompt=negative,
            batch_size=count,
            num_steps=steps,
            unconditional_guidance_scale=guidance,
            seed=seed,
            sampler=sampler,
            schedule=schedule,
            callback=advance,
        )

    # 4. The files. Names are chosen now: others may have appeared while the pictures were drawn.
    import keras

    from keras_sd.image import save_png

    settings = {
        "model": model,
        **{name: str(v) if isinstance(v, Path) else v for name, v in options.items()},
        "sampler": sampler,
        "schedule": schedule,
        "steps": steps,
        "guidance": guidance,
        "width": int(images.shape[2]),
        "height": int(images.shape[1]),
        "backend": keras.backend.backend(),
        "version": __version__,
    }
    for index, path in enumerate(_output_paths(output, prompt, seed, count)):
        made = {"prompt": prompt, "negative_prompt": negative, "seed": seed, "image": index}
        save_png(path, images[index], made | settings)
        typer.echo(path)
    say(f"seed {seed}, {', '.join(f'{key} {value}' for key, value in settings.items())}")


def samplers(debug: Debug = False) -> None:
    """List the installed samplers: name, distribution, version and where it is."""
    from keras_sd.registry import list_samplers

    rows = [("name", "distribution", "version", "where")]
    rows += [(s.name, s.distribution, s.version, s.value) for s in list_samplers()]
    for line in table(rows):
        typer.echo(line)


# --- input ----------------------------------------------------------------------------


def _parse_size(text: str | None) -> tuple[int | None, int | None]:
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
