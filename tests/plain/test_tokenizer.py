"""The tokenizer against transformers' slow one (see fixtures/make_tokenizer_goldens.py)."""

from __future__ import annotations

import gzip
import json
import os
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from fuzz import bounded

from keras_sd.tokenizer import (
    END,
    PromptTooLongError,
    Tokenizer,
    merge_symbols,
    read_merges,
    split_words,
)

TESTS = Path(__file__).parents[1]
GOLDENS = json.loads((TESTS / "fixtures" / "tokenizer_goldens.json").read_text(encoding="ascii"))
ROWS = GOLDENS["rows"]


@pytest.fixture(scope="module")
def own() -> Tokenizer:
    return Tokenizer(GOLDENS["merges"])


@pytest.fixture(scope="module")
def clip() -> Tokenizer:
    named = os.environ.get("KERAS_SD_CLIP_VOCABULARY")
    beside = TESTS.parents[1] / "shared" / "data" / "bpe_simple_vocab_16e6.txt.gz"
    path = Path(named) if named else beside
    if not named and not path.exists():
        pytest.skip("OpenAI's bpe_simple_vocab_16e6.txt.gz is not here (KERAS_SD_CLIP_VOCABULARY)")
    return Tokenizer(path)


def test_goldens_cover_what_is_hard() -> None:
    texts = [row["text"] for row in ROWS]
    assert len(texts) > 90
    for needle in ("é", "e\u0301", "🐱", "猫", "&amp;", "\x00", "a" * 500, "<|endoftext|>", "Ã"):
        assert any(needle in text for text in texts), needle


@pytest.mark.parametrize("row", ROWS, ids=[ascii(row["text"][:24]) for row in ROWS])
def test_ids_equal_transformers(own: Tokenizer, row: dict) -> None:
    assert own.encode(row["text"]) == row["own"]


def test_ids_equal_transformers_with_openai_vocabulary(clip: Tokenizer) -> None:
    assert clip.vocab_size == len(set(clip.vocabulary)) == 49408
    assert [row["text"] for row in ROWS if clip.encode(row["text"]) != row["clip"]] == []


def test_openai_ids_known_from_the_paper_code(clip: Tokenizer) -> None:
    assert clip.encode("a photo of a cat") == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert clip("a photo of a cat").shape == (1, 77)


def test_vocabulary_follows_from_merges() -> None:
    tokenizer = Tokenizer(["c a", "ca t</w>"])
    assert tokenizer.vocab_size == len(set(tokenizer.vocabulary)) == 516
    assert tokenizer.vocabulary[0] == "!"
    assert tokenizer.vocabulary[188] == "\u0100"  # byte 0, the first that does not print
    assert tokenizer.vocabulary[256] == "!</w>"
    assert tokenizer.vocabulary[512:] == ("ca", "cat</w>", "<|startoftext|>", "<|endoftext|>")
    assert tokenizer.encode("cat CA") == [514, 513, 66, 256 + 64, 515]


@pytest.mark.parametrize(("pad", "fill"), [("end", 513), ("zero", 0)])
def test_rows_are_padded(pad, fill) -> None:
    rows = Tokenizer([], max_length=5, pad=pad)(["", "ab"])
    assert rows.dtype == np.int32
    assert rows.tolist() == [[512, 513, fill, fill, fill], [512, 64, 65 + 256, 513, fill]]


def test_one_prompt_is_one_row(own: Tokenizer) -> None:
    assert own("cat").shape == (1, 77)
    assert own([]).shape == (0, 77)


def test_prompt_of_the_limit_fits_and_one_more_does_not() -> None:
    tokenizer = Tokenizer([], max_length=6)
    assert tokenizer("ab 7 x").tolist() == [[512, 64, 321, 256 + 22, 256 + 87, 513]]
    with pytest.raises(PromptTooLongError) as caught:
        tokenizer(["fine", "AB 7 c xyz, q"])
    error = caught.value
    assert (error.count, error.limit, error.left_out) == (11, 6, ("xyz", ",", "q"))
    for part in ("11 tokens", "limit is 6", "xyz , q", "AB 7 c xyz"):
        assert part in str(error)
    assert isinstance(error, ValueError)


def test_message_of_a_very_long_prompt_stays_short() -> None:
    # Four tokens a word: 18 words fit into 75, and 20 of the others are named.
    with pytest.raises(PromptTooLongError, match="and 962 more") as caught:
        Tokenizer([])("word " * 1000)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("wrong", [None, 3, b"cat", ["cat", None], [["cat"]]])
def test_not_a_string(own: Tokenizer, wrong) -> None:
    with pytest.raises(TypeError):
        own(wrong)
    with pytest.raises(TypeError, match="prompt is a str"):
        own.encode(wrong)


def test_words_are_remembered_up_to_a_number(monkeypatch) -> None:
    monkeypatch.setattr("keras_sd.tokenizer.MAX_CACHED", 5)
    fresh = Tokenizer(GOLDENS["merges"])
    words = [f"w{number}" for number in range(40)]
    for word in words:
        fresh(word)
    assert len(fresh._cache) == 5
    expected = Tokenizer(GOLDENS["merges"])
    for word in words:
        np.testing.assert_array_equal(fresh(word), expected(word))


def test_decode(own: Tokenizer) -> None:
    assert own.decode(own("A  Café, 日本 🚀 it's")[0]) == "a café , 日本 🚀 it 's"
    assert own.decode(own.encode("")) == ""
    assert own.decode(Tokenizer(GOLDENS["merges"], pad="zero")("cat")[0]) == "cat"
    assert Tokenizer([]).decode(Tokenizer([]).encode("é")[1:2]) == "\ufffd"
    for outside in (-1, own.vocab_size):
        with pytest.raises(ValueError, match=f"Id {outside} is outside"):
            own.decode([outside])


def test_unknown_words(own: Tokenizer) -> None:
    text = "A Zorblax cat, on 7 zorblax's RÉD &amp; backgrounds!"
    assert own.unknown_words(text, {"a", "cat", "on"}) == ["zorblax", "7", "réd", "backgrounds"]
    assert own.unknown_words("", set()) == []
    with pytest.raises(TypeError, match="collection of words"):
        own.unknown_words("a", "abc")


def test_split_words() -> None:
    assert split_words(f"It's {END}  42 cats!?") == [
        "it",
        "'s",
        END,
        "4",
        "2",
        "cats",
        "!?",
    ]


@pytest.mark.parametrize("header", ["", "#version: 0.2\n", '"vocabulary.txt#version: 0.2\n'])
@pytest.mark.parametrize("compress", [False, True])
def test_reads_every_kind_of_merges_file(tmp_path: Path, header: str, compress: bool) -> None:
    data = (header + "\n".join(GOLDENS["merges"]) + "\n").encode()
    path = tmp_path / "merges"
    path.write_bytes(gzip.compress(data) if compress else data)
    assert read_merges(path) == GOLDENS["merges"]
    assert Tokenizer(str(path)).vocabulary == Tokenizer(GOLDENS["merges"]).vocabulary


def test_reads_windows_line_ends(tmp_path: Path) -> None:
    (tmp_path / "merges.txt").write_bytes(b"#version: 0.2\r\nc a\r\nca t</w>\r\n")
    assert Tokenizer(tmp_path / "merges.txt").vocabulary[512:514] == ("ca", "cat</w>")


@pytest.mark.parametrize("compress", [False, True])
def test_no_more_text_is_read_than_merges_have(tmp_path: Path, compress: bool) -> None:
    path = tmp_path / "merges.txt"
    with gzip.open(path, "wb", 1) if compress else open(path, "wb") as file:
        for _ in range(200):
            file.write(b"a b\n" * 2**18)
    too_much = pytest.raises(ValueError, match=r"merges\.txt .* more than 16000000 bytes")
    with bounded(memory=2**26), too_much:
        read_merges(path)


@pytest.mark.parametrize(
    "data", [b"\xff\xfe\x00", b"\x1f\x8b broken", gzip.compress(b"a b\n" * 99, mtime=0)[:-9]]
)
def test_not_a_merges_file(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "merges.txt").write_bytes(data)
    with pytest.raises(ValueError, match=r"merges\.txt is not a merges file"):
        Tokenizer(tmp_path / "merges.txt")


def test_missing_merges_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Tokenizer(tmp_path / "nowhere.txt")


@pytest.mark.parametrize("line", ["a", "a b c", ""])
def test_line_that_is_no_merge(line: str) -> None:
    with pytest.raises(ValueError, match="Merge 2 is"):
        Tokenizer(["a b", line])


def test_merges_of_gpt2_are_refused() -> None:
    with pytest.raises(ValueError, match="GPT-2"):
        Tokenizer(["\u0120 t", "h e"])


def test_vocab_size_limits_merges() -> None:
    merges = ["c a", "ca t</w>"]
    assert Tokenizer(merges, vocab_size=515).encode("cat") == [513, 512, 83 + 256, 514]
    assert Tokenizer(["a b"] * 60000).vocab_size == 49408
    for wrong in (513, 517):
        with pytest.raises(ValueError, match="514 to 516"):
            Tokenizer(merges, vocab_size=wrong)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="max_length=1"):
        Tokenizer([], max_length=1)
    with pytest.raises(ValueError, match="pad='left'"):
        Tokenizer([], pad="left")  # type: ignore[arg-type]
    assert Tokenizer([], max_length=2)("").tolist() == [[512, 513]]


def merge_by_the_rule(symbols: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """The definition, quadratic: the lowest rank, all its occurrences from the left, repeat."""
    while True:
        pairs = [p for p in pairwise(symbols) if p in ranks]
        if not pairs:
            return symbols
        best = min(pairs, key=ranks.__getitem__)
        merged: list[str] = []
        position = 0
        while position < len(symbols):
            width = 2 if tuple(symbols[position : position + 2]) == best else 1
            merged.append("".join(symbols[position : position + width]))
            position += width
        symbols = merged


def test_merging_equals_its_definition() -> None:
    # Ranks in random order, so that a merge may come before the merges that make its parts.
    rng = random.Random(1)
    for _ in range(300):
        tokens = list("abc")
        pairs = []
        for _ in range(12):
            pair = (rng.choice(tokens), rng.choice(tokens))
            pairs.append(pair)
            tokens.append("".join(pair))
        rng.shuffle(pairs)
        ranks = {pair: rank for rank, pair in enumerate(dict.fromkeys(pairs))}
        symbols = [rng.choice("abc") for _ in range(rng.randint(1, 40))]
        assert merge_symbols(symbols, ranks) == merge_by_the_rule(symbols, ranks)
