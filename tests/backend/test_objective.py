"""The objective: its targets, its weights and its loss, by what they mean."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from keras import ops

from keras_sd.backend import to_numpy
from keras_sd.checks import SettingError
from keras_sd.config import SD_1, SD_2
from keras_sd.denoiser import to_x0
from keras_sd.noise import FlowPath, NoiseTable
from keras_sd.training.objective import (
    KINDS,
    Noising,
    Objective,
    levels_of,
    noised,
    spread,
    target,
    weight,
)

RNG = np.random.default_rng(0)
X0, NOISE, ERROR = RNG.standard_normal((3, 4, 4, 4, 2)).astype(np.float32)


def levels(kind, places=(0.01, 0.4, 0.7, 0.95)):
    return levels_of(FlowPath() if kind == "flow" else NoiseTable.scaled_linear(), places)


def tensors(level):
    return Noising(*(ops.convert_to_tensor(each) for each in vars(level).values()))


def columns(level):
    return [each[:, None, None, None] for each in (level.alpha, level.sigma)]


def clean(kind, x, alpha, sigma, predicted):
    """The clean latent that a prediction implies."""
    if kind == "x0":
        return predicted
    if kind == "flow":
        return x - sigma * predicted
    return to_x0(kind, x, alpha, sigma, predicted)


@pytest.mark.parametrize("kind", KINDS)
def test_the_target_gives_back_the_clean_latent(kind):
    alpha, sigma = columns(levels(kind))
    x = noised(X0, NOISE, alpha, sigma)
    found = clean(kind, x, alpha, sigma, target(kind, X0, NOISE, alpha, sigma))
    np.testing.assert_allclose(found, X0, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_weighted_losses_are_of_the_same_error_in_x0(kind):
    """Hang et al. 2023: whatever is predicted, an error of x0 counts min(SNR, gamma)."""
    level = levels(kind)
    alpha, sigma = columns(level)
    x, wanted = noised(X0, NOISE, alpha, sigma), target(kind, X0, NOISE, alpha, sigma)
    found = Objective(kind, gamma=5.0).loss(
        ops.convert_to_tensor(wanted + 0.01 * ERROR), ops.convert_to_tensor(wanted), tensors(level)
    )
    of_x0 = clean(kind, x, alpha, sigma, wanted + 0.01 * ERROR) - X0
    snr = (level.alpha / level.sigma) ** 2
    expected = np.minimum(snr, 5.0) * np.mean(of_x0**2, axis=(1, 2, 3))
    np.testing.assert_allclose(to_numpy(found), expected, rtol=2e-3)


def test_weights_are_those_of_the_paper():
    level = levels("epsilon")
    alpha, sigma = (ops.convert_to_tensor(each) for each in (level.alpha, level.sigma))
    snr = (level.alpha / level.sigma) ** 2
    for kind, expected in {
        "epsilon": np.minimum(snr, 5) / snr,
        "v": np.minimum(snr, 5) / (snr + 1),
        "x0": np.minimum(snr, 5),
    }.items():
        np.testing.assert_allclose(to_numpy(weight(kind, alpha, sigma, 5.0)), expected, rtol=1e-4)
    found = to_numpy(weight("v", alpha, sigma, 5.0, 1.0))
    np.testing.assert_allclose(found, np.minimum(snr + 1, 6) / (snr + 1), rtol=1e-4)


def test_pure_noise_counts_where_a_table_ends_in_it():
    noise = replace(SD_2.noise, zero_terminal_snr=True)
    objective = Objective.of(noise, 5.0)
    level = levels_of(noise.table(), [0.9999])
    assert level.t[0] == 999
    assert level.alpha[0] == 0.0
    ones, zeros = ops.ones((1, 2, 2, 4)), ops.zeros((1, 2, 2, 4))
    np.testing.assert_allclose(
        to_numpy(objective.loss(ones, zeros, tensors(level))), [1.0], rtol=1e-6
    )
    assert Objective.of(SD_1.noise, 5.0) == Objective("epsilon", 5.0, 0.0)
    assert Objective.of(SD_2.noise) == Objective("v", None, 0.0)


def test_the_unet_is_shown_what_the_objective_says():
    seen = {}

    def unet(x, t, context, **told):
        seen.update(x=to_numpy(x), t=to_numpy(t), context=context, **told)
        return x

    level = levels("v")
    latents, noise = ops.convert_to_tensor(X0), ops.convert_to_tensor(NOISE)
    conditions = {"context": "words", "pooled": "one"}
    loss = Objective("v")(unet, latents, conditions, noise, tensors(level))
    alpha, sigma = columns(level)
    np.testing.assert_allclose(seen["x"], noised(X0, NOISE, alpha, sigma), atol=1e-6)
    np.testing.assert_array_equal(seen["t"], level.t)
    assert (seen["context"], seen["pooled"]) == ("words", "one")
    error = seen["x"] - target("v", X0, NOISE, alpha, sigma)
    np.testing.assert_allclose(to_numpy(loss), np.mean(error**2, axis=(1, 2, 3)), rtol=1e-5)


def test_levels_are_of_every_timestep_and_spread():
    path = NoiseTable.scaled_linear()
    assert levels_of(path, [0.0, 0.9999]).t.tolist() == [0, 999]
    assert levels_of(FlowPath(), [0.0, 0.9999]).t.tolist() == [1, 1000]
    assert levels_of(path, [0.5]).alpha[0] == np.float32(path.level(500).alpha)
    places = spread(8, np.random.default_rng(0))
    assert sorted((places * 8).astype(int)) == list(range(8))
    assert (np.diff(places) < 0).any()  # in no order


def test_what_is_no_objective_is_refused():
    for wrong in ({"kind": "noise"}, {"gamma": 0.0}, {"offset": -1.0}):
        with pytest.raises(SettingError):
            Objective(**wrong)
