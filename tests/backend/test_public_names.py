"""The names of the package can all be had where there is a backend."""

from __future__ import annotations

import pytest


def test_every_public_name_can_be_had():
    import keras_sd

    for name in keras_sd.__all__:
        assert getattr(keras_sd, name) is not None
    assert set(keras_sd.__all__) <= set(dir(keras_sd))
    with pytest.raises(AttributeError, match="'keras_sd' has no attribute 'StableDifusion'"):
        _ = keras_sd.StableDifusion
