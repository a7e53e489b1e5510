"""Pictures as a part of the prompt: `ImagePrompt`, an IP-Adapter with what it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from keras_sd.checks import real
from keras_sd.controls import check_part, counts
from keras_sd.settings import Checked, setting
from keras_sd.start import read_attachments

__all__ = ["ImagePrompt"]


@dataclass(frozen=True)
class ImagePrompt(Checked):
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

    def __post_init__(self) -> None:
        super().__post_init__()
        check_part("An image prompt", self.start, self.end)

    def counts(self, step: int, num_steps: int) -> bool:
        """Whether it counts at a step of a run, as `keras_sd.Control.counts` does.

        Args:
            step: counted from 0.
            num_steps: of the run.
        """
        return counts(self, step, num_steps)

    @classmethod
    def _read(cls, name: str, value: Any) -> Any:
        if name == "image":
            return read_attachments(name, value)
        if name == "adapter":
            if not isinstance(value, Mapping):
                raise ValueError(
                    f"adapter is the sha256 of an IP-Adapter and a name, not {value!r}"
                )
            return read_attachments(name, [value])[0]
        return super()._read(name, value)
