"""What prompts say over the steps of a run: which texts there are, and whose turn it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keras_sd.prompts.grammar import Prompt
from keras_sd.prompts.values import Join, Section

__all__ = ["Line", "Script", "Turn", "script"]


@dataclass(frozen=True)
class Line:
    """A text that has one encoding.

    Attributes:
        style: of its prompt.
        pieces: what the encoding is made of: sections, and their weight among all. There is one,
            or those that `.blend` and `.and` of compel name.
        join: what becomes of several.
    """

    style: str
    pieces: tuple[tuple[tuple[Section, ...], float], ...]
    join: Join


@dataclass(frozen=True)
class Turn:
    """Steps at which every image has the same texts.

    Attributes:
        last: of these steps, counted from 1.
        rows: of each part, the number of each image's text.
    """

    last: int
    rows: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Script:
    """What the prompts of a batch say.

    Attributes:
        lines: the texts; where no prompt has AND or changes, one an image, in their order.
        turns: at least one; the last ends with the run.
        weights: of each part, that of each image: 0 where an image has fewer parts. None where
            each image has one part, of weight 1.
    """

    lines: tuple[Line, ...]
    turns: tuple[Turn, ...]
    weights: tuple[tuple[float, ...], ...] | None


def script(prompts: Sequence[Prompt], num_steps: int) -> Script:
    """The texts of prompts, one prompt an image, over the steps of a run.

    Args:
        prompts: what `keras_sd.prompts.parse` gave.
        num_steps: of the run.

    Raises:
        PromptError: a text that edits put together has a weight that is none.
    """
    lines: list[Line] = []
    images = [_parts(prompt, num_steps, lines) for prompt in prompts]
    count = max(map(len, images))
    stops = sorted({last for parts in images for _, cues in parts for last, _ in cues})
    # An image with fewer parts has its first one again, which does not count.
    full = [[*parts, *[(0.0, parts[0][1])] * (count - len(parts))] for parts in images]
    columns = list(zip(*full, strict=True))
    turns = [
        Turn(stop, tuple(tuple(_cued(cues, stop) for _, cues in column) for column in columns))
        for stop in stops
    ]
    weights = tuple(tuple(weight for weight, _ in column) for column in columns)
    plain = weights == ((1.0,) * len(prompts),)
    return Script(tuple(lines), tuple(turns), None if plain else weights)


# The last step of a text and its number among the lines.
_Cues = list[tuple[int, int]]


def _parts(prompt: Prompt, num_steps: int, lines: list[Line]) -> list[tuple[float, _Cues]]:
    """Of each part, its weight and the turns of its texts, which are put among the lines."""
    if prompt.join != "guided":  # no style has both this and edits
        pieces = tuple((part.ranges(num_steps)[0].sections, part.weight) for part in prompt.parts)
        lines.append(Line(prompt.style, pieces, prompt.join))
        return [(1.0, [(num_steps, len(lines) - 1)])]
    parts = []
    for part in prompt.parts:
        numbers: dict[str, int] = {}
        cues = []
        for each in part.ranges(num_steps):
            if each.text not in numbers:
                numbers[each.text] = len(lines)
                lines.append(Line(prompt.style, ((each.sections, 1.0),), prompt.join))
            cues.append((each.last, numbers[each.text]))
        parts.append((part.weight, cues))
    return parts


def _cued(cues: _Cues, step: int) -> int:
    return next(number for last, number in cues if last >= step)
