"""What a model that is there is taught on a CPU: what learns, of what, and what is written."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from test_emoji_measuring import SUBJECTS, drawings
from tiny import MERGES

from keras_sd import backend
from keras_sd.backend import to_numpy
from keras_sd.networks import Autoencoder, TextEncoder, UNet
from keras_sd.training import scenes, words
from keras_sd.training.drawings import Bank, write_bank
from keras_sd.weights.checkpoint import open_checkpoint
from keras_sd.weights.load import arrays_of, build_networks
from keras_sd.weights.save import save_preset

pytestmark = pytest.mark.skipif(backend.NAME != "torch", reason="this recipe is torch's")

ROOT = Path(__file__).parents[2]

BATCH = 12

LENGTH = 120
"""Tokens of a text: the tokenizer has hardly a word that is one."""


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    import torch

    from recipes.emoji import config, lessons, pieces, preset, refine

    for name, value in {"CHUNK": 16, "POOL": 3, "ROUND": 32}.items():
        monkeypatch.setattr(lessons, name, value)
    threads = torch.get_num_threads()
    yield SimpleNamespace(
        **{
            "config": config.TINY,
            "defaults": config.CONFIG.defaults,
            "lessons": lessons,
            "pieces": pieces,
            "preset": preset,
        },
        refine=refine,
    )
    torch.set_num_threads(threads)
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def files(tmp_path, recipe):
    """A preset of random weights, a bank of drawings, and their names."""
    text = dataclasses.replace(recipe.config.text_encoder, vocab_size=518, max_length=LENGTH)
    config = dataclasses.replace(recipe.config, text_encoder=text)
    keras.utils.set_random_seed(0)
    networks = {
        "text_encoder": TextEncoder(config.text_encoder),
        "unet": UNet(config.unet),
        "autoencoder": Autoencoder(config.autoencoder),
    }
    # The last convolution begins with zeros: nothing that a UNet is told would make a difference.
    last = networks["unet"].trainable_variables[-2]
    last.assign(0.1 * np.random.default_rng(1).standard_normal(last.shape))
    save_preset(tmp_path / "start", config, arrays_of(networks), MERGES, dtype="float16")
    subjects = [dataclasses.replace(each, code=i) for i, each in enumerate(SUBJECTS)]
    words.save(subjects, tmp_path / "subjects.json")
    drawn = {
        style: {i: lambda code, made=made: made[code] for i in range(len(SUBJECTS))}
        for style, made in drawings().items()
    }
    write_bank(tmp_path / "bank.zip", drawn)
    assert Bank(tmp_path / "bank.zip").styles == ("noto", "3d", "flat", "line")
    return tmp_path


@pytest.fixture
def clock(monkeypatch, recipe):
    """A second passes whenever somebody looks."""
    now = iter(range(10**6))
    monkeypatch.setattr(recipe.refine.time, "monotonic", lambda: float(next(now)))


def lesson_of(recipe, files, part, experts=None):
    checkpoint = open_checkpoint(files / "start")
    networks = build_networks(checkpoint)
    tokenizer = recipe.refine.tokenizer_of(checkpoint)
    painter = recipe.lessons.Painter(files / "bank.zip", files / "subjects.json")
    given = networks, checkpoint.config, painter, tokenizer, BATCH, 0
    if part == "words":
        return recipe.lessons.Words(*given)
    groups = recipe.refine.groups_of(part, networks["unet"], experts)
    return recipe.lessons.Scenes(*given, groups=groups)


def command(monkeypatch, recipe, files, *more):
    given = [f"--{name}={files / file}" for name, file in FILES.items()]
    monkeypatch.setattr(sys, "argv", ["refine", *more, *given])
    recipe.refine.main()


FILES = {
    **{"start": "start", "bank": "bank.zip", "subjects": "subjects.json", "out": "out"},
}


def test_wordings_are_learned_from_the_one_that_is_known(recipe, files):
    lesson = lesson_of(recipe, files, "words")
    lesson.latents.fill(0)
    _, tokens = lesson.latents.take(BATCH, np.random.default_rng(0))
    assert tokens.shape == (BATCH, 1 + recipe.lessons.VARIANTS, LENGTH)
    # Asked in the words of the teacher, the student says the same before it has learned.
    same = tokens[:, :1].repeat(1, tokens.shape[1], 1)
    x0 = lesson.latents.chunks[0][0][:BATCH]
    lesson.latents.take = lambda count, rng: (x0, same)
    assert lesson._loss(np.random.default_rng(0))[1] < 1e-10
    lesson.latents.take = lambda count, rng: (x0, tokens)
    assert lesson._loss(np.random.default_rng(0))[1] > 1e-7


def test_the_words_of_the_known_wording_are_those_of_the_others(recipe, files):
    import random

    lesson = lesson_of(recipe, files, "words")
    rng = random.Random(3)
    for scene in lesson.latents.painter.make(5, 60):
        known, *others = lesson._captions(scene, rng)
        if len(scene.ground) == 1:
            colour = scene.ground[0]
            assert known.endswith(f" on {scenes.with_article(colour, 'a')} background")
            said = known.removesuffix(f" on {scenes.with_article(colour, 'a')} background")
            plain = [text for text in others if said in text]
            assert len(plain) >= len(others) - 2  # a made-up word may be in it
            assert all(colour in text for text in plain)


def test_some_scenes_are_learned_and_the_others_are_kept(recipe, files):
    lesson = lesson_of(recipe, files, "line")
    assert lesson.counts == (9, 3)
    learned, kept = (
        {scene.style for scene in latents.painter.make(1, 400)} for latents in lesson.latents
    )
    assert learned == {"line"}
    assert kept == set(scenes.STYLES) - {"line"}
    for latents in lesson.latents:
        latents.fill(0)
    # Before anything is learned, what the model as it was asks for is there: of the rest, and of
    # what is drawn without words, the tenth row. The others have a loss.
    loss, of_first = lesson._loss(np.random.default_rng(0))
    np.testing.assert_allclose(float(loss.detach()), of_first * 9 / BATCH, rtol=1e-5)
    assert lesson.says.tolist() == [0] * 9 + [1] * 3
    assert lesson.without.tolist() == [False] * 9 + [True, False, False]


@pytest.fixture
def experts(recipe, files, clock, monkeypatch):
    """The folder of a part that was learned."""
    command(monkeypatch, recipe, files, "line", "--minutes=0.25", f"--batch={BATCH}")
    keras.config.set_dtype_policy("float32")  # the command's may be another
    return files / "out"


def test_what_was_learned_is_joined_with_the_rest(recipe, files, experts):
    lesson = lesson_of(recipe, files, "join", experts)
    assert lesson.counts == (3, 9)
    assert lesson.says.tolist() == [0] * 3 + [1] * 9
    learned, kept = (
        {scene.style for scene in latents.painter.make(1, 400)} for latents in lesson.latents
    )
    assert (learned, kept) == ({"line"}, set(scenes.STYLES) - {"line"})
    for latents in lesson.latents:
        latents.fill(0)
    # The UNet as it was says what shall stay, and not what its expert says.
    loss, of_first = lesson._loss(np.random.default_rng(0))
    np.testing.assert_allclose(float(loss.detach()), of_first * 3 / BATCH, rtol=1e-5)
    expert, before = (group.teacher for group in lesson.groups)
    values = [to_numpy(each.value) for each in before.variables]
    gained = recipe.pieces.load(experts, {"unet": len(values)})["unet"]
    for was, more, each in zip(values, gained, expert.variables, strict=True):
        np.testing.assert_allclose(to_numpy(each.value), was + more, atol=1e-6)
    # The expert's own answer is right in its rows.
    lesson.unet.set_weights(expert.get_weights())
    assert lesson._loss(np.random.default_rng(0))[1] < 1e-6 * of_first


def test_a_join_begins_with_what_was_gained(recipe, files, experts, monkeypatch):
    monkeypatch.setitem(FILES, "out", "joined")
    more = f"--experts={experts}", "--minutes=0.02", f"--batch={BATCH}", "--rate=0"
    command(monkeypatch, recipe, files, "join", *more)
    counts = {"unet": len(build_networks(open_checkpoint(files / "start"))["unet"].variables)}
    gained = recipe.pieces.load(experts, counts, "line")["unet"]
    joined = recipe.pieces.load(files / "joined", counts, "join")["unet"]
    for one, other in zip(gained, joined, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)
    assert any(each.any() for each in joined)


def test_what_cannot_be_joined_is_refused(recipe, files, clock, monkeypatch):
    command(monkeypatch, recipe, files, "words", "--minutes=0.02", f"--batch={BATCH}")
    with pytest.raises(ValueError, match="has words; joined can be line"):
        lesson_of(recipe, files, "join", files / "out")
    with pytest.raises(ValueError, match="has no weights"):
        lesson_of(recipe, files, "join", files / "start")


def changes(files):
    """Network -> of each variable, how far that of the new preset is from that of the old."""
    before, after = (build_networks(open_checkpoint(files / each)) for each in ("start", "new"))
    return {
        name: [
            to_numpy(a.value) - to_numpy(b.value)
            for a, b in zip(network.variables, before[name].variables, strict=True)
        ]
        for name, network in after.items()
    }


def make_preset(monkeypatch, recipe, files, *runs):
    arguments = [f"--{name}={files / FILES[name]}" for name in ("start", "subjects")]
    arguments += [f"--out={files / 'new'}", "--dtype=float16"]
    monkeypatch.setattr(sys, "argv", ["preset", *(str(files / run) for run in runs), *arguments])
    recipe.preset.main()


def test_a_preset_of_several_runs_has_their_mean(recipe, files, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    encoder = build_networks(open_checkpoint(files / "start"))["text_encoder"]
    gained = {}
    for run in ("one", "other"):
        gained[run] = [rng.standard_normal(each.shape) for each in encoder.variables]
        (files / run).mkdir()
        recipe.pieces.save(files / run, "words", {"text_encoder": gained[run]}, 1)
    make_preset(monkeypatch, recipe, files, *gained)
    for change, *each in zip(changes(files)["text_encoder"], *gained.values(), strict=True):
        np.testing.assert_allclose(change, np.mean(each, axis=0), atol=4e-3)
    # A mean of what only some have would be a part of it.
    recipe.pieces.save(files / "other", "more", {"text_encoder": gained["other"]}, 1)
    with pytest.raises(SystemExit):
        make_preset(monkeypatch, recipe, files, *gained)
    assert "The runs have other parts: ['words'], ['more', 'words']" in capsys.readouterr().err


def test_runs_change_what_they_train_and_a_preset_has_all_of_it(recipe, files, clock, monkeypatch):
    found = {}
    for parts in (["words"], ["words", "line"]):
        command(monkeypatch, recipe, files, parts[-1], "--minutes=0.5", f"--batch={BATCH}")
        steps = int((files / "out" / f"{parts[-1]}.log").read_text().split("done: ")[1].split()[0])
        assert 5 <= steps <= 30
        assert list(recipe.pieces.parts_of(files / "out")) == sorted(parts)
        make_preset(monkeypatch, recipe, files, "out")
        before, after = (open_checkpoint(files / each).config for each in ("start", "new"))
        assert after == dataclasses.replace(before, defaults=recipe.defaults)
        found[parts[-1]] = changes(files)
    for part, each in found.items():
        assert all(change.any() for change in each["text_encoder"])
        assert any(change.any() for change in each["unet"]) == (part != "words")
        assert not any(change.any() for change in each["autoencoder"])
    changed = found["line"]
    for part, name in (("words", "text_encoder"), ("line", "unet")):
        gained = recipe.pieces.load(files / "out", {name: len(changed[name])}, part)[name]
        for change, more in zip(changed[name], gained, strict=True):
            np.testing.assert_allclose(change, more, atol=2e-3)


def test_a_run_that_was_stopped_goes_on(recipe, files, clock, monkeypatch):
    command(monkeypatch, recipe, files, "words", "--minutes=0.25", f"--batch={BATCH}")
    log = files / "out" / "words.log"
    first = int(log.read_text().split("done: ")[1].split()[0])
    gained = np.load(files / "out" / "words-0.npz")["text_encoder/0"]
    command(monkeypatch, recipe, files, "words", "--minutes=0.5", f"--batch={BATCH}")
    text = log.read_text()
    assert f"goes on at step {first}" in text
    assert int(text.rsplit("done: ")[-1].split()[0]) > first
    later = np.load(files / "out" / "words-0.npz")["text_encoder/0"]
    assert np.abs(later).sum() > np.abs(gained).sum() > 0


def test_options_that_cannot_be_are_refused(recipe, capsys):
    given = [f"--{name}=x" for name in FILES]
    wrongs = {
        "--minutes=0": "is no time",
        "--batch=9": "too small",
        "--experts=y": "for `join`, and for nothing else",
    }
    for wrong, why in wrongs.items():
        with pytest.raises(SystemExit):
            recipe.refine.options_of(["words", *given, wrong])
        assert why in capsys.readouterr().err
    with pytest.raises(SystemExit):
        recipe.refine.options_of(["join", *given])


def test_what_has_no_weights_makes_no_preset(recipe, tmp_path):
    with pytest.raises(ValueError, match="has no weights"):
        recipe.pieces.parts_of(tmp_path)
