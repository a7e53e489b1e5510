"""Texts with weights and of any length, on a small CLIP with random weights.

What the networks give is checked elsewhere; here it goes, chunk by chunk, through the formulas of
the programs whose grammar a style has, written out in NumPy and float64.
"""

from __future__ import annotations

import math
from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import ops
from test_pipeline import TINY, differ, make

from keras_sd import wording
from keras_sd.backend import to_numpy
from keras_sd.checks import SettingError
from keras_sd.prompts import PromptError, parse, script
from keras_sd.request import Request
from keras_sd.start import Attachment
from keras_sd.texts import Tokenized
from keras_sd.tokenizer import PromptTooLongError

LENGTH = TINY.text_encoder.max_length
ROOM = LENGTH - 2
RELATIVE = 1e-6


@pytest.fixture(scope="module")
def pipeline():
    made = make()
    # Far from zero, as what CLIP gives: a mean near zero would hide the formula of the mean.
    rng = np.random.default_rng(1)
    for variable in made.text_encoder.norm.variables:
        variable.assign(rng.normal(0.7, 0.5, variable.shape))
    return made


def ids_of(pipeline, *texts):
    """The row of one chunk, of texts that are tokenized one by one."""
    tokenizer = pipeline.tokenizer
    ids = [each for text in texts for each in tokenizer.encode(text)[1:-1]]
    assert len(ids) <= ROOM
    row = [tokenizer.start_id, *ids, tokenizer.end_id]
    return row + [tokenizer.pad_id] * (LENGTH - len(row))


def raw(pipeline, *texts, **options):
    """A chunk's encoding, float64 `(tokens, features)`."""
    ids = ops.convert_to_tensor(np.array([ids_of(pipeline, *texts)], np.int32))
    return to_numpy(pipeline.text_encoder(ids, **options)).astype(np.float64)[0]


def weights_of(pipeline, *pairs):
    """The weight of each token of a chunk, `(tokens, 1)`."""
    found = [1.0]
    for text, weight in pairs:
        found += [weight] * (len(pipeline.tokenizer.encode(text)) - 2)
    return np.array(found + [1.0] * (LENGTH - len(found)))[:, None]


def encoded(pipeline, text, style, **options):
    found = to_numpy(pipeline.encode_text(text, style, **options))
    assert found.dtype == np.float32
    return found[0]


def near(found, expected):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=RELATIVE * scale)


PAIRS = [("a", 1.0), ("cat", 1.4), ("on a", 1.0), ("rocket", 0.6)]
TEXTS = [text for text, _ in PAIRS]
WEIGHTED = "a (cat:1.4) on a (rocket:0.6)"


def test_no_norm(pipeline):
    z, m = raw(pipeline, *TEXTS), weights_of(pipeline, *PAIRS)
    near(encoded(pipeline, WEIGHTED, "keras_sd"), z * m)


def test_the_original_mean(pipeline):
    z, m = raw(pipeline, *TEXTS), weights_of(pipeline, *PAIRS)
    near(encoded(pipeline, WEIGHTED, "a1111"), z * m * z.mean() / (z * m).mean())


def test_from_the_empty_prompt(pipeline):
    z, m, e = raw(pipeline, *TEXTS), weights_of(pipeline, *PAIRS), raw(pipeline)
    near(encoded(pipeline, WEIGHTED, "comfy"), e + m * (z - e))


def test_compel_mixes_in_what_lacks_a_segment_of_little_weight(pipeline):
    z, m, e = raw(pipeline, *TEXTS), weights_of(pipeline, *PAIRS), raw(pipeline)
    seen = (weights_of(pipeline, *PAIRS).T == 1.0) | (weights_of(pipeline, *PAIRS).T > 1)
    assert 0 < (~seen).sum() < ROOM
    without = raw(pipeline, *TEXTS, seen=ops.convert_to_tensor(seen))
    share = math.tan(0.4 * math.pi / 2)
    expected = (e + m * (z - e) + share * (e + m * (without - e))) / (1 + share)
    near(encoded(pipeline, "a (cat)1.4 on a (rocket)0.6", "compel"), expected)
    near(encoded(pipeline, "a (cat)1.4 on a", "compel"), _up(pipeline))


def _up(pipeline):
    pairs = PAIRS[:-1]
    z, m = raw(pipeline, *TEXTS[:-1]), weights_of(pipeline, *pairs)
    e = raw(pipeline)
    return e + m * (z - e)


def test_a_weight_of_zero_is_all_but_the_text_without_it(pipeline):
    text = "a (cat)0 on a rocket"
    seen = weights_of(pipeline, ("a", 1), ("cat", 0), ("on a rocket", 1)).T == 1
    without = raw(pipeline, "a", "cat", "on a rocket", seen=ops.convert_to_tensor(seen))
    e = raw(pipeline)
    expected = np.where(seen.T, without, e)
    found = encoded(pipeline, text, "compel")
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()


@pytest.mark.parametrize("style", ["keras_sd", "a1111", "comfy", "compel"])
def test_without_weights_every_style_is_plain(pipeline, style):
    text = "a cat on a blue background"
    # Not to the bit: rows of another batch are summed in another order.
    near(encoded(pipeline, text, style), encoded(pipeline, text, "plain"))
    plain = pipeline.text_to_image(text, "a rocket", seed=3, num_steps=1)
    same = pipeline.text_to_image(text, "a rocket", prompt_style=style, seed=3, num_steps=1)
    assert differ(plain, same) <= 1


def test_chunks_are_encoded_alone_and_stand_one_behind_the_other(pipeline):
    text = "a (cat:1.4) BREAK on a (rocket:0.6) BREAK BREAK blue"
    found = encoded(pipeline, text, "a1111")
    first, second = PAIRS[:2], PAIRS[2:]
    parts = []
    for pairs in (first, second):
        z, m = raw(pipeline, *(text for text, _ in pairs)), weights_of(pipeline, *pairs)
        parts.append(z * m * z.mean() / (z * m).mean())
    expected = np.concatenate([*parts, raw(pipeline), raw(pipeline, "blue")])
    assert found.shape == (4 * LENGTH, TINY.text_encoder.width)
    near(found, expected)


def test_compel_has_the_end_of_the_first_chunk_in_all(pipeline):
    text = "a cat. a blue (cat)0.5 background, a rocket"
    (line,) = script([parse(text, "compel")], 1).lines
    (piece,) = wording.worded(line, pipeline.tokenizer).pieces
    assert len(piece.chunks) > 2
    ends = [len(chunk) + 1 for chunk in piece.chunks]

    def marks(style):
        found = encoded(pipeline, text, style).reshape(-1, LENGTH, TINY.text_encoder.width)
        return [chunk[end] for chunk, end in zip(found, ends, strict=False)]

    first, *others = marks("compel")
    for each in others:
        np.testing.assert_array_equal(each, first)
    assert np.abs(np.diff(marks("comfy"), axis=0)).max() > 1e-3


def test_compel_blends_and_joins(pipeline):
    one, two, e = raw(pipeline, "a cat"), raw(pipeline, "a rocket"), raw(pipeline)
    found = encoded(pipeline, '("a cat", "a rocket").blend(1, 3)', "compel")
    near(found, (one + 3 * two) / 4)
    found = encoded(pipeline, '("a cat", "a rocket").blend(1, .5, no_normalize)', "compel")
    near(found, one + 0.5 * two)
    found = encoded(pipeline, '("a cat", "a rocket").and(1, 1.5)', "compel")
    near(found, np.concatenate([one, e + 1.5 * (two - e)]))


def test_a_weight_counts_in_the_picture(pipeline):
    run = {"seed": 1, "num_steps": 1, "prompt_style": "keras_sd"}
    one, two = (pipeline.text_to_image(f"a (cat:{w})", **run) for w in (1, 3))
    assert differ(one, two) > 0
    brackets = pipeline.text_to_image("a (cat:3)", **{**run, "prompt_style": "plain"})
    assert differ(brackets, two) > 0


def told(pipeline, *prompts, **settings):
    """What the UNet is told of prompts and negative prompts."""
    texts = pipeline.model.texts
    found = texts.told(*texts.read(Request.of(*prompts, **settings)))
    return [to_numpy(each["context"]) for each in found]


def test_prompt_and_negative_are_brought_to_the_same_number_of_chunks(pipeline):
    long, rocket = "a cat BREAK a rocket BREAK blue", "a rocket"
    prompts, negative = told(pipeline, [long, "a cat"], rocket, prompt_style="a1111")
    alone = [raw(pipeline, text) for text in ("a cat", "a rocket", "blue")]
    e = raw(pipeline)
    near(prompts[0], np.concatenate(alone))
    near(prompts[1], np.concatenate([alone[0], e, e]))
    assert negative.shape == prompts.shape
    near(negative[1], np.concatenate([alone[1], e, e]))
    # The same of encodings, whichever side they are on.
    encodings = Attachment.of(prompts[0])
    for found in (
        told(pipeline, encodings, rocket),
        told(pipeline, encodings, Attachment.of(raw(pipeline, rocket).astype(np.float32))),
        told(pipeline, rocket, encodings)[::-1],
    ):
        near(found[0][0], prompts[0])
        near(found[1][0], negative[0])


def test_encodings_may_have_any_number_of_tokens(pipeline):
    encoding = np.random.default_rng(0).normal(size=(2, 5, 16)).astype(np.float32)
    half = Attachment.of(encoding[0] / 2)
    prompts, negatives = told(pipeline, tuple(map(Attachment.of, encoding)), half)
    np.testing.assert_array_equal(prompts, encoding)
    np.testing.assert_array_equal(negatives, np.stack([encoding[0] / 2] * 2))
    made = pipeline.text_to_image(encoding, encoding[0] / 2, seed=1, num_steps=1)
    assert differ(made[:1], made[1:]) > 0
    with pytest.raises(ValueError, match=r"multiples of 12 tokens.* 5 and 12"):
        pipeline.stream(encoding)


def test_a_text_of_many_chunks_is_drawn(pipeline):
    run = {"prompt_style": "compel", "seed": 1, "num_steps": 1}
    made = pipeline.text_to_image("a (cat)0.5 on a blue background, " * 3, "a rocket", **run)
    assert made.shape == (1, 32, 24, 3)
    assert made.request.prompt_style == "compel"


def test_clip_skip_leaves_layers_out_and_keeps_the_norm():
    config = replace(TINY, text_encoder=replace(TINY.text_encoder, depth=3))
    pipeline = make(config)
    encoder = pipeline.text_encoder
    x = encoder.embedding(ops.convert_to_tensor(np.array([ids_of(pipeline, "a cat")], np.int32)))
    after = []
    for block in encoder.blocks:
        x = block(x)
        after.append(to_numpy(encoder.norm(x))[0])
    for skip in (1, 2, 3):
        for style in ("plain", "comfy"):
            found = encoded(pipeline, "a cat", style, clip_skip=skip)
            near(found, after[-skip])
    run = {"seed": 1, "num_steps": 1}
    assert differ(*(pipeline.text_to_image("a cat", clip_skip=skip, **run) for skip in (1, 2))) > 0
    # What comes behind a short text is of the same layer.
    both = to_numpy(pipeline.encode_text(["a BREAK b", "a"], "keras_sd", 2))
    near(both[1, LENGTH:], encoded(pipeline, "", "plain", clip_skip=2))
    with pytest.raises(SettingError, match="clip_skip is at most 3 here, not 4"):
        pipeline.stream("a cat", clip_skip=4)


@pytest.mark.parametrize(
    ("text", "style", "words"),
    [
        ("a (cat:1.2.3)", "a1111", "no number"),
        ("a cat <lora:x:1>", "keras_sd", "has the tag '?<lora:x:1>"),
        ("a cat".replace("cat", "cat " * 40), "plain", "tokens long"),
    ],
)
def test_what_cannot_be_drawn_is_an_error_before_any_step(pipeline, text, style, words):
    for arguments in ({"prompt": text}, {"prompt": "a", "negative_prompt": text}):
        with pytest.raises(PromptError if style != "plain" else PromptTooLongError, match=words):
            pipeline.stream(**arguments, prompt_style=style)


def test_a_long_plain_text_is_refused_and_drawn_in_a_style(pipeline):
    long = "a cat on a blue background, " * 4
    with pytest.raises(PromptTooLongError):
        pipeline.encode_text(long)
    assert encoded(pipeline, long, "keras_sd").shape[0] > LENGTH


def test_unknown_words_are_those_of_the_text_without_its_signs(pipeline, caplog):
    list(pipeline.stream("a (zebra:1.2) BREAK cat", prompt_style="a1111", num_steps=1))
    (message,) = [each.getMessage() for each in caplog.records if "does not know" in each.message]
    assert "does not know: zebra. " in message


def test_a_token_that_the_text_encoder_lacks_is_named(pipeline, monkeypatch):
    monkeypatch.setattr(pipeline.tokenizer, "words", lambda text: [[9999]])
    with pytest.raises(ValueError, match="token of number 9999"):
        pipeline.stream("a cat", prompt_style="comfy")


def test_half_precision_weights_in_float32():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        pipeline = make()
        texts = pipeline.model.texts
        tokens = texts.tokens("prompt", ["a (cat:1.3)"], "keras_sd")
        (told,) = texts.told(tokens)
        assert "bfloat16" in str(told["context"].dtype)
        assert pipeline.text_to_image("a (cat:1.3)", seed=1, prompt_style="comfy").shape[0] == 1
    finally:
        keras.config.set_dtype_policy(policy)


def test_tokens_have_rows(pipeline):
    tokens = pipeline.model.texts.tokens("prompt", ["a", "b BREAK c"], "a1111")
    assert isinstance(tokens, Tokenized)
    assert (len(tokens), tokens.lengths) == (2, (LENGTH, 2 * LENGTH))
