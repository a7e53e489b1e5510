"""Pictures in the hands of Keras. What they are without it: tests/plain/test_gallery.py."""

from __future__ import annotations

import numpy as np
from keras import ops

from keras_sd.gallery import Images


def test_keras_takes_it() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)
    images = Images(pixels.copy(), ("a", "b", "c", "d"), 7, [3, 4, 5, 6])
    for each in (images, images[0]):
        assert np.array_equal(ops.convert_to_numpy(ops.convert_to_tensor(each)), each)
    assert np.array_equal(images, pixels)
