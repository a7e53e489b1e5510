"""Networks that come and go: which are there, that the others are gone, and that the picture is the
same.
"""

from __future__ import annotations

import gc
import pickle
import weakref

import keras
import numpy as np
import pytest
from test_sdxl import script

import keras_sd
from keras_sd.request import Request
from keras_sd.serve.engine import Engine
from keras_sd.weights import load

pytestmark = pytest.mark.usefixtures("without_tracing")

TEXTS, UNET, AUTOENCODER = ("text_encoder", "text_encoder_2"), ("unet",), ("autoencoder",)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {model: script().write(model, folder) for model in ("xl", "refiner")}


@pytest.fixture
def built(monkeypatch):
    """What was built, in order, with weak references to it; none is built beside another."""
    order, alive, build = [], [], load.build_networks

    def counted(checkpoint, names=None):
        gc.collect()
        assert [each().name for each in alive if each() is not None] == []
        networks = build(checkpoint, names)
        order.append((checkpoint.config.name, *networks))
        alive.extend(weakref.ref(each) for each in networks.values())
        return networks

    monkeypatch.setattr(load, "build_networks", counted)
    return order


def pictures(pipeline, **settings):
    settings = {"height": 16, "width": 24, "num_steps": 2, "seed": 1, **settings}
    return np.asarray(pipeline.draw(pipeline.request("cat dog", "do", **settings)))


@pytest.mark.thorough
def test_one_group_of_networks_is_there_at_a_time(folders, built):
    pipeline = keras_sd.StableDiffusion.from_preset(folders["xl"], low_memory=True)
    assert built == []
    found = pictures(pipeline)
    assert built == [("tiny-xl", *part) for part in (TEXTS, UNET, AUTOENCODER)]
    del built[:]
    np.testing.assert_array_equal(pictures(pipeline), found)  # from file again
    assert built == [("tiny-xl", *part) for part in (TEXTS, UNET, AUTOENCODER)]
    del built[:]
    # Of a picture: the autoencoder, which is still there, then the others, and it again.
    start = {"image": script().picture(), "strength": 0.5, "height": None, "width": None}
    pictures(pipeline, **start)
    assert built == [("tiny-xl", *part) for part in (TEXTS, UNET, AUTOENCODER)]


@pytest.mark.once
@pytest.mark.parametrize(
    "settings",
    [
        {"freeu": (1.5, 1.6, 0.9, 0.2)},
        {"feature_caching": 2},
        {"guidance_method": "pag"},
        {"token_merging": 0.5},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_no_network_is_loaded_to_look_at_it(folders, built, settings):
    """And one that was set in place is looked at."""
    pipeline = keras_sd.StableDiffusion.from_preset(folders["xl"], low_memory=True)
    pictures(pipeline, **settings)
    assert built == [("tiny-xl", *part) for part in (TEXTS, UNET, AUTOENCODER)]
    pipeline.unet = keras.layers.Dense(3)
    with pytest.raises(ValueError, match="another network"):
        pictures(pipeline, **settings)


@pytest.mark.once
def test_the_refiner_comes_when_the_other_is_gone(folders, built, monkeypatch):
    options = {"refiner": folders["refiner"], "low_memory": True}
    pipeline = keras_sd.StableDiffusion.from_preset(folders["xl"], **options)
    found = pictures(pipeline, refine_at=0.5)
    texts = [("tiny-xl", *TEXTS), ("tiny-refiner", "text_encoder")]
    unets = [("tiny-xl", *UNET), ("tiny-refiner", *UNET)]
    assert built == [*texts, *unets, ("tiny-xl", *AUTOENCODER)]
    monkeypatch.undo()
    whole = keras_sd.StableDiffusion.from_preset(folders["xl"], refiner=folders["refiner"])
    np.testing.assert_array_equal(pictures(whole, refine_at=0.5), found)


@pytest.mark.once
def test_its_parts_have_the_policy_that_was_asked_for(folders):
    pipeline = keras_sd.StableDiffusion.from_preset(
        folders["xl"], low_memory=True, dtype="bfloat16"
    )
    for network in pipeline.networks.values():
        assert network.dtype_policy.name == "bfloat16"


@pytest.mark.once
def test_a_network_that_is_set_stays(folders, built):
    pipeline = keras_sd.StableDiffusion.from_preset(folders["xl"], low_memory=True)
    other = keras_sd.networks.Autoencoder(pipeline.config.autoencoder)
    pipeline.autoencoder = other
    pictures(pipeline)
    assert pipeline.autoencoder is other
    assert built == [("tiny-xl", *part) for part in (TEXTS, UNET)]


@pytest.mark.once
def test_what_does_not_go_with_it_is_said(folders, tmp_path):
    pipeline = keras_sd.StableDiffusion.from_preset(folders["xl"], low_memory=True)
    with pytest.raises(ValueError, match="low_memory takes no adapters"):
        pipeline.merge_adapters(tmp_path / "style.safetensors")
    with pytest.raises(TypeError, match="cannot be copied or pickled"):
        pickle.dumps(pipeline.model)
    with pytest.raises(TypeError, match="low_memory"):
        keras_sd.StableDiffusion.from_preset(folders["xl"], low_memory="yes")


@pytest.mark.once
def test_pictures_of_an_engine_share_a_call_of_the_unet(folders):
    pipeline = keras_sd.StableDiffusion.from_preset(folders["xl"], low_memory=True)
    with Engine(pipeline.model) as engine:
        job = engine.submit(Request.of(["cat", "dog"], "do", seed=1, num_steps=2))
        assert job.result().shape == (2, 16, 16, 3)
        assert engine.stats().calls == 2
