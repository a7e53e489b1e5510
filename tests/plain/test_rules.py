"""The conventions of a run: ours, and that those of others keep the interface."""

from __future__ import annotations

import numpy as np
import pytest

from keras_sd import compat, image, random
from keras_sd.config import SD_1
from keras_sd.rules import OWN, Rules

ALL = [OWN, *(compat.get(name) for name in compat.NAMES)]
every = pytest.mark.parametrize("rules", ALL, ids=repr)


def test_ours_are_those_of_the_house():
    images = np.linspace(-1.2, 1.2, 7)
    noise = OWN.first_noise(3, (5, 2), (4, 4, 4))
    assert OWN.config(SD_1) is SD_1
    assert OWN.timesteps(20) is None
    np.testing.assert_array_equal(noise, random.batch_normal(3, (5, 2), 0, (4, 4, 4)))
    np.testing.assert_array_equal(OWN.to_uint8(images), image.to_uint8(images))


@every
def test_an_image_starts_from_its_own_noise(rules):
    """Whatever else is in the batch, and in whatever order."""
    assert isinstance(rules, Rules)
    whole = rules.first_noise(7, range(4), (2, 3, 5))
    assert whole.shape == (4, 2, 3, 5)
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(rules.first_noise(7, (3, 1), (2, 3, 5)), whole[[3, 1]])
    assert len(np.unique(whole)) == whole.size


@every
def test_the_noise_of_a_late_image_takes_no_more_memory_than_that_of_the_first(rules):
    noise = rules.first_noise(7, (2**31 - 1,), (2, 2, 4))
    assert noise.shape == (1, 2, 2, 4)
    assert np.isfinite(noise).all()


@every
def test_there_is_no_noise_for_what_is_no_seed(rules):
    for seed in (-1, 2**64):
        with pytest.raises(ValueError, match="seed"):
            rules.first_noise(seed, (0,), (2, 2, 4))


@every
@pytest.mark.parametrize("numbers", [(), (-1,), (0, -2)])
def test_there_is_no_noise_for_what_is_no_number_of_an_image(rules, numbers):
    with pytest.raises(ValueError, match="image"):
        rules.first_noise(0, numbers, (2, 2, 4))


@every
def test_pixels(rules):
    pixels = rules.to_uint8(np.array([-3.0, -1.0, 1.0, 3.0]))
    assert pixels.dtype == np.uint8
    assert pixels.tolist() == [0, 0, 255, 255]
