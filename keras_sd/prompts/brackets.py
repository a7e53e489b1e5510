"""Weights in brackets, `(text:1.3)`, as A1111's web UI and ComfyUI write them.

Each text is read in two passes: the first finds which brackets belong together, the second gives
each piece the product of those around it. Both take time that grows with the text alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from keras_sd.prompts.values import PromptError, Section, Segment, finite, within

__all__ = ["a1111", "comfy"]

UP = 1.1
"""What a pair of round brackets multiplies by; square ones divide by it."""

_TOKENS = re.compile(
    r"(?P<escape>\\[()\[\]\\]?)"
    r"|(?P<open>[(\[])"
    r"|:\s*(?P<weight>[+-]?[.\d]+)\s*\)"
    r"|(?P<close>[)\]])"
    r"|[^\\()\[\]:]+|:"
)
_BREAK = re.compile(r"\bBREAK\b")
_OPENER = {"]": "[", ")": "("}

# Text and weight; a BREAK is None.
_Piece: TypeAlias = "tuple[str, float] | None"


def a1111(text: str, exact: bool = False) -> tuple[Section, ...]:
    r"""The sections of a text: `(a)`, `(a:1.3)`, `[a]`, `\(`, `BREAK`.

    Args:
        text: without tags, AND and edits.
        exact: read a BREAK in brackets as the web UI does: as the word, with a negative weight.

    Raises:
        PromptError: a weight is no number, or too large for one.
    """
    pieces = list(_merged(_exact(text) if exact else _pieces(text)))
    sections: list[list[Segment]] = [[]]
    for piece in pieces:
        if piece is None:
            sections.append([])
        elif piece[0]:
            sections[-1].append(Segment(*piece))
    return tuple(map(tuple, sections))


def _exact(text: str) -> Iterator[_Piece]:
    """There a BREAK is a piece of weight -1, which brackets multiply; it counts if -1 is left."""
    word = "BREAK", -1.0
    marked = (word if piece is None else piece for piece in _pieces(text, mark=-1.0))
    for piece in _merged(marked):
        yield None if piece == word else piece


def _pieces(text: str, mark: float | None = None) -> Iterator[_Piece]:
    """The text in pieces with weights, neighbours of one weight not joined.

    Args:
        text: of the prompt.
        mark: the weight of a piece "BREAK" in place of None.
    """
    tokens = list(_TOKENS.finditer(text))
    factors = _factors(text, tokens)
    product = {"(": [1.0], "[": [1.0]}
    for index, token in enumerate(tokens):
        if token["open"]:
            weights = product[token["open"]]
            weights.append(within(weights[-1] * factors[index], token.string))
        elif index in factors:
            product["(" if token["weight"] else _OPENER[token["close"]]].pop()
        else:
            weight = product["("][-1] * product["["][-1]
            if token["escape"]:
                yield token["escape"][1:], weight
                continue
            first, *others = _BREAK.split(token[0])
            yield (first.rstrip() if others else first), weight
            for number, other in enumerate(others, 1):
                yield None if mark is None else ("BREAK", mark * weight)
                other = other.lstrip()
                yield (other.rstrip() if number < len(others) else other), weight


def _factors(text: str, tokens: list[re.Match[str]]) -> dict[int, float]:
    """What each bracket that is one multiplies by, by the index of its token; one that closes has
    some number, too.
    """
    factors: dict[int, float] = {}
    opened: dict[str, list[int]] = {"(": [], "[": []}
    usual = {"(": UP, "[": 1 / UP}
    for index, token in enumerate(tokens):
        if token["open"]:
            opened[token["open"]].append(index)
            factors[index] = usual[token["open"]]
        elif token["weight"] and opened["("]:
            before = opened["("].pop()
            source = text[max(tokens[before].start(), token.end() - 50) : token.end()]
            factors[before] = factors[index] = finite(token["weight"], source)
        elif token["close"] and opened[_OPENER[token["close"]]]:
            opened[_OPENER[token["close"]]].pop()
            factors[index] = 1.0
    return factors


def _merged(pieces: Iterable[_Piece]) -> Iterator[_Piece]:
    """Joins neighbours of one weight."""
    texts: list[str] = []
    last: float | None = None
    for piece in pieces:
        weight = None if piece is None else piece[1]
        if texts and last is not None and weight != last:
            yield "".join(texts), last
            texts.clear()
        last = weight
        if piece is None:
            yield None
        else:
            texts.append(piece[0])
    if texts and last is not None:
        yield "".join(texts), last


def comfy(text: str) -> tuple[Section, ...]:
    r"""The one section of a text in ComfyUI's grammar: `(a)`, `(a:1.3)`, `\(`.

    A weight stands for those of the brackets around it; without one, they are multiplied by 1.1.

    Raises:
        PromptError: a weight is not finite.
    """
    tokens: list[str] = re.findall(r"\\[()]|[()]|[^\\()]+|\\", text)
    own, closers = _groups(text, tokens)
    weights, segments = [1.0], []
    words: list[str] = []
    for index, token in enumerate([*tokens, ""]):
        edge = index in own or index in closers or index == len(tokens)
        if not edge:
            # Of two signs, the first is a backslash.
            words.append(token[1] if token in ("\\(", "\\)") else token)
            continue
        if joined := "".join(words):
            segments.append(Segment(joined, weights[-1]))
        words.clear()
        if index in own:
            weight = own[index]
            weights.append(within(weights[-1] * UP, text) if weight is None else weight)
        elif index in closers:
            weights.pop()
    return (tuple(segments),)


def _groups(text: str, tokens: list[str]) -> tuple[dict[int, float | None], set[int]]:
    """The weight of each bracket that opens a group, None where it has none of its own, and the
    brackets that close one. The weights are cut off the tokens.
    """
    own: dict[int, float | None] = {}
    closers: set[int] = set()
    opened: list[int] = []
    for index, token in enumerate(tokens):
        if token == "(":
            opened.append(index)
        elif token == ")" and opened:
            before = opened.pop()
            own[before] = None
            closers.add(index)
            inside, colon, number = tokens[index - 1].rpartition(":")
            if colon and (inside or index - before > 2):
                try:
                    own[before] = within(float(number), text)
                except ValueError as error:
                    if isinstance(error, PromptError):
                        raise
                    continue
                tokens[index - 1] = inside
    return own, closers
