"""Whether a picture is as its prompt asks: its ground, the place of its subject, the order of two.

Pictures are float `(n, height, width, 3)` in [-1, 1], on a ground of one colour.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from keras_sd.training.scenes import COLOURS

_BORDER = 2  # pixels
_FAR = 0.3  # from the ground, in a channel: what is no ground
_LEAST = 0.02  # of half a picture: what is something


def grounds(pictures: np.ndarray) -> np.ndarray:
    """The median of the pixels along the border, `(n, 3)`."""
    ring = np.ones(pictures.shape[1:3], bool)
    ring[_BORDER:-_BORDER, _BORDER:-_BORDER] = False
    return np.median(pictures[:, ring], axis=1)


def colours(
    pictures: np.ndarray, palette: Mapping[str, tuple[int, int, int]] = COLOURS
) -> list[str]:
    """The name of the colour that is nearest to each ground, of a palette of sRGB, 0 to 255."""
    points = np.array(list(palette.values())) / 127.5 - 1
    nearest = ((grounds(pictures)[:, None] - points) ** 2).sum(-1).argmin(-1)
    return [list(palette)[i] for i in nearest]


def drawn(pictures: np.ndarray) -> np.ndarray:
    """Which pixels are no ground: bool `(n, height, width)`."""
    far = np.abs(pictures - grounds(pictures)[:, None, None]).max(-1)
    return far > _FAR


def ninths(pictures: np.ndarray) -> list[tuple[int, int] | None]:
    """Column and row, 0 to 2, of the ninth in which the middle of what is drawn lies; None where
    nothing is drawn.
    """
    found: list[tuple[int, int] | None] = []
    for each in drawn(pictures):
        rows, columns = np.nonzero(each)
        if not len(rows):
            found.append(None)
            continue
        height, width = each.shape
        found.append(
            (int((columns.mean() + 0.5) * 3 / width), int((rows.mean() + 0.5) * 3 / height))
        )
    return found


def in_order(pictures: np.ndarray, wanted: np.ndarray, swapped: np.ndarray) -> np.ndarray:
    """Whether a picture of two subjects shows each where it was asked for, bool `(n,)`: both halves
    have something in them, and it is nearer to the picture that was asked for than to the one in
    which the two have changed places.

    Args:
        pictures: to judge.
        wanted: renderings of what was asked for; the halves in which something is drawn are those
            of the picture.
        swapped: the same with the subjects in each other's place.
    """
    there = _halves(drawn(pictures)) >= _LEAST
    both = (there | (_halves(drawn(wanted)) < _LEAST)).all(axis=1)
    near, far = (np.square(pictures - each).sum((1, 2, 3)) for each in (wanted, swapped))
    return both & (near < far)


def _halves(mask: np.ndarray) -> np.ndarray:
    """How much of the left, right, upper and lower half is true: `(n, 4)`."""
    _, height, width = mask.shape
    x, y = width // 2, height // 2
    halves = (mask[:, :, :x], mask[:, :, x:], mask[:, :y], mask[:, y:])
    return np.stack([half.mean((1, 2)) for half in halves], axis=1)
