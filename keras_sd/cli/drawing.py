"""The options that every command that draws has, said once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import Field, dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from keras_sd.cli import addons, controls, image_prompts, loading
from keras_sd.request import Request
from keras_sd.settings import Checked, settings
from keras_sd.start import Masking, Start

Output = Annotated[
    Path | None,
    typer.Option(help="A .png file, or a folder. Default: a new name here, made from the prompt."),
]
FewSteps = Annotated[
    str | None,
    typer.Option(
        help="The kind of distilled model or LoRA that is used: lcm, tcd, turbo, lightning, hyper, "
        "hyper_cfg. Its sampler, schedule, steps and guidance are taken where none are given."
    ),
]
Model = Annotated[
    str,
    typer.Option(
        help="A name that `keras-sd models` lists, the path of a file or folder, or "
        "hf://owner/name."
    ),
]
Prompt = Annotated[str, typer.Argument(help="What the picture shows.")]


@dataclass(frozen=True, kw_only=True)
class DrawOptions(loading.Options):
    """What was asked for on the command line, by the names of the options."""

    model: Model = "emoji"
    negative: Annotated[str | None, typer.Option(help="What it shall not show.")] = None
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**64 - 1, help="Same seed, same picture. Default: a new one."),
    ] = None
    count: Annotated[int, typer.Option(min=1, help="Number of pictures.")] = 1
    size: Annotated[
        str | None,
        typer.Option(help="Pixels: WIDTHxHEIGHT, or one number for both. Default: the model's."),
    ] = None
    output: Output = None
    few_steps: FewSteps = None
    adapter: addons.Adapters = None
    adapters_dir: addons.TaggedDir = None
    embedding: addons.Embeddings = None
    control: controls.Files = None
    control_image: controls.Images = None
    control_strength: controls.Strengths = None
    control_start: controls.Starts = None
    control_end: controls.Ends = None
    control_hint: controls.Hints = None
    ip_adapter: image_prompts.Files = None
    ip_image: image_prompts.Images = None
    image_encoder: image_prompts.Encoders = None
    ip_strength: image_prompts.Strengths = None
    ip_start: image_prompts.Starts = None
    ip_end: image_prompts.Ends = None


def draws(
    *parts: type[Checked], options: type = DrawOptions
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command that draws: its options are its own, those that it shares with others, and every
    setting of requests that it takes.

    Args:
        *parts: `Request`, `Start`, `Masking`: those whose settings it takes. If there are any, the
            command gets them in its parameter `given`, by the names that they have there.
        options: those that it shares, which it gets in its parameter `settings`; those of
            `loading.Options` come last.
    """

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True)
        last, first = _fields(loading.Options), _fields(options)
        shared = {**{name: each for name, each in first.items() if name not in last}, **last}
        names = {_option(name, each): name for name, each in _of_requests(parts).items()}

        @functools.wraps(command)
        def spread(**typed: object) -> None:
            if parts:
                typed["given"] = {name: typed.pop(option) for option, name in names.items()}
            asked = options(**{name: typed.pop(name) for name in shared})
            command(**typed, settings=asked)

        parameters = {**own.parameters, **_parameters(parts), **shared}
        parameters = {n: p for n, p in parameters.items() if n not in ("settings", "given")}
        by_name = [each.replace(kind=each.KEYWORD_ONLY) for each in parameters.values()]
        spread.__signature__ = own.replace(parameters=by_name)  # type: ignore[attr-defined]
        return spread

    return decorated


def _fields(options: type) -> dict[str, inspect.Parameter]:
    """The fields of a dataclass as parameters; each type is one of the module that names it."""
    hints = get_type_hints(options, include_extras=True)
    found = inspect.signature(options).parameters
    return {name: each.replace(annotation=hints[name]) for name, each in found.items()}


def flag_of(name: str) -> str:
    """What the command calls a setting: `--steps` is `num_steps`."""
    known = {**_of_requests((Request, Start, Masking)), "batch_size": None}
    if name not in known:
        return name
    each = known[name]
    option = "count" if each is None else _option(name, each)
    return f"--{option.replace('_', '-')}"


def _of_requests(parts: Sequence[type[Checked]]) -> dict[str, Field]:
    """Settings by name, but for height and width, which are one option."""
    found = {name: each for part in parts for name, each in settings(part).items()}
    return {name: each for name, each in found.items() if name not in ("height", "width")}


def _option(name: str, each: Field) -> str:
    return each.metadata["option"] or name


def _parameters(parts: Sequence[type[Checked]]) -> dict[str, inspect.Parameter]:
    hints = {name: hint for part in parts for name, hint in get_type_hints(part).items()}
    found = {}
    for name, each in _of_requests(parts).items():
        kind: Any = str | None if hints[name] is Any else hints[name]
        text = each.metadata["help"]
        if each.default is None and "by itself" not in text:
            text += " Default: the model's."
        annotation = Annotated[kind, typer.Option(help=text)]
        option = _option(name, each)
        found[option] = inspect.Parameter(
            option, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=annotation
        )
    return found
