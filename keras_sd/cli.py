"""The `keras-sd` command.

Nothing heavy is imported before it is needed: `--help` and `samplers` need neither Keras nor NumPy,
and `generate` checks all it can before it imports Keras, which takes seconds.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.main import get_command

from keras_sd import __version__

if TYPE_CHECKING:
    from keras_sd.sampling import Step

# In the order in which one is picked where none is named, and each needs a different `pip install`.
BACKENDS = ("jax", "tensorflow", "torch")
SIZE_STEP = 8

app = typer.Typer(
    name="keras-sd",
    help="Stable Diffusion for Keras 3: pictures from a prompt, on TensorFlow, JAX or torch.",
    add_completion=False,
    # Plain help: rich would double the time that --help takes.
    rich_markup_mode=None,
)

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Backend = Annotated[
    str | None,
    typer.Option(
        help=f"What Keras runs on: {', '.join(BACKENDS)}. Default: as Keras is configured."
    ),
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: What follows `keras-sd`; the process's own arguments if None.

    Returns:
        The exit status: 0, 2 for bad input, 1 for another failure, 130 when stopped by Ctrl-C.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        with _notes():
            status = get_command(app).main(arguments, prog_name="keras-sd", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        status = 130
    except Exception as error:
        if "--debug" in arguments:
            raise
        status = _report(error)
    if status == 130:
        _say("stopped")
    return status if isinstance(status, int) else 0


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    if version:
        typer.echo(f"keras-sd {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What the picture shows.")],
    model: Annotated[str, typer.Option(help="A preset's name, or its folder.")] = "emoji",
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
    _select_backend(backend)
    if sampler is not None:
        from keras_sd.registry import get_sampler

        get_sampler(sampler)

    # 2. The model.
    _silence_backends()
    from keras_sd.pipeline import StableDiffusion

    pipeline = StableDiffusion.from_preset(model, height=height, width=width)
    defaults = pipeline.config.defaults
    sampler = sampler or defaults.sampler
    schedule = schedule or defaults.schedule
    steps = steps or defaults.num_steps
    guidance = defaults.guidance_scale if guidance is None else guidance

    # 3. The pictures.
    with _progress_bar(steps) as advance:
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
    _say(f"seed {seed}, {', '.join(f'{key} {value}' for key, value in settings.items())}")


@app.command()
def samplers(debug: Debug = False) -> None:
    """List the installed samplers: name, distribution, version and where it is."""
    from keras_sd.registry import list_samplers

    rows = [("name", "distribution", "version", "where")]
    rows += [(s.name, s.distribution, s.version, s.value) for s in list_samplers()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())


# --- train-emoji: everything about it is in keras_sd.training.emoji -------------------


@app.command("train-emoji")
def train_emoji(
    output: Annotated[
        Path, typer.Argument(help="Folder for checkpoints, sample sheets and the finished preset.")
    ],
    font: Annotated[
        Path | None, typer.Option(help="NotoColorEmoji.ttf. Default: look for it.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same training.")] = 0,
    backend: Backend = None,
    debug: Debug = False,
) -> None:
    """Train the embedded model again, from the emoji font; goes on where it was stopped."""
    _select_backend(backend)
    _silence_backends()
    from keras_sd.training.emoji import main_train

    main_train(output=output, font=font, seed=seed)


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
    width, height = int(match[1]), int(match[2] or match[1])
    for name, value in (("width", width), ("height", height)):
        if value < SIZE_STEP:
            raise ValueError(
                f"--size: a {name} of {value} pixels is too small; the least is {SIZE_STEP}."
            )
        if value % SIZE_STEP:
            below = value - value % SIZE_STEP
            raise ValueError(
                f"--size: a {name} of {value} pixels is not a multiple of {SIZE_STEP}; "
                f"the nearest that work are {below} and {below + SIZE_STEP}."
            )
    return width, height


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
            _say(f"note: {path} will be replaced")


def _slug(prompt: str) -> str:
    words = "-".join(re.findall(r"\w+", prompt.lower()))
    # File systems count bytes: at most 255 of them, and room for seed, number and ending is needed.
    return words.encode("utf-8")[:80].decode("utf-8", "ignore").strip("-_") or "image"


# --- backends -------------------------------------------------------------------------


def _select_backend(asked: str | None) -> None:
    """Settle what Keras will run on, and set KERAS_BACKEND where Keras would not find it by itself.

    In this order: `--backend`, KERAS_BACKEND, Keras' own configuration, the first one installed.
    """
    installed = [name for name in BACKENDS if _is_installed(name)]
    pip = ", or ".join(f'pip install "keras-sd[{name}]"' for name in BACKENDS)
    if asked is not None and asked not in BACKENDS:
        raise ValueError(f"--backend is {asked!r}; it is one of {', '.join(BACKENDS)}.")
    if not installed:
        raise ValueError(
            f"no backend is installed, and Keras needs one. Install one of them: {pip}"
        )
    wanted = asked or os.environ.get("KERAS_BACKEND")
    if wanted in BACKENDS and wanted not in installed:
        source = "--backend" if asked else "KERAS_BACKEND"
        raise ValueError(
            f"{source} is {wanted}, which is not installed: {pip}. "
            f"Installed: {', '.join(installed)}."
        )
    if not wanted:
        configured = _configured_backend()
        if configured in BACKENDS and configured not in installed:
            wanted = installed[0]
            _say(f"note: running on {wanted} (Keras is configured for {configured}, not installed)")
    if wanted:
        os.environ["KERAS_BACKEND"] = wanted


def _is_installed(module: str) -> bool:
    spec = importlib.util.find_spec(module)
    # What pip has left behind of an uninstalled package is a folder without an __init__.
    return spec is not None and spec.origin is not None


def _configured_backend() -> str:
    """What Keras takes by itself: its configuration file's, else TensorFlow."""
    folder = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
    try:
        config = json.loads((Path(folder) / "keras.json").read_text(encoding="utf-8"))
        return str(config.get("backend", "tensorflow"))
    except (OSError, ValueError, AttributeError):
        return "tensorflow"


def _silence_backends() -> None:
    """Keep the backends' start-up chatter off the terminal. Only the command does this."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


# --- output ---------------------------------------------------------------------------


@contextmanager
def _progress_bar(total: int) -> Iterator[Callable[[Step], None]]:
    """A bar on stderr, if that is a terminal; yields the callback that moves it."""
    if not sys.stderr.isatty():
        yield lambda step: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        # The first step compiles the model, which can take longer than all the others together.
        task = progress.add_task("preparing", total=total)

        def advance(step: Step) -> None:
            progress.update(task, description="drawing", completed=step.index, total=step.total)

        yield advance


@contextmanager
def _notes() -> Iterator[None]:
    """Show what the library logs, unknown words of a prompt for one, as notes on stderr."""
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: _say(f"note: {record.getMessage()}")  # type: ignore[method-assign]
    logger = logging.getLogger("keras_sd")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _report(error: Exception) -> int:
    """Print an error in one line and return the exit status it deserves."""
    # Typer's own errors, about the command line, bring a message and a status.
    usage: Any = getattr(error, "format_message", None)
    message = " ".join((usage() if usage else str(error)).split()) or type(error).__name__
    if usage:
        _say(f"error: {message}")
        return int(getattr(error, "exit_code", 2))
    if isinstance(error, (ValueError, TypeError, FileNotFoundError)):
        _say(f"error: {message}")
        return 2
    if isinstance(error, OSError):
        _say(f"error: {message}")
        return 1
    _say(f"error: {type(error).__name__}: {message} (--debug shows where)")
    return 1


if __name__ == "__main__":
    sys.exit(main())
