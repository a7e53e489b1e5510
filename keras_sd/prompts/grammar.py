"""From a text to its parts: tags, AND, edits, then weights, each in a pass of its own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby

from keras_sd.checks import choice
from keras_sd.prompt_styles import STYLES
from keras_sd.prompts import brackets, compel, edits, tags
from keras_sd.prompts.values import (
    Join,
    PromptError,
    Section,
    Segment,
    Tag,
    Written,
    finite,
    shown,
)

__all__ = ["Part", "Prompt", "Range", "parse", "sections"]

_AND = re.compile(r"\bAND\b")
_WEIGHT = re.compile(r"[-+]?(?:\d+\.?|\d*\.\d+)")


@dataclass(frozen=True)
class Range:
    """Steps that have one text.

    Attributes:
        first: step, counted from 1.
        last: step.
        text: what is written there.
        sections: the text with its weights read.
    """

    first: int
    last: int
    text: str
    sections: tuple[Section, ...]


@dataclass(frozen=True)
class Part:
    """One of the prompts that AND, or `.blend` and `.and` of compel, make one of.

    Attributes:
        written: the text, with its edits.
        weight: of the part among all.
        style: see `STYLES`.
    """

    written: Written
    weight: float
    style: str

    @property
    def changes(self) -> bool:
        """Whether the text is another at other steps."""
        return any(not isinstance(each, str) for each in self.written)

    def entries(self, num_steps: int, earlier: int | None = None) -> tuple[tuple[int, str], ...]:
        """The texts, each with the last step that it was written for: see `edits.entries`."""
        return edits.entries(self.written, num_steps, earlier, self.style == "a1111")

    def ranges(self, num_steps: int, earlier: int | None = None) -> tuple[Range, ...]:
        """Which text each step of a run has.

        In the style "a1111" each edit comes one step late: its web UI counts from 0 and compares
        with steps counted from 1. It counts calls of the model, of which some samplers have two a
        step; here they are steps with every sampler.

        Args:
            num_steps: of the run.
            earlier: the steps of a first pass, if this is the second one.

        Raises:
            PromptError: a text has a weight that is none.
        """
        late = self.style == "a1111"
        first, found = 1, []
        for until, text in self.entries(num_steps, earlier):
            last = min(until + late, num_steps)
            if last >= first:
                found.append((first, last, text))
                first = last + 1
        rows = [list(group) for _, group in groupby(found, key=lambda each: each[2])]
        read = {text: sections(text, self.style) for text in {row[0][2] for row in rows}}
        return tuple(Range(row[0][0], row[-1][1], row[0][2], read[row[0][2]]) for row in rows)


@dataclass(frozen=True)
class Prompt:
    """What a prompt says.

    Attributes:
        text: as it was given.
        style: whose grammar it is written in.
        parts: at least one.
        join: what becomes of several parts.
        tags: what it asks for beside its words.
    """

    text: str
    style: str
    parts: tuple[Part, ...]
    join: Join
    tags: tuple[Tag, ...] = ()

    @property
    def unknown_tags(self) -> tuple[Tag, ...]:
        """Those of a kind that is not known."""
        return tuple(tag for tag in self.tags if not tag.known)


def parse(text: str, style: str = "plain", *, negative: bool = False) -> Prompt:
    """Reads a prompt, in time that grows with its length alone.

    Args:
        text: the prompt.
        style: whose grammar it is written in, one of `STYLES`.
        negative: whether it is a negative prompt, which has no AND and no tags: in "a1111" they are
            text there, as in its web UI, in "keras_sd" they are errors.

    Raises:
        PromptError: it has no meaning there: a weight that is no number or too large for one, edits
            nested too deep, a tag with other arguments than its kind has. A text that edits put
            together is read by `Part.ranges`, which raises it then.
        ValueError: there is no such style.
        TypeError: the text is no string.
    """
    if not isinstance(text, str):
        raise TypeError(f"A prompt is a str, not {type(text).__name__}: {text!r}")
    choice("style", style, STYLES)
    join: Join = "guided"
    found: tuple[Tag, ...] = ()
    pairs: tuple[tuple[str, float], ...] = ((text, 1.0),)
    if style == "keras_sd" or (style == "a1111" and not negative):
        rest, found = tags.cut(text)
        pairs = _weighted(rest, style == "a1111")
        if negative and (found or len(pairs) > 1):
            what = f"the tag {shown(found[0].source)}" if found else "AND"
            raise PromptError(
                f"A negative prompt has {what}: {shown(text)}. Tags and AND belong in the prompt; "
                "what a negative prompt names stands there with commas between"
            )
    elif style == "compel":
        rest, found = tags.cut_compel(text)
        pairs, join = compel.parts(rest)
    parts = tuple(Part(_written(each, style), weight, style) for each, weight in pairs)
    for part in parts:
        if not part.changes:
            sections("".join(map(str, part.written)), style)
    return Prompt(text, style, parts, join, found)


def _weighted(text: str, exact: bool) -> tuple[tuple[str, float], ...]:
    """What stands between AND, with the weights behind."""
    texts = _AND.split(text)
    if len(texts) == 1 and not exact:
        # The web UI gives "a ratio of 16:9" the weight 9.
        return ((text, 1.0),)
    pairs = []
    for each in texts:
        before, colon, number = each.rpartition(":")
        if colon and _WEIGHT.fullmatch(number.strip()):
            pairs.append((before.strip(), finite(number, each)))
        else:
            pairs.append((each.strip() if len(texts) > 1 else each, 1.0))
    return tuple(pairs)


def _written(text: str, style: str) -> Written:
    if style in ("a1111", "keras_sd"):
        return edits.read(text, style == "a1111")
    return (text,) if text else ()


def sections(text: str, style: str) -> tuple[Section, ...]:
    """The weights of a text without tags, parts and edits, and its BREAKs.

    Raises:
        PromptError: a weight is no number, or too large for one.
    """
    if style in ("a1111", "keras_sd"):
        return brackets.a1111(text, style == "a1111")
    if style == "comfy":
        return brackets.comfy(text)
    if style == "compel":
        return compel.read(text)
    return ((Segment(text),) if text else (),)
