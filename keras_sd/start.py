"""What a run begins at beside noise: a picture, and the part of it that is painted.

A request refers to arrays by the hash of their content (`Attachment`), so that it stays a small
value that JSON can hold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args

from keras_sd.checks import MAX_SIDE, choice, flag, real, whole
from keras_sd.settings import Checked, setting

__all__ = [
    "Attachment",
    "MaskConvention",
    "Masking",
    "Resize",
    "Start",
    "StepsMode",
    "read_attachments",
]

StepsMode = Literal["run", "schedule"]
"""What `num_steps` counts in a run that begins at a picture: `"run"`, the steps that are run;
`"schedule"`, those of the whole schedule, of which the part that `strength` says is run."""

Resize = Literal["stretch", "crop", "pad"]
"""How an image is brought to a size of another shape: it is distorted, its edges are cut off, or
edges are added."""

MaskConvention = Literal["white_repaints", "keras_cv"]
"""What 1, white, means in a mask: it is painted, or with `"keras_cv"` it is kept."""


@dataclass(frozen=True)
class Attachment:
    """An array that a request refers to by the hash of its content: a picture, a mask, encodings of
    a text, noise. Two are equal if their contents are.

    Attributes:
        sha256: of the array's dtype, shape and bytes, in hexadecimal.
        name: of the file it came from, without its folder; for people.
        data: the array; None in a request that was read from JSON, until `Request.attached`.
    """

    sha256: str
    name: str | None = field(default=None, compare=False)
    data: Any = field(default=None, compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """What JSON holds: the hash, and the name if there is one."""
        return {"sha256": self.sha256, **({"name": self.name} if self.name else {})}

    @classmethod
    def of(cls, array: Any, name: str | None = None) -> Attachment:
        """The attachment of an array with `dtype`, `shape` and `tobytes`, as NumPy's; or of what
        has an `attachment()` of its own, as a ControlNet.
        """
        if hasattr(array, "attachment"):
            own: Attachment = array.attachment()
            return own
        content = hashlib.sha256(f"{array.dtype.str}{tuple(array.shape)}".encode())
        content.update(array.tobytes())
        return cls(content.hexdigest(), name, array)


@dataclass(frozen=True, kw_only=True)
class Masking(Checked):
    """Which part of a picture is painted, and how.

    Attributes:
        masks: one for all pictures, or one a picture.
    """

    masks: tuple[Attachment, ...]
    num_resamples: int = setting(
        1,
        "How often each step is taken: more, and the painted part fits its surroundings better.",
        partial(whole, least=1, most=1000),
        option="resamples",
    )
    mask_convention: MaskConvention = setting(
        "white_repaints",
        "What white means in a mask: it is painted, or with keras_cv it is kept.",
        partial(choice, choices=get_args(MaskConvention)),
    )
    mask_blur: float = setting(
        0,
        "Standard deviation, in pixels, of a Gaussian that softens the mask's edges.",
        partial(real, least=0, most=MAX_SIDE),
    )
    only_masked: bool = setting(
        False, "Draw the mask's surroundings alone, at the request's size, and put them back.", flag
    )
    padding: int = setting(
        32,
        "How many pixels around the mask are its surroundings.",
        partial(whole, least=0, most=MAX_SIDE),
    )
    keep_unmasked: bool = setting(
        True, "Keep the pixels that the mask leaves out, bit for bit.", flag
    )

    @classmethod
    def _read(cls, name: str, value: Any) -> Any:
        return read_attachments(name, value) if name == "masks" else value


@dataclass(frozen=True, kw_only=True)
class Start(Checked):
    """The picture that a run begins at.

    Attributes:
        pictures: one for all, or one a picture of the request.
        masking: of inpainting; None where all of the picture is drawn anew.
    """

    pictures: tuple[Attachment, ...]
    strength: float | None = setting(
        None,
        "How much is made anew, above 0 and at most 1; by itself, 0.8, and with a mask 1.",
        partial(real, above=0, most=1),
    )
    steps_mode: StepsMode = setting(
        "run",
        "Run all steps that are asked for, or with schedule the part of them that strength says.",
        partial(choice, choices=get_args(StepsMode)),
    )
    resize: Resize | None = setting(
        None,
        "How the picture is brought to the request's size; by itself, its own size is drawn.",
        partial(choice, choices=(None, *get_args(Resize))),
    )
    masking: Masking | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resize is not None and self.masking is not None and self.masking.only_masked:
            raise ValueError("only_masked makes its part of the picture fit by itself: no resize")

    @classmethod
    def _read(cls, name: str, value: Any) -> Any:
        if name == "masking" and value is not None:
            return Masking.from_dict(value)
        return read_attachments(name, value) if name == "pictures" else value


def read_attachments(name: str, value: Any) -> tuple[Any, ...]:
    """Attachments, and texts among them, from JSON's list.

    Raises:
        ValueError: the value is no list, or an attachment lacks its hash.
    """
    if not isinstance(value, list):
        raise ValueError(f"{name} is a list, not {value!r}")
    return tuple(_read_attachment(name, v) if isinstance(v, Mapping) else v for v in value)


def _read_attachment(name: str, value: Mapping[str, Any]) -> Attachment:
    digest, label = value.get("sha256"), value.get("name")
    if (
        not isinstance(digest, str)
        or len(digest) != 64
        or set(digest) - set("0123456789abcdef")
        or not (label is None or isinstance(label, str))
        or set(value) - {"sha256", "name"}
    ):
        raise ValueError(f"{name}: an array is its sha256 and a name, not {dict(value)!r}")
    return Attachment(digest, label)
