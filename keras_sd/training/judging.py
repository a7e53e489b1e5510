"""Whether a picture is as its prompt asks: its ground, the place of its subject, the number.

Pictures are float `(n, height, width, 3)` in [-1, 1], on a ground of one colour.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from keras_sd.training.scenes import COLOURS

_BORDER = 2  # pixels
_FAR = 0.3  # from the ground, in a channel: what is no ground
_PART = 0.2  # of the largest region: what is smaller is a part or a stain, no thing


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


def regions(pictures: np.ndarray) -> np.ndarray:
    """How many things are drawn, int `(n,)`: connected regions that are no ground, those left out
    which are much smaller than the largest of their picture. Pixels are connected at their corners
    too.

    A subject of several parts counts as several, and one of the colour of its ground as none: ask
    for those alone of which a picture without a fault counts right.
    """
    mask = drawn(pictures)
    n, height, width = mask.shape
    names = np.where(mask, np.arange(1, height * width + 1).reshape(height, width), 0)
    while True:
        # Every pixel takes the highest number around it, until each region has one number.
        wide = np.pad(names, ((0, 0), (1, 1), (1, 1)))
        rows = np.maximum(np.maximum(wide[:, :-2], wide[:, 1:-1]), wide[:, 2:])
        near = np.maximum(np.maximum(rows[..., :-2], rows[..., 1:-1]), rows[..., 2:])
        near = np.where(mask, near, 0)
        if (near == names).all():
            break
        names = near
    found = np.zeros(n, int)
    for i, each in enumerate(names):
        sizes = np.bincount(each[each > 0])
        if sizes.size:
            found[i] = (sizes > _PART * sizes.max()).sum()
    return found
