"""Embeddings beside a model, by the names that a prompt calls them by."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from keras_sd.config import ModelConfig
from keras_sd.embeddings.files import FAMILIES, XL, Embedding, open_embedding
from keras_sd.prompts.names import MAX_NAME, Names, is_name, spelled
from keras_sd.weights.parts import printable
from keras_sd.weights.readers import WeightsError, shown

if TYPE_CHECKING:
    from keras_sd.tokenizer import Tokenizer

__all__ = ["Embeds", "Named", "named_in"]

_log = logging.getLogger(__name__)

_LEAST_ROWS = 64
"""Rows of the table that a text encoder is given: with a power of two, and no fewer, the step that
is compiled for one set of embeddings does for most others."""


@dataclass(frozen=True, eq=False)
class Named:
    """An embedding beside a model.

    Attributes:
        embedding: its vectors.
        names: by which a prompt calls it: the stem of its file, and the word that it says.
    """

    embedding: Embedding
    names: tuple[str, ...]


class Embeds:
    """The part of a `Model` that is about embeddings."""

    config: ModelConfig
    tokenizers: Any
    parts: Any
    embeddings: tuple[Named, ...] = ()
    refiner: Any = None
    _tables: Mapping[str, np.ndarray] = {}

    def with_embeddings(self, *embeddings: Any, clip_l_alone: bool = False) -> Self:
        """A model of the same networks, whose prompts may name these embeddings and those that
        this one has. Weights, adapters and compiled steps are shared; no weight is changed.

        Args:
            *embeddings: each the path of a file, an `Embedding`, or a dictionary of them by the
                names that they shall have. Without one, an embedding goes by the stem of its file
                and by the word that the file says.
            clip_l_alone: see `open_embedding`.

        Raises:
            WeightsError: a file is damaged, is no embedding, or was made for another family.
            ValueError: two have one name, or a name is none.
            FileNotFoundError: there is no such file.
            TypeError: something else was given.
        """
        return self._with(
            [
                Named(embedding, _names(embedding, name))
                for embedding, name in _given(embeddings, clip_l_alone)
            ]
        )

    def sharing(self, **others: Any) -> Self:
        """A model of the same networks, adapters and compiled steps, with other attributes."""
        new = object.__new__(type(self))
        vars(new).update(vars(self), **others)
        return new

    def _with(self, more: Sequence[Named]) -> Self:
        used = (*self.embeddings, *more)
        rows = [_fitting(each.embedding, self.config) for each in used]
        if not more:
            return self
        _check_owners(used)
        new = self.sharing(embeddings=used)
        new.tokenizers, new._tables = dict(self.tokenizers), {}
        for part in self.config.text_encoders:
            vectors = [row[part] for row in rows]
            new.tokenizers[part], new._tables[part] = self._named(part, used, vectors)
        _warn_of_words(more, next(iter(self.tokenizers.values())))
        if self.refiner is not None:
            new.refiner = self.refiner._with(more)
        return new

    def _named(
        self, part: str, used: Sequence[Named], vectors: Sequence[np.ndarray]
    ) -> tuple[Tokenizer, np.ndarray]:
        """The tokenizer of a text encoder with the names, and the table that their ids are in."""
        tokenizer: Tokenizer = self.tokenizers[part]
        known = self.parts[part].config.vocab_size
        room = tokenizer.max_length - 2
        if tokenizer.vocab_size > known:
            raise ValueError(
                f"The tokenizer has {tokenizer.vocab_size} tokens and the text encoder {known}: "
                "with embeddings, each token needs a vector"
            )
        count = sum(len(each.embedding) for each in used)
        rows = max(_LEAST_ROWS, 1 << (count - 1).bit_length())
        table = np.zeros((rows, self.config.text_encoders[part].width), np.float32)
        table[:count] = np.concatenate(vectors)
        return tokenizer.with_names(_numbered(used, known, room, self.config.name)), table


def named_in(config: ModelConfig, tokenizer: Tokenizer, *embeddings: Any) -> Tokenizer:
    """The tokenizer of a model's first text encoder, which knows the names of embeddings. No
    network is needed.

    Args:
        config: of the model.
        tokenizer: of its first text encoder.
        *embeddings: see `Embeds.with_embeddings`, which has the errors too.
    """
    used = [Named(each, _names(each, name)) for each, name in _given(embeddings, False)]
    if not used:
        return tokenizer
    for each in used:
        _fitting(each.embedding, config)
    _check_owners(used)
    known, room = config.text_encoder.vocab_size, tokenizer.max_length - 2
    return tokenizer.with_names(_numbered(used, known, room, config.name))


def _numbered(used: Sequence[Named], first: int, room: int, model: str) -> Names:
    """Ids of their own for the vectors of each, from `first` on."""
    ids: dict[str, range] = {}
    for each in used:
        count = len(each.embedding)
        if count > room:
            raise WeightsError(
                f"{each.embedding.path} has {count} vectors, and the model {printable(model)} "
                f"reads {room} tokens at a time"
            )
        ids |= dict.fromkeys(each.names, range(first, first + count))
        first += count
    return Names(ids)


def _check_owners(used: Sequence[Named]) -> None:
    """Raises:
    ValueError: two have one name.
    """
    owners: dict[str, Embedding] = {}
    for each in used:
        for name in each.names:
            if (other := owners.setdefault(name, each.embedding)) is not each.embedding:
                raise ValueError(
                    f"{other.path} and {each.embedding.path} both go by {shown(name)} in a "
                    "prompt: give one another name, as in {'my_style': path}"
                )


def _warn_of_words(used: Sequence[Named], tokenizer: Tokenizer) -> None:
    for each in used:
        for name in each.names:
            if name.isalpha() and len(tokenizer.encode(name)) == 3:
                _log.warning(
                    "%r is an ordinary word, and from now on the embedding %s wherever a "
                    "prompt has it",
                    name,
                    each.embedding.path,
                )


def _given(given: tuple[Any, ...], clip_l_alone: bool) -> Iterator[tuple[Embedding, str | None]]:
    """Each embedding that was given, and its name where it was given one."""
    for each in given:
        pairs = list(each.items()) if isinstance(each, Mapping) else [(None, each)]
        for name, source in pairs:
            if name is not None and not isinstance(name, str):
                raise TypeError(f"The name of an embedding is a str, not {shown(name)}")
            if isinstance(source, Embedding):
                yield source, name
            elif isinstance(source, str | os.PathLike):
                yield open_embedding(source, clip_l_alone=clip_l_alone), name
            else:
                raise TypeError(
                    f"An embedding is a path, or a dictionary of paths by name, not {shown(source)}"
                )


def _fitting(embedding: Embedding, config: ModelConfig) -> dict[str, np.ndarray]:
    """The vectors by the text encoders that they are for. A refiner, which has the second text
    encoder of XL alone, takes those of it.

    Raises:
        WeightsError: it was made for another family.
    """
    is_xl = config.unet.pooled_width > 0
    if embedding.vectors_2 is None:
        given = [embedding.vectors]
    elif is_xl:
        given = [embedding.vectors, embedding.vectors_2][-len(config.text_encoders) :]
    else:
        raise WeightsError(
            f"{embedding.path} was made for {XL}: it has a pair of vectors for two text encoders, "
            f"and the model {printable(config.name)} has one; clip_l_alone=True takes the half "
            "for CLIP"
        )
    has = [vectors.shape[1] for vectors in given]
    wanted = [encoder.width for encoder in config.text_encoders.values()]
    if has != wanted:
        family = XL if is_xl else FAMILIES.get(wanted[0])
        raise WeightsError(
            f"{embedding.path} was made for {embedding.family}: its vectors have "
            f"{' and '.join(map(str, has))} features. The model {printable(config.name)}"
            f"{f', of {family},' if family else ''} takes those of "
            f"{' and '.join(map(str, wanted))}"
        )
    return dict(zip(config.text_encoders, given, strict=True))


def _names(embedding: Embedding, given: str | None) -> tuple[str, ...]:
    wanted = [given] if given is not None else [embedding.name, embedding.token or ""]
    names = tuple(dict.fromkeys(name for name in map(spelled, wanted) if is_name(name)))
    if not names:
        raise ValueError(
            f"{shown(wanted[0])} is no name for {embedding.path}: it has a letter or a digit, at "
            f"most {MAX_NAME} signs, and no mark of a text. Give one, as in {{'my_style': path}}"
        )
    return names
