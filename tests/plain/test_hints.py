"""Hints of pictures: edges of shapes that are known, and the simple ones."""

from __future__ import annotations

import numpy as np
import pytest

from keras_sd.hints import canny, invert, threshold, tile


def square(size=24, low=60, high=200):
    picture = np.full((size, size, 3), low, np.uint8)
    picture[8:16, 6:18] = high
    return picture


def lit(hint):
    assert hint.dtype == np.uint8
    assert hint.shape[2] == 3
    assert set(np.unique(hint)) <= {0, 255}
    assert (hint == hint[..., :1]).all()
    return hint[..., 0] > 0


def test_the_edges_of_a_square_are_lines_of_one_pixel_around_it():
    edges = lit(canny(square()))
    # Of the two pixels at a step, whose gradients are equal, the first one.
    assert list(np.flatnonzero(edges[12])) == [5, 17]
    assert list(np.flatnonzero(edges[:, 12])) == [7, 15]
    rows, columns = np.nonzero(edges)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (7, 15, 5, 17)
    assert not edges[9:14, 7:16].any()


def test_a_flat_picture_has_no_edges_and_its_border_is_none():
    assert not lit(canny(np.full((9, 12, 3), 77, np.uint8))).any()


@pytest.mark.parametrize("flip", [False, True])
def test_a_slanted_edge_is_a_line_along_it(flip):
    y, x = np.mgrid[:32, :32]
    picture = np.where((y > x)[..., None], 230, 20).astype(np.uint8).repeat(3, axis=2)
    picture = picture[:, ::-1] if flip else picture
    edges = lit(canny(picture))
    assert set(edges.sum(axis=1)[2:-2]) == {2}  # both pixels at the step: no other is beside them
    places = np.argmax(edges, axis=1)[2:-2]
    assert set(np.diff(places)) == {-1 if flip else 1}


def test_a_weak_edge_counts_where_it_goes_on_from_a_strong_one():
    picture = np.full((40, 24, 3), 100, np.uint8)
    picture[:20, 12:] = 130  # 4 * 30 = 120: between the thresholds
    picture[20:, 12:] = 200  # 4 * 100 = 400: above
    assert lit(canny(picture))[2:38, 11:13].any(axis=1).all()
    alone = picture.copy()
    alone[20:, 12:] = 130
    assert not lit(canny(alone)).any()
    assert lit(canny(alone, 50, 100))[5, 11:13].any()
    apart = picture.copy()
    apart[16:24] = 100
    assert not lit(canny(apart))[:14].any()


def test_thresholds_are_of_the_sum_of_both_gradients():
    picture = np.full((16, 16, 3), 100, np.uint8)
    picture[:, 8:] = 150  # a gradient of 4 * 50
    assert lit(canny(picture, 199, 199)).any()
    assert not lit(canny(picture, 200, 200)).any()


def test_a_blur_takes_small_things_away():
    rng = np.random.default_rng(0)
    noise = np.clip(rng.normal(120, 40, (48, 48, 1)), 0, 255).astype(np.uint8).repeat(3, axis=2)
    assert lit(canny(noise, blur=3)).sum() < 0.2 * lit(canny(noise)).sum()


def test_a_large_spiral_is_followed_to_its_end():
    y, x = np.mgrid[-150:150, -150:150]
    angle = np.arctan2(y, x) / (2 * np.pi)
    arm = ((np.hypot(x, y) / 20 - angle) % 1) < 0.5
    picture = np.where(arm[..., None], 160, 125).astype(np.uint8).repeat(3, axis=2)
    picture[140:160, 140:160] = 0  # the only edges above the upper threshold
    edges = lit(canny(picture))
    assert edges[:20].any()


def test_the_simple_ones():
    picture = square()
    np.testing.assert_array_equal(invert(invert(picture)), picture)
    assert invert(picture)[0, 0, 0] == 195
    np.testing.assert_array_equal(lit(threshold(picture)), picture[..., 0] == 200)
    assert lit(threshold(picture, 60)).all()
    assert tile(picture, 16, 40).shape == (16, 40, 3)
    np.testing.assert_array_equal(tile(picture, 24, 24), picture)


@pytest.mark.parametrize(
    ("made", "named"),
    [
        (lambda: canny(square(), 200, 100), "200 is above 100"),
        (lambda: canny(square(), -1), "low is from 0 to 2040"),
        (lambda: canny(square(), blur=-1), "blur is from 0"),
        (lambda: canny(square().astype("float32")), "is uint8"),
        (lambda: threshold(square(), 256), "level is a whole number from 0 to 255"),
        (lambda: tile(square(), 0, 8), "height is a whole number from 1"),
    ],
)
def test_what_does_not_fit_is_named(made, named):
    with pytest.raises(ValueError, match=named):
        made()
