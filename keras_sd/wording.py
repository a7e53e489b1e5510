"""Texts with weights, and of any length, as encodings: what each style of a prompt computes.

A text is broken into chunks, each chunk is encoded alone, its tokens are weighted, and the chunks
stand one behind the other. The styles differ in how they weight: `no_norm`, `original_mean`,
`from_empty`. "compel" also mixes in, for each segment with a weight below 1, the encoding in which
no token sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from keras import ops

from keras_sd.prompts import Chunk, Join, Line, chunks
from keras_sd.prompts.compel import absence
from keras_sd.tokenizer import Tokenizer

__all__ = [
    *("Piece", "Wording", "encodings", "from_empty", "no_norm", "original_mean", "pooled"),
    "worded",
]


# --- weights --------------------------------------------------------------------------


def no_norm(encoded: Any, weights: Any) -> Any:
    """Each token's encoding times its weight; style "keras_sd".

    Args:
        encoded: `(chunks, tokens, features)` float32.
        weights: `(chunks, tokens, 1)` float32.
    """
    return encoded * weights


def original_mean(encoded: Any, weights: Any) -> Any:
    """The same, and each chunk is brought back to the mean that it had; style "a1111".

    Args:
        encoded: see `no_norm`.
        weights: likewise.
    """
    weighted = encoded * weights
    before, after = (ops.mean(each, axis=(1, 2), keepdims=True) for each in (encoded, weighted))
    return weighted * (before / after)


def from_empty(encoded: Any, weights: Any, empty: Any) -> Any:
    """On the line from the encoding of no text at the same place: 0 is there, 1 is the token's own,
    more is beyond; styles "comfy" and "compel".

    Args:
        encoded: see `no_norm`.
        weights: likewise, or one number for all.
        empty: `(tokens, features)`.
    """
    return ops.where(weights == 1, encoded, empty + weights * (encoded - empty))


# --- texts ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """One of the texts that an encoding is made of.

    Attributes:
        chunks: its tokens.
        weight: among all.
    """

    chunks: tuple[Chunk, ...]
    weight: float = 1.0


@dataclass(frozen=True)
class Wording:
    """A text as one text encoder reads it.

    Attributes:
        style: of the prompt, see `keras_sd.prompts`.
        pieces: one, or those that `.blend` and `.and` of compel name.
        join: what becomes of several.
        words: the text without its signs.
    """

    style: str
    pieces: tuple[Piece, ...]
    join: Join
    words: str

    def __len__(self) -> int:
        """Chunks of the encoding."""
        counts = [len(piece.chunks) for piece in self.pieces]
        return sum(counts) if self.join == "joined" else max(counts)

    @property
    def largest(self) -> int:
        """The largest id."""
        ids = [each for piece in self.pieces for chunk in piece.chunks for each in chunk.ids]
        return max(ids, default=0)


def worded(line: Line, tokenizer: Tokenizer) -> Wording:
    """A text as a tokenizer reads it.

    Args:
        line: of the prompts, in any style but "plain".
        tokenizer: of the text encoder.
    """
    room = tokenizer.max_length - 2
    pieces = [
        Piece(chunks(sections, tokenizer.words, line.style, room), weight)
        for sections, weight in line.pieces
    ]
    segments = (each for sections, _ in line.pieces for section in sections for each in section)
    return Wording(line.style, tuple(pieces), line.join, " ".join(each.text for each in segments))


# --- encodings ------------------------------------------------------------------------

Encode = Callable[..., Any]
"""``encode(ids)`` or ``encode(ids, seen)``: `(rows, tokens)` int32, and of the same shape bool,
which tokens the others see -> `(rows, tokens, features)`."""


@dataclass
class _Rows:
    """What is to be encoded, each row once."""

    tokenizer: Tokenizer
    plain: dict[tuple[int, ...], int] = field(default_factory=dict)
    masked: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = field(default_factory=dict)

    def add(self, chunk: Chunk) -> int:
        """The number of a chunk among the plain rows."""
        return self.plain.setdefault(chunk.ids, len(self.plain))

    def add_masked(self, chunk: Chunk, hidden: Sequence[int]) -> int:
        """Its number among the masked rows, with the places of those tokens that are not seen."""
        return self.masked.setdefault((chunk.ids, tuple(hidden)), len(self.masked))

    def encoded(self, encode: Encode) -> tuple[Any, Any]:
        """Both kinds of rows."""
        plain = encode(self._ids(list(self.plain)))
        if not self.masked:
            return plain, None
        ids, hidden = zip(*self.masked, strict=True)
        tokens = self._ids(ids)
        seen = np.ones(tokens.shape, bool)
        for number, places in enumerate(hidden):
            seen[number, list(places)] = False
        return plain, encode(tokens, seen)

    def _ids(self, rows: Sequence[tuple[int, ...]]) -> np.ndarray:
        return _filled(rows, self.tokenizer)


def _filled(rows: Sequence[tuple[int, ...]], tokenizer: Tokenizer) -> np.ndarray:
    """Rows with both marks, and filled up."""
    # A power of two: a step is compiled once a number of rows, and prompts differ in theirs.
    count = 1 << (len(rows) - 1).bit_length()
    rows = [*rows, *[()] * (count - len(rows))]
    found = np.full((count, tokenizer.max_length), tokenizer.pad_id, np.int32)
    for row, ids in zip(found, rows, strict=True):
        row[: len(ids) + 2] = [tokenizer.start_id, *ids, tokenizer.end_id]
    return found


def encodings(wordings: Sequence[Wording], tokenizer: Tokenizer, encode: Encode, count: int) -> Any:
    """Texts encoded.

    Args:
        wordings: what `worded` gave.
        tokenizer: the one it was given.
        encode: the text encoder.
        count: chunks of each encoding; those that are missing are of no text.

    Returns:
        Tensor `(texts, count * tokens of a chunk, features)` of the text encoder's dtype. It is
        computed in float32.
    """
    rows = _Rows(tokenizer)
    none = rows.add(Chunk())
    recipes = [
        [(piece.weight, _recipe(each.style, piece.chunks, rows)) for piece in each.pieces]
        for each in wordings
    ]
    given, without = rows.encoded(encode)
    plain = ops.cast(given, "float32")
    masked = None if without is None else ops.cast(without, "float32")
    empty = plain[none]

    def padded(encoded: Any, count: int) -> Any:
        missing = count - encoded.shape[0]
        return ops.concatenate([encoded, *[empty[None]] * missing]) if missing else encoded

    texts = []
    for wording, pieces in zip(wordings, recipes, strict=True):
        made = [(weight, recipe(plain, masked, empty)) for weight, recipe in pieces]
        if wording.join == "joined":
            whole = ops.concatenate([from_empty(each, weight, empty) for weight, each in made])
        else:
            whole = sum(weight * padded(each, len(wording)) for weight, each in made)
        texts.append(padded(whole, count))
    stacked = ops.stack(texts)
    return ops.cast(ops.reshape(stacked, (len(texts), -1, stacked.shape[-1])), given.dtype)


def pooled(
    wordings: Sequence[Wording], tokenizer: Tokenizer, encode: Callable[[np.ndarray], Any]
) -> Any:
    """Texts as one vector each: that of the first chunk, without weights; of several texts that are
    blended, the blend.

    Args:
        wordings: what `worded` gave.
        tokenizer: the one it was given.
        encode: ids `(rows, tokens)` -> vectors `(rows, features)`.

    Returns:
        Tensor `(texts, features)` of the text encoder's dtype.
    """
    blends = []
    for each in wordings:
        pieces = each.pieces[:1] if each.join == "joined" else each.pieces
        share = 1.0 if each.join == "joined" else None
        blends.append([((p.chunks or (Chunk(),))[0].ids, share or p.weight) for p in pieces])
    rows = dict.fromkeys(ids for blend in blends for ids, _ in blend)
    given = encode(_filled(list(rows), tokenizer))
    places = {ids: number for number, ids in enumerate(rows)}
    vectors = ops.cast(given, "float32")
    texts = [sum(share * vectors[places[ids]] for ids, share in blend) for blend in blends]
    return ops.cast(ops.stack(texts), given.dtype)


def _recipe(style: str, broken: Sequence[Chunk], rows: _Rows) -> Callable[[Any, Any, Any], Any]:
    """Asks for the rows of a text; gives what makes its encoding `(chunks, tokens, features)` of
    the plain rows, the masked ones and the empty text.
    """
    asked = [rows.add(chunk) for chunk in broken]
    length = rows.tokenizer.max_length
    given = np.ones((len(broken), length, 1), np.float32)
    for row, chunk in zip(given, broken, strict=True):
        row[1 : len(chunk) + 1, 0] = chunk.weights
    hiding = _hiding(broken, length) if style == "compel" else []
    lacking = [
        (weight, [rows.add_masked(*pair) for pair in zip(broken, hidden, strict=True)])
        for weight, hidden in hiding
    ]

    def made(plain: Any, masked: Any, empty: Any) -> Any:
        encoded, weights = ops.stack([plain[row] for row in asked]), ops.convert_to_tensor(given)
        if (given == 1).all():
            return encoded
        if style == "keras_sd":
            return no_norm(encoded, weights)
        if style == "a1111":
            return original_mean(encoded, weights)
        whole, total = from_empty(encoded, weights, empty), 1.0
        for share, numbers in lacking:
            rest = from_empty(ops.stack([masked[row] for row in numbers]), weights, empty)
            whole, total = whole + share * rest, total + share
        whole = whole / total
        if style == "compel" and len(broken) > 1:
            whole = _same_end(whole, [len(chunk) + 1 for chunk in broken])
        return whole

    return made


def _hiding(broken: Sequence[Chunk], length: int) -> list[tuple[float, list[list[int]]]]:
    """Of each segment with a weight below 1: how much its absence counts, and which places of each
    chunk are not seen then: from its first token to its last one, but for the marks at both ends of
    a chunk.
    """
    found: dict[int, tuple[float, int, int]] = {}
    for number, chunk in enumerate(broken):
        for place, (weight, segment) in enumerate(
            zip(chunk.weights, chunk.segments, strict=True), number * length + 1
        ):
            if weight < 1:
                found[segment] = (weight, found.get(segment, (0, place))[1], place)
    return [
        (
            absence(weight),
            [
                [
                    place
                    for place in range(1, length - 1)
                    if first <= number * length + place <= last
                ]
                for number in range(len(broken))
            ],
        )
        for weight, first, last in found.values()
    ]


def _same_end(encoded: Any, places: Sequence[int]) -> Any:
    """Each chunk with the first one's encoding of the end mark."""
    end = encoded[0, places[0]]
    marks = np.zeros((*encoded.shape[:2], 1), bool)
    marks[range(len(places)), list(places)] = True
    return ops.where(ops.convert_to_tensor(marks), end, encoded)
