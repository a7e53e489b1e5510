"""From weighted text to chunks of tokens: a text encoder reads 75 at a time."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from keras_sd.prompts.values import PromptError, Section, Segment, shown

__all__ = ["COMMA_REACH", "LONG_WORD", "Chunk", "Whole", "Word", "Words", "chunks"]

COMMA_REACH = 20
"""How many tokens back A1111's web UI looks for a comma to break a chunk at."""

LONG_WORD = 8
"""ComfyUI breaks a word of this many tokens at the end of a chunk, and moves a shorter one."""


@dataclass(frozen=True)
class Whole:
    """A word whose ids stay together in one chunk: the name of an embedding.

    Attributes:
        name: as it is known, in lower case, with single spaces.
        ids: what stands in its place.
    """

    name: str
    ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[int]:
        return iter(self.ids)


Word: TypeAlias = "Sequence[int] | Whole"

Words: TypeAlias = Callable[[str], Sequence[Word]]
"""A tokenizer: the ids of a text, without marks, word by word. `keras_sd.tokenizer.Tokenizer.words`
is one; where a word ends is only asked in the style "compel"."""


@dataclass(frozen=True)
class Chunk:
    """Tokens that are encoded together, without start mark, end mark and padding.

    Attributes:
        ids: of the tokens.
        weights: one a token.
        segments: of each token, which of the segments of the text it is from, counted from 0.
    """

    ids: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()
    segments: tuple[int, ...] = ()

    def __len__(self) -> int:
        """Tokens."""
        return len(self.ids)


@dataclass(frozen=True)
class _Token:
    id: int
    weight: float
    segment: int
    ends_word: bool = True


def chunks(
    sections: Sequence[Section], words: Words, style: str, room: int = 75
) -> tuple[Chunk, ...]:
    """Breaks a text into chunks; no token is left out.

    Args:
        sections: what `keras_sd.prompts.sections` gave.
        words: the tokenizer.
        style: whose rule it is broken by. "keras_sd" and "a1111": behind the last comma, if that is
            among the last `COMMA_REACH` tokens, else anywhere. "comfy": between words. "compel":
            behind the last full stop, else the last comma, semicolon or colon, else between words.
            "plain": not at all.
        room: tokens in a chunk.

    Returns:
        At least one. In the styles of A1111's web UI each BREAK closes one, even an empty one. An
        embedding that does not fit where it stands begins the next one.

    Raises:
        PromptError: the style is "plain", and there are more tokens than a chunk has room for; or
            an embedding has.
    """
    if room < 1:
        raise ValueError(f"A chunk has room for 1 token or more, not {room}")
    numbered = _numbered(sections)
    if style == "comfy":
        rows = _between_words(numbered, words, room)
    elif style == "compel":
        rows = _behind_sentences(numbered, words, room)
    else:
        rows = _behind_commas(numbered, words, room)
    if style == "plain" and len(rows) > 1:
        text = "".join(segment.text for section in sections for segment in section)
        raise PromptError(
            f"The prompt {shown(text)} has {sum(map(len, rows))} tokens, and {room} fit: plain "
            "text is not broken. Shorten it, or take another style"
        )
    return tuple(
        Chunk(
            tuple(token.id for token in row),
            tuple(token.weight for token in row),
            tuple(token.segment for token in row),
        )
        for row in rows
    )


def _numbered(sections: Sequence[Section]) -> list[list[tuple[int, Segment]]]:
    """The segments of each section with their numbers in the whole text."""
    counter = itertools.count()
    return [[(next(counter), segment) for segment in section] for section in sections]


def _runs(
    section: Sequence[tuple[int, Segment]], words: Words, room: int
) -> Iterator[list[_Token]]:
    """Tokens that stay together: one, or those of an embedding."""
    for number, segment in section:
        for word in words(segment.text):
            row = [
                _Token(each, segment.weight, number, place == len(word))
                for place, each in enumerate(word, 1)
            ]
            if not isinstance(word, Whole):
                yield from ([token] for token in row)
                continue
            if len(row) > room:
                raise PromptError(
                    f"The embedding {shown(word.name)} has {len(row)} vectors, and a chunk has "
                    f"room for {room} tokens"
                )
            yield row


def _tokens(section: Sequence[tuple[int, Segment]], words: Words, room: int) -> Iterator[_Token]:
    return itertools.chain.from_iterable(_runs(section, words, room))


def _sign(words: Words, sign: str) -> int | None:
    """The id of a sign that stands alone; None where it is not one token."""
    ids = [each for word in words(sign) for each in word]
    return ids[0] if len(ids) == 1 else None


def _behind_commas(
    sections: Sequence[Sequence[tuple[int, Segment]]], words: Words, room: int
) -> list[list[_Token]]:
    comma = _sign(words, ",")
    rows: list[list[_Token]] = []
    row: list[_Token] = []
    last_comma: int | None = None
    for index, section in enumerate(sections):
        if index:
            rows.append(row)
            row, last_comma = [], None
        for run in _runs(section, words, room):
            moved: list[_Token] = []
            if run[0].id == comma:
                last_comma = len(row)
            elif len(row) == room and last_comma is not None and room - last_comma <= COMMA_REACH:
                moved = row[last_comma + 1 :]
                del row[last_comma + 1 :]
                rows.append(row)
                row, last_comma = moved, None
            if len(row) + len(run) > room:
                rows.append(row)
                row, last_comma = [], None
            row += run
    if row or not rows:
        rows.append(row)
    return rows


def _between_words(
    sections: Sequence[Sequence[tuple[int, Segment]]], words: Words, room: int
) -> list[list[_Token]]:
    rows: list[list[_Token]] = [[]]
    for number, segment in (pair for section in sections for pair in section):
        for text in _spaced(segment.text, words):
            runs = list(_runs([(number, Segment(text, segment.weight))], words, room))
            count = sum(map(len, runs))
            if count > room - len(rows[-1]) and count < LONG_WORD and count <= room:
                rows.append([])
            for run in runs:
                if len(run) > room - len(rows[-1]):
                    rows.append([])
                rows[-1] += run
    return rows


def _spaced(text: str, words: Words) -> list[str]:
    """The text cut at its spaces, but for those in the name of an embedding."""
    names = {each.name for each in words(text) if isinstance(each, Whole) and " " in each.name}
    if not names:
        return text.split(" ")
    spellings = (re.escape(name).replace(r"\ ", r"\s+") for name in names)
    longest_first = sorted(spellings, key=len, reverse=True)
    cut = re.split(rf"((?:embedding:)?(?:{'|'.join(longest_first)}))", text, flags=re.IGNORECASE)
    return [
        piece
        for place, each in enumerate(cut)
        for piece in ([each] if place % 2 else each.split(" "))
    ]


def _behind_sentences(
    sections: Sequence[Sequence[tuple[int, Segment]]], words: Words, room: int
) -> list[list[_Token]]:
    tokens = [token for section in sections for token in _tokens(section, words, room)]
    stop = {_sign(words, ".")}
    phrase = stop | {_sign(words, sign) for sign in ",;:"}
    rules: tuple[Callable[[_Token], bool], ...] = (
        lambda token: token.id in stop,
        lambda token: token.id in phrase,
        lambda token: token.ends_word,
    )
    rows: list[list[_Token]] = []
    start = 0
    while len(tokens) - start > room:
        row = tokens[start : start + room]
        ends = (
            next((place for place in range(room, 0, -1) if rule(row[place - 1])), None)
            for rule in rules
        )
        rows.append(row[: next((end for end in ends if end is not None), room)])
        start += len(rows[-1])
    return [*rows, tokens[start:]]
