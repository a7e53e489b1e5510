"""IP-Adapters of the commands that draw: their options, and what a request has of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_sd.checks import SettingError
from keras_sd.cli.controls import spread
from keras_sd.image_prompts import ImagePrompt
from keras_sd.request import Request
from keras_sd.start import Attachment

if TYPE_CHECKING:
    from keras_sd.pipeline import StableDiffusion

_EACH = "One for all, or one an adapter."

Files = Annotated[
    list[Path] | None,
    typer.Option(
        "--ip-adapter",
        metavar="FILE",
        help="An IP-Adapter, by which pictures are a part of the prompt, with --ip-image and "
        "--image-encoder. May be given several times.",
    ),
]
Images = Annotated[
    list[Path] | None,
    typer.Option(
        "--ip-image",
        metavar="IMAGE",
        help="What it is shown. Several are seen together by one adapter, or are one for each.",
    ),
]
Encoders = Annotated[
    list[Path] | None,
    typer.Option(
        "--image-encoder",
        metavar="PATH",
        help=f"The CLIP image encoder that it was trained with, a file or folder. {_EACH}",
    ),
]
Strengths = Annotated[
    list[float] | None,
    typer.Option("--ip-strength", help=f"How far it counts; by itself, 1. {_EACH}"),
]
Starts = Annotated[
    list[float] | None,
    typer.Option("--ip-start", help=f"The part of the steps after which it counts. {_EACH}"),
]
Ends = Annotated[
    list[float] | None,
    typer.Option("--ip-end", help=f"The part of the steps until which it counts. {_EACH}"),
]


@dataclass(frozen=True)
class Shown:
    """The image prompts of a command.

    Attributes:
        paths: of their files, each with its encoder.
        prompts: as a request has them, with the files' SHA-256 and no networks yet.
    """

    paths: tuple[tuple[Path, Path], ...] = ()
    prompts: tuple[ImagePrompt, ...] = ()

    def asked(self, request: Request) -> Request:
        """The request with them."""
        return replace(request, image_prompts=self.prompts)

    def opened(self, request: Request, pipeline: StableDiffusion) -> Request:
        """The request with their networks, for this pipeline."""
        from keras_sd.adapters.ip_adapter import IPAdapter

        found: dict[tuple[Path, Path], IPAdapter] = {}
        encoders: dict[Path, Any] = {}
        for path, place in dict.fromkeys(self.paths):
            encoder = encoders.get(place, place)
            made = IPAdapter.from_file(path, image_encoder=encoder, model=pipeline)
            found[path, place], encoders[place] = made, made.encoder
        pairs = zip(request.image_prompts, self.paths, strict=True)
        prompts = (replace(each, adapter=found[paths].attachment()) for each, paths in pairs)
        return replace(request, image_prompts=tuple(prompts))


def given(settings: Any) -> Shown:
    """What the options name, the pictures read and the files looked at. No backend is needed.

    Raises:
        ValueError: a file is no IP-Adapter, no image encoder of it or no picture, a number does not
            fit, or there are other numbers of options than of adapters; the message names the
            option.
        FileNotFoundError: there is no such file.
    """
    from keras_sd.adapters.image_encoder_files import open_image_encoder
    from keras_sd.adapters.image_prompt_files import check_pair, open_image_prompt
    from keras_sd.cli.addons import naming
    from keras_sd.image import read_image
    from keras_sd.weights.readers import sha256

    paths = tuple(settings.ip_adapter or ())
    options = {
        "--ip-image": settings.ip_image,
        "--image-encoder": settings.image_encoder,
        "--ip-strength": settings.ip_strength,
        "--ip-start": settings.ip_start,
        "--ip-end": settings.ip_end,
    }
    if not paths:
        if wrong := next((name for name, values in options.items() if values), None):
            raise ValueError(f"{wrong} is of an --ip-adapter, and there is none")
        return Shown()
    for name, what in (
        ("--ip-image", "the picture that it is shown"),
        ("--image-encoder", "the CLIP image encoder that it was trained with"),
    ):
        if not options[name]:
            raise ValueError(f"--ip-adapter needs {name}, {what}")
    together = [list(options.pop("--ip-image"))]
    if len(paths) > 1:
        together = [[each] for each in spread("--ip-image", together[0], paths, "--ip-adapter")]
    rows = {
        name: spread(name, values, paths, "--ip-adapter")
        for name, values in options.items()
        if values
    }
    encoders = rows.pop("--image-encoder")
    prompts = []
    for i, path in enumerate(paths):
        with naming("--ip-adapter"):
            file = open_image_prompt(path)
        with naming("--image-encoder"):
            check_pair(file, open_image_encoder(encoders[i]))
        with naming("--ip-image"):
            shown = tuple(Attachment.of(read_image(each), each.name) for each in together[i])
        adapter = Attachment(sha256(path), path.name)
        row = {name.removeprefix("--ip-"): values[i] for name, values in rows.items()}
        try:
            prompts.append(ImagePrompt(adapter, shown, **row))
        except SettingError as error:
            raise ValueError(f"--ip-{error.name} {error.problem}") from error
    return Shown(tuple(zip(paths, encoders, strict=True)), tuple(prompts))
