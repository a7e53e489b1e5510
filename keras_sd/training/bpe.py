"""Learning the merges of a CLIP tokenizer from captions.

Source: Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units",
algorithm 1, over bytes instead of characters and with CLIP's cleaning and splitting.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise

from keras_sd.tokenizer import END, START, split_words, word_symbols


def learn_merges(corpus: Iterable[str], num_merges: int) -> list[str]:
    """Learn byte-pair merges from texts.

    The most frequent pair of neighbouring symbols is merged, again and again. Of equally frequent
    pairs the alphabetically first wins, so that the same corpus gives the same merges on every
    machine, in whatever order its texts come.

    Args:
        corpus: Texts; each is cleaned and split as `keras_sd.tokenizer.Tokenizer` does.
        num_merges: Merges wanted, 0 or more.

    Returns:
        Lines "first second", to be given to `Tokenizer` or written to a merges file, one a line.
        Fewer than `num_merges` when every word of the corpus has become one token.

    Raises:
        ValueError: `num_merges` is negative.
    """
    if num_merges < 0:
        raise ValueError(f"num_merges={num_merges} is negative.")
    counts = Counter(word for text in corpus for word in split_words(text))
    words = [
        (word_symbols(word), n) for word, n in sorted(counts.items()) if word not in (START, END)
    ]

    frequency: Counter[tuple[str, str]] = Counter()
    words_with: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for index, (symbols, count) in enumerate(words):
        for pair in pairwise(symbols):
            frequency[pair] += count
            words_with[pair].add(index)

    merges: list[str] = []
    while len(merges) < num_merges and frequency:
        best = min(frequency, key=lambda pair: (-frequency[pair], pair))
        merges.append(" ".join(best))
        for index in sorted(words_with[best]):
            symbols, count = words[index]
            for pair in pairwise(symbols):
                frequency[pair] -= count
                if not frequency[pair]:
                    del frequency[pair]
            symbols = _merge_pair(symbols, best)
            words[index] = (symbols, count)
            for pair in pairwise(symbols):
                frequency[pair] += count
                words_with[pair].add(index)
    return merges


def _merge_pair(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    position = 0
    while position < len(symbols):
        width = 2 if tuple(symbols[position : position + 2]) == pair else 1
        merged.append("".join(symbols[position : position + width]))
        position += width
    return merged
