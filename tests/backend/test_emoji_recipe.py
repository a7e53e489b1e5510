"""The recipe in recipes/emoji, as far as no GPU is needed: what it is told, is given and writes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_scenes import SUBJECTS

from keras_sd import backend
from keras_sd.training import drawings, prepare, words
from keras_sd.training.scenes import MOST
from keras_sd.weights.presets import PRESETS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from recipes.emoji import data, pieces, train

    return SimpleNamespace(data=data, pieces=pieces, train=train)


def values(seed=0):
    dice = np.random.default_rng(seed)
    shapes = {"unet": [(30, 40), (7,), (500,), (3, 3, 20)], "text_encoder": [(90,), (40, 5)]}
    return {name: [dice.standard_normal(s) for s in each] for name, each in shapes.items()}


COUNTS = {"unet": 4, "text_encoder": 2}

# Pieces


def test_weights_come_back_from_pieces_that_are_no_larger_than_they_may_be(tmp_path, recipe):
    wanted = values()
    paths = recipe.pieces.save(tmp_path, "denoiser", wanted, 7, most=2500)
    assert len(paths) == 3
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    for path in paths:
        with np.load(path) as piece:
            arrays = [piece[name] for name in piece.files if name != "mark"]
        assert {array.dtype for array in arrays} == {np.dtype("float16")}
        assert sum(array.nbytes for array in arrays) <= 2500
    found = recipe.pieces.load(tmp_path, COUNTS)
    for name, each in wanted.items():
        for a, b in zip(found[name], each, strict=True):
            assert (a == b.astype("float16")).all()


def test_one_variable_that_no_piece_has_room_for_is_named(recipe):
    assert recipe.pieces.split({"a": 3, "b": 4, "c": 5}, most=7) == [["a", "b"], ["c"]]
    with pytest.raises(ValueError, match="b has 8 bytes, and a file has room for 7"):
        recipe.pieces.split({"a": 3, "b": 8}, most=7)


def test_pieces_of_several_times_or_that_lack_something_are_refused(tmp_path, recipe):
    recipe.pieces.save(tmp_path, "denoiser", values(), 7, most=2500)
    with pytest.raises(ValueError, match="not whole, or of another model: unet/4"):
        recipe.pieces.load(tmp_path, {**COUNTS, "unet": 5})
    first = (tmp_path / "denoiser-0.npz").read_bytes()
    recipe.pieces.save(tmp_path, "denoiser", values(1), 8, most=2500)
    (tmp_path / "denoiser-0.npz").write_bytes(first)
    with pytest.raises(ValueError, match="files of several times: denoiser"):
        recipe.pieces.load(tmp_path, COUNTS)
    (tmp_path / "denoiser-0.npz").unlink()
    with pytest.raises(ValueError, match="not whole"):
        recipe.pieces.load(tmp_path, COUNTS)


def test_a_save_that_fails_leaves_the_pieces_that_were_there(tmp_path, recipe, monkeypatch):
    recipe.pieces.save(tmp_path, "denoiser", values(), 7, most=2500)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    original, calls = np.savez, []

    def full(path, **arrays):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        original(path, **arrays)

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        recipe.pieces.save(tmp_path, "denoiser", values(1), 8, most=2500)
    after = {p.name: p.read_bytes() for p in tmp_path.iterdir() if not p.name.startswith(".")}
    assert after == before
    assert len(recipe.pieces.load(tmp_path, COUNTS)["unet"]) == 4


# Options and chance


def options(recipe, *more):
    return recipe.train.options_of(["--bank=b", "--subjects=s", "--out=o", *more])


def test_a_run_that_goes_on_learns_slower_with_the_vocabulary_of_its_start(
    tmp_path, recipe, capsys
):
    new = options(recipe, "--merges=m")
    (tmp_path / "merges.txt").write_text("c a\n")
    on = options(recipe, f"--start={tmp_path}")
    assert on.merges == tmp_path / "merges.txt"
    assert on.rate < new.rate
    assert on.autoencoder_rate < new.autoencoder_rate
    assert options(recipe, f"--start={tmp_path}", "--rate=0.5").rate == 0.5
    assert options(recipe, f"--start={tmp_path}", "--autoencoder-share=0").autoencoder_share == 0
    (tmp_path / "other.txt").write_text("d o\n")
    for wrong, why in {
        (): "--merges or --start is missing",
        ("--merges=m", "--autoencoder-share=0"): "needs a trained autoencoder",
        ("--merges=m", "--autoencoder-share=1"): "is not in",
        ("--merges=m", "--scenes=100"): "not a multiple of 256",
        (f"--start={tmp_path}", f"--merges={tmp_path / 'other.txt'}"): "are not those of",
    }.items():
        with pytest.raises(SystemExit):
            options(recipe, *wrong)
        assert why in capsys.readouterr().err


@pytest.mark.skipif(backend.NAME != "jax", reason="a run is jax's")
def test_a_run_goes_on_from_the_model_in_the_package_and_no_other(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from recipes.emoji.run import _config_of

    config, checkpoint = _config_of(SimpleNamespace(start=PRESETS / "emoji-128", tiny=False))
    assert config == checkpoint.config
    for start, tiny in ((PRESETS / "emoji", False), (PRESETS / "emoji-128", True)):
        with pytest.raises(SystemExit, match="another model than this recipe's"):
            _config_of(SimpleNamespace(start=start, tiny=tiny))


def test_what_a_run_has_seen_does_not_come_again_in_the_next(tmp_path, recipe):
    seed_of = recipe.data.seed_of
    assert seed_of(5, None) == 5
    found = set()
    for content in (b"weights", b"others"):
        file = tmp_path / "x"
        file.write_bytes(content)
        found |= {seed_of(0, file), seed_of(1, file)}
        assert seed_of(0, file) == seed_of(0, file)
    assert len(found) == 4
    assert all(1 <= seed <= 2**24 for seed in found)


# Scenes


class Pool:
    """Works when it is asked, in this process."""

    def imap(self, function, tasks):
        return map(function, tasks)


@pytest.fixture
def files(tmp_path):
    words.save(SUBJECTS, tmp_path / "subjects.json")
    (tmp_path / "merges.txt").write_text("c a\nca t</w>\n")
    return tmp_path


def test_scenes_come_in_order_with_captions_that_fit(files, recipe, monkeypatch):
    monkeypatch.setattr(recipe.data, "CHUNK", 8)
    text = SimpleNamespace(max_length=48, vocab_size=516)
    given = (files / "subjects.json", files / "merges.txt", text)
    one, two, other = (recipe.data.Scenes(Pool(), 24, s, *given) for s in (3, 3, 4))
    early, whole = one.first(8), one.first(24)
    assert {name: each.shape for name, each in whole.items()} == {
        "sprite": (24, MOST),
        "box": (24, MOST, 3),
        "ground": (24, 2, 3),
        "split": (24,),
        "ink": (24,),
        "tokens": (24, recipe.data.VARIANTS, 48),
    }
    for name, each in two.first(24).items():
        assert (each == whole[name]).all()
        assert (each[:8] == early[name]).all()
    assert (other.first(24)["box"] != whole["box"]).any()
    tokens = whole["tokens"]
    assert (tokens[..., 0] == 514).all()
    assert (tokens[..., -1] == 515).all()
    assert len(np.unique(tokens.reshape(-1, 48), axis=0)) > 48


# What is prepared


def test_the_files_of_a_training_are_made_of_the_packages(tmp_path, monkeypatch):
    def make_bank(packages, out):
        out.write_bytes(b"bank")

    monkeypatch.setattr(drawings, "make_bank", make_bank)
    monkeypatch.setattr(drawings, "Bank", lambda path: SimpleNamespace(codes=(1, 2)))
    monkeypatch.setattr(words, "subjects", lambda packages, codes: SUBJECTS)
    monkeypatch.setattr(prepare, "VOCABULARY", 514 + 30)
    for name in ("a", "b"):
        prepare.prepare(tmp_path, tmp_path / name / "deep", captions=200)
    one, two = (tmp_path / name / "deep" for name in "ab")
    assert sorted(path.name for path in one.iterdir()) == [
        "bank.zip",
        "merges.txt",
        "subjects.json",
    ]
    for path in one.iterdir():
        assert path.read_bytes() == (two / path.name).read_bytes()
    assert words.load(one / "subjects.json") == SUBJECTS
    merges = (one / "merges.txt").read_text().splitlines()
    assert len(merges) == 30
    assert any(merge.endswith("d</w>") for merge in merges)  # of "ground", "and", "red"
    assert json.loads((one / "subjects.json").read_text())[0]["name"] == "cat"
