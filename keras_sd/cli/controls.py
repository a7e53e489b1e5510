"""ControlNets and T2I-Adapters of the commands that draw: their options, and what a request has of
them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
Dir = Annotated[
    Path | None,
    typer.Option(help="Likewise of the ControlNets and T2I-Adapters."),
]
Shown = Annotated[
    list[Path] | None,
    typer.Option(
        "--control-image",
        metavar="IMAGE",
        help="What one of them was shown, or the picture that it was made of. May be given several "
        "times.",
    ),
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
        controls = []
        for each, path in zip(request.controls, self.paths, strict=True):
            net = nets[path].attachment()
            named = replace(net, name=each.net.name or net.name)
            controls.append(replace(each, net=named))
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


def found_again(
    request: Request | None, controls_dir: Path | None, images: Sequence[Path] | None
) -> Steering:
    """The controls of a picture's request: their networks by the SHA-256 of their files, in a
    folder, and their hints by that of their pixels, among pictures and what `HINTS` makes of them.

    Args:
        request: of the picture, or None.
        controls_dir: the folder, or None.
        images: the pictures, or None.

    Raises:
        ValueError: a network or a hint is not there, or a picture is given for none; the message
            names it and the option.
        FileNotFoundError: there is no such folder, or no such picture.
    """
    from keras_sd.cli.addons import find, naming
    from keras_sd.image import read_image
    from keras_sd.provenance.origin import Used

    asked = () if request is None else request.controls
    if images and not asked:
        raise ValueError("--control-image is of a control, and the picture was made with none")
    nets = {each.net.sha256: Used(each.net.name or "", each.net.sha256) for each in asked}
    paths = {digest: find("control", used, controls_dir) for digest, used in nets.items()}
    pictures: dict[Path, Any] = {}
    for image in images or ():
        with naming("--control-image"):
            pictures[image] = read_image(image)
    controls = []
    for each in asked:
        hints = (replace(hint, data=_hint(hint, pictures)) for hint in each.image)
        controls.append(replace(each, image=tuple(hints)))
    return Steering(tuple(paths[each.net.sha256] for each in asked), tuple(controls))


def _hint(wanted: Attachment, pictures: Mapping[Path, Any]) -> Any:
    """The pixels of a hint, which a picture has, or what is made of one.

    Raises:
        ValueError: neither.
    """
    from keras_sd.hints import HINTS
    from keras_sd.weights.readers import shown

    for make in (lambda pixels: pixels, *HINTS.values()):
        for pixels in pictures.values():
            made = make(pixels)
            if Attachment.of(made).sha256 == wanted.sha256:
                return made
    what = f"{shown(wanted.name or 'an array')}, pixels of SHA-256 {wanted.sha256}"
    if not pictures:
        raise ValueError(f"--control-image is needed: a control of the picture was shown {what}")
    tried = ", ".join(map(str, pictures))
    raise ValueError(
        f"--control-image: a control of the picture was shown {what}, which is none of {tried}, "
        f"nor made of one by {', '.join(HINTS)}"
    )


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
