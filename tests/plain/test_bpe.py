"""Learning merges: against the definition, computed the slow way."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest

from keras_sd.tokenizer import Tokenizer, split_words, word_symbols
from keras_sd.training.bpe import learn_merges

TEXT = """A cat face on a blue background. The cat's face; the rocket's 42 red flames!
Slice of pizza, pizza slice; banana bananas ananas. Café, cafés &amp; crème: 日本, 日本の城. aaaa
aaaaaa"""


def learn_by_the_rule(corpus: list[str], num_merges: int) -> list[str]:
    """Sennrich et al. 2016, algorithm 1: count everything anew for each merge."""
    words = [word_symbols(word) for text in corpus for word in split_words(text)]
    merges: list[str] = []
    while len(merges) < num_merges:
        counts = Counter(pair for word in words for pair in pairwise(word))
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None:
            break
        merges.append(" ".join(best))
        for word in words:
            position = 0
            while position < len(word) - 1:
                if (word[position], word[position + 1]) == best:
                    word[position : position + 2] = ["".join(best)]
                position += 1
    return merges


def test_learns_what_the_definition_says() -> None:
    corpus = TEXT.split("\n") * 2
    assert learn_merges(corpus, 60) == learn_by_the_rule(corpus, 60)


def test_counts_stay_right_over_random_words() -> None:
    rng = random.Random(0)
    for _ in range(30):
        corpus = ["".join(rng.choice("ab ") for _ in range(120))]
        merges = learn_merges(corpus, 50)
        assert merges == learn_by_the_rule(corpus, 50)
        assert len({merge.replace(" ", "") for merge in merges}) == len(merges)


def test_every_word_of_a_small_corpus_becomes_one_token() -> None:
    merges = learn_merges([TEXT], 10_000)
    tokenizer = Tokenizer(merges)
    assert len(set(tokenizer.vocabulary)) == tokenizer.vocab_size
    assert len(tokenizer.encode(TEXT)) == len(split_words(TEXT)) + 2


def test_order_of_texts_does_not_matter() -> None:
    texts = TEXT.split()
    assert learn_merges(texts, 50) == learn_merges(sorted(texts), 50)


def test_most_frequent_first_and_ties_by_alphabet() -> None:
    assert learn_merges(["xy xy ab cd"], 3) == ["x y</w>", "a b</w>", "c d</w>"]


def test_cleaned_like_the_tokenizer_and_marks_are_not_words() -> None:
    assert learn_merges(["CA&amp;T <|endoftext|>"], 9) == ["c a</w>"]


def test_edges() -> None:
    assert learn_merges([], 5) == []
    assert learn_merges(["", " ", "a b"], 5) == []
    assert learn_merges(["cat"], 0) == []
    with pytest.raises(ValueError, match="num_merges=-1"):
        learn_merges(["cat"], -1)
