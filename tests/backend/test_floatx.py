"""Keras' `floatx` changes nothing: what has a dtype of its own does not take it from there."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops
from test_pipeline import make

from keras_sd.keras_cv.noise_scheduler import NoiseScheduler
from keras_sd.precision import policy_scope


@pytest.fixture(params=["float16", "bfloat16"])
def floatx(request):
    before = keras.config.floatx()

    def change():
        keras.config.set_floatx(request.param)

    yield change
    keras.config.set_floatx(before)


def draw():
    with policy_scope("float32"):  # as from_preset(dtype="float32")
        pipeline = make(jit_compile=False)
    image = np.full((32, 24, 3), 90, np.uint8)  # from a picture, so that every network runs
    return pipeline.image_to_image("a cat", image, seed=1, num_steps=2)


@pytest.fixture(scope="module")
def expected():
    assert keras.config.floatx() == "float32"
    return draw()


def test_pictures(expected, floatx):
    floatx()
    np.testing.assert_array_equal(draw(), expected)


def test_the_scheduler_of_keras_cv(floatx):
    def step():
        scheduler = NoiseScheduler()
        sample = np.linspace(-1, 1, 16, dtype="float32").reshape(1, 2, 2, 4)
        return scheduler.step(sample / 2, 500, sample)

    expected = step()
    floatx()
    found = step()
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    np.testing.assert_array_equal(ops.convert_to_numpy(found), ops.convert_to_numpy(expected))
