"""Trainings that cannot be, or that go wrong: what is said, when, and what is left."""

from __future__ import annotations

from dataclasses import replace

import keras
import micro
import numpy as np
import pytest
from micro import config, quiet

from keras_sd.training import callbacks, run
from keras_sd.training.config import Log, Prior, Samples, TextualInversion
from keras_sd.training.examples import ExamplesError
from keras_sd.training.run import check, train
from keras_sd.training.state import save_state

EVERY = {"log": Log(save_every=1)}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a model."""
    folder = tmp_path_factory.mktemp("model")
    micro.micro().save_preset(folder / "micro")
    return folder / "micro"


@pytest.fixture
def given(model, tmp_path):
    """The folder of a model, and that of its pictures."""
    return model, micro.pictures(tmp_path / "pictures")


def made_in(output):
    """The files of an output, but for its lock."""
    return sorted(str(path.relative_to(output)) for path in output.rglob("[!.]*") if path.is_file())


@pytest.mark.once
def test_a_caption_that_is_too_long_is_said_before_a_model_is_loaded(given, tmp_path, monkeypatch):
    text = given[1] / "1.txt"
    text.write_text("dog " * 80)
    wanted = config(given, tmp_path / "out")
    monkeypatch.setattr(run, "_model", None)
    for see in (check, train):
        with pytest.raises(ExamplesError, match=r"1 captions are longer .*: 1.png \(\d+ tokens\)"):
            see(wanted)
    text.write_text("dog")
    prior = replace(wanted, prior=Prior(caption="cat " * 80))
    with pytest.raises(ExamplesError, match=r"longer .*: prior.caption \(\d+ tokens\)"):
        check(prior)
    check(wanted)


@pytest.mark.once
def test_what_only_a_model_can_refuse_leaves_nothing_behind(given, tmp_path):
    """A textual inversion's captions, in whose tokenizers its word is one token."""
    text = given[1] / "1.txt"
    for path in given[1].glob("*.txt"):
        path.write_text("<it>")
    text.write_text("<it> " * 80)
    word = {"textual_inversion": TextualInversion(token="<it>")}
    wanted = config(given, tmp_path / "out", sections=word, method="textual_inversion", steps=1)
    check(wanted)
    with pytest.raises(ExamplesError, match=r"longer .*: 1.png"):
        train(wanted, report=quiet)
    assert made_in(tmp_path / "out") == []
    text.write_text("<it>")
    assert train(wanted, report=quiet).batches == 1


@pytest.mark.once
@pytest.mark.parametrize("method", ["full", "textual_inversion"])
def test_sample_sheets_that_cannot_be_drawn_are_said_before_work(given, tmp_path, method):
    for path in given[1].glob("*.txt"):
        path.write_text("<new>")
    sections = {"samples": Samples(prompts=("a <new>",), steps=2000)}
    if method == "full":
        sections["prior"] = Prior(caption="cat", count=2)
    wanted = config(given, tmp_path / "out", sections=sections, method=method)
    with pytest.raises(ValueError, match=r"pictures of \[samples\] cannot be drawn: num_steps"):
        train(wanted, report=quiet)
    assert made_in(tmp_path / "out") == []


@pytest.mark.once
def test_a_training_that_diverges_stops_and_keeps_its_state(given, tmp_path):
    wanted = config(given, tmp_path / "out", sections=EVERY, learning_rate=1e30, steps=6)
    with pytest.raises(FloatingPointError, match=r"diverged: take another output and a lower"):
        train(wanted, report=quiet)
    lines = (tmp_path / "out" / "log.csv").read_text().splitlines()
    assert 1 < len(lines) < 6  # it stopped at once
    state = tmp_path / "out" / "state" / "state.safetensors"
    before = state.read_bytes()
    with pytest.raises(FloatingPointError):  # goes on from there, and diverges as before
        train(wanted, report=quiet)
    assert state.read_bytes() == before


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    trainer = keras.Sequential([keras.layers.Dense(2)])
    trainer.build((None, 3))
    trainer.compile(keras.optimizers.AdamW())
    trainer.optimizer.build(trainer.trainable_variables)
    save_state(tmp_path / "state", trainer, 1)
    before = (tmp_path / "state").read_bytes()
    trainer.trainable_variables[1].assign([1.0, np.nan])
    with pytest.raises(FloatingPointError, match=r"After 7 batches 1 weights .* weights/1/"):
        save_state(tmp_path / "state", trainer, 7)
    assert (tmp_path / "state").read_bytes() == before


@pytest.mark.once
def test_a_run_goes_on_with_its_own_model_and_prior_alone(given, tmp_path):
    kinds = micro.pictures(tmp_path / "kinds", ("cat", "cat"))
    sections = {**EVERY, "prior": Prior(caption="cat", folder=str(kinds), count=2)}
    wanted = config(given, tmp_path / "out", sections=sections)
    train(wanted, report=quiet, stop_at=2)

    micro.micro(seed=1).save_preset(tmp_path / "other")
    with pytest.raises(ValueError, match=r"run with another model\.\w+, .*: take another"):
        train(replace(wanted, model=str(tmp_path / "other")), report=quiet)

    picture = kinds / "0.png"
    before = picture.read_bytes()
    picture.write_bytes((given[1] / "2.png").read_bytes())
    with pytest.raises(ValueError, match="run with another prior's pictures: take another"):
        train(wanted, report=quiet)

    picture.write_bytes(before)
    given[0].rename(moved := given[0].with_name("moved"))  # the same model in another place
    try:
        lines = []
        assert train(replace(wanted, model=str(moved)), report=lines.append, stop_at=3).batches == 3
        assert "goes on behind step 2 of 4" in lines
    finally:
        moved.rename(given[0])


@pytest.mark.once
def test_a_run_that_is_to_stop_where_it_has_been_does_nothing(given, tmp_path):
    wanted = config(given, tmp_path / "out", sections=EVERY)
    train(wanted, report=quiet, stop_at=2)
    again = train(wanted, report=quiet, stop_at=1)
    assert (again.files, again.batches, again.losses) == ((), 2, ())
    assert len(train(wanted, report=quiet).losses) == 2


def test_a_log_goes_on_by_the_numbers_of_its_batches(tmp_path):
    path = tmp_path / "log.csv"

    def logged(first, last):
        log = callbacks.CSVLog(path, callbacks.Span(first, last, 1, lambda step: 0.5))
        log.on_train_begin()
        for batch in range(last - first):
            log.on_train_batch_end(batch, {"loss": 1.0})
        log.close()
        return [int(line.partition(",")[0]) for line in path.read_text().splitlines()[1:]]

    assert logged(4, 8) == [4, 5, 6, 7]  # switched on after four
    assert logged(6, 9) == [4, 5, 6, 7, 8]  # behind a state of six
    path.write_text(path.read_text() + "x\n")
    with pytest.raises(ValueError, match="is damaged"):
        logged(9, 10)
