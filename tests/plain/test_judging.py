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


def test_two_are_in_order_where_both_are_there_and_not_swapped():
    left, right = (34, 64, 58), (94, 64, 58)
    wanted, swapped = picture(red=left, yellow=right), picture(red=right, yellow=left)
    pictures = [wanted, swapped, picture(red=left), picture(yellow=right), picture()]
    pictures.append(picture(red=(40, 60, 40), yellow=(90, 60, 40)))
    found = judging.in_order(np.stack(pictures), np.stack([wanted] * 6), np.stack([swapped] * 6))
    assert found.tolist() == [True, False, False, False, False, True]
    up, down = (64, 34, 58), (64, 94, 58)
    wanted, swapped = picture(red=up, yellow=down), picture(red=down, yellow=up)
    pictures = np.stack([wanted, swapped, picture(red=up)])
    found = judging.in_order(pictures, np.stack([wanted] * 3), np.stack([swapped] * 3))
    assert found.tolist() == [True, False, False]


def test_what_was_to_be_in_one_half_alone_need_not_be_in_both():
    wanted, swapped = picture(red=(30, 30, 20)), picture(yellow=(30, 30, 20))
    assert judging.in_order(wanted[None], wanted[None], swapped[None]).tolist() == [True]
