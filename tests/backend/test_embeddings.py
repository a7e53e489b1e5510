"""Embeddings in prompts, on a small CLIP with random weights."""

from __future__ import annotations

import copy
import logging
import pickle
from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import ops
from safetensors.numpy import save_file
from test_pipeline import MERGES, TINY, make

from keras_sd.backend import to_numpy
from keras_sd.embeddings import open_embedding
from keras_sd.networks import TextEncoder
from keras_sd.precision import policy_scope
from keras_sd.prompts import explain
from keras_sd.tokenizer import PromptTooLongError
from keras_sd.weights.readers import WeightsError

STYLES = ["plain", "keras_sd", "a1111", "comfy", "compel"]
WIDTH = TINY.text_encoder.width
RNG = np.random.default_rng(5)
CONFIG = replace(TINY, text_encoder=replace(TINY.text_encoder, depth=2, max_length=24))


def table(pipeline):
    return to_numpy(pipeline.text_encoder.embedding.tokens.embeddings.value)


def write(path, vectors, key="emb_params"):
    save_file({key: np.ascontiguousarray(vectors)}, path)
    return path


def of_words(pipeline, path, words):
    """An embedding whose vectors are those of words of the vocabulary."""
    ids = pipeline.tokenizer.encode(words)[1:-1]
    return write(path, table(pipeline)[ids])


@pytest.fixture(scope="module")
def pipeline():
    return make(CONFIG)


@pytest.fixture(scope="module")
def named(pipeline, tmp_path_factory):
    """`trio` is "cat on rocket", `dot` is "cat"."""
    folder = tmp_path_factory.mktemp("embeddings")
    trio = of_words(pipeline, folder / "trio.safetensors", "cat on rocket")
    return pipeline.with_embeddings(trio, {"dot": of_words(pipeline, folder / "b", "cat")})


def encoded(pipeline, *args, **options):
    return to_numpy(pipeline.encode_text(*args, **options))


TEXTS = {
    "plain": ("a Trio blue", "a cat on rocket blue"),
    "keras_sd": ("a (trio:1.4) blue BREAK [dot]", "a (cat on rocket:1.4) blue BREAK [cat]"),
    "a1111": ("a (trio:1.4), (dot:0.6) blue", "a (cat on rocket:1.4), (cat:0.6) blue"),
    "comfy": ("a (embedding:trio:1.4) (dot:0.5)", "a (cat on rocket:1.4) (cat:0.5)"),
    "compel": ("a (trio)1.4 blue (dot)0.5", "a (cat on rocket)1.4 blue (cat)0.5"),
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("skip", [1, 2])
def test_vectors_of_words_are_those_words_to_the_bit(pipeline, named, style, skip):
    text, same = TEXTS[style]
    found = encoded(named, text, style, clip_skip=skip)
    np.testing.assert_array_equal(found, encoded(pipeline, same, style, clip_skip=skip))
    assert (found != encoded(pipeline, text, style, clip_skip=skip)).any()


def test_the_vectors_count_as_they_are(pipeline, tmp_path):
    vectors = RNG.normal(0, 1, (2, WIDTH)).astype(np.float32)
    found = encoded(pipeline.with_embeddings(write(tmp_path / "v.safetensors", vectors)), "a V cat")
    network = make(CONFIG)
    first, second = (network.tokenizer.encode(word)[1] for word in "12")
    tokens = network.text_encoder.embedding.tokens.embeddings
    changed = table(network).copy()
    changed[[first, second]] = vectors
    tokens.assign(changed)
    np.testing.assert_array_equal(found, encoded(network, "a 1 2 cat"))


def test_prompts_without_an_embedding_are_encoded_as_before(pipeline, named):
    for style, (_, text) in TEXTS.items():
        here, there = encoded(named, text, style), encoded(pipeline, text, style)
        np.testing.assert_array_equal(here, there)


def test_nothing_is_compiled_anew_for_other_embeddings_and_prompts(tmp_path, monkeypatch):
    pipeline = make()
    calls = []
    call = TextEncoder.call
    monkeypatch.setattr(
        TextEncoder, "call", lambda self, *a, **o: calls.append(o) or call(self, *a, **o)
    )
    one = pipeline.with_embeddings(write(tmp_path / "one.safetensors", table(pipeline)[:1]))
    encoded(one, "a one")
    traced = len(calls)
    two = one.with_embeddings(write(tmp_path / "two.safetensors", table(pipeline)[5:8]))
    encoded(two, "two one cat")
    encoded(one, "one cat")
    if keras.backend.backend() != "torch":
        assert len(calls) == traced
    encoded(two, "a cat")
    assert "added" in calls[0]
    assert "added" not in calls[-1]  # what a model without embeddings compiles


def test_a_picture_is_drawn_with_them_in_both_prompts(pipeline, named):
    settings = {"seed": 3, "num_steps": 2}
    found = named.text_to_image("a trio", negative_prompt="dot", **settings)
    same = pipeline.text_to_image("a cat on rocket", negative_prompt="cat", **settings)
    assert (found == same).all()
    assert (found != pipeline.text_to_image("a trio", negative_prompt="dot", **settings)).any()
    edited = named.text_to_image("a [trio:dot:1]", prompt_style="keras_sd", **settings)
    words = "a [cat on rocket:cat:1]"
    assert (edited == pipeline.text_to_image(words, prompt_style="keras_sd", **settings)).all()


def test_networks_are_shared_and_settings_are_not(pipeline, named, tmp_path):
    assert named.unet is pipeline.unet
    assert named.model.steps() is pipeline.model.steps()
    assert pipeline.embeddings == ()
    assert [each.names for each in named.embeddings] == [("trio",), ("dot",)]
    assert pipeline.tokenizer.names is None
    more = named.with_embeddings(write(tmp_path / "c.safetensors", np.ones((1, WIDTH), "f4")))
    more.height = 64
    assert (len(more.embeddings), len(named.embeddings), named.height) == (3, 2, pipeline.height)
    np.testing.assert_array_equal(encoded(more, "a trio"), encoded(named, "a trio"))
    assert pipeline.with_embeddings().model is pipeline.model


def test_adapters_are_those_of_all_that_share_the_networks(tmp_path):
    pipeline = make(CONFIG)
    named = pipeline.with_embeddings(of_words(pipeline, tmp_path / "e.safetensors", "cat"))
    config = TINY.unet
    up, down = (
        RNG.normal(0, 0.3, shape).astype(np.float32)
        for shape in ((config.out_channels, 2, 1, 1), (2, config.widths[0], 3, 3))
    )
    path = tmp_path / "lora.safetensors"
    save_file({"unet.conv_out.lora_A.weight": down, "unet.conv_out.lora_B.weight": up}, path)
    before = to_numpy(pipeline.unet.conv_out.kernel.value).copy()
    with pipeline.with_adapters(path):
        assert named.adapters == pipeline.adapters
        assert len(named.adapters) == 1
        named.unmerge_adapters()
        assert pipeline.adapters == ()
    np.testing.assert_array_equal(to_numpy(named.unet.conv_out.kernel.value), before)


def test_copies_keep_them(named):
    wanted = encoded(named, "a trio")
    for made in (copy.deepcopy(named.model), pickle.loads(pickle.dumps(named.model))):
        np.testing.assert_array_equal(to_numpy(made.encode_text("a trio")), wanted)


def test_half_precision(tmp_path):
    with policy_scope("mixed_float16"):
        pipeline = make(CONFIG)
    named = pipeline.with_embeddings(of_words(pipeline, tmp_path / "e.safetensors", "cat"))
    np.testing.assert_array_equal(encoded(named, "a e"), encoded(pipeline, "a cat"))


def test_a_text_encoder_takes_vectors_for_ids_behind_its_vocabulary(pipeline):
    known = TINY.text_encoder.vocab_size
    ids = np.full((1, TINY.text_encoder.max_length), 7, np.int32)
    given = ids.copy()
    given[0, 3] = known + 1
    added = np.stack([np.zeros(WIDTH, np.float32), table(pipeline)[9]])
    ids[0, 3] = 9
    encoder = pipeline.text_encoder
    found = encoder(ops.convert_to_tensor(given), added=ops.convert_to_tensor(added))
    np.testing.assert_array_equal(to_numpy(found), to_numpy(encoder(ops.convert_to_tensor(ids))))


# --- names ----------------------------------------------------------------------------


def test_a_file_goes_by_its_word_and_its_stem(pipeline, tmp_path):
    path = write(tmp_path / "My  Style.safetensors", table(pipeline)[40:41], "<cat-toy>")
    named = pipeline.with_embeddings(path)
    assert named.embeddings[0].names == ("my style", "<cat-toy>")
    by_stem = encoded(named, "a my style blue")
    np.testing.assert_array_equal(by_stem, encoded(named, "a <Cat-Toy> blue"))
    np.testing.assert_array_equal(by_stem, encoded(named, "a MY style blue", "comfy"))
    other = pipeline.with_embeddings({"x1": open_embedding(path)})
    assert other.embeddings[0].names == ("x1",)
    np.testing.assert_array_equal(by_stem, encoded(other, "a X1 blue"))


def test_what_explain_says(named):
    found = str(explain("a (trio:1.2)", named.tokenizer.words, "keras_sd", room=22))
    assert "embedding 'trio': 8 vectors" in found


def test_their_names_are_no_unknown_words(named, pipeline):
    assert named.unknown_words("a trio of cat") == ["of"]
    assert pipeline.unknown_words("a trio of cat") == ["trio", "of"]


def test_an_ordinary_word_is_taken_with_a_line_in_the_log(pipeline, tmp_path, caplog):
    path = write(tmp_path / "cat.safetensors", table(pipeline)[40:41])
    word = next(w for w in ("cat", "a", "on") if len(pipeline.tokenizer.encode(w)) == 3)
    with caplog.at_level(logging.WARNING, "keras_sd"):
        pipeline.with_embeddings({word: path, "sks": path})
    (line,) = caplog.messages
    assert line.startswith(f"{word!r} is an ordinary word")


def test_what_does_not_fit_is_refused(pipeline, named, tmp_path):
    good = write(tmp_path / "trio.safetensors", np.ones((1, WIDTH), "f4"))
    with pytest.raises(ValueError, match="both go by 'trio' in a prompt") as caught:
        named.with_embeddings(good)
    assert str(good) in str(caught.value)
    with pytest.raises(ValueError, match="both go by 'x'"):
        pipeline.with_embeddings({"x": good, " X ": good})
    for name in ("", ", ", "x" * 201, "a<|endoftext|>", "a\x00"):
        with pytest.raises(ValueError, match="is no name for"):
            pipeline.with_embeddings({name: good})
    with pytest.raises(TypeError, match="name of an embedding is a str, not 7"):
        pipeline.with_embeddings({7: good})
    with pytest.raises(TypeError, match="a path, or a dictionary of paths by name, not 7"):
        pipeline.with_embeddings(7)
    wide = write(tmp_path / "w.safetensors", np.ones((1, 768), "f4"))
    with pytest.raises(WeightsError, match=r"for Stable Diffusion 1.x: its vectors have 768 feat"):
        pipeline.with_embeddings(wide)
    long = write(tmp_path / "l.safetensors", np.ones((23, WIDTH), "f4"))
    with pytest.raises(WeightsError, match="23 vectors, and the model tiny reads 22 tokens"):
        pipeline.with_embeddings(long)
    with pytest.raises(PromptTooLongError) as error:
        encoded(named, "trio trio trio dot")
    assert error.value.left_out == ("trio", "dot")


def test_widths_name_the_families(tmp_path):
    from keras_sd.config import SD_1
    from keras_sd.embeddings.using import _fitting

    made = open_embedding(write(tmp_path / "e.safetensors", np.ones((1, 1024), "f4")))
    with pytest.raises(WeightsError, match=r"for Stable Diffusion 2.x.*of Stable Diffusion 1.x, t"):
        _fitting(made, replace(SD_1, name="mine"))


# --- beside diffusers -----------------------------------------------------------------


@pytest.mark.references
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("form", ["A1111", "diffusers"])
def test_the_encodings_of_diffusers(tmp_path, count, form):
    import json

    import torch
    from diffusers.loaders import TextualInversionLoaderMixin
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    from keras_sd.weights.load import load_state_dict
    from keras_sd.weights.names import diffusers

    pipeline = make()
    ours, config = pipeline.tokenizer, TINY.text_encoder
    vocabulary = {token: number for number, token in enumerate(ours.vocabulary)}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES]))
    tokenizer = CLIPTokenizer(
        str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"), model_max_length=12
    )
    torch.manual_seed(0)
    theirs = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=config.vocab_size,
            hidden_size=WIDTH,
            intermediate_size=config.mlp_width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            max_position_embeddings=config.max_length,
            eos_token_id=ours.end_id,
            bos_token_id=ours.start_id,
            pad_token_id=ours.end_id,
        )
    ).eval()
    for name, parameter in theirs.named_parameters():
        if "final_layer_norm" in name:  # the mean far from zero, as CLIP's is
            torch.nn.init.normal_(parameter, 0.7, 0.5)
    state = {name.removeprefix("text_model."): v.numpy() for name, v in theirs.state_dict().items()}
    state = {name: value for name, value in state.items() if "position_ids" not in name}
    load_state_dict(pipeline.text_encoder, state, diffusers.text_encoder(config))

    class Pipeline(TextualInversionLoaderMixin):
        components: dict = {}  # noqa: RUF012
        hf_device_map = None

        def __init__(self):
            self.tokenizer, self.text_encoder = tokenizer, theirs

    vectors = torch.randn(count, WIDTH)
    path = tmp_path / "mystyle.pt"
    if form == "A1111":
        told = {"string_to_token": {"*": 265}, "string_to_param": {"*": vectors}, "name": "mystyle"}
        torch.save(told, path)
    else:
        torch.save({"mystyle": vectors if count > 1 else vectors[0]}, path)
    them = Pipeline()
    them.load_textual_inversion(str(path), token="mystyle")
    text = "a mystyle on blue"
    ids = tokenizer(
        them.maybe_convert_prompt(text, tokenizer),
        padding="max_length",
        max_length=12,
        return_tensors="pt",
    ).input_ids
    with torch.no_grad():
        wanted = theirs(ids).last_hidden_state.numpy()[0]
    assert (ids >= config.vocab_size).sum() == count

    named = pipeline.with_embeddings(path)
    found = encoded(named, text)[0]
    assert np.abs(found - wanted).max() <= 1e-6 * np.abs(wanted).max()
    # The web UI's weights, by its formula.
    m = np.ones((12, 1))
    m[2 : 2 + count] = 1.3
    wanted = wanted.astype(np.float64)
    wanted = wanted * m * wanted.mean() / (wanted * m).mean()
    found = encoded(named, "a (mystyle:1.3) on blue", "a1111")[0]
    assert np.abs(found - wanted).max() <= 1e-6 * np.abs(wanted).max()
