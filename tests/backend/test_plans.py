"""A plan beside the networks and the run that it is of."""

from __future__ import annotations

import keras
import pytest
from tiny import TINY, TINY_2, TINY_REFINER, TINY_XL

from keras_sd import choose, costs, precision
from keras_sd.config import ControlConfig
from keras_sd.networks import Autoencoder, ControlNetwork, TextEncoder, UNet
from keras_sd.planning import BYTES, RUNTIMES, plan, weights_of

ON_TORCH = keras.backend.backend() == "torch"


@pytest.mark.parametrize("config", [TINY, TINY_2, TINY_XL, TINY_REFINER], ids=lambda c: c.name)
def test_weights_are_those_of_the_networks(config):
    counted = weights_of(config)
    for part, one in config.text_encoders.items():
        assert counted[part] == TextEncoder(one).count_params()
    assert counted["unet"] == UNet(config.unet).count_params()
    assert counted["autoencoder"] == Autoencoder(config.autoencoder).count_params()


def test_weights_of_the_embedded_model_and_of_a_controlnet(emoji):
    counts = {name: network.count_params() for name, network in emoji.networks.items()}
    assert weights_of(emoji.config) == counts
    control = ControlConfig.of(TINY.unet, in_channels=4)
    assert weights_of(control) == {"control": ControlNetwork(control).count_params()}


def test_policies_and_backends_are_those_there_are():
    assert tuple(BYTES) == precision.POLICIES
    assert set(RUNTIMES) == set(choose.BACKENDS)
    assert choose.expected() == keras.backend.backend()
    assert choose.expected_policy() == keras.config.dtype_policy().name


@pytest.mark.once
@pytest.mark.parametrize("sampler", ["ddim", "heun", "dpmpp_2s_ancestral"])
def test_evaluations_are_those_of_a_run(emoji, sampler):
    asked = {"sampler": sampler, "schedule": "karras", "num_steps": 3}
    *_, last = emoji.stream("a cat face", seed=0, width=32, height=32, **asked)
    assert plan("emoji", **asked).evaluations == last.evaluations


@pytest.mark.skipif(not ON_TORCH, reason="torch counts what it computes")
@pytest.mark.parametrize("config", [TINY, TINY_2, TINY_XL, TINY_REFINER], ids=lambda c: c.name)
def test_operations_are_those_that_torch_counts(config):
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    unet = UNet(config.unet)
    told = {}
    if config.unet.pooled_width:
        told["pooled"] = keras.ops.zeros((2, config.unet.pooled_width))
        told["numbers"] = keras.ops.zeros((2, config.unet.numbers))
    context = keras.ops.zeros((2, 77, config.unet.context_width))
    latent, times = keras.ops.zeros((2, 16, 24, 4)), keras.ops.zeros((2,))
    # Its fused attention on a CPU is none of what it counts, a product of matrices is.
    counter = FlopCounterMode(display=False)
    with counter, torch.enable_grad():
        unet(latent, times, context, **told)
    counted = costs.unet(config.unet, 2, (16, 24), 77, 4, costs.whole).operations
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.02)
    autoencoder, counter = Autoencoder(config.autoencoder), FlopCounterMode(display=False)
    with counter, torch.enable_grad():
        autoencoder.decode(latent)
    counted = costs.decoder(config.autoencoder, 2, (16, 24), 4, costs.whole).operations
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.02)
