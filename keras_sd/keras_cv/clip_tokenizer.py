"""KerasCV's `SimpleTokenizer`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Literal

import regex

from keras_sd import tokenizer
from keras_sd.tokenizer import END, END_OF_WORD, START, Tokenizer
from keras_sd.weights.vocabulary import fetch_vocabulary, find_vocabulary


class SimpleTokenizer(Tokenizer):
    """`keras_sd.tokenizer.Tokenizer` by KerasCV's names, with tokens that can be added.

    Prompts are cleaned as CLIP cleans them, with ftfy, which KerasCV left out: a prompt with
    typographic quotes, or other signs that ftfy repairs, has other ids than there.

    Args:
        bpe_path: path of a merges file, or its lines; None is CLIP's, which is fetched once.
        max_length: ids in a row of `tokenizer(texts)`.
        vocab_size: as of `Tokenizer`.
        pad: likewise.

    Raises:
        FetchError: CLIP's is not on this machine and could not be fetched; an OSError.
        ValueError: this is no merges file of CLIP's kind.
    """

    def __init__(
        self,
        bpe_path: str | os.PathLike[str] | Sequence[str] | None = None,
        *,
        max_length: int = 77,
        vocab_size: int | None = None,
        pad: Literal["end", "zero"] = "end",
    ):
        if bpe_path is None:
            try:
                bpe_path = find_vocabulary()
            except FileNotFoundError:
                bpe_path = fetch_vocabulary()
        super().__init__(bpe_path, max_length=max_length, vocab_size=vocab_size, pad=pad)
        self._added: dict[str, int] = {}
        self._in_lower_case: dict[str, str] = {}
        self.byte_encoder = tokenizer.SYMBOL_OF_BYTE
        self.byte_decoder = tokenizer.BYTE_OF_SYMBOL

    @cached_property
    def vocab(self) -> list[str]:
        """All tokens; a token's id is its index."""
        return [*self.vocabulary, *self._added]

    @cached_property
    def encoder(self) -> dict[str, int]:
        """Id of every token."""
        return {token: index for index, token in enumerate(self.vocab)}

    @cached_property
    def decoder(self) -> dict[int, str]:
        """Token of every id."""
        return dict(enumerate(self.vocab))

    @property
    def start_of_text(self) -> int:
        return self.start_id

    @property
    def end_of_text(self) -> int:
        return self.end_id

    @property
    def special_tokens(self) -> dict[str, str]:
        """The tokens that stand for themselves in a text: the two marks, and what was added."""
        return {token: token for token in (START, END, *self._added)}

    @property
    def bpe_ranks(self) -> dict[tuple[str, str], int]:
        """The merges, by the order in which they are applied."""
        return dict(self._ranks)

    def bpe(self, token: str) -> str:
        """The symbols of a word, merged, with spaces between.

        Args:
            token: the word in byte symbols (`byte_encoder`).
        """
        if token in self.special_tokens:
            return token
        symbols = [*token[:-1], token[-1] + END_OF_WORD]
        return " ".join(tokenizer.merge_symbols(symbols, self._ranks))

    def add_tokens(self, tokens: str | Iterable[str]) -> int:
        """Adds tokens at the end of the vocabulary, which a prompt can then name in any case.

        Args:
            tokens: one or several.

        Returns:
            How many are new.

        Raises:
            ValueError: a token differs from one that was added in nothing but case.
        """
        before = len(self._added)
        for token in [tokens] if isinstance(tokens, str) else tokens:
            if token in self._ids or token in self._added:
                continue
            if (twin := self._in_lower_case.get(token.lower())) is not None:
                raise ValueError(f"{token!r} is {twin!r} in a prompt, where case does not count")
            self._added[token] = len(self.vocabulary) + len(self._added)
            self._in_lower_case[token.lower()] = token
        for view in ("vocab", "encoder", "decoder"):
            vars(self).pop(view, None)
        return len(self._added) - before

    def _split(self, text: str) -> list[str]:
        if not self._added:
            return super()._split(text)
        longest_first = sorted(self._added, key=len, reverse=True)
        pattern = "|".join(map(regex.escape, longest_first))
        words = []
        for piece in regex.split(f"({pattern})", text, flags=regex.IGNORECASE):
            token = self._in_lower_case.get(piece.lower())
            words += super()._split(piece) if token is None else [token]
        return words

    def _word_ids(self, word: str) -> list[int]:
        return [self._added[word]] if word in self._added else super()._word_ids(word)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, marks included, as KerasCV gives it: a space after every word.

        Raises:
            ValueError: an id is outside the vocabulary.
        """
        vocab = self.vocab
        text = bytearray()
        for index in map(int, ids):
            if not 0 <= index < len(vocab):
                raise ValueError(f"Id {index} is outside the vocabulary, 0 to {len(vocab) - 1}.")
            if vocab[index] in self.special_tokens:
                text += vocab[index].encode()
            else:
                token = vocab[index].removesuffix(END_OF_WORD)
                text += bytes(self.byte_decoder[symbol] for symbol in token)
                text += b" " * vocab[index].endswith(END_OF_WORD)
        return text.decode("utf-8", errors="replace")
