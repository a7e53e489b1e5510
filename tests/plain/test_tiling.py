"""Tiles: what they cover, how they are blended, and that all are of one shape."""

from __future__ import annotations

import numpy as np
import pytest

from keras_sd.tiling import over_tiles

SIZES = [(7, 9), (16, 16), (17, 40), (33, 5), (100, 31)]


def pictures(height, width, channels=2):
    return np.random.default_rng(0).normal(size=(2, height, width, channels)).astype("float32")


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(("side", "overlap"), [(16, 4), (8, 1), (5, 4)])
def test_what_leaves_every_cell_as_it_is_gives_the_picture(height, width, side, overlap):
    given, shapes = pictures(height, width), set()

    def same(tile):
        shapes.add(tile.shape)
        return tile

    found = over_tiles(same, [given], [1], 1, side, overlap)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, given, atol=1e-5)
    assert shapes == {(1, min(side, height), min(side, width), 2)}


def test_cells_are_of_any_number_of_pixels():
    latents, noise = pictures(20, 12), pictures(40, 24)

    def larger(latent, other):
        return latent.repeat(6, axis=1).repeat(6, axis=2) + other.repeat(3, axis=1).repeat(
            3, axis=2
        )

    found = over_tiles(larger, [latents, noise], [1, 2], 6, 8, 2)
    np.testing.assert_allclose(found, larger(latents, noise), atol=1e-5)
    smaller = over_tiles(lambda x: x[:, ::2, ::2], [noise], [2], 1, 8, 2)
    np.testing.assert_allclose(smaller, noise[:, ::2, ::2], atol=1e-5)


def test_neighbours_fade_into_each_other():
    numbers = iter((0.0, 1.0))  # one tile is black, the other white
    found = over_tiles(
        lambda x: np.full_like(x, next(numbers)), [pictures(8, 12)[:1]], [1], 1, 8, 4
    )
    row = found[0, 0, :, 0]
    np.testing.assert_allclose(row[4:8], [0.125, 0.375, 0.625, 0.875])
    assert set(row[:4]) == {0}
    assert set(row[8:]) == {1}
