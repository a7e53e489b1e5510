"""A ControlNet is trained: it learns, nothing else does, and its folder is read here and by
diffusers.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import get_args

import micro
import numpy as np
import pytest
from keras import ops
from micro import config, quiet
from tiny import TINY_XL

from keras_sd import Control, ControlNet
from keras_sd.adapters.control_writing import settings_of
from keras_sd.backend import to_numpy
from keras_sd.config import ControlConfig
from keras_sd.forms import request_of
from keras_sd.hints import HINTS, canny
from keras_sd.image import read_image, resize, save_png
from keras_sd.model import Model
from keras_sd.networks import ControlNetwork
from keras_sd.run import run
from keras_sd.training.buckets import Buckets
from keras_sd.training.config import ControlNetSettings, HintName, Log, Samples
from keras_sd.training.control import Hints
from keras_sd.training.examples import ExamplesError, read_examples
from keras_sd.training.latents import CachedLatents
from keras_sd.training.run import train
from keras_sd.weights.diffusers_folder.configs import read_control
from keras_sd.weights.diffusers_folder.settings import FolderSettings
from keras_sd.weights.load import arrays_of
from keras_sd.weights.readers import WeightsError


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """The folder of a model, and that of its pictures."""
    folder = tmp_path_factory.mktemp("given")
    micro.micro().save_preset(folder / "micro")
    return folder / "micro", micro.pictures(folder / "pictures")


@pytest.fixture(scope="module")
def trained(given, tmp_path_factory):
    """What a training has made, and its config."""
    wanted = config(
        given,
        tmp_path_factory.mktemp("out") / "control",
        **{"method": "controlnet", "steps": 12, "learning_rate": 2e-2, "schedule": "constant"},
        ema=0.5,
        sections={
            "samples": Samples(("cat", "dog"), every=12, steps=2),
            "log": Log(save_every=4),
        },
    )
    return train(wanted, report=quiet), wanted


def outputs(net, rows=2):
    """What a ControlNet adds, of random inputs."""
    rng = np.random.default_rng(0)
    unet = net.network.config
    inputs = (
        rng.standard_normal((rows, 8, 8, unet.in_channels)),
        np.array([10, 700]),
        rng.standard_normal((rows, 5, unet.context_width)),
        rng.random((rows, 8 * unet.factor, 8 * unet.factor, 3)),
    )
    return list(map(to_numpy, net.network(*map(ops.convert_to_tensor, map(np.float32, inputs)))))


@pytest.mark.thorough
def test_it_learns_and_nothing_else_does(trained, given):
    made, _ = trained
    assert np.mean(made.losses[-3:]) < np.mean(made.losses[:3])
    assert [path.name for path in (*made.files, *made.averaged)] == ["controlnet", "controlnet-ema"]
    model = Model.from_preset(given[0])
    before = arrays_of(model.parts)
    new = ControlNet.from_unet(model)
    assert not any(each.any() for each in outputs(new))
    net, averaged = (ControlNet.from_file(path, model=model) for path in made.files + made.averaged)
    assert all(each.any() for each in outputs(net))
    assert not np.array_equal(outputs(net)[-1], outputs(averaged)[-1])
    assert (made.files[0].parent / "samples" / "00000012.png").is_file()
    # The weights of the model are those that are in its folder still.
    assert all(
        np.array_equal(array, before[name]) for name, array in arrays_of(model.parts).items()
    )
    hint = canny(read_examples(given[1])[0].read())
    assert hint.any()
    told = np.stack([hint, np.zeros_like(hint)])
    request = request_of(["cat"] * 2, seed=1, num_steps=2, control=Control(net, list(told)))
    plain = request_of(["cat"] * 2, seed=1, num_steps=2)
    (*_, one), (*_, two) = run(model, request), run(model, plain)
    assert (one.image() != two.image()).any()


@pytest.mark.once
def test_it_goes_on_to_the_bit(trained, tmp_path):
    made, wanted = trained
    wanted = replace(wanted, output=str(tmp_path))
    first = train(wanted, report=quiet, stop_at=8)
    assert first.files == ()
    second = train(wanted, report=quiet)
    assert (*first.losses, *second.losses) == made.losses
    for file in made.files[0].iterdir():
        assert file.read_bytes() == (second.files[0] / file.name).read_bytes()


def test_hints_are_of_what_was_encoded(tmp_path):
    """A picture that is cut and brought to another size, before its edges are found."""
    folder = micro.pictures(tmp_path / "wide", size=(40, 90))
    examples = read_examples(folder)
    size = Buckets(32, square=True).of(*examples[0].size)
    hints = Hints(examples, [CachedLatents(tmp_path, size, ())] * len(examples), HINTS["canny"])
    assert len(hints) == len(examples) == 4
    assert hints[1].dtype == np.float32
    wanted = canny(resize(examples[1].read(), *size, "crop"))
    np.testing.assert_array_equal(hints[1], np.float32(wanted) / np.float32(255))
    assert get_args(HintName) == (*HINTS, "ready")


def edges_of(folder, hints):
    """Edges of the pictures of a folder, under their names."""
    hints.mkdir()
    for path in folder.glob("*.png"):
        save_png(hints / path.name, canny(path), {})
    return hints


@pytest.mark.once
def test_ready_edges_train_as_those_that_are_made(given, tmp_path):
    """To the bit, by a folder and by a column; and the run goes on from hints of these contents."""
    model, folder = given
    copy = tmp_path / "named"
    shutil.copytree(folder, copy)
    edges_of(folder, copy / "hints")
    lines = [
        {"file_name": path.name, "text": path.with_suffix(".txt").read_text()}
        | {"conditioning_image": f"hints/{path.name}"}
        for path in sorted(copy.glob("*.png"))
    ]
    (copy / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    ready = {"hint": "ready", "folder": str(edges_of(folder, tmp_path / "hints"))}
    found = {}
    for name, pictures, about in (
        ("made", folder, {}),
        ("folder", folder, ready),
        ("column", copy, {"hint": "ready"}),
        ("threshold", folder, {"hint": "threshold"}),
    ):
        sections = {"controlnet": ControlNetSettings(**about)}
        wanted = config(
            *((model, pictures), tmp_path / name),
            **{"method": "controlnet", "steps": 3, "sections": sections},
        )
        found[name] = train(wanted, report=quiet), wanted
    losses = {name: made.losses for name, (made, _) in found.items()}
    weights = {
        name: (made.files[0] / "diffusion_pytorch_model.safetensors").read_bytes()
        for name, (made, _) in found.items()
    }
    for name in ("folder", "column"):
        assert losses[name] == losses["made"]
        assert weights[name] == weights["made"]
    assert weights["threshold"] != weights["made"]
    # Other hints are another run.
    save_png(tmp_path / "hints" / "0.png", np.zeros((16, 16, 3), np.uint8), {})
    with pytest.raises(ValueError, match="of a run with another pictures"):
        train(found["folder"][1], report=quiet)


@pytest.mark.parametrize("size", [(40, 90), (80, 180)])
@pytest.mark.parametrize("square", [True, False])
def test_ready_hints_are_cut_as_their_pictures(tmp_path, size, square):
    """Copies of the pictures are what is encoded; twice as large ones are of the same part."""
    folder, hints = micro.pictures(tmp_path / "wide", size=(40, 90)), tmp_path / "hints"
    hints.mkdir()
    for path in folder.glob("*.png"):
        save_png(hints / path.name, resize(read_image(path), *size, "stretch"), {})
    examples = read_examples(folder, hinted=True, hints=hints)
    wanted = Buckets(32, square=square).of(40, 90)
    shown = Hints(examples, [CachedLatents(tmp_path, wanted, ())] * len(examples), None)
    for example, hint in zip(examples, shown, strict=True):
        pixels = resize(example.read(), *wanted, "crop").astype(np.float32) / np.float32(255)
        assert hint.shape == (*wanted, 3)
        if size == (40, 90):
            np.testing.assert_array_equal(hint, pixels)
        assert np.abs(hint - pixels).mean() < 0.05 < np.abs(hint[:, ::-1] - pixels).mean()


def test_a_hint_that_lacks_is_said_before_anything_is_loaded(given, tmp_path, monkeypatch):
    monkeypatch.setattr(Model, "from_preset", None)  # which is not asked
    hints = edges_of(given[1], tmp_path / "hints")
    (hints / "1.png").unlink()
    sections = {"controlnet": ControlNetSettings(hint="ready", folder=str(hints))}
    wanted = config(given, tmp_path / "out", method="controlnet", sections=sections)
    with pytest.raises(ExamplesError, match=r"1\.png: it has no hint: .*hints has no picture 1"):
        train(wanted, report=quiet)


def filled(network):
    rng = np.random.default_rng(5)
    for variable in network.variables:
        variable.assign(rng.normal(0, 0.1, variable.shape).astype(np.float32))
    return ControlNet(network)


def test_a_folder_is_read_as_it_was_written(tmp_path):
    model = micro.micro()
    net = filled(ControlNet.from_unet(model).network)
    net.save(tmp_path / "net")
    again = ControlNet.from_file(tmp_path / "net", model=model)
    assert again.network.config == net.network.config
    for one, two in zip(outputs(net), outputs(again), strict=True):
        np.testing.assert_array_equal(one, two)
    net.save(tmp_path / "net", dtype="float16")  # in the same place
    half = ControlNet.from_file(tmp_path / "net", model=model)
    np.testing.assert_allclose(outputs(half)[-1], outputs(net)[-1], rtol=0.02, atol=0.05)
    net.network.zero_middle.bias.assign(np.full(32, np.nan))
    with pytest.raises(WeightsError, match="not finite"):
        net.save(tmp_path / "net")
    assert ControlNet.from_file(tmp_path / "net", model=model).sha256 == half.sha256


def test_what_diffusers_has_no_settings_for_is_refused():
    odd = ControlConfig.of(TINY_XL.unet, depths=(1, 2), middle_depth=1)
    with pytest.raises(WeightsError, match="whose middle has 1 transformer blocks beside 2"):
        settings_of(odd)


@pytest.mark.parametrize("depths", [(0, 0), (0, 2), (1, 1)])
def test_the_settings_are_those_that_are_read(tmp_path, depths):
    wanted = ControlConfig.of(TINY_XL.unet, depths=depths, pooled=True)
    notes = []
    given = FolderSettings(tmp_path, json.loads(json.dumps(settings_of(wanted))))
    found = read_control(given, notes)
    assert found == {"heads": (1, 2), "groups": 32, "pooled": True}
    assert notes == []


@pytest.mark.references
@pytest.mark.parametrize("model", [micro.MICRO, TINY_XL], ids=lambda model: model.name)
def test_diffusers_reads_it(tmp_path, model):
    diffusers = pytest.importorskip("diffusers")
    import torch

    network = ControlNetwork(ControlConfig.of(model.unet, hint_widths=(16, 32)))
    net = filled(network)
    net.save(tmp_path)
    theirs, about = diffusers.ControlNetModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(about.values())
    if model.unet.pooled_width:
        return  # what it is told is compared in test_control_references.py
    rng = np.random.default_rng(0)
    shape = (2, 8, 8, model.unet.in_channels)
    latent, context = rng.standard_normal(shape), rng.standard_normal((2, 5, 32))
    pixels, times = rng.random((2, 16, 16, 3)), np.array([10, 700])
    with torch.no_grad():
        down, middle = theirs(
            torch.from_numpy(np.moveaxis(latent, -1, 1)).float(),
            torch.from_numpy(times),
            torch.from_numpy(context).float(),
            torch.from_numpy(np.moveaxis(pixels, -1, 1)).float(),
            return_dict=False,
        )
    arrays = map(np.float32, (latent, times, context, pixels))
    found = network(*map(ops.convert_to_tensor, arrays))
    for one, two in zip((*down, middle), found, strict=True):
        one = np.moveaxis(one.numpy(), 1, -1)
        np.testing.assert_allclose(to_numpy(two), one, atol=2e-5 * np.abs(one).max())
