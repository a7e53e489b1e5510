"""What a prompt changes over the steps: `[before:after:when]` and `[a|b|c]`.

Brackets are matched with a list of open ones, so that neither time nor the depth of calls grows
faster than the text. What is no edit stays text, and the reader of weights sees it after this one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from keras_sd.prompts.values import Alternation, Edit, PromptError, Written

__all__ = ["MAX_NESTED", "entries", "read"]

MAX_NESTED = 100
"""Edits within edits."""

_TOKENS = re.compile(r"\\.|\\|[\[\]():|]|[^\\\[\]():|]+")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_OPENER = {"]": "[", ")": "("}

# Text, an edit with the depth of those in it, or more of both.
_Item: TypeAlias = "str | tuple[Edit | Alternation, int] | list[_Item]"


@dataclass
class _Frame:
    """An open bracket, and what follows it: fields with separators between."""

    opener: str = ""
    fields: list[list[_Item]] = field(default_factory=lambda: [[]])
    separators: list[str] = field(default_factory=list)

    def text(self, closer: str = "") -> list[_Item]:
        """The frame as text, brackets and separators included."""
        items: list[_Item] = [self.opener, self.fields[0]]
        for separator, each in zip(self.separators, self.fields[1:], strict=True):
            items += [separator, each]
        return [*items, closer]

    def is_emphasis(self) -> bool:
        """Whether brackets with these separators are left to the reader of weights."""
        return not self.separators or (self.opener == "(" and self.separators == [":"])

    def made(self) -> tuple[Edit | Alternation, int] | None:
        """The edit that the frame is, with the depth of edits in it; None where it is none."""
        kinds = set(self.separators)
        if self.opener != "[" or len(kinds) != 1:
            return None
        if kinds == {"|"}:
            options = [_flat(each) for each in self.fields]
            alternation = Alternation(tuple(each for each, _ in options))
            return alternation, 1 + max(depth for _, depth in options)
        *texts, last = self.fields
        when = last[0] if len(last) == 1 else None
        if len(texts) > 2 or not isinstance(when, str) or not _NUMBER.fullmatch(when.strip()):
            return None
        (before, one), (after, other) = _flat(texts[0] if texts[1:] else []), _flat(texts[-1])
        return Edit(before, after, float(when), "." in when), 1 + max(one, other)


class _Unreadable(Exception):
    """A1111's web UI would give the whole text up."""


def read(text: str, exact: bool = False) -> Written:
    """The edits of a text.

    Args:
        text: without tags and AND.
        exact: as A1111's web UI reads it, where a bracket that is no edit hides the edits around
            it, and a `|` outside of an alternation those of the whole text.

    Raises:
        PromptError: there are more than `MAX_NESTED` edits within each other.
    """
    try:
        return _flat(_items(text, exact))[0]
    except _Unreadable:
        return (text,)


def _items(text: str, exact: bool) -> list[_Item]:
    frames = [_Frame()]
    opened = dict.fromkeys(_OPENER.values(), 0)

    def dissolve(keep: int) -> None:
        """Makes text of the open brackets above one."""
        loose = frames[keep + 1 :]
        del frames[keep + 1 :]
        for frame in loose:
            if exact and "|" in frame.separators:
                raise _Unreadable
            opened[frame.opener] -= 1
            frames[-1].fields[-1].append(frame.text())

    for token in _TOKENS.findall(text):
        if token in opened:
            frames.append(_Frame(token))
            opened[token] += 1
        elif token in _OPENER:
            opener = _OPENER[token]
            if frames[-1].opener != opener:
                # In the original no bracket may hold one that does not match.
                if exact or not opened[opener]:
                    dissolve(0 if exact else len(frames) - 1)
                    frames[-1].fields[-1].append(token)
                    continue
                below = len(frames) - 1
                while frames[below].opener != opener:
                    below -= 1
                dissolve(below)
            frame = frames.pop()
            opened[opener] -= 1
            made = frame.made()
            frames[-1].fields[-1].append(frame.text(token) if made is None else made)
            if exact and made is None and not frame.is_emphasis():
                if "|" in frame.separators:
                    raise _Unreadable
                dissolve(0)
        elif token in (":", "|") and frames[-1].opener:
            frames[-1].separators.append(token)
            frames[-1].fields.append([])
        elif exact and token in ("|", "\\"):
            raise _Unreadable
        else:
            frames[-1].fields[-1].append(token)
    dissolve(0)
    return frames[0].fields[0]


def _flat(items: list[_Item]) -> tuple[Written, int]:
    """Text and edits in one row, and how deep edits lie in each other."""
    row: list[str | Edit | Alternation] = []
    words: list[str] = []
    depth = 0
    pending = list(reversed(items))
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            words.append(item)
        elif isinstance(item, list):
            pending += reversed(item)
        else:
            if text := "".join(words):
                row.append(text)
            words.clear()
            row.append(item[0])
            depth = max(depth, item[1])
    if text := "".join(words):
        row.append(text)
    if depth > MAX_NESTED:
        raise PromptError(f"{depth} edits lie in each other; {MAX_NESTED} work")
    return tuple(row), depth


def entries(
    written: Written, num_steps: int, earlier: int | None = None, exact: bool = False
) -> tuple[tuple[int, str], ...]:
    """The texts of a pass, each with the last step that it is for; steps are counted from 1.

    Args:
        written: what `read` gave.
        num_steps: of the pass.
        earlier: the steps of a first pass, where this is the second one: there fractions count from
            1.0, and steps go on. None is the first pass.
        exact: cut off the product of fraction and steps as A1111's web UI does, where 0.29 of 100
            steps are 28, not 29.
    """
    stops = {num_steps}
    untils: dict[int, int] = {}
    pending: list[Written] = [written]
    while pending:
        for each in pending.pop():
            if isinstance(each, Edit):
                untils[id(each)] = until = _until(each, num_steps, earlier, exact)
                if until:
                    stops.add(until)
                pending += [each.before, each.after]
            elif isinstance(each, Alternation):
                stops.update(range(1, num_steps + 1))
                pending += each.options

    def at(step: int, written: Written) -> Iterable[str]:
        for each in written:
            if isinstance(each, str):
                yield each
            elif isinstance(each, Edit):
                yield from at(step, each.before if step <= untils[id(each)] else each.after)
            else:
                yield from at(step, each.options[(step - 1) % len(each.options)])

    return tuple((stop, "".join(at(stop, written))) for stop in sorted(stops))


def _until(edit: Edit, num_steps: int, earlier: int | None, exact: bool) -> int:
    """The last step with what stands before, from 0 to `num_steps`."""
    if edit.fraction:
        steps = (edit.when - (earlier is not None)) * num_steps
        steps = steps if exact else round(steps, 6)
    else:
        steps = edit.when - (earlier or 0)
    return math.trunc(min(max(steps, 0), num_steps))
