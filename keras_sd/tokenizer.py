"""CLIP's byte-pair encoding: a prompt in, token ids out, for any merges file.

The reference is the tokenizer that Stable Diffusion was trained and is run with: the Python
`CLIPTokenizer` of transformers 4 with ftfy installed ("slow"). The ids here equal its ids. A prompt
is

1. cut at literal `<|startoftext|>` and `<|endoftext|>`, which stand for their own ids,
2. repaired by ftfy (mojibake, HTML entities, quotes, control characters, NFC), its white space
   collapsed, lower-cased: `clean`,
3. split into words, contractions, single digits and runs of other signs: `split_words`,
4. spelled in 256 signs, one a byte of UTF-8, the last of a word marked `</w>`: `word_symbols`,
5. merged, the pair that stands first in the merges file first.

Other tokenizers of CLIP give the same ids for plain prompts and other ids for some odd ones. The
Rust one (`CLIPTokenizerFast`; in transformers 5 the only `CLIPTokenizer`) has no ftfy: it keeps
HTML entities, curly quotes, mojibake, full-width letters, ligatures and control characters as they
are, and lower-cases a Greek final sigma its own way. OpenAI's unescapes HTML twice and in every
text, ftfy only in a text without a "<".

Sources: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language
Supervision"; Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units",
algorithm 1.
"""

from __future__ import annotations

import copy
import gzip
import heapq
import os
import stat
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import ftfy
import numpy as np
import regex

from keras_sd.prompts.chunking import Whole, Word
from keras_sd.prompts.names import Names

START = "<|startoftext|>"
END = "<|endoftext|>"
END_OF_WORD = "</w>"

MAX_CACHED = 2**16
"""Words whose tokens a tokenizer remembers: a server reads strangers' words for months."""

#: Size of the vocabulary of OpenAI's CLIP; its merges file is five times longer than what it uses.
CLIP_VOCAB_SIZE = 49408

#: Tokens that no merge makes: 256 bytes, the same at the end of a word, start and end mark.
UNMERGED = 514

_MAX_MERGES = 16_000_000
"""Bytes of text; the file of OpenAI's CLIP has 3 MB."""

_SPECIAL = regex.compile(r"(<\|startoftext\|>|<\|endoftext\|>)")
_SPACES = regex.compile(r"\s+")
_WORD = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>"
    r"|'(?:s|t|re|ve|m|ll|d)"
    r"|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+",
    regex.IGNORECASE,
)
_LETTERS_OR_DIGIT = regex.compile(r"\p{L}+|\p{N}")


def _byte_symbols() -> dict[int, str]:
    """One printable character a byte, in the order of CLIP's ids 0 to 255.

    Bytes that print in Latin-1 stand for themselves and come first; the others (controls, spaces,
    the soft hyphen) get the characters from U+0100 on: a merges file never holds white space.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {
        byte: chr(0x100 + index) for index, byte in enumerate(others)
    }


SYMBOL_OF_BYTE = _byte_symbols()
BYTE_OF_SYMBOL = {symbol: byte for byte, symbol in SYMBOL_OF_BYTE.items()}
_SPACE_SYMBOL = SYMBOL_OF_BYTE[0x20]


class PromptTooLongError(ValueError):
    """A prompt has more tokens than the text encoder reads.

    Attributes:
        count: Tokens of the prompt, start and end mark included.
        limit: Tokens there is room for, start and end mark included.
        left_out: The words (as the tokenizer splits them) that do not fit, in order.
    """

    def __init__(self, text: str, count: int, limit: int, left_out: Sequence[str]) -> None:
        self.count = count
        self.limit = limit
        self.left_out = tuple(left_out)
        shown = " ".join(self.left_out[:20])
        shown = shown if len(shown) <= 200 else shown[:200] + "..."
        more = f" and {len(self.left_out) - 20} more" if len(self.left_out) > 20 else ""
        start = text if len(text) <= 40 else text[:40] + "..."
        super().__init__(
            f"The prompt {start!r} is {count} tokens long, start and end mark included; "
            f"the limit is {limit}. Left out would be: {shown!r}{more}. Shorten the prompt."
        )


def clean(text: str) -> str:
    """Repair, collapse white space and lower-case `text`, as CLIP does before it splits.

    Args:
        text: Any string without special tokens (`split_words` cuts at those first).

    Returns:
        The text as it is tokenized.
    """
    collapsed: str = _SPACES.sub(" ", ftfy.fix_text(text))
    return collapsed.strip().lower()


def split_words(text: str) -> list[str]:
    """Clean `text` and split it into the units that are encoded one by one.

    Args:
        text: A prompt, of any length.

    Returns:
        Lower-case words, contractions (`'s`), single digits, runs of other signs, and the special
        tokens, in order. White space is gone.

    Raises:
        TypeError: `text` is not a string.
    """
    if not isinstance(text, str):
        raise TypeError(f"A prompt is a str, not {type(text).__name__}: {text!r}")
    words: list[str] = []
    for part in _SPECIAL.split(text):
        if part in (START, END):
            words.append(part)
        elif part:
            words.extend(_WORD.findall(clean(part)))
    return words


def word_symbols(word: str) -> list[str]:
    """Spell a word of `split_words` in byte symbols, the last one marked as the end of the word.

    Args:
        word: A non-empty string.

    Returns:
        One symbol a byte of its UTF-8, for example `["c", "a", "t</w>"]`.
    """
    symbols = [SYMBOL_OF_BYTE[byte] for byte in word.encode("utf-8")]
    symbols[-1] += END_OF_WORD
    return symbols


def read_merges(path: str | os.PathLike[str]) -> list[str]:
    """Read a merges file: OpenAI's, Hugging Face's, or one learned by `keras_sd.training.bpe`.

    Args:
        path: A UTF-8 text file, gzipped or not: one merge a line, "first second", under an optional
            header line that contains "#version".

    Returns:
        The merges, first the one that is applied first.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not text, has more of it than 16 MB, or a line is not a merge.
    """
    path = Path(path)
    # A pipe would be waited for without an end.
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{path} is not a merges file: it is no file at all")
    with open(path, "rb") as file:
        data = file.read(_MAX_MERGES + 1)
    try:
        if data.startswith(b"\x1f\x8b"):
            with gzip.open(path) as unpacked:
                data = unpacked.read(_MAX_MERGES + 1)
        if len(data) > _MAX_MERGES:
            raise ValueError(f"{path} is no merges file: it has more than {_MAX_MERGES} bytes")
        text = data.decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a merges file: {error}") from error
    # Not splitlines: only a line feed ends a merge.
    lines = text.rstrip().split("\n")
    return [line for line in lines[1 if "#version" in lines[0] else 0 :] if line]


class Tokenizer:
    """CLIP's byte-pair encoding for one vocabulary.

    The vocabulary follows from the merges: 256 byte symbols, the same 256 at the end of a word, one
    token a merge, `<|startoftext|>`, `<|endoftext|>`.

    Example:
        >>> tokenizer = Tokenizer(["c a", "ca t</w>"], max_length=6)
        >>> tokenizer.encode("Cat")
        [514, 513, 515]
        >>> tokenizer("cat").tolist()
        [[514, 513, 515, 515, 515, 515]]

    Attributes:
        vocabulary: The tokens; a token's id is its index.
        vocab_size: Number of tokens.
        max_length: Ids in a row of `tokenizer(texts)`.
        start_id: Id of `<|startoftext|>`.
        end_id: Id of `<|endoftext|>`.
        pad_id: Id that fills a row up.
        names: Of embeddings, which stand for ids of their own; see `with_names`.
    """

    names: Names | None = None

    def __init__(
        self,
        merges: Sequence[str] | str | os.PathLike[str],
        *,
        max_length: int = 77,
        vocab_size: int | None = None,
        pad: Literal["end", "zero"] = "end",
    ) -> None:
        """Build the vocabulary.

        Args:
            merges: Path of a merges file (see `read_merges`), or its lines, "first second" each.
            max_length: Ids in a row, start and end mark included; at least 2.
            vocab_size: Number of tokens wanted; merges beyond it are not used. None means all
                merges, but no more than CLIP's 49408 tokens: OpenAI's file holds more merges.
            pad: "end" fills a row up with the end mark (CLIP, SD 1.x), "zero" with id 0 (OpenCLIP,
                SD 2.x).

        Raises:
            FileNotFoundError: There is no merges file at that path.
            ValueError: The merges are not CLIP's kind or too few for `vocab_size`, or another
                argument is out of range.
        """
        lines = (
            read_merges(merges)
            if isinstance(merges, (str, os.PathLike))
            else [str(m) for m in merges]
        )
        available = UNMERGED + len(lines)
        if vocab_size is None:
            vocab_size = min(available, CLIP_VOCAB_SIZE)
        if not UNMERGED <= vocab_size <= available:
            raise ValueError(
                f"vocab_size={vocab_size} does not go with {len(lines)} merges: "
                f"they make a vocabulary of {UNMERGED} to {available} tokens."
            )
        if max_length < 2:
            raise ValueError(f"max_length={max_length} has no room for the two marks; at least 2.")
        if pad not in ("end", "zero"):
            raise ValueError(f"pad={pad!r} is unknown; it is 'end' or 'zero'.")

        used = lines[: vocab_size - UNMERGED]
        pairs = [_parse_merge(line, index) for index, line in enumerate(used)]
        self._ranks = {pair: rank for rank, pair in enumerate(pairs)}
        symbols = list(SYMBOL_OF_BYTE.values())
        self.vocabulary: tuple[str, ...] = (
            *symbols,
            *(symbol + END_OF_WORD for symbol in symbols),
            *(first + second for first, second in pairs),
            START,
            END,
        )
        self._ids = {token: index for index, token in enumerate(self.vocabulary)}
        self.vocab_size = vocab_size
        self.max_length = max_length
        self.start_id = vocab_size - 2
        self.end_id = vocab_size - 1
        self.pad = pad
        self.pad_id = self.end_id if pad == "end" else 0
        self._cache: dict[str, list[int]] = {START: [self.start_id], END: [self.end_id]}

    def __repr__(self) -> str:
        size, length = self.vocab_size, self.max_length
        return f"Tokenizer(vocab_size={size}, max_length={length}, pad={self.pad!r})"

    @property
    def merges(self) -> list[str]:
        """The merges, "first second" each, first the one that is applied first."""
        return [f"{first} {second}" for first, second in self._ranks]

    def padded(self, pad: Literal["end", "zero"]) -> Tokenizer:
        """The same tokenizer, which fills a row up with another token; `pad` as for the class."""
        if pad == self.pad:
            return self
        other = copy.copy(self)
        other.pad, other.pad_id = pad, self.end_id if pad == "end" else 0
        return other

    def with_names(self, names: Names) -> Tokenizer:
        """The same tokenizer, for which names in a text stand for ids of their own."""
        named = copy.copy(self)
        named.names = names
        return named

    def encode(self, text: str) -> list[int]:
        """Encode one prompt, however long.

        Args:
            text: The prompt; "" is one.

        Returns:
            Ids between the start and the end mark, unpadded.

        Raises:
            TypeError: `text` is not a string.
        """
        ids = [self.start_id]
        for word in self.words(text):
            ids += word
        return [*ids, self.end_id]

    def words(self, text: str) -> list[Word]:
        """The ids of a text word by word, without start and end mark; of a name, a `Whole`.

        Args:
            text: of any length.

        Raises:
            TypeError: `text` is not a string.
        """
        return [
            list(self._word_ids(each)) if isinstance(each, str) else each
            for each in self._read(text)
        ]

    def _pieces(self, text: str) -> Sequence[str | Whole]:
        """The names in a text, and what is between them."""
        if self.names is None or not isinstance(text, str):
            return [text]
        return self.names.cut(text)

    def _read(self, text: str) -> Iterator[str | Whole]:
        """The words and names in a text."""
        for piece in self._pieces(text):
            if isinstance(piece, Whole):
                yield piece
            else:
                yield from self._split(piece)

    def _split(self, text: str) -> list[str]:
        return split_words(text)

    def __call__(self, texts: str | Sequence[str]) -> np.ndarray:
        """Encode prompts into rows that a text encoder reads.

        Args:
            texts: One prompt, or several.

        Returns:
            int32 array of shape (number of prompts, max_length).

        Raises:
            TypeError: A prompt is not a string.
            PromptTooLongError: A prompt has more than `max_length` tokens. Nothing is ever cut off.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        rows = np.full((len(texts), self.max_length), self.pad_id, np.int32)
        for row, text in zip(rows, texts, strict=True):
            ids = self.encode(text)
            if len(ids) > self.max_length:
                left_out = self._beyond_limit(text)
                raise PromptTooLongError(text, len(ids), self.max_length, left_out)
            row[: len(ids)] = ids
        return rows

    def decode(self, ids: Iterable[int]) -> str:
        """Turn ids back into text: lower-case, one space between words.

        Args:
            ids: Ids of this vocabulary, with or without marks and padding.

        Returns:
            The text up to the first end mark. Bytes that are not UTF-8 become U+FFFD.

        Raises:
            ValueError: An id is outside the vocabulary.
        """
        text = bytearray()
        for token_id in ids:
            if not 0 <= token_id < self.vocab_size:
                raise ValueError(
                    f"Id {token_id} is outside the vocabulary, 0 to {self.vocab_size - 1}."
                )
            if token_id == self.end_id:
                break
            if token_id == self.start_id:
                continue
            token = self.vocabulary[token_id]
            text += bytes(BYTE_OF_SYMBOL[symbol] for symbol in token.removesuffix(END_OF_WORD))
            text += b" " * token.endswith(END_OF_WORD)
        return text.decode("utf-8", errors="replace").strip()

    def unknown_words(self, text: str, known: Collection[str]) -> list[str]:
        """The words of a prompt that a model has never seen in a caption.

        Args:
            text: The prompt.
            known: Lower-case words, as `split_words` makes them.

        Returns:
            Words of letters, and digits, that are not in `known` and of no embedding: lower-case,
            in order, each once.

        Raises:
            TypeError: `text` is not a string, or `known` is one.
        """
        if isinstance(known, str):
            raise TypeError(f"known is a collection of words, not one str: {known!r}")
        pieces = (each for each in self._pieces(text) if not isinstance(each, Whole))
        return [
            word
            for word in dict.fromkeys(word for piece in pieces for word in split_words(piece))
            if _LETTERS_OR_DIGIT.fullmatch(word) and word not in known
        ]

    def _word_ids(self, word: str) -> list[int]:
        ids = self._cache.get(word)
        if ids is None:
            ids = [self._ids[symbol] for symbol in merge_symbols(word_symbols(word), self._ranks)]
            if len(self._cache) < MAX_CACHED:
                self._cache[word] = ids
        return ids

    def _beyond_limit(self, text: str) -> list[str]:
        room = self.max_length - 2
        left_out = []
        for each in self._read(text):
            room -= len(self._word_ids(each) if isinstance(each, str) else each)
            if room < 0:
                left_out.append(each if isinstance(each, str) else each.name)
        return left_out


def _parse_merge(line: str, index: int) -> tuple[str, str]:
    parts = line.split()
    if len(parts) != 2:
        raise ValueError(f"Merge {index + 1} is {line!r}; a merge is two symbols, 'first second'.")
    if _SPACE_SYMBOL in line:
        raise ValueError(
            f"Merge {index + 1} is {line!r}: a space ({_SPACE_SYMBOL}) inside a word. These are "
            f"merges of GPT-2's kind; CLIP's mark the end of a word with {END_OF_WORD}."
        )
    return parts[0], parts[1]


def merge_symbols(symbols: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """Apply merges to the symbols of one word, in n log n: a line of Chinese is one long word.

    The rule: of all neighbouring pairs take the one of the lowest rank, merge each of its
    occurrences from left to right, repeat. A heap holds (rank, position) of every pair, positions
    form a linked list, and entries that a merge has made stale are recognised when they come up.
    """
    symbols = list(symbols)
    end = len(symbols)
    after = list(range(1, end + 1))
    before = list(range(-1, end - 1))

    def rank_at(position: int) -> int | None:
        if position < 0 or after[position] >= end:
            return None
        return ranks.get((symbols[position], symbols[after[position]]))

    heap = [(rank, i) for i in range(end - 1) if (rank := rank_at(i)) is not None]
    heapq.heapify(heap)
    while heap:
        rank = heap[0][0]
        merged = []
        while heap and heap[0][0] == rank:
            position = heapq.heappop(heap)[1]
            if rank_at(position) == rank:
                gone = after[position]
                symbols[position] += symbols[gone]
                symbols[gone] = ""
                after[position] = after[gone]
                if after[gone] < end:
                    before[after[gone]] = position
                merged.append(position)
        # New pairs only now: a pass over one rank does not look at what it has just made.
        for position in merged:
            for neighbour in (before[position], position):
                new_rank = rank_at(neighbour)
                if new_rank is not None:
                    heapq.heappush(heap, (new_rank, neighbour))
    return [symbol for symbol in symbols if symbol]
