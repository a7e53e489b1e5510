"""ControlNets and T2I-Adapters of the commands that draw: their options, and what a request has of
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_sd.checks import SettingError, choice
from keras_sd.controls import Control
from keras_sd.request import Request
from keras_sd.start import Attachment

if TYPE_CHECKING:
    from keras_sd.pipeline import StableDiffusion

_EACH = "One for all, or one a control."

Files = Annotated[
    list[Path] | None,
    typer.Option(
        "--control",
        metavar="FILE",
        help="A ControlNet or T2I-Adapter that steers the picture, with --control-image. May be "
        "given several times.",
    ),
]
Images = Annotated[
    list[Path] | None,
    typer.Option("--control-image", metavar="IMAGE", help=f"What it is shown. {_EACH}"),
]
Strengths = Annotated[
    list[float] | None,
    typer.Option("--control-strength", help=f"How far it counts; by itself, 1. {_EACH}"),
]
Starts = Annotated[
    list[float] | None,
    typer.Option("--control-start", help=f"The part of the steps after which it counts. {_EACH}"),
]
Ends = Annotated[
    list[float] | None,
    typer.Option("--control-end", help=f"The part of the steps until which it counts. {_EACH}"),
]
Hints = Annotated[
    list[str] | None,
    typer.Option(
        "--control-hint",
        metavar="[canny|invert|threshold|none]",
        help=f"What is made of the image before; by itself, none. {_EACH}",
    ),
]


@dataclass(frozen=True)
class Steering:
    """The controls of a command.

    Attributes:
        paths: of their files.
        controls: as a request has them, with the files' SHA-256 and no networks yet.
    """

    paths: tuple[Path, ...] = ()
    controls: tuple[Control, ...] = ()

    def asked(self, request: Request) -> Request:
        """The request with them."""
        return replace(request, controls=self.controls)

    def opened(self, request: Request, pipeline: StableDiffusion) -> Request:
        """The request with their networks, for this pipeline."""
        from keras_sd.adapters.controlnet import ControlNet
        from keras_sd.adapters.feature_files import holds_features
        from keras_sd.adapters.t2i_adapter import T2IAdapter

        nets: dict[Path, Any] = {}
        for path in dict.fromkeys(self.paths):
            kind = T2IAdapter if holds_features(path) else ControlNet
            nets[path] = kind.from_file(path, model=pipeline)
        pairs = zip(request.controls, self.paths, strict=True)
        controls = (replace(each, net=nets[path].attachment()) for each, path in pairs)
        return replace(request, controls=tuple(controls))


def given(settings: Any) -> Steering:
    """What the options name, the hints read and the files looked at. No backend is needed.

    Raises:
        ValueError: a file is neither of both or no picture, a number does not fit, or there are
            other numbers of options than of controls; the message names the option.
        FileNotFoundError: there is no such file.
    """
    from keras_sd.adapters.control_files import open_control
    from keras_sd.adapters.feature_files import holds_features, open_features
    from keras_sd.cli.addons import naming
    from keras_sd.hints import HINTS
    from keras_sd.image import read_image
    from keras_sd.weights.readers import sha256

    paths = tuple(settings.control or ())
    options = {
        "image": settings.control_image,
        "strength": settings.control_strength,
        "start": settings.control_start,
        "end": settings.control_end,
        "hint": settings.control_hint,
    }
    if not paths:
        if wrong := next((name for name, values in options.items() if values), None):
            raise ValueError(f"--control-{wrong} is of a --control, and there is none")
        return Steering()
    if not options["image"]:
        raise ValueError("--control needs --control-image, the picture that it is shown")
    rows = {
        name: spread(f"--control-{name}", values, paths, "--control")
        for name, values in options.items()
        if values
    }
    controls = []
    for i, path in enumerate(paths):
        row = {name: values[i] for name, values in rows.items()}
        with naming("--control"):
            opened = (open_features if holds_features(path) else open_control)(path)
            net = Attachment(sha256(opened.path), path.name)
        image = row.pop("image")
        hint = choice("--control-hint", row.pop("hint", "none"), ("none", *HINTS))
        with naming("--control-image"):
            pixels = read_image(image) if hint == "none" else HINTS[hint](image)
        try:
            controls.append(Control(net, (Attachment.of(pixels, image.name),), **row))
        except SettingError as error:
            raise ValueError(f"--control-{error.name} {error.problem}") from error
    return Steering(paths, tuple(controls))


def spread(name: str, values: Sequence[Any], files: Sequence[Path], option: str) -> list[Any]:
    """The values of an option, one for each file.

    Args:
        name: of the option.
        values: that were given, one for all or one for each.
        files: that another option names.
        option: the name of that one.

    Raises:
        ValueError: there are as many of neither.
    """
    if len(values) not in (1, len(files)):
        raise ValueError(
            f"{name} is given {len(values)} times for {len(files)} {option}: once for all, or once "
            "for each"
        )
    return list(values) * (len(files) // len(values))
