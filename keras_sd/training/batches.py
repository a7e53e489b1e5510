"""Batches as functions of (seed, number): order, levels, noise, captions that are left out.

So a run can be repeated, and goes on where one that was stopped has been, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import keras
import numpy as np

from keras_sd import random
from keras_sd.conditions import NUMBERS
from keras_sd.config import ModelConfig
from keras_sd.noise import NoisePath
from keras_sd.tokenizer import PromptTooLongError, Tokenizer
from keras_sd.training.examples import Example, ExamplesError
from keras_sd.training.latents import CachedLatents
from keras_sd.training.objective import levels_of, spread

__all__ = ["Batches", "Order", "Samples", "tokens_of"]

_ORDER, _LEVELS, _DROPPED = range(3)
"""What numbers are drawn for: each has a stream of its own."""


def _generator(seed: int, purpose: int, number: int) -> np.random.Generator:
    return np.random.default_rng((seed, purpose, number))


@dataclass(frozen=True)
class Order:
    """Which samples are in which batch: all of them once in a pass, in an order of its own. A batch
    has samples of one size; where a size has too few to fill its last one, its first come again.

    Attributes:
        sizes: of the samples.
        batch: samples in a batch.
        seed: of the order.
    """

    sizes: Sequence[tuple[int, int]]
    batch: int
    seed: int

    @cached_property
    def _groups(self) -> list[np.ndarray]:
        return [
            np.array([i for i, each in enumerate(self.sizes) if each == size])
            for size in sorted(set(self.sizes))
        ]

    @cached_property
    def per_pass(self) -> int:
        """Batches of one pass."""
        return sum(-(-len(group) // self.batch) for group in self._groups)

    def __getitem__(self, number: int) -> np.ndarray:
        """The samples of a batch."""
        turn, place = divmod(number, self.per_pass)
        return self._pass(turn)[place]

    @cached_property
    def _pass(self) -> Callable[[int], list[np.ndarray]]:
        return lru_cache(maxsize=2)(self._ordered)

    def _ordered(self, turn: int) -> list[np.ndarray]:
        rng = _generator(self.seed, _ORDER, turn)
        batches: list[np.ndarray] = []
        for group in self._groups:
            count = -(-len(group) // self.batch) * self.batch
            batches += np.split(np.resize(rng.permutation(group), count), count // self.batch)
        return [batches[i] for i in rng.permutation(len(batches))]


@dataclass(frozen=True)
class Samples:
    """What is trained on.

    Attributes:
        latents: of each sample.
        tokens: by text encoder, int32 `(samples, tokens)`.
        weight: of their losses.
    """

    latents: Sequence[CachedLatents]
    tokens: Mapping[str, np.ndarray]
    weight: float = 1.0

    def __post_init__(self) -> None:
        for name, rows in self.tokens.items():
            if len(rows) != len(self.latents):
                raise ValueError(f"{len(rows)} rows of {name} for {len(self.latents)} latents")


class Batches(keras.utils.PyDataset):
    """The batches of a run, from one number on to another.

    Args:
        kinds: the samples; each batch has `batch` of each kind, those of the first kind first.
        config: of the model.
        empty: by text encoder, the tokens of no text, `(tokens,)`.
        batch: samples of each kind in a batch.
        seed: of all that is drawn.
        dropout: part of the samples whose caption is left out.
        first: number of the first batch.
        last: number of the first that does not come.
        ends: the id of the end mark, where the UNet is told the pooled vector.
    """

    def __init__(
        self,
        kinds: Sequence[Samples],
        config: ModelConfig,
        empty: Mapping[str, np.ndarray],
        *,
        batch: int,
        seed: int,
        dropout: float = 0.0,
        first: int = 0,
        last: int,
        ends: int | None = None,
    ):
        super().__init__(workers=1)
        self.orders = [
            (kind, Order([each.size for each in kind.latents], batch, seed + 2**32 * number))
            for number, kind in enumerate(kinds)
        ]
        self.path: NoisePath = config.noise.table()
        self.told = config.unet.numbers
        self.empty, self.seed, self.dropout = empty, seed, dropout
        self.first, self.last, self.ends = first, last, ends

    def __len__(self):
        return self.last - self.first

    def __getitem__(self, index):
        return (self.batch(self.first + index),)

    def batch(self, number: int) -> dict[str, np.ndarray]:
        """The inputs of `keras_sd.training.trainer.DenoiserTrainer` for one batch.

        Args:
            number: of the batch, from 0.
        """
        chosen = [(kind, order[number]) for kind, order in self.orders]
        cached = [kind.latents[i] for kind, rows in chosen for i in rows]
        latents = np.stack([each.read() for each in cached])
        count = len(latents)
        level = levels_of(self.path, spread(count, _generator(self.seed, _LEVELS, number)))
        dropped = _generator(self.seed, _DROPPED, number).random(count) < self.dropout
        inputs = {
            "latents": latents,
            "noise": random.batch_normal(self.seed, range(count), number, latents.shape[1:]),
            **vars(level),
            "weight": np.repeat(
                np.array([kind.weight for kind, _ in chosen], np.float32),
                [len(rows) for _, rows in chosen],
            ),
        }
        for part, empty in self.empty.items():
            ids = np.concatenate([kind.tokens[part][rows] for kind, rows in chosen])
            inputs[part] = np.where(dropped[:, None], empty, ids).astype(np.int32)
        if self.ends is not None:
            inputs["ends"] = np.argmax(inputs[part] == self.ends, axis=1).astype(np.int32)
        if self.told:
            numbers = np.array([each.numbers for each in cached], np.float32)
            inputs[NUMBERS] = numbers
        return inputs


def tokens_of(
    examples: Sequence[Example], tokenizers: Mapping[str, Tokenizer]
) -> dict[str, np.ndarray]:
    """The tokens of the captions, by text encoder, int32 `(examples, tokens)`.

    Args:
        examples: with captions.
        tokenizers: by text encoder.

    Raises:
        ExamplesError: captions are longer than a text encoder reads; the message names their
            pictures. None is cut off.
    """
    long: dict[str, str] = {}
    found: dict[str, list[np.ndarray]] = {part: [] for part in tokenizers}
    for example in examples:
        for part, tokenizer in tokenizers.items():
            try:
                found[part].append(tokenizer([example.caption])[0])
            except PromptTooLongError as error:
                long[example.name] = f"{example.name} ({error.count} tokens)"
    if long:
        limit = next(iter(tokenizers.values())).max_length
        raise ExamplesError(
            f"{len(long)} captions are longer than the {limit} tokens that the model reads: "
            + ", ".join([*long.values()][:10])
        )
    return {part: np.stack(rows) for part, rows in found.items()}
