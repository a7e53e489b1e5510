"""What a clean latent looks like, without its decoder: `Previews`."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_sd.backend import to_numpy
from keras_sd.image import from_uint8
from keras_sd.model import Model
from keras_sd.random import batch_normal

__all__ = ["Previews"]

# Of the latents that the map is fitted to: patches of one colour are nearer to those of pictures
# than noise is (of the embedded models' pictures it explains 88 and 93 % so, and 78 and 81 %).
_PICTURES, _CELLS, _PATCH = 8, 16, 4


class Previews:
    """Pictures of latents by a linear map of their channels, a pixel for each cell.

    The map is fitted once, by least squares, to what the decoder makes of random patches.

    Args:
        model: whose autoencoder it is.

    Raises:
        FloatingPointError: the autoencoder's weights are damaged.
    """

    def __init__(self, model: Model):
        config = model.config.autoencoder
        shape = (_CELLS // _PATCH, _CELLS // _PATCH, config.latent_channels)
        patches = batch_normal(0, range(_PICTURES), 0, shape)
        latents = patches.repeat(_PATCH, axis=1).repeat(_PATCH, axis=2)
        pixels = from_uint8(model.decode(latents))
        blocks = (_PICTURES, _CELLS, config.factor, _CELLS, config.factor, 3)
        cells = pixels.reshape(blocks).mean(axis=(2, 4))
        self._map = np.linalg.lstsq(_rows(latents), cells.reshape(-1, 3), rcond=None)[0]

    def __call__(self, x0: Any) -> np.ndarray:
        """A small picture of each latent.

        Args:
            x0: clean latents `(images, height, width, channels)`.

        Returns:
            uint8 array `(images, height, width, 3)`: a pixel for each cell of the latent.
        """
        array = np.nan_to_num(to_numpy(x0).astype(np.float32))
        pixels = (_rows(array) @ self._map).reshape(*array.shape[:3], 3)
        return np.round((np.clip(pixels, -1, 1) + 1) * 127.5).astype(np.uint8)


def _rows(latents: np.ndarray) -> np.ndarray:
    """A row a cell, with a 1 behind its channels."""
    rows = latents.reshape(-1, latents.shape[-1])
    return np.concatenate([rows, np.ones((len(rows), 1), rows.dtype)], axis=1)
