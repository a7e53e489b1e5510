"""FreeU: what it does to a block's arguments, to a UNet beside diffusers', and to runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import reference_models as reference
from keras import ops
from test_guided_runs import inputs
from test_parity import difference, last
from test_pipeline import make
from test_turns import attending, drawn, far

from keras_sd.backend import to_numpy
from keras_sd.checks import SettingError
from keras_sd.networks.freeu import freed
from keras_sd.request import Request

pytestmark = pytest.mark.usefixtures("without_tracing")

VALUES = (1.5, 1.6, 0.9, 0.2)
RNG = np.random.default_rng(4)


@pytest.mark.parametrize(("height", "width"), [(4, 6), (3, 5), (1, 2)])
def test_the_lowest_frequencies_are_those_of_a_fourier_transform(height, width):
    x, skip = (RNG.standard_normal((2, height, width, 5)).astype(np.float32) for _ in range(2))
    backbone, low = np.float32([1.5, 0.5]), np.float32([0.2, 2.0])
    found = freed(*map(ops.convert_to_tensor, (x, skip, backbone, low)))
    scaled = x.astype(float)
    scaled[..., :2] *= backbone[:, None, None, None]
    spectrum = np.fft.fft2(skip.astype(float), axes=(1, 2))
    for row in {0, height - 1}:
        for column in {0, width - 1}:
            spectrum[:, row, column] *= low[:, None]
    filtered = np.fft.ifft2(spectrum, axes=(1, 2)).real
    for one, other in zip(found, (scaled, filtered), strict=True):
        np.testing.assert_allclose(to_numpy(one), other, rtol=0, atol=2e-6)


@pytest.mark.references
def test_a_unet_with_it_is_diffusers():
    pytest.importorskip("diffusers")
    import torch

    ours = reference.pipeline("sd2").model.parts["unet"]
    unet = reference.script().networks("sd2", "image")[0]["unet"]
    given = inputs(8, ours.config.context_width)
    latent, times, context = map(torch.from_numpy, given)
    unet.enable_freeu(b1=VALUES[0], b2=VALUES[1], s1=VALUES[2], s2=VALUES[3])
    with torch.no_grad():
        told = unet(latent.permute(0, 3, 1, 2).double(), times, context.double()).sample
    values = ops.convert_to_tensor(np.tile(np.float32(VALUES), (2, 1)))
    tensors = list(map(ops.convert_to_tensor, given))
    found = ours(*tensors, freeu=values)
    assert difference(found, last(told.numpy())) < reference.TOLERANCE
    assert difference(ours(*tensors), last(told.numpy())) > 1e-3


def test_a_run_has_it_and_the_next_has_not():
    pipeline = make()
    plain = drawn(pipeline, "a cat")
    found = drawn(pipeline, "a cat", freeu=VALUES)
    far(found, plain)
    np.testing.assert_array_equal(drawn(pipeline, "a cat")[-1], plain[-1])


@pytest.mark.once
def test_it_is_a_setting():
    request = replace(Request(("a cat",)), freeu=list(VALUES))
    assert request.freeu == VALUES
    assert Request.from_json(request.to_json()) == request
    assert "freeu" not in Request(("a cat",)).to_dict()
    for wrong in (1.5, (1, 1, 1), "1 1 1 1", (1, 1, 1, -1)):
        with pytest.raises((ValueError, TypeError), match="freeu"):
            Request(("a cat",), freeu=wrong)
    with pytest.raises(SettingError, match=r"freeu is for a keras_sd.networks.UNet"):
        attending().stream("a cat", num_steps=2, freeu=VALUES)
