"""What a prompt says, as values: segments with weights, parts, edits over the steps, tags."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = [
    "Alternation",
    "Edit",
    "Join",
    "PromptError",
    "Section",
    "Segment",
    "Tag",
    "Written",
    "finite",
]

Join: TypeAlias = Literal["guided", "blended", "joined"]
"""What becomes of several parts: their predictions are added to the unconditional one by weight
("guided", AND); their encodings are added by weight ("blended"), or stand one behind the other
("joined")."""


class PromptError(ValueError):
    """A prompt that its grammar has no meaning for."""


@dataclass(frozen=True)
class Segment:
    """Text of one weight, which is tokenized by itself.

    Attributes:
        text: without brackets and escapes.
        weight: 1 changes nothing.
    """

    text: str
    weight: float = 1.0


Section: TypeAlias = tuple[Segment, ...]
"""The segments between two BREAKs; none at all is an empty chunk."""


@dataclass(frozen=True)
class Edit:
    """`[before:after:when]`: another text from some step on.

    Attributes:
        before: what is written first.
        after: what is written then.
        when: the last step with `before`; as a fraction of the steps where `fraction` is True.
        fraction: whether `when` was written with a dot.
    """

    before: Written
    after: Written
    when: float
    fraction: bool


@dataclass(frozen=True)
class Alternation:
    """`[a|b|c]`: another text each step, in turn."""

    options: tuple[Written, ...]


Written: TypeAlias = tuple["str | Edit | Alternation", ...]
"""Text, with what changes over the steps in its place."""


@dataclass(frozen=True)
class Tag:
    """`<lora:name:0.8>`: what the prompt asks for beside its words.

    Attributes:
        source: as it was written.
        kind: the word before the first colon.
        name: of what is asked for; of a kind that is not known, all that follows the kind.
        text_encoder: strength there.
        unet: strength there.
        rank: to cut it down to; None leaves it.
        known: whether the kind is one whose numbers were read, `TAGS`.
    """

    source: str
    kind: str
    name: str
    text_encoder: float = 1.0
    unet: float = 1.0
    rank: int | None = None
    known: bool = True


def finite(number: str, source: str) -> float:
    """A weight as a float.

    Args:
        number: as it was written.
        source: where, for the error.

    Raises:
        PromptError: it is no number, or too large for one.
    """
    try:
        weight = float(number)
    except ValueError:
        raise PromptError(
            f"{shown(number)} in {shown(source)} is no number; a weight is one, such as 1.3"
        ) from None
    return within(weight, source)


def within(weight: float, source: str) -> float:
    """The weight, if it is a finite number.

    Raises:
        PromptError: it is not.
    """
    if not math.isfinite(weight):
        raise PromptError(f"The weight of {shown(source)} is {weight}, and no model computes that")
    return weight


def shown(text: str) -> str:
    """The text in quotes, short enough for a message."""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
