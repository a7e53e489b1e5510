"""Names in a text that stand for ids of their own: those of embeddings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from keras_sd.prompts.chunking import Whole

__all__ = ["MAX_NAME", "Names", "is_name", "spelled"]

MAX_NAME = 200
"""Signs of a name."""


def spelled(name: str) -> str:
    """A name as it is compared: in lower case, white space as single spaces."""
    return " ".join(name.lower().split())


def is_name(name: str) -> bool:
    """Whether a text, as `spelled` gives it, can be a name: it has a letter or a digit, is not too
    long, and has no mark that a tokenizer reads by itself.
    """
    return (
        len(name) <= MAX_NAME
        and any(map(str.isalnum, name))
        and name.isprintable()
        and "<|" not in name
    )


class Names:
    """Names that are found in a text as whole words, in any case, the longest one first. ComfyUI's
    `embedding:` before one goes with it.

    Args:
        ids: of each name.

    Attributes:
        end: the first number behind all ids.
    """

    def __init__(self, ids: Mapping[str, Sequence[int]]):
        self._words = [Whole(spelled(name), tuple(each)) for name, each in ids.items()]
        self._words.sort(key=lambda word: len(word.name), reverse=True)
        found = "|".join(f"({_pattern(word.name)})" for word in self._words)
        self._pattern = re.compile(rf"(?:(?<!\w)embedding:)?(?:{found})", re.IGNORECASE)
        self.end = 1 + max(each for word in self._words for each in word.ids)

    def are_in(self, text: str) -> bool:
        """Whether a text has one of them."""
        return any(isinstance(each, Whole) for each in self.cut(text))

    def cut(self, text: str) -> list[str | Whole]:
        """The names in a text, and what is between them."""
        pieces: list[str | Whole] = []
        start = 0
        for match in self._pattern.finditer(text):
            pieces += [text[start : match.start()], self._words[(match.lastindex or 0) - 1]]
            start = match.end()
        return [each for each in [*pieces, text[start:]] if each]


def _pattern(name: str) -> str:
    """A name as a whole word: a letter or digit at its end has none beside it."""
    before = r"(?<!\w)" if re.match(r"\w", name[0]) else ""
    after = r"(?!\w)" if re.match(r"\w", name[-1]) else ""
    return before + r"\s+".join(map(re.escape, name.split(" "))) + after
