"""Pictures that steer a run: `Control`, a ControlNet or T2I-Adapter with its hint and how far it
counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, get_args

from keras_sd.checks import choice, flag, real
from keras_sd.settings import Checked, setting
from keras_sd.start import Resize, read_attachments

__all__ = ["Control", "Partly"]


class Partly(Checked):
    """What a network and its pictures bring into a part of a run's steps, with fields `image`,
    `strength`, `start`, `end` and one of the network.
    """

    _what: ClassVar[tuple[str, str, str]]
    """What errors call it; the name of the network's field, and what they call that."""

    strength: float
    start: float
    end: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start >= self.end:
            raise ValueError(
                f"{self._what[0]} counts from start to end; {self.start:g} is not before "
                f"{self.end:g}"
            )

    def counts(self, step: int, num_steps: int) -> bool:
        """Whether it counts at a step of a run: at those that are from `start` to `end` as a whole.

        Args:
            step: counted from 0.
            num_steps: of the run.
        """
        begun = step / num_steps >= self.start
        return self.strength > 0 and begun and (step + 1) / num_steps <= self.end

    @classmethod
    def _read(cls, name: str, value: Any) -> Any:
        _, network, kind = cls._what
        if name == "image":
            return read_attachments(name, value)
        if name == network:
            if not isinstance(value, Mapping):
                raise ValueError(f"{network} is the sha256 of {kind} and a name, not {value!r}")
            return read_attachments(name, [value])[0]
        return super()._read(name, value)


@dataclass(frozen=True)
class Control(Partly):
    """A ControlNet or T2I-Adapter in a run, and the hint that it is shown.

    Attributes:
        net: a `keras_sd.ControlNet` or `keras_sd.T2IAdapter`; in a request an `Attachment` of it.
        image: the hint: one for all pictures, or one a picture: paths, Pillow images, uint8 arrays
            `(height, width, 3)` or float ones from 0 to 1; in a request `Attachment`s. A hint of
            the run's shape is brought to its size.

    Raises:
        ValueError: a setting does not fit.
        TypeError: a setting is of another kind.
    """

    _what = ("A control", "net", "a network")

    net: Any
    image: Any
    strength: float = setting(
        1.0,
        "How far it counts: what it adds is multiplied by this.",
        partial(real, least=0, most=10),
    )
    start: float = setting(
        0.0, "The part of the steps after which it counts.", partial(real, least=0, most=1)
    )
    end: float = setting(
        1.0, "The part of the steps until which it counts.", partial(real, least=0, most=1)
    )
    guess_mode: bool = setting(
        False,
        "It counts for the prompt alone, not for the negative one, and less on the finer levels: "
        "so that it draws the hint without a prompt. Of a ControlNet.",
        flag,
    )
    resize: Resize | None = setting(
        None,
        "How a hint of another shape is brought to the size of the run; by itself, it is refused.",
        partial(choice, choices=(None, *get_args(Resize))),
    )
