"""Files of embeddings in each layout, their names in a text, and chunks that keep them whole."""

from __future__ import annotations

import hashlib
import json
import random
import re
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from fuzz import DAMAGE, archive, bounded, integer, nothing_executed, state, storage, tensor, text
from safetensors.numpy import save_file

from keras_sd.cli import main
from keras_sd.embeddings import open_embedding
from keras_sd.prompts import PromptError, Whole, chunks, explain, sections
from keras_sd.prompts.names import Names
from keras_sd.tokenizer import PromptTooLongError, Tokenizer
from keras_sd.weights.presets import PRESETS
from keras_sd.weights.readers import WeightsError

RNG = np.random.default_rng(0)
VECTORS = RNG.normal(0, 0.1, (3, 8)).astype(np.float32)


def params(array, key="*"):
    """A file of the web UI or of kohya's trainer, by hand."""
    of = storage(size=array.size)
    value = b"}" + text(key) + tensor(array.shape, (array.shape[1], 1), of=of) + b"s"
    said = {"name": text("said"), "step": integer(700), "sd_checkpoint_name": text("base")}
    told = state(string_to_token=b"}" + text(key) + integer(265) + b"s", string_to_param=value)
    told = told.removesuffix(b"u.")
    told += b"".join(text(name) + each for name, each in said.items()) + b"u."
    return archive(told, {"data/0": array.tobytes()})


def bin_of(array, key):
    """What `torch.save({key: tensor})` writes."""
    strides = tuple(int(np.prod(array.shape[axis + 1 :])) for axis in range(array.ndim))
    of = storage(size=array.size)
    return archive(state(**{key: tensor(array.shape, strides, of=of)}), {"data/0": array.tobytes()})


def written(folder, name, what):
    path = folder / name
    if isinstance(what, bytes):
        path.write_bytes(what)
    else:
        save_file(what, path)
    return path


LAYOUTS = {
    "A1111": ("style.pt", params(VECTORS), None, "A1111"),
    "A1111, a word": ("style.pt", params(VECTORS, "sks"), "sks", "A1111"),
    "diffusers, bin": (
        "e.bin",
        bin_of(VECTORS, "<cat-toy>"),
        "<cat-toy>",
        "diffusers",
    ),
    "diffusers, one vector": ("e.bin", bin_of(VECTORS[0], "<cat-toy>"), "<cat-toy>", "diffusers"),
    "diffusers": ("e.safetensors", {"<cat-toy>": VECTORS}, "<cat-toy>", "diffusers"),
    "kohya": ("style.safetensors", {"emb_params": VECTORS}, None, "kohya"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout(tmp_path, layout):
    name, what, token, writer = LAYOUTS[layout]
    path = written(tmp_path, name, what)
    with nothing_executed():
        found = open_embedding(path)
    wanted = VECTORS[:1] if "one vector" in layout else VECTORS
    np.testing.assert_array_equal(found.vectors, wanted)
    assert found.vectors.dtype == np.float32
    assert (found.name, found.token, found.layout) == (path.stem, token, writer)
    assert len(found) == len(wanted)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    said = {"name": "said", "step": "700", "sd_checkpoint_name": "base"}
    assert found.facts == (said if writer == "A1111" else {})


def test_half_precision_becomes_float32(tmp_path):
    path = written(tmp_path, "h.safetensors", {"emb_params": VECTORS.astype(np.float16)})
    found = open_embedding(path).vectors
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, VECTORS.astype(np.float16))


def test_an_embedding_is_a_value(tmp_path):
    found = open_embedding(written(tmp_path, "h.safetensors", {"emb_params": VECTORS}))
    with pytest.raises(ValueError, match="read-only"):
        found.vectors[0] = 0
    with pytest.raises(FrozenInstanceError):
        found.name = "b"


def test_a_pair_for_xl_has_vectors_for_both_text_encoders(tmp_path):
    second = RNG.normal(0, 1, (3, 10)).astype(np.float32)
    path = written(tmp_path, "xl.safetensors", {"clip_l": VECTORS, "clip_g": second})
    found = open_embedding(path)
    np.testing.assert_array_equal(found.vectors, VECTORS)
    np.testing.assert_array_equal(found.vectors_2, second)
    assert (found.layout, found.family, len(found)) == ("XL", "Stable Diffusion XL", 3)
    half = open_embedding(path, clip_l_alone=True)
    np.testing.assert_array_equal(half.vectors, VECTORS)
    assert (half.vectors_2, half.layout) == (None, "XL, clip_l alone")


def test_inspect_says_what_it_is(tmp_path, capsys):
    vectors = np.ones((3, 768), np.float16)
    path = written(tmp_path, "toy.safetensors", {"<cat-toy>": vectors})
    assert main(["inspect", str(path)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "toy.safetensors: an embedding, made for Stable Diffusion 1.x" in shown
    for said in ("text encoder 3 vectors", "can be used yes", "calls it toy or <cat-toy>"):
        assert said in shown
    path = written(
        tmp_path, "xl.safetensors", {"clip_l": vectors, "clip_g": np.ones((3, 1280), np.float16)}
    )
    assert main(["inspect", "--json", str(path)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["parts"] == {"text_encoder": 3, "text_encoder_2": 3}
    assert (told["base"], told["layout"]) == ("Stable Diffusion XL", "XL")
    path = written(tmp_path, "odd.safetensors", {"clip_g": vectors})
    assert main(["inspect", str(path)]) == 1
    assert "it lacks clip_l" in " ".join(capsys.readouterr().out.split())
    path = written(tmp_path, "small.safetensors", {"emb_params": vectors[:, :8]})
    assert main(["inspect", str(path)]) == 0
    assert "no: no model here has 8 features" in capsys.readouterr().out


def test_half_a_pair_is_refused(tmp_path):
    for has, lacks in (("clip_g", "clip_l"), ("clip_l", "clip_g")):
        path = written(tmp_path, f"{has}.safetensors", {has: VECTORS})
        with pytest.raises(WeightsError, match=rf"Diffusion XL, {has}: it lacks {lacks}$"):
            open_embedding(path)
    assert open_embedding(path, clip_l_alone=True).layout == "XL, clip_l alone"
    with pytest.raises(WeightsError, match=r"it lacks clip_l$"):
        open_embedding(tmp_path / "clip_g.safetensors", clip_l_alone=True)
    pair = {"clip_l": VECTORS, "clip_g": VECTORS[:1]}
    with pytest.raises(WeightsError, match=r"has 3 vectors for one .*XL and 1 for the other"):
        open_embedding(written(tmp_path, "odd.safetensors", pair))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"lora_unet_x.lora_down.weight": VECTORS}, "is an adapter, such as a LoRA, and no emb"),
        (
            {"cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": VECTORS},
            "no embedding: it holds text_encoder, a checkpoint",
        ),
        ({"a": VECTORS, "b": VECTORS}, "no embedding that keras_sd reads: it has 2 tensors, a, b"),
        ({"layer.0.weight": VECTORS}, "no embedding that keras_sd reads: it has 1 tensors"),
        ({"emb_params": VECTORS[None]}, r"'emb_params' is of shape \(1, 3, 8\)"),
        ({"emb_params": np.zeros((0, 8), np.float32)}, r"of shape \(0, 8\)"),
        ({"emb_params": np.zeros((76, 8), np.float32)}, "76 vectors of 8 features; at most 75"),
        ({"emb_params": np.zeros((1, 9000), np.float32)}, "9000 features; at most 75 of 8192"),
        ({"emb_params": np.full((1, 8), np.nan, np.float32)}, "'emb_params' is not finite"),
        ({"emb_params": np.full((1, 8), 1e300)}, "'emb_params' is not finite"),
        ({"emb_params": np.zeros((1, 8), np.int32)}, "holds int32, no vectors"),
    ],
)
def test_what_is_no_embedding_is_named(tmp_path, tensors, message):
    path = written(tmp_path, "x.safetensors", tensors)
    with pytest.raises(WeightsError, match=message) as caught:
        open_embedding(path)
    assert str(path) in str(caught.value)


def test_several_in_one_file_are_refused(tmp_path):
    two = b"}" + text("a") + tensor() + b"s" + text("b") + tensor() + b"s"
    path = written(tmp_path, "x.pt", archive(state(string_to_param=two)))
    with pytest.raises(WeightsError, match="has 2 embeddings, a, b; one a file is read"):
        open_embedding(path)
    with pytest.raises(FileNotFoundError):
        open_embedding(tmp_path / "none.pt")
    with pytest.raises(TypeError, match="the path of a file"):
        open_embedding(7)


@pytest.mark.parametrize("count", [100, pytest.param(10_000, marks=pytest.mark.fuzz)])
@pytest.mark.parametrize("layout", ["A1111", "diffusers, bin"])
def test_damaged_files_are_refused_or_read(tmp_path, layout, count):
    whole = LAYOUTS[layout][1]
    refused = []
    for seed in range(count):
        rng = random.Random(seed)
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        end = rng.choice([len(data), rng.randrange(1, len(data))])
        path = written(tmp_path, f"{seed}.pt", bytes(data[:end]))
        try:
            with bounded(), nothing_executed():
                open_embedding(path)
        except WeightsError as error:
            refused.append((path, error))
    assert all(str(path) in str(error) for path, error in refused)
    assert 0.2 * count < len(refused) < count


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_files_of_other_things_are_refused(tmp_path, kind):
    for seed in range(20):
        path = written(tmp_path, f"{seed}.bin", DAMAGE[kind](random.Random(f"{kind} {seed}")))
        with bounded(), nothing_executed(), pytest.raises(WeightsError):
            open_embedding(path)


# --- names in a text ------------------------------------------------------------------


def cut(text, *names):
    found = Names({name: range(10 * i, 10 * i + 2) for i, name in enumerate(names)}).cut(text)
    return [(each.name,) if isinstance(each, Whole) else each for each in found]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a cat", ["a cat"]),
        ("style", [("style",)]),
        ("a STYLE, b", ["a ", ("style",), ", b"]),
        ("my  Style\nof", [("my style",), "\nof"]),
        ("restyle styles style2 style_x", ["restyle styles style2 style_x"]),
        ("style-x", [("style",), "-x"]),
        ("a <Cat-Toy>, red", ["a ", ("<cat-toy>",), ", red"]),
        ("x<cat-toy>y", ["x", ("<cat-toy>",), "y"]),
        ("embedding:style", [("style",)]),
        ("my embedding:my style", ["my ", ("my style",)]),
        ("style style", [("style",), " ", ("style",)]),
        ("", []),
    ],
)
def test_names_are_whole_words_in_any_case_and_the_longest_first(text, pieces):
    assert cut(text, "style", "my style", "<cat-toy>") == pieces


MERGES = ["c a", "ca t</w>", "d o", "do g</w>"]


@pytest.fixture
def tokenizer():
    return Tokenizer(MERGES, max_length=12).with_names(Names({"sty": (518, 519), "cat": (520,)}))


def test_a_tokenizer_puts_ids_in_the_places_of_names(tokenizer):
    cat, dog = Tokenizer(MERGES).encode("cat dog")[1:-1]
    assert tokenizer.encode("dog STY cat")[1:-1] == [dog, 518, 519, 520]
    assert tokenizer("dog sty").tolist()[0][:5] == [516, dog, 518, 519, 517]
    assert Tokenizer(MERGES).encode("cat")[1:-1] == [cat]  # others know nothing of it
    assert tokenizer.unknown_words("a sty of cat and dog", {"dog"}) == ["a", "of", "and"]
    with pytest.raises(PromptTooLongError) as caught:
        tokenizer(" ".join(["sty"] * 6))
    assert caught.value.left_out == ("sty",)
    with pytest.raises(TypeError, match="A prompt is a str"):
        tokenizer.encode(7)


# --- chunks ---------------------------------------------------------------------------


def words(text):
    """A token a letter or sign, and names of n vectors: `E3` has three."""
    found = re.findall(r"[EF] ?\d+|\w+|[^\w\s]", text)
    return [
        Whole(each.lower(), tuple(range(1000, 1000 + int(each[1:]))))
        if each[0] in "EF"
        else [ord(sign) for sign in each]
        for each in found
    ]


def sizes(text, style, room=75):
    broken = chunks(sections(text, style), words, style, room)
    for chunk in broken:  # whole: each that begins goes on to its end
        ids = [each for each in chunk.ids if each >= 1000]
        assert ids[:1] in ([], [1000])
    return [len(each) for each in broken]


X = " ".join("x" * 70)


@pytest.mark.parametrize(
    ("text", "style", "expected"),
    [
        (f"{X} E5", "a1111", [75]),
        (f"{X} E6", "a1111", [70, 6]),
        (f"{X} E6", "keras_sd", [70, 6]),
        (f"{X} x x , x x E6", "a1111", [73, 8]),  # full: the comma's turn has come
        (f"{X} x x , x E6", "a1111", [74, 6]),  # not full: the comma does not count
        (f"{X} x x x , x E6 y", "a1111", [74, 8]),
        (f"E75 {X} E75 x", "a1111", [75, 70, 75, 1]),
        ("E75 E75", "a1111", [75, 75]),
        (f"{X} E6", "comfy", [70, 6]),
        (f"{X} E9", "comfy", [70, 9]),  # of 8 tokens or more: still whole
        (f"{X} xE9", "comfy", [73]),  # no name
        (f"{X} E6 x", "compel", [70, 7]),
        (f"{X} . x x x E6", "compel", [71, 9]),
        ("E75 E75 E3", "compel", [75, 75, 3]),
    ],
)
def test_an_embedding_is_whole_in_one_chunk(text, style, expected):
    assert sizes(text, style) == expected


def test_a_name_with_a_space_is_found_where_words_are_cut_at_spaces():
    (chunk,) = chunks(sections("a E 4 b embedding:E 4", "comfy"), words, "comfy")
    assert chunk.ids.count(1000) == 2


def test_weights_of_an_embedding_are_those_of_all_its_vectors():
    (chunk,) = chunks(sections("a (E3:1.5) b", "a1111"), words, "a1111")
    assert chunk.weights == (1, 1.5, 1.5, 1.5, 1)


@pytest.mark.parametrize("style", ["plain", "keras_sd", "a1111", "comfy", "compel"])
def test_an_embedding_of_more_than_a_chunk_is_an_error(style):
    with pytest.raises(PromptError, match="'e9' has 9 vectors, and a chunk has room for 8"):
        sizes("E9", style, room=8)


def test_an_explanation_names_embeddings():
    found = explain("a (E3:1.2), [E2:b:0.5]", words, "keras_sd", num_steps=10)
    ((_, shown),) = found.parts
    assert [each.embeddings for each in shown] == [(("e3", 3), ("e2", 2)), (("e3", 3),)]
    assert [each.dropped for each in shown] == [0, 0]
    assert "  embedding 'e3': 3 vectors\n  embedding 'e2': 2 vectors" in str(found)
    steps = found.to_dict()["parts"][0]["steps"]
    assert steps[1]["embeddings"] == [{"name": "e3", "vectors": 3}]
    assert "embedding" not in str(explain("a b", words))


def test_what_is_in_the_package_can_be_used(capsys):
    """A LoRA and an embedding for the embedded model, which a guide shows; and they are small."""
    found = sorted((PRESETS / "add-ons").iterdir())
    assert [each.name for each in found] == ["cyanotype.safetensors", "hoop.safetensors"]
    assert sum(each.stat().st_size for each in found) < 800_000
    for path in found:
        assert main(["inspect", "--json", str(path)]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["unsupported"] is None
