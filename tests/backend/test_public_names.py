"""The names of the package can all be had where there is a backend."""

from __future__ import annotations

import subprocess
import sys

import keras
import pytest


def test_every_public_name_can_be_had():
    import keras_sd

    for name in keras_sd.__all__:
        assert getattr(keras_sd, name) is not None
    assert set(keras_sd.__all__) <= set(dir(keras_sd))
    with pytest.raises(AttributeError, match="'keras_sd' has no attribute 'StableDifusion'"):
        _ = keras_sd.StableDifusion


def test_a_run_warns_of_nothing_and_loads_no_wing():
    code = (
        "import keras_sd, sys; pipeline = keras_sd.StableDiffusion.from_preset('emoji'); "
        "pipeline.text_to_image('a cat face', seed=1, num_steps=1); "
        "assert 'keras_sd.pipeline' in sys.modules; "
        "print(*(name for name in sys.modules if name.startswith('keras_sd.keras_cv')))"
    )
    # TensorFlow's own modules warn when they are imported, whoever imports them.
    some = [sys.executable, "-W", "error::DeprecationWarning:keras", "-W", "error::UserWarning"]
    strict = [sys.executable, "-W", "error"] if keras.backend.backend() != "tensorflow" else some
    run = subprocess.run([*strict, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.split() == []
