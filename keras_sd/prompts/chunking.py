"""From weighted text to chunks of tokens: a text encoder reads 75 at a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from keras_sd.prompts.values import PromptError, Section, Segment, shown

__all__ = ["COMMA_REACH", "LONG_WORD", "Chunk", "Words", "chunks"]

COMMA_REACH = 20
"""How many tokens back A1111's web UI looks for a comma to break a chunk at."""

LONG_WORD = 8
"""ComfyUI breaks a word of this many tokens at the end of a chunk, and moves a shorter one."""

Words: TypeAlias = Callable[[str], Sequence[Sequence[int]]]
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
        At least one. In the styles of A1111's web UI each BREAK closes one, even an empty one.

    Raises:
        PromptError: the style is "plain", and there are more tokens than a chunk has room for.
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


def _tokens(section: Sequence[tuple[int, Segment]], words: Words) -> Iterator[_Token]:
    for number, segment in section:
        for word in words(segment.text):
            for place, each in enumerate(word, 1):
                yield _Token(each, segment.weight, number, place == len(word))


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
        for token in _tokens(section, words):
            moved: list[_Token] = []
            if token.id == comma:
                last_comma = len(row)
            elif len(row) == room and last_comma is not None and room - last_comma <= COMMA_REACH:
                moved = row[last_comma + 1 :]
                del row[last_comma + 1 :]
                rows.append(row)
                row, last_comma = moved, None
            if len(row) == room:
                rows.append(row)
                row, last_comma = [], None
            row.append(token)
    if row or not rows:
        rows.append(row)
    return rows


def _between_words(
    sections: Sequence[Sequence[tuple[int, Segment]]], words: Words, room: int
) -> list[list[_Token]]:
    rows: list[list[_Token]] = [[]]
    for number, segment in (pair for section in sections for pair in section):
        for text in segment.text.split(" "):
            word = list(_tokens([(number, Segment(text, segment.weight))], words))
            if len(word) > room - len(rows[-1]) and len(word) < LONG_WORD and len(word) <= room:
                rows.append([])
            while word:
                if len(rows[-1]) == room:
                    rows.append([])
                fits = room - len(rows[-1])
                rows[-1] += word[:fits]
                word = word[fits:]
    return rows


def _behind_sentences(
    sections: Sequence[Sequence[tuple[int, Segment]]], words: Words, room: int
) -> list[list[_Token]]:
    tokens = [token for section in sections for token in _tokens(section, words)]
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
