"""Scenes with their captions, made by the processor's cores while the GPU works; the drawings."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import numpy as np

from keras_sd.config import TextEncoderConfig
from keras_sd.tokenizer import Tokenizer
from keras_sd.training import drawings, painting, scenes, words

VARIANTS = 3
"""Captions of a scene."""

CHUNK = 1024
"""Scenes that a worker makes at a time: few, so that the first are there early."""

_known: dict[str, tuple] = {}


def scenes_and_tokens(task) -> dict[str, np.ndarray]:
    """In a worker: scenes of a seed, as arrays, with `VARIANTS` captions each as token ids."""
    seed, count, subjects_path, merges, length, vocabulary = task
    if subjects_path not in _known:
        _known[subjects_path] = (
            words.load(Path(subjects_path)),
            Tokenizer(merges, max_length=length, vocab_size=vocabulary),
        )
    subjects, tokenizer = _known[subjects_path]
    rng = random.Random(seed)
    made, texts = [], []
    while len(made) < count:
        scene = scenes.random_scene(subjects, rng)
        captions = [scenes.strange(scene.caption(subjects, rng), rng) for _ in range(VARIANTS)]
        if max(len(tokenizer.encode(text)) for text in captions) > length:
            continue
        made.append(scene)
        texts += captions
    tokens = tokenizer(texts).astype(np.uint16).reshape(count, VARIANTS, length)
    return {**painting.layout(made, list(scenes.STYLES), len(subjects)), "tokens": tokens}


def seed_of(seed: int, start: Path | None) -> int:
    """The number that all of a run's chance follows from.

    Args:
        seed: as the user gave it.
        start: the file of weights that the run goes on from. Whatever has been seen on the way to
            them comes not again: they are a part of the number.
    """
    if start is None:
        return seed
    digest = hashlib.sha256(start.read_bytes())
    digest.update(str(seed).encode())
    return int.from_bytes(digest.digest()[:3], "big") + 1


class Scenes:
    """A run's scenes, in the order in which they are made.

    Args:
        pool: the workers; they begin at once.
        count: scenes of the run.
        seed: as `seed_of` gives it.
        subjects: path of their file.
        merges: path of the tokenizer's.
        text: what the tokenizer has to fit.
    """

    def __init__(
        self, pool, count: int, seed: int, subjects: Path, merges: Path, text: TextEncoderConfig
    ):
        self.count = count
        self._coming = pool.imap(
            scenes_and_tokens,
            [
                (
                    seed * 1_000_003 + start,
                    min(CHUNK, count - start),
                    str(subjects),
                    str(merges),
                    text.max_length,
                    text.vocab_size,
                )
                for start in range(0, count, CHUNK)
            ],
        )
        self._made: dict[str, list[np.ndarray]] = {}

    def first(self, count: int) -> dict[str, np.ndarray]:
        """The arrays of the first scenes; waits until there are as many.

        Args:
            count: a multiple of `CHUNK`, or all.
        """
        while sum(map(len, self._made.get("split", []))) < count:
            for name, each in next(self._coming).items():
                self._made.setdefault(name, []).append(each)
        return {name: np.concatenate(each)[:count] for name, each in self._made.items()}


class Drawings:
    """The drawings of all styles; the workers make the derived ones meanwhile.

    Args:
        path: of the bank.
        pool: the workers.
        pieces: as many as their work is cut into.

    Raises:
        SystemExit: the bank has other styles than the scenes.
    """

    def __init__(self, path: Path, pool, pieces: int):
        self._bank = drawings.Bank(path)
        if [*self._bank.styles, *painting.DERIVED] != list(scenes.STYLES):
            raise SystemExit(f"{path} has {self._bank.styles}; {[*scenes.STYLES]} are wanted")
        self._noto = self._bank.sprites("noto")
        parts = np.array_split(self._noto, pieces)
        self._coming = [pool.map_async(derive, parts) for derive in painting.DERIVED.values()]

    def all(self) -> np.ndarray:
        """The bank for `painting.compose`; waits for the workers."""
        drawn = [self._noto, *map(self._bank.sprites, self._bank.styles[1:])]
        drawn += [np.concatenate(each.get()) for each in self._coming]
        return np.concatenate([painting.times_alpha(each) for each in drawn])
