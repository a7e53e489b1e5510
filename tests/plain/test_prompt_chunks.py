"""Chunks of tokens, what `explain` shows, and `keras-sd prompt`."""

from __future__ import annotations

import json
import random
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from keras_sd.cli import main
from keras_sd.prompts import STYLES, PromptError, chunks, explain, parse, sections
from keras_sd.tokenizer import Tokenizer
from keras_sd.weights.presets import open_preset
from keras_sd.weights.vocabulary import tokenizer_of


def words(text):
    """A token a letter or sign, a word a run of letters: small enough to count by hand."""
    return [[ord(sign) for sign in word] for word in re.findall(r"\w+|[^\w\s]", text)]


def row(count, *commas):
    """A text of tokens, some of them commas, by their places counted from 1."""
    return " ".join("," if place in commas else "x" for place in range(1, count + 1))


def sizes(text, style, room=75):
    return [len(each) for each in chunks(sections(text, style), words, style, room)]


TABLE = [
    ("", [0]),
    (row(75), [75]),
    (row(76), [75, 1]),
    (row(150), [75, 75]),
    (row(151), [75, 75, 1]),
    (row(80, 70), [70, 10]),
    (row(80, 75), [75, 5]),
    (row(80, 56), [56, 24]),
    (row(80, 55), [75, 5]),
    (row(80, 76), [75, 5]),
    (row(80, 60, 72), [72, 8]),
    (row(160, 70), [70, 75, 15]),
    ("BREAK", [0]),
    ("x BREAK", [1]),
    ("BREAK x", [0, 1]),
    (f"{row(10)} BREAK BREAK {row(5)}", [10, 0, 5]),
    (f"{row(75)} BREAK x", [75, 1]),
    (f"{row(80)} BREAK x x x", [75, 5, 3]),
]


@pytest.mark.parametrize("style", ["keras_sd", "a1111"])
@pytest.mark.parametrize(("text", "expected"), TABLE)
def test_the_rule_of_commas(text, expected, style):
    assert sizes(text, style) == expected


def test_what_follows_a_comma_keeps_its_weights():
    text = f"{row(69)}, (x x x x x:1.5)(y y:0.5)"
    first, second = chunks(sections(text, "keras_sd"), words, "keras_sd")
    assert (len(first), len(second)) == (70, 7)
    assert set(first.weights) == {1.0}
    assert second.weights == (1.5,) * 5 + (0.5,) * 2
    assert (first.segments, second.segments) == ((0,) * 70, (1,) * 5 + (2,) * 2)
    assert second.ids == (ord("x"),) * 5 + (ord("y"),) * 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [0]),
        (row(76), [75, 1]),
        # A word of fewer than 8 tokens moves, a longer one is broken; commas change nothing.
        (f"{row(70)} xxxxxxx", [70, 7]),
        (f"{row(70)} xxxxxxxx", [75, 3]),
        (f"{row(80, 70)}", [75, 5]),
        (f"{row(70)} xxx,xxx", [70, 7]),
        (f"{row(70)} xxx (xxx:1.2)", [73, 3]),
        ("x" * 160, [75, 75, 10]),
    ],
)
def test_comfy_keeps_short_words_whole(text, expected):
    assert sizes(text, "comfy") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [0]),
        ("a b c. d, e f", [4, 4]),
        ("a b, c d e f", [3, 4]),
        ("a b; c: d e f", [5, 3]),
        ("a b ccccc", [2, 5]),
        ("aaaaaaaa", [6, 2]),
        ("a b c d e f", [6]),
    ],
)
def test_compel_breaks_behind_sentences_phrases_words(text, expected):
    assert sizes(text, "compel", room=6) == expected


def test_plain_text_is_not_broken():
    assert sizes(row(75), "plain") == [75]
    with pytest.raises(PromptError, match="has 76 tokens, and 75 fit"):
        sizes(row(76), "plain")


@pytest.mark.parametrize("style", STYLES[1:])
@pytest.mark.parametrize("room", [1, 3, 20, 75])
def test_no_token_is_lost_in_any_room(style, room):
    draw = random.Random(room)
    for _ in range(50):
        text = " ".join(
            draw.choice(["a", "bcd", "efghijklmno", ",", ".", "(pq:1.2)", "(r s)", "[t]", "BREAK"])
            for _ in range(draw.randint(0, 60))
        )
        read = sections(text, style)
        expected = [
            (token, segment.weight)
            for section in read
            for segment in section
            for word in words(segment.text)
            for token in word
        ]
        broken = chunks(read, words, style, room)
        found = [pair for each in broken for pair in zip(each.ids, each.weights, strict=True)]
        assert found == expected
        assert all(len(each) <= room for each in broken)
        assert all(len(each.segments) == len(each) for each in broken)


def test_a_chunk_has_room():
    with pytest.raises(ValueError, match="not 0"):
        chunks(sections("a", "comfy"), words, "comfy", 0)


def test_words_are_what_a_prompt_is_encoded_of():
    tokenizer = Tokenizer(["c a", "ca t</w>"], max_length=6)
    text = "Cat, cats"
    ids = [each for word in tokenizer.words(text) for each in word]
    assert [tokenizer.start_id, *ids, tokenizer.end_id] == tokenizer.encode(text)
    tokenizer.words("cat")[0].append(0)
    assert tokenizer.words("cat") == [[513]]


# --- explain --------------------------------------------------------------------------


def test_an_explanation_says_everything():
    text = "a (cat:1.2) [dog:cow:0.5] BREAK b AND c :-0.5 <lora:x:0.8:0.5:4><new:y>"
    shown = str(explain(text, words, "keras_sd", num_steps=10))
    assert shown.splitlines() == [
        "style: keras_sd",
        "2 parts: their predictions are added by weight",
        "part 1, weight 1",
        "steps 1 to 5 of 10:",
        "  1        'a '",
        "  1.2      'cat'",
        "  1        ' dog'",
        "  BREAK",
        "  1        'b'",
        "  8 tokens in 2 chunks (7 + 1), none dropped",
        "steps 6 to 10 of 10:",
        "  1        'a '",
        "  1.2      'cat'",
        "  1        ' cow'",
        "  BREAK",
        "  1        'b'",
        "  8 tokens in 2 chunks (7 + 1), none dropped",
        "part 2, weight -0.5",
        "  1        'c'",
        "  1 token in 1 chunk (1), none dropped",
        "tag <lora:x:0.8:0.5:4>: lora 'x', text encoder 0.8, UNet 0.5, rank 4",
        "unknown tag <new:y>",
    ]


def test_edits_of_the_original_come_a_step_late():
    assert "steps 1 to 4 of 10:" in str(explain("[a:b:3]", words, "a1111", num_steps=10))


def test_an_explanation_in_the_types_of_json():
    read = explain(parse("(a:1.5) b <lora:x>", "a1111"), words, num_steps=2)
    held = json.loads(json.dumps(read.to_dict()))
    assert held["prompt"] == "(a:1.5) b <lora:x>"
    assert (held["style"], held["join"], held["num_steps"]) == ("a1111", "guided", 2)
    (part,) = held["parts"]
    (steps,) = part["steps"]
    assert (steps["first"], steps["last"], steps["tokens"], steps["dropped"]) == (1, 2, 2, 0)
    assert steps["sections"] == [[{"text": "a", "weight": 1.5}, {"text": " b ", "weight": 1}]]
    assert steps["chunks"] == [{"ids": [97, 98], "weights": [1.5, 1]}]
    assert held["tags"][0]["name"] == "x"


# --- the command ----------------------------------------------------------------------


def command(capsys, *arguments):
    status = main(["prompt", *arguments])
    found = capsys.readouterr()
    return status, found.out, found.err


def test_the_command_counts_the_tokens_of_a_model(capsys):
    status, out, err = command(capsys, "a (cat face:1.2)", "--style", "keras_sd")
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "style: keras_sd",
        "  1        'a '",
        "  1.2      'cat face'",
        "  3 tokens in 1 chunk (3), none dropped",
    ]


def test_the_command_has_the_room_of_the_model(capsys):
    text = "a cat, " * 30
    tokenizer = tokenizer_of(open_preset("emoji"))
    room = tokenizer.max_length - 2
    status, out, _ = command(capsys, text, "--style", "comfy", "--json")
    (steps,) = json.loads(out)["parts"][0]["steps"]
    assert (status, steps["dropped"], steps["tokens"]) == (0, 0, 90)
    assert len(steps["chunks"][0]["ids"]) <= room
    ids = [each for chunk in steps["chunks"] for each in chunk["ids"]]
    assert ids == tokenizer.encode(text)[1:-1]
    status, out, err = command(capsys, text)
    assert (status, out) == (2, "")
    assert f"has 90 tokens, and {room} fit" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", "--style", "webui"), "style is one of 'plain'"),
        (("a", "--steps", "0"), "--steps is a whole number from 1"),
        (("(a:1.2.3)", "--style", "keras_sd"), "'1.2.3' in '(a:1.2.3)' is no number"),
        (("a", "--vocabulary", "no-such-file"), "--vocabulary: there is no file"),
    ],
)
def test_the_command_says_what_is_wrong(capsys, arguments, message):
    status, out, err = command(capsys, *arguments)
    assert (status, out) == (2, "")
    assert message in err


def test_the_command_knows_embeddings(capsys, tmp_path):
    width = open_preset("emoji").config.text_encoder.width
    path = tmp_path / "trio.safetensors"
    save_file({"emb_params": np.ones((3, width), np.float32)}, path)
    options = ("--style", "keras_sd", "--embedding", str(path), "--negative")
    status, out, _ = command(capsys, "a (trio:1.2) cat", *options)
    assert status == 0
    assert "embedding 'trio': 3 vectors" in out
    assert "5 tokens in 1 chunk" in out
    status, _, err = command(capsys, "a AND b", *options)
    assert status == 2
    assert "A negative prompt has" in err
    save_file({"emb_params": np.ones((3, 768), np.float32)}, path)
    status, _, err = command(capsys, "a trio", *options)
    assert status == 2
    assert "--embedding:" in err
    assert "was made for Stable Diffusion 1.x" in err


def test_the_command_shows_edits_over_its_steps(capsys):
    _, out, _ = command(capsys, "[a:b:0.5]", "--style", "keras_sd", "--steps", "4")
    assert "steps 1 to 2 of 4:" in out
    assert "steps 3 to 4 of 4:" in out
