"""IP-Adapters and T2I-Adapters against what diffusers makes with small random ones."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import reference_models as reference
import steering
from keras import ops
from test_parity import difference

from keras_sd import Control, ImagePrompt, IPAdapter, T2IAdapter
from keras_sd.adapters.feature_files import open_features
from keras_sd.adapters.ip_adapter import prepared
from keras_sd.backend import to_numpy
from keras_sd.networks import FeatureNetwork
from keras_sd.weights.load import load_parts

TOLERANCE = reference.TOLERANCE


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """An IP-Adapter from its file."""

    @cache
    def read(model, kind):
        folder = tmp_path_factory.mktemp("prompt")
        return IPAdapter.from_file(
            steering.prompt_file(folder / "ip.safetensors", model, kind),
            image_encoder=steering.encoder_folder(folder / "encoder"),
            model=reference.pipeline(model),
        )

    return read


@pytest.fixture(scope="module")
def t2i(tmp_path_factory):
    """A T2I-Adapter from its folder."""

    @cache
    def read(name, model):
        folder = steering.t2i_folder(tmp_path_factory.mktemp("t2i") / name, name)
        return T2IAdapter.from_file(folder, model=reference.pipeline(model))

    return read


def pixels():
    made, size = steering.script(), steering.encoder_config().image_size
    return np.stack([prepared(made.shown(number), size) for number in range(2)])


def test_a_picture_is_prepared_as_transformers_does():
    np.testing.assert_allclose(pixels(), steering.goldens()["pixels"], atol=1e-6)


@pytest.mark.parametrize(("model", "kind"), [("sd1", "base"), ("sd2", "plus")])
def test_features_and_tokens_are_those_of_the_libraries(adapter, model, kind):
    read, known = adapter(model, kind), steering.goldens()
    features = read.encoder.embed(ops.convert_to_tensor(pixels()))[kind]
    assert difference(features, known[f"features/{kind}"]) < TOLERANCE
    assert difference(read.network(features), known[f"tokens/{kind}"]) < TOLERANCE


@pytest.mark.parametrize("model", ["sd1", "sd2"])
def test_a_run_with_an_image_prompt_ends_where_diffusers_does(adapter, model):
    made = steering.script()
    kind, count, strength = made.PROMPTS[model]
    shown = [made.shown(number) for number in range(count)]
    prompt = ImagePrompt(adapter(model, kind), shown, strength)
    wanted = steering.goldens()[f"prompt/{model}"]
    assert difference(steering.ends(model, image_prompt=prompt), wanted) < TOLERANCE
    assert difference(steering.ends(model), wanted) > 50 * TOLERANCE


@pytest.mark.parametrize("name", ["full", "grey", "light"])
def test_a_t2i_adapter_adds_what_that_of_diffusers_adds(tmp_path, name):
    file = open_features(steering.t2i_folder(tmp_path / name, name))
    assert file.config == steering.t2i_config(name)
    network, known = FeatureNetwork(file.config), steering.goldens()
    load_parts({"": network}, {"": file.part()}, source=name)
    hint = steering.script().hint("sd1")[None] / np.float32(255)
    found = network.embed(ops.convert_to_tensor(hint[..., :1] if name == "grey" else hint))
    assert len(found) == len([key for key in known if key.startswith(f"added/{name}/")])
    for i, each in enumerate(found):
        assert difference(each, known[f"added/{name}/{i}"]) < TOLERANCE
        assert np.abs(to_numpy(each)).max() > 0.1


@pytest.mark.parametrize("model", ["sd1", "sd2"])
def test_a_run_with_a_t2i_adapter_ends_where_diffusers_does(t2i, model):
    name, strength = steering.script().FEATURES[model]
    control = Control(t2i(name, model), steering.script().hint(model), strength)
    wanted = steering.goldens()[f"features/{model}"]
    assert difference(steering.ends(model, control=control), wanted) < TOLERANCE
    assert difference(steering.ends(model), wanted) > 50 * TOLERANCE
