"""Pictures as a part of the prompt: `ImagePrompt`, an IP-Adapter with what it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from keras_sd.checks import real
from keras_sd.controls import Partly
from keras_sd.settings import setting

__all__ = ["ImagePrompt"]


@dataclass(frozen=True)
class ImagePrompt(Partly):
    """An IP-Adapter in a run, and the pictures that it is shown.

    Attributes:
        adapter: a `keras_sd.IPAdapter`; in a request an `Attachment` of it.
        image: a picture, or several that are seen together: paths, Pillow images, or uint8 arrays
            `(height, width, 3)`; in a request `Attachment`s. The encoder sees the square in the
            middle of each.

    Raises:
        ValueError: a setting does not fit.
        TypeError: a setting is of another kind.
    """

    _what = ("An image prompt", "adapter", "an IP-Adapter")

    adapter: Any
    image: Any
    strength: float = setting(
        1.0,
        "How far it counts: what is found in the pictures is multiplied by this.",
        partial(real, least=0, most=10),
    )
    start: float = setting(
        0.0, "The part of the steps after which it counts.", partial(real, least=0, most=1)
    )
    end: float = setting(
        1.0, "The part of the steps until which it counts.", partial(real, least=0, most=1)
    )
