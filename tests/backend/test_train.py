"""Trainings of the smallest model: they learn, go on to the bit, and change what they should."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import keras
import micro
import numpy as np
import pytest
from keras import ops
from micro import config, quiet

from keras_sd.backend import NAME, to_numpy
from keras_sd.cli import main
from keras_sd.model import Model
from keras_sd.training import callbacks, run
from keras_sd.training.batches import Order
from keras_sd.training.config import Log, Samples
from keras_sd.training.optimizer import averages_of, make_optimizer, make_schedule
from keras_sd.training.run import train
from keras_sd.training.state import save_state
from keras_sd.weights.load import arrays_of


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """The folder of a model, and that of its pictures."""
    folder = tmp_path_factory.mktemp("given")
    micro.micro().save_preset(folder / "micro")
    return folder / "micro", micro.pictures(folder / "pictures")


def rows(path):
    with path.open() as file:
        return [{**row, "seconds": ""} for row in csv.DictReader(file)]


def stopped_after(monkeypatch, batches):
    """Makes a training stop as by Ctrl-C when so many of its batches are done."""
    original = callbacks.Losses.on_train_batch_end

    def stop(self, batch, logs=None):
        original(self, batch, logs)
        if batch + 1 == batches:
            raise KeyboardInterrupt

    monkeypatch.setattr(callbacks.Losses, "on_train_batch_end", stop)


@pytest.fixture(scope="module")
def unbroken(given, tmp_path_factory):
    """A run, its config, and copies of its state behind every second step."""
    folder = tmp_path_factory.mktemp("unbroken")
    wanted = config(
        given,
        folder / "whole",
        sections={"log": Log(save_every=2)},
        **{"steps": 14, "ema": 0.99, "min_snr": 5.0, "warmup": 3},
    )

    def saved(path, trainer, batches):
        save_state(path, trainer, batches)
        shutil.copy(path, folder / f"{batches}.safetensors")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks, "save_state", saved)
        return train(wanted, report=quiet), wanted, folder


def check_same(made, other, output):
    """Two runs have written the same, and are through."""
    assert rows(output / "log.csv") == rows(made.files[0].parent / "log.csv")
    for one, two in zip(
        (*made.files, *made.averaged), (*other.files, *other.averaged), strict=True
    ):
        for file in one.iterdir():
            assert file.read_bytes() == (two / file.name).read_bytes(), file


@pytest.mark.thorough
def test_a_run_goes_on_from_its_state_to_the_bit(unbroken, tmp_path):
    made, wanted, folder = unbroken
    assert len(set(made.losses)) == 14
    assert [float(row["loss"]) for row in rows(folder / "whole" / "log.csv")] == list(made.losses)
    output = tmp_path / "broken"
    (output / "state").mkdir(parents=True)
    shutil.copy(folder / "whole" / "state" / "run.json", output / "state")
    shutil.copy(folder / "4.safetensors", output / "state" / "state.safetensors")
    # As a run has left it that was killed behind its state.
    log = (folder / "whole" / "log.csv").read_text().splitlines(keepends=True)
    (output / "log.csv").write_text("".join(log[:7]))
    lines = []
    resumed = train(replace(wanted, output=str(output)), report=lines.append)
    assert "goes on behind step 4 of 14" in lines
    assert resumed.losses == made.losses[4:]
    assert len(resumed.losses) == 10
    check_same(made, resumed, output)


@pytest.mark.once
def test_a_run_that_was_stopped_goes_on_to_the_bit(given, tmp_path, monkeypatch):
    """With gradients of two batches, and a loss that is scaled."""
    settings = {"accumulate": 2, "dtype": "mixed_float16", "steps": 14, "ema": 0.9}
    whole = config(given, tmp_path / "whole", sections={"log": Log(save_every=2)}, **settings)
    made = train(whole, report=quiet)
    broken = replace(whole, output=str(tmp_path / "broken"))
    with monkeypatch.context() as patch:
        stopped_after(patch, 11)
        with pytest.raises(KeyboardInterrupt):
            train(broken, report=quiet)
    assert len(rows(tmp_path / "broken" / "log.csv")) == 11
    resumed = train(broken, report=quiet)
    assert resumed.losses == made.losses[8:]
    check_same(made, resumed, tmp_path / "broken")
    # Finished, it has nothing more to do.
    assert train(broken, report=quiet).losses == ()


@pytest.mark.once
def test_a_few_pictures_are_learned_by_heart(given, tmp_path):
    """And the averaged weights are written beside the others, and pictures are drawn of them."""
    made = train(
        config(
            given,
            tmp_path,
            steps=30,
            ema=0.9,
            learning_rate=5e-3,
            schedule="constant",
            data={"caption_dropout": 0.0},
            sections={"samples": Samples(prompts=("cat", "dog"), every=20, steps=2)},
        ),
        report=quiet,
    )
    first, last = np.mean(made.losses[:5]), np.mean(made.losses[-5:])
    assert last < 0.6 * first
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == [
        "00000020.png",
        "00000030.png",
    ]
    plain, averaged = (Model.from_preset(paths[0]) for paths in (made.files, made.averaged))
    before = Model.from_preset(given[0])
    for part in ("text_encoder", "autoencoder"):
        for model in (plain, averaged):
            same(arrays_of({part: model.parts[part]}), arrays_of({part: before.parts[part]}))
    kernel = [to_numpy(each.parts["unet"].conv_in.kernel) for each in (before, averaged, plain)]
    assert np.abs(kernel[1] - kernel[0]).max() > 0
    assert np.abs(kernel[2] - kernel[1]).max() > 0


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.once
def test_text_encoder_and_unet_are_trained_together(given, tmp_path):
    made = train(config(given, tmp_path, text_encoder=True, steps=3), report=quiet)
    found, before = Model.from_preset(made.files[0]), Model.from_preset(given[0])
    table = [to_numpy(m.parts["text_encoder"].embedding.tokens.embeddings) for m in (found, before)]
    assert (table[0] != table[1]).any()


@pytest.mark.once
@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        ({"remat": True}, 1e-5),
        ({"dtype": "mixed_bfloat16"}, 3e-2),
        ({"dtype": "mixed_float16"}, 3e-3),
    ],
    ids=["remat", "bfloat16", "float16"],
)
def test_blocks_that_compute_again_and_fewer_bits_change_little(
    unbroken, tmp_path, settings, tolerance
):
    made, wanted, _ = unbroken
    other = replace(
        wanted, output=str(tmp_path), train=replace(wanted.train, **settings), log=Log()
    )
    found = train(other, report=quiet, stop_at=4)
    assert (found.files, found.batches) == ((), 4)
    np.testing.assert_allclose(found.losses, made.losses[:4], rtol=tolerance)


DIVIDED = """
import json, sys
import keras
from keras_sd.training.config import read_config, TrainConfig
from keras_sd.training.trainer import DenoiserTrainer
from keras_sd.training.run import train
shapes, original = [], DenoiserTrainer.call
def call(self, inputs):
    shapes.append(keras.distribution.distribution().device_mesh.shape)
    return original(self, inputs)
DenoiserTrainer.call = call
made = train(TrainConfig.from_dict(json.loads(sys.argv[1])), report=print, stop_at=3)
assert keras.distribution.distribution() is None
print(json.dumps([made.losses, shapes[0]]))
"""


@pytest.mark.skipif(NAME != "jax", reason="Keras has distributions on jax alone")
def test_a_batch_is_divided_among_devices(unbroken, tmp_path):
    made, wanted, _ = unbroken
    train_ = replace(wanted.train, devices="all")
    data = replace(wanted, output=str(tmp_path), train=train_).to_dict()
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    done = subprocess.run(
        [sys.executable, "-c", DIVIDED, json.dumps(data)],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    losses, shape = json.loads(done.stdout.splitlines()[-1])
    assert shape == [2]
    np.testing.assert_allclose(losses, made.losses[:3], rtol=1e-4)


@pytest.mark.once
def test_remat_is_of_the_blocks(given, tmp_path):
    wanted = config(given, tmp_path, remat=True)
    modes = {
        layer.name
        for layer in run._model(wanted).parts["unet"]._flatten_layers()
        if layer._remat_mode and layer.name in layer._remat_mode.layer_names
    }
    assert modes == {"down_0_0", "middle", "middle_residual", "up_0_0", "up_0_1"}


@pytest.mark.once
def test_pictures_of_several_shapes_are_in_batches_of_their_own(tmp_path, given):
    folder = micro.pictures(tmp_path / "pictures", ("cat", "dog", "cat dog"))
    micro.pictures(tmp_path / "wide", ("dog", "dog cat"), (16, 32))
    for path in (tmp_path / "wide").iterdir():
        path.rename(folder / f"wide-{path.name}")
    made = train(
        config(
            (given[0], folder),
            tmp_path / "out",
            steps=6,
            batch_size=2,
            data={"buckets": True, "resolution": 32},
        ),
        report=quiet,
    )
    assert len(made.losses) == 6
    assert np.isfinite(made.losses).all()


# Batches


@pytest.mark.once
def test_a_pass_has_every_sample_in_batches_of_one_size():
    sizes = [(8, 8)] * 5 + [(8, 16)] * 3
    order = Order(sizes, batch=2, seed=1)
    assert order.per_pass == 5
    passes = [[order[turn * 5 + place] for place in range(5)] for turn in range(2)]
    for batches in passes:
        assert {len(batch) for batch in batches} == {2}
        assert {len({sizes[i] for i in batch}) for batch in batches} == {1}
        assert {int(i) for batch in batches for i in batch} == set(range(8))
    assert not np.array_equal(*passes)
    again, other = Order(sizes, 2, 1), Order(sizes, 2, 2)
    np.testing.assert_array_equal([again[n] for n in range(5)], passes[0])
    assert not np.array_equal([other[n] for n in range(5)], passes[0])
    assert len(Order([(8, 8)], batch=4, seed=0)[0]) == 4  # the one, four times


@pytest.mark.once
def test_a_batch_is_a_function_of_seed_and_number(given, tmp_path, monkeypatch):
    seen = []
    original = run._fit
    monkeypatch.setattr(run, "_fit", lambda t, b, c: seen.append(b) or original(t, b, c))
    train(config(given, tmp_path, steps=1, data={"caption_dropout": 0.5}), report=quiet)
    (batches,) = seen
    one, two = batches.batch(7), batches.batch(8)
    for name, array in batches.batch(7).items():
        np.testing.assert_array_equal(array, one[name], err_msg=name)
    assert (one["noise"] != two["noise"]).all()
    assert sorted(one["t"] // 250) == [0, 1, 2, 3]  # a level of each quarter
    empty = batches.empty["text_encoder"]
    dropped = [(batches.batch(n)["text_encoder"] == empty).all(axis=1).mean() for n in range(100)]
    assert 0.4 < np.mean(dropped) < 0.6


# The optimizer


def test_the_average_begins_with_the_weights_and_follows_them():
    variable = keras.Variable(np.zeros(3, np.float32))
    optimizer = make_optimizer(make_schedule(0.1, 100, schedule="constant"), ema=0.5, clip=None)
    optimizer.build([variable])
    values, expected = [], None
    for number in range(4):
        optimizer.apply([ops.full((3,), 1.0 + number)], [variable])
        values.append(to_numpy(variable.value))
        keep = min(0.5, (1 + number) / (10 + number)) if number else 0.0
        expected = values[-1] if expected is None else keep * expected + (1 - keep) * values[-1]
        np.testing.assert_allclose(to_numpy(averages_of(optimizer)[0].value), expected, rtol=1e-5)
    assert len({float(value[0]) for value in values}) == 4
    optimizer.finalize_variable_values([variable])
    np.testing.assert_array_equal(to_numpy(variable.value), values[-1])


def test_gradients_add_up_to_an_update_and_average_between_stays():
    one, two = (keras.Variable(np.zeros(3, np.float32)) for _ in range(2))
    rate = make_schedule(0.1, 100)
    whole = make_optimizer(rate, ema=0.9)
    parts = make_optimizer(rate, ema=0.9, accumulate=2)
    whole.build([one])
    parts.build([two])
    gradients = np.float32([[1, 2, 3], [3, 2, 5]])
    for turn in range(2):
        whole.apply([ops.convert_to_tensor(gradients.mean(0))], [one])
        for number, gradient in enumerate(gradients):
            before = to_numpy(two.value), to_numpy(averages_of(parts)[0].value)
            parts.apply([ops.convert_to_tensor(gradient)], [two])
            if number == 0:
                after = to_numpy(two.value), to_numpy(averages_of(parts)[0].value)
                np.testing.assert_array_equal(before, after)
        np.testing.assert_allclose(to_numpy(two.value), to_numpy(one.value), rtol=1e-6)
        np.testing.assert_allclose(
            to_numpy(averages_of(parts)[0].value), to_numpy(averages_of(whole)[0].value), rtol=1e-6
        )
        assert int(to_numpy(parts.iterations)) == turn + 1


def test_the_rate_rises_and_falls_to_zero():
    rate = make_schedule(1.0, 10, warmup=2)
    found = [float(to_numpy(rate(step))) for step in range(11)]
    np.testing.assert_allclose(found[:3], [0, 0.5, 1], atol=1e-6)
    np.testing.assert_allclose(found[6], 0.5, atol=1e-6)
    np.testing.assert_allclose(found[10], 0, atol=1e-6)
    constant = make_schedule(1.0, 10, schedule="constant")
    assert {float(to_numpy(constant(step))) for step in range(11)} == {1.0}


def applied(optimizer, gradients, variable):
    """An update by a scaled optimizer, which on jax has no other than the stateless one."""
    gradients = [ops.convert_to_tensor(np.float32(gradients))]
    if NAME != "jax":
        optimizer.apply(gradients, [variable])
        return
    values = [each.value for each in optimizer.variables]
    (value,), values = optimizer.stateless_apply(values, gradients, [variable.value])
    variable.assign(value)
    for each, value in zip(optimizer.variables, values, strict=True):
        each.assign(value)


def test_an_update_that_overflows_is_left_out_and_the_scale_falls():
    variable = keras.Variable(np.ones(2, np.float32))
    optimizer = make_optimizer(0.1, ema=0.9, scale_loss=True)
    optimizer.build([variable])
    scale = float(to_numpy(optimizer.scale_loss(1.0)))
    applied(optimizer, [np.inf, 1], variable)
    np.testing.assert_array_equal(to_numpy(variable.value), [1, 1])
    assert float(to_numpy(optimizer.scale_loss(1.0))) < scale
    applied(optimizer, [1, 1], variable)
    assert (to_numpy(variable.value) < 1).all()


# What is refused


@pytest.fixture(scope="module")
def finished(given, tmp_path_factory):
    output = tmp_path_factory.mktemp("out")
    wanted = config(given, output, steps=2, ema=0.9, data={"latents": str(output / "latents")})
    train(wanted, report=quiet)
    return wanted, output


@pytest.mark.once
def test_a_folder_with_another_run_is_refused(finished):
    wanted, output = finished
    other = replace(wanted, train=replace(wanted.train, learning_rate=1e-3, seed=1))
    with pytest.raises(ValueError, match=r"another train\.learning_rate, train\.seed"):
        train(other, report=quiet)
    assert (output / "model").is_dir()


@pytest.mark.once
@pytest.mark.parametrize("how", ["cut off", "of another backend", "of another network"])
def test_damaged_state_is_named(finished, how):
    wanted, output = finished
    path = output / "state" / "state.safetensors"
    before = path.read_bytes()
    if how == "cut off":
        path.write_bytes(before[:-7])
        message = "is damaged"
    elif how == "of another backend":
        name = f'\\"{NAME}\\"'.encode()
        assert name in before
        path.write_bytes(before.replace(name, b'\\"' + b"x" * len(NAME) + b'\\"'))
        message = f"is of a run on {'x' * len(NAME)}"
    else:
        path.write_bytes(before.replace(b"adamw/iteration", b"adamw/generation"[:15]))
        message = "it differs in optimizer/0/adamw"
    try:
        with pytest.raises(ValueError, match=message) as found:
            train(wanted, report=quiet)
        assert str(path) in str(found.value)
    finally:
        path.write_bytes(before)


@pytest.mark.once
def test_latents_are_made_once_and_of_damaged_files_anew(finished, monkeypatch, caplog):
    wanted, output = finished
    files = sorted((output / "latents").iterdir())
    assert len(files) == 4
    made = []
    original = Model.latents
    monkeypatch.setattr(Model, "latents", lambda *a: made.append(1) or original(*a))
    before = {path: path.read_bytes() for path in files}
    files[0].write_bytes(before[files[0]][:100])
    files[1].write_bytes(before[files[2]])
    train(wanted, report=quiet)
    assert len(made) == 2
    assert {path: path.read_bytes() for path in files} == before
    assert "is damaged" in caplog.text
    assert "has other latents than its name says" in caplog.text


@pytest.mark.once
def test_a_model_of_other_weights_has_latents_of_its_own(finished, tmp_path):
    wanted, output = finished
    micro.micro(seed=1).save_preset(tmp_path / "other")
    train(
        replace(wanted, model=str(tmp_path / "other"), output=str(tmp_path / "out")), report=quiet
    )
    assert len(list((output / "latents").iterdir())) == 8
    assert json.loads((tmp_path / "out" / "state" / "run.json").read_text())["pictures"]


@pytest.mark.once
def test_captions_that_are_too_long_are_named(given, tmp_path):
    folder = micro.pictures(tmp_path / "pictures", ("cat", "dog " * 80))
    with pytest.raises(ValueError, match=r"1 captions are longer than the 77 .*1\.png \(82 t"):
        train(config((given[0], folder), tmp_path / "out"), report=quiet)


@pytest.mark.once
def test_what_is_not_there_is_said_before_a_model_is_loaded(given, tmp_path, monkeypatch):
    wanted = config(given, tmp_path)
    monkeypatch.setattr(callbacks, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "keras-sd\[tensorboard\]"'):
        train(replace(wanted, log=Log(tensorboard=True)))
    with pytest.raises(ValueError, match=r"train\.devices is 'one' on torch"):
        train(replace(wanted, train=replace(wanted.train, devices="all")))
    assert not (tmp_path / "state").exists()


@pytest.mark.once
def test_the_command_trains_from_a_file_and_goes_on(given, tmp_path, capsys):
    model, pictures = given
    (tmp_path / "train.toml").write_text(
        f'model = "{model}"\noutput = "out"\n[data]\nfolder = "{pictures}"\nresolution = 16\n'
        "buckets = false\n[train]\nsteps = 2\nbatch_size = 2\n"
    )
    arguments = ["train", "--config", str(tmp_path / "train.toml")]
    assert main([*arguments, "--check"]) == 0
    assert "4 pictures, 2 steps of full" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(arguments) == 0
    told = capsys.readouterr().err
    assert "step 2 of 2, loss" in told
    assert f"written: {tmp_path / 'out' / 'model'}" in told
    assert main(arguments) == 0
    assert "goes on behind step 2 of 2" in capsys.readouterr().err
