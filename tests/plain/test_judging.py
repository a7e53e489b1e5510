"""Whether a picture is as its prompt asks, on pictures of squares."""

from __future__ import annotations

import numpy as np

from keras_sd.training import judging
from keras_sd.training.scenes import COLOURS


def picture(ground="blue", **squares):
    """128 pixels square, with a square of each colour: its middle and side."""
    made = np.empty((128, 128, 3))
    made[:] = COLOURS[ground]
    for colour, (x, y, side) in squares.items():
        half = side // 2
        made[y - half : y + half, x - half : x + half] = COLOURS[colour]
    return made / 127.5 - 1


def test_the_ground_is_the_colour_of_most_of_the_border():
    for name in COLOURS:
        dirty = picture(name, red=(40, 40, 80))
        noisy = picture(name) + np.random.default_rng(0).normal(0, 0.05, (128, 128, 3))
        assert judging.colours(np.stack([dirty, noisy])) == [name, name]


def test_the_ninth_is_that_of_the_middle_of_what_is_drawn():
    places = [(column, row) for row in range(3) for column in range(3)]
    pictures = [picture(yellow=(22 + 42 * c, 22 + 42 * r, 30)) for c, r in places]
    pictures += [picture(), picture(red=(20, 64, 30), yellow=(110, 64, 30))]
    assert judging.ninths(np.stack(pictures)) == [*places, None, (1, 1)]


def test_as_many_are_counted_as_there_are_regions():
    one, two, three = (34, 64, 40), (94, 64, 40), (64, 110, 20)
    pictures = [
        picture(),
        picture(red=one),
        picture(red=one, yellow=two),
        picture(red=one, yellow=two, white=three),
        picture(red=one, yellow=two, white=(64, 110, 12)),  # too small beside the others
        picture(red=one, yellow=(74, 64, 40)),  # they touch
        picture(red=one, yellow=(74, 104, 40)),  # at a corner
        picture(red=(64, 64, 100), blue=(64, 64, 90)),  # the ground within a frame
    ]
    pictures.append(pictures[3] + np.random.default_rng(0).normal(0, 0.03, (128, 128, 3)))
    assert judging.regions(np.stack(pictures)).tolist() == [0, 1, 2, 3, 2, 1, 1, 1, 3]


def test_a_region_is_one_however_it_winds():
    made = picture()
    for column in range(8, 120, 8):
        made[8:120, column : column + 4] = 1
        row = 8 if column % 16 else 116
        made[row : row + 4, column : column + 12] = 1
    assert judging.regions(made[None]).tolist() == [1]
