"""How much a client may ask for, checked before anything of that size is made."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from keras_sd.checks import SIZE_UNIT, SettingError, whole

if TYPE_CHECKING:
    from keras_sd.config import Defaults
    from keras_sd.request import Request

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """Bounds of one server.

    Attributes:
        pixels: of each picture that is drawn.
        own_pixels: of the size that the model draws by itself.
        steps: of a request, each counted as often as it is taken.
        images: of a request.
        work: pixels times steps times images of a request.
        prompt: characters of a prompt.
        parts: of a prompt that are guided by themselves, as with `AND`.
        body: bytes of a request's body.
        bodies: bytes of all bodies that are being received at a time.
        given: pixels of all pictures in a request's body, decoded.
        depth: objects within objects of a JSON body.
        kept: results that are kept for whoever asks for them later.
        kept_bytes: of their pixels, and of the pictures that they began at.
        streams: clients that follow requests at a time.
        seconds: to receive a body.
    """

    pixels: int = 2**20
    own_pixels: int = 512 * 512
    steps: int = 150
    images: int = 16
    work: int = 2**20 * 50 * 16
    prompt: int = 10_000
    parts: int = 8
    body: int = 32 * 2**20
    bodies: int = 128 * 2**20
    given: int = 4 * 2**20
    depth: int = 64
    kept: int = 128
    kept_bytes: int = 256 * 2**20
    streams: int = 48
    seconds: float = 60.0

    def __post_init__(self) -> None:
        for each in fields(self):
            if each.name != "seconds":
                whole(each.name, getattr(self, each.name), 1)

    @classmethod
    def of(cls, defaults: Defaults, **given: Any) -> Limits:
        """The bounds for a model.

        Sixteen times the pixels of its own size are the most, a megapixel where that is less, but
        at least twice its own size: 256x256 for a model of 64x64, 1024x1024 for one of 512x512.

        Args:
            defaults: of the model.
            **given: bounds that take the place of these.
        """
        own = defaults.height * defaults.width
        most = max(min(16 * own, 2**20), 2 * own)
        limits = cls(pixels=most, own_pixels=own, work=most * 50 * cls.images)
        asked = {name: value for name, value in given.items() if value is not None}
        if "pixels" in asked and "work" not in asked:
            asked["work"] = asked["pixels"] * 50 * cls.images
        return replace(limits, **asked)

    def fitted(self, height: int, width: int) -> tuple[int, int]:
        """The size that is drawn for a client that names sizes without knowing the model.

        One within the bounds is drawn as it is, rounded down to a multiple of 8. Of a larger one
        the shape is taken, and the number of pixels is the model's own.

        Args:
            height: pixels.
            width: likewise.
        """
        if height * width <= self.pixels:
            return (
                max(height // SIZE_UNIT, 1) * SIZE_UNIT,
                max(width // SIZE_UNIT, 1) * SIZE_UNIT,
            )
        scale = math.sqrt(self.own_pixels / (height * width)) / SIZE_UNIT
        most = max(self.own_pixels // SIZE_UNIT**2, 1)  # of a shape that is nothing but long
        down, across = (min(max(round(side * scale), 1), most) for side in (height, width))
        return down * SIZE_UNIT, across * SIZE_UNIT

    def check(self, request: Request, size: tuple[int, int]) -> None:
        """Refuses a request that asks for too much.

        Args:
            request: whose size and steps may be the model's.
            size: height and width that are drawn.

        Raises:
            SettingError: a setting is beyond its bound; the message has the bound.
            ValueError: the product of several is.
        """
        images, (height, width) = len(request), size
        if images > self.images:
            raise SettingError("batch_size", f"is at most {self.images} here, not {images}")
        for name, texts in (
            ("prompt", request.prompts),
            ("negative_prompt", request.negative_prompts),
        ):
            for text in dict.fromkeys(texts):
                self.check_prompt(name, text, request.prompt_style)
        if height * width > self.pixels:
            raise SettingError(
                "height",
                f"times width is at most {self.pixels} pixels here, not {width}x{height}",
            )
        masking = request.start.masking if request.start else None
        steps = (request.num_steps or 0) * (masking.num_resamples if masking else 1)
        if steps > self.steps:
            raise SettingError("num_steps", f"is at most {self.steps} here, not {steps}")
        if images * steps * height * width > self.work:
            raise ValueError(
                f"{images} pictures of {width}x{height} in {steps} steps are "
                f"{images * steps * height * width} pixels; at most {self.work} are drawn a request"
            )

    def check_prompt(self, name: str, text: Any, style: str) -> None:
        """Refuses a prompt that is too long, or has too many parts.

        Args:
            name: of the argument, for the error.
            text: what was given.
            style: of the text, see `keras_sd.prompts`.

        Raises:
            SettingError: it is.
            ValueError: it has no meaning in its style.
        """
        from keras_sd.prompts import parse

        if not isinstance(text, str):
            return
        if len(text) > self.prompt:
            raise SettingError(
                name, f"has {len(text)} characters; at most {self.prompt} are read here"
            )
        parts = len(parse(text, style).parts)
        if parts > self.parts:
            raise SettingError(name, f"has {parts} parts; at most {self.parts} are drawn here")
