"""A ControlNet as a network: its tables of names, and what it adds to a UNet."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import tiny
from keras import ops

from keras_sd.backend import to_numpy
from keras_sd.config import ControlConfig
from keras_sd.networks import ControlNetwork, UNet
from keras_sd.weights.load import arrays_of, load_state_dict, variables_of
from keras_sd.weights.names import diffusers, original

MODELS = {"1.x": tiny.TINY, "2.x": tiny.TINY_2}
PLACES = {
    # What stands for a place in each layout, of a ControlNet of two resolutions with one block.
    "controlnet_cond_embedding.conv_in.weight": "control_model.input_hint_block.0.weight",
    "controlnet_cond_embedding.blocks.5.bias": "control_model.input_hint_block.12.bias",
    "controlnet_cond_embedding.conv_out.weight": "control_model.input_hint_block.14.weight",
    "controlnet_down_blocks.0.weight": "control_model.zero_convs.0.0.weight",
    "controlnet_down_blocks.3.bias": "control_model.zero_convs.3.0.bias",
    "controlnet_mid_block.weight": "control_model.middle_block_out.0.weight",
    "conv_in.weight": "control_model.input_blocks.0.0.weight",
    "down_blocks.0.downsamplers.0.conv.weight": "control_model.input_blocks.2.0.op.weight",
    "down_blocks.1.resnets.0.conv1.weight": "control_model.input_blocks.3.0.in_layers.2.weight",
    "mid_block.resnets.1.conv2.weight": "control_model.middle_block.2.out_layers.3.weight",
    "time_embedding.linear_2.bias": "control_model.time_embed.2.bias",
}


def config_of(model, **numbers):
    return ControlConfig.of(MODELS[model].unet, **numbers)


def drawn(network, seed=0, size=0.1):
    """The network with random weights everywhere, its zero convolutions too."""
    rng = np.random.default_rng(seed)
    for variable in variables_of(network).values():
        value = rng.normal(0, size, variable.shape)
        if variable.path.endswith("gamma"):
            value += 1
        variable.assign(value.astype("float32"))
    return network


def inputs(config, seed=1, height=6, width=4, rows=2):
    rng = np.random.default_rng(seed)
    sizes = (
        (rows, height, width, config.in_channels),
        (rows, 5, config.context_width),
    )
    latent, context = (rng.normal(size=size).astype("float32") for size in sizes)
    pixels = rng.uniform(size=(rows, height * 8, width * 8, 3)).astype("float32")
    times = np.linspace(3, 900, rows).astype("float32")
    return [ops.convert_to_tensor(each) for each in (latent, times, context, pixels)]


def tensors_of(network, table):
    """The network as a file has it."""
    arrays = arrays_of({"": network})
    return {e.name: np.ascontiguousarray(e.theirs(arrays[f"/{e.path}"])) for e in table}


@pytest.mark.parametrize("model", MODELS)
def test_both_layouts_have_every_variable_once_and_bring_the_same_numbers_back(model):
    config = config_of(model)
    network = drawn(ControlNetwork(config))
    wanted = arrays_of({"": network})
    for table in (diffusers.control(config), original.control(config)):
        assert len({entry.name for entry in table}) == len(table) == len(wanted)
        other = ControlNetwork(config)
        load_state_dict(other, tensors_of(network, table), table)
        for path, array in arrays_of({"": other}).items():
            np.testing.assert_array_equal(array, wanted[path], err_msg=path)
    pairs = zip(diffusers.control(config), original.control(config), strict=True)
    names = {here.name: there.name for here, there in pairs}
    assert {name: names[name] for name in PLACES} == PLACES


def test_a_controlnet_of_1x_has_the_tensors_and_parameters_of_the_published_ones():
    table = diffusers.control(ControlConfig())
    assert len(table) == 340
    assert sum(int(np.prod(entry.shape)) for entry in table) == 361_279_120


def test_zero_convolutions_add_zeros_and_a_unet_with_zeros_is_the_unet():
    config = config_of("1.x")
    unet, network = drawn(UNet(MODELS["1.x"].unet)), ControlNetwork(config)
    latent, times, context, pixels = inputs(config)
    added = [to_numpy(each) for each in network(latent, times, context, pixels)]
    assert len(added) == 5  # what conv_in gave, a block, a downsampling, a block; and the middle
    assert not any(each.any() for each in added)
    plain = to_numpy(unet(latent, times, context))
    zeros = [ops.convert_to_tensor(each) for each in added]
    np.testing.assert_array_equal(to_numpy(unet(latent, times, context, zeros)), plain)
    for index, each in enumerate(added):
        noise = np.random.default_rng(0).normal(size=each.shape).astype("float32")
        other = [*zeros[:index], ops.convert_to_tensor(noise), *zeros[index + 1 :]]
        assert np.abs(to_numpy(unet(latent, times, context, other)) - plain).max() > 1e-3, index


@pytest.mark.thorough
def test_every_weight_and_every_argument_counts():
    config = config_of("2.x")
    network = drawn(ControlNetwork(config))
    given = inputs(config)

    def adds():
        return np.concatenate([to_numpy(each).ravel() for each in network(*given)])

    before = adds()
    for i, each in enumerate(given):
        given[i] = each + 0.1
        assert np.abs(adds() - before).max() > 1e-4, i
        given[i] = each
    for path, variable in variables_of(network).items():
        if not path.startswith(("hint/", "zero_", "time", "conv_in/", "middle_residual/")):
            continue
        value = to_numpy(variable.value)
        noise = np.random.default_rng(0).normal(size=value.shape).astype("float32")
        variable.assign(value + noise)
        assert np.abs(adds() - before).max() > 1e-6, path
        variable.assign(value)


def test_a_hint_embedded_before_is_that_of_the_call():
    config = config_of("1.x")
    network = drawn(ControlNetwork(config))
    latent, times, context, pixels = inputs(config)
    hint = network.embed(pixels)
    assert tuple(hint.shape) == (2, 6, 4, 32)
    pairs = zip(
        network(latent, times, context, pixels),
        network.residuals(latent, times, context, hint),
        strict=True,
    )
    for whole, once in pairs:
        np.testing.assert_array_equal(to_numpy(whole), to_numpy(once))


def test_a_pooled_one_adds_the_mean_of_all_places():
    config = config_of("1.x")
    network, pooled = drawn(ControlNetwork(config)), ControlNetwork(config_of("1.x", pooled=True))
    pooled.set_weights(network.get_weights())
    given = inputs(config)
    for plain, mean in zip(network(*given), pooled(*given), strict=True):
        wanted = to_numpy(plain).mean(axis=(1, 2), keepdims=True)
        np.testing.assert_allclose(to_numpy(mean), wanted, atol=1e-5)


def test_another_factor_takes_a_hint_of_another_size():
    config = config_of("1.x", hint_widths=(16, 32))
    assert config.factor == 2
    network = drawn(ControlNetwork(config))
    latent, times, context, pixels = inputs(config)
    added = network(latent, times, context, pixels[:, :12, :8])
    assert tuple(added[0].shape) == (2, 6, 4, 32)


def test_it_can_be_copied_and_saved(tmp_path):
    network = drawn(ControlNetwork(config_of("1.x", pooled=True)))
    network.save(tmp_path / "control.keras")
    import keras

    for other in (copy.deepcopy(network), keras.models.load_model(tmp_path / "control.keras")):
        assert other.config == network.config
        for ours, theirs in zip(network.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("numbers", "named"),
    [
        ({"hint_channels": 0}, "control: hint_channels is 0"),
        ({"hint_widths": ()}, "control: hint_widths"),
        ({"hint_widths": (16, 0)}, "control: hint_widths"),
    ],
)
def test_numbers_that_cannot_be_are_named(numbers, named):
    with pytest.raises(ValueError, match=named):
        config_of("1.x", **numbers)
