r"""Weights as compel and InvokeAI write them: `word++`, `(words)1.3`, `("a", "b").blend(1, .8)`.

A `+` behind a word, brackets or quotes multiplies by 1.1, a `-` by 0.9, each as often as it stands
there; behind brackets and quotes a number may stand instead. What is nested is multiplied.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from keras_sd.prompts.values import Join, PromptError, Section, Segment, finite, shown, within

__all__ = ["absence", "parts", "read"]

UP, DOWN = 1.1, 0.9

_SYNTAX = r'(),."+\-='
_WORD = re.compile(rf"(?:\\[{_SYNTAX}]|[+-](?![\s{_SYNTAX}]|\Z)|[^\s{_SYNTAX}])+(?P<signs>\++|-+|)")
_FREE = re.compile(r"\S+")
_WEIGHT = re.compile(r"\.attend\(\s*(?P<named>\++|-+|[\d.]+)\s*\)|\++|-+|\d+\.\d*|\.\d+|\d+")
_SWAP = re.compile(r"\.swap\(")
_ESCAPE = re.compile(r'\\([()"])')
_MARKS = re.compile(r'\\[()"]|[()"]')
_COMMA = re.compile(r",(?=\S)")
_CALL = re.compile(r"\s*\.\s*(blend|and|add)\s*\(([^()]*)\)\s*")


def read(text: str) -> tuple[Section, ...]:
    """The one section of a text.

    Args:
        text: a prompt without `.blend` and `.and`.

    Raises:
        PromptError: a weight is not finite, or the text asks for a `.swap`, which is not here.
    """
    segments: list[Segment] = []
    words: list[str] = []
    last: float | None = None
    for word, weight in _words(_COMMA.sub(", ", text)):
        if words and weight != last:
            segments.append(Segment(" ".join(words), last or 0.0))
            words.clear()
        last = weight
        words.append(_ESCAPE.sub(r"\1", word))
    if words:
        segments.append(Segment(" ".join(words), last or 0.0))
    return (tuple(segments),)


def absence(weight: float) -> float:
    """How much the encoding without a segment counts beside the one with it, of weight 1: nothing
    at a weight of 1, as much at 0.5, all but everything at 0.
    """
    return math.tan((1 - max(weight, 1e-5)) * math.pi / 2)


def _words(text: str) -> Iterator[tuple[str, float]]:
    ends = _groups(text)
    weights, closing = [1.0], [len(text)]
    place = 0
    while place < len(text):
        sign = text[place]
        if place in ends:
            end = ends[place]
            after = end + 1
            found = _WEIGHT.match(text, after)
            factor = _factor(found, text[max(place, end - 50) : found.end()]) if found else 1.0
            if _SWAP.match(text, after):
                raise PromptError(f"{shown(text[place:])}: there is no .swap here; write two runs")
            weights.append(within(weights[-1] * factor, text))
            closing.append(end)
            place += 1
        elif place == closing[-1]:
            closing.pop()
            weights.pop()
            found = _WEIGHT.match(text, place + 1)
            place = found.end() if found else place + 1
        elif sign.isspace():
            place += 1
        else:
            word = _WORD.match(text, place, closing[-1])
            inside = len(weights) > 1
            if word and _SWAP.match(text, word.end()):
                raise PromptError(f"{shown(word[0])}: there is no .swap here; write two runs")
            if word and (inside or word["signs"]):
                factor = _power(word["signs"])
                yield text[place : word.start("signs")], within(weights[-1] * factor, text)
                place = word.end()
            elif inside:
                yield sign, weights[-1]
                place += 1
            else:
                free = _FREE.match(text, place)
                assert free is not None  # there is a sign here that is no space
                yield free[0], weights[-1]
                place = free.end()


def _groups(text: str) -> dict[int, int]:
    """Where each bracket or quote that opens a group has its end."""
    ends: dict[int, int] = {}
    opened: list[int] = []
    quote: int | None = None
    marks = list(_MARKS.finditer(text))
    quotes = sum(mark[0] == '"' for mark in marks)
    for mark in marks:
        sign, place = mark[0], mark.start()
        if sign == "(":
            opened.append(place)
        elif sign == ")" and opened and opened[-1] > (-1 if quote is None else quote):
            ends[opened.pop()] = place
        elif sign == '"':
            quotes -= 1
            if quote is not None:
                while opened and opened[-1] > quote:
                    opened.pop()
                ends[quote], quote = place, None
            elif quotes and (place == 0 or text[place - 1].isspace() or text[place - 1] in '(),"'):
                quote = place
    return ends


def _factor(found: re.Match[str], source: str) -> float:
    number = found["named"] or found[0]
    return _power(number) if number[0] in "+-" else finite(number, source)


def _power(signs: str) -> float:
    try:
        return (UP if signs[:1] == "+" else DOWN) ** len(signs)
    except OverflowError:
        return math.inf


def parts(text: str) -> tuple[tuple[tuple[str, float], ...], Join]:
    """The prompts of `("a", "b").blend(1, .8)` and `("a", "b").and()` with their weights, and what
    becomes of them; any other text is one prompt.

    Raises:
        PromptError: there are other numbers of weights than of prompts, a weight is none or the
            weights of a blend have no sum, or something stands before or behind it all, which
            compel would leave out.
    """
    whole = text.strip()
    end = _groups(whole).get(0) if whole.startswith("(") else None
    call = _CALL.match(whole, end + 1) if end is not None else None
    if end is None or call is None:
        return ((text, 1.0),), "joined"
    if call.end() != len(whole):
        raise PromptError(f"{shown(whole[call.end() :])} behind .{call[1]}() has no use")
    texts = list(_listed(whole[1:end]))
    options = [each.strip() for each in call[2].split(",") if each.strip()]
    plain = call[1] == "blend" and options[-1:] == ["no_normalize"]
    weights = [finite(each, call[0]) for each in (options[:-1] if plain else options)]
    weights = weights or [1.0] * len(texts)
    if len(weights) != len(texts):
        raise PromptError(f"{len(weights)} weights of {len(texts)} prompts in {shown(whole)}")
    if call[1] != "blend":
        return tuple(zip(texts, weights, strict=True)), "joined"
    total = 1.0 if plain else sum(weights)
    if not total:
        raise PromptError(f"The weights in {shown(whole)} add up to 0; no_normalize leaves them so")
    blended = [within(weight / total, whole) for weight in weights]
    return tuple(zip(texts, blended, strict=True)), "blended"


def _listed(text: str) -> Iterator[str]:
    """What stands between commas outside of brackets and quotes, without its own quotes."""
    ends, start, place = _groups(text), 0, 0
    while place <= len(text):
        if place == len(text) or text[place] == ",":
            each = text[start:place].strip()
            quoted = each.startswith('"') and each.endswith('"') and len(each) > 1
            yield each[1:-1] if quoted else each
            start = place + 1
        place = ends.get(place, place) + 1
