"""Which subject is seen in a picture, or in a part of one: the one whose drawing is nearest.

A part is a square, reduced to 32 by 32 means. It is compared with the drawings of all subjects on
the ground that it has, in a few sizes and places. On any backend.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from keras import ops

from keras_sd.backend import to_numpy
from keras_sd.training.painting import resampling
from keras_sd.training.scenes import COLOURS, DARK, SIZE

CELLS = 32
"""The side of what is compared, in pixels."""

_PART = 256  # drawings that are made smaller at a time, which bounds the memory


@dataclass(frozen=True)
class View:
    """How large what is looked for may be, and where.

    Args:
        side: of the square that is looked at, in pixels, a multiple of `CELLS`.
        sizes: of the drawings, in pixels.
        shifts: of their middles from that of the square, along each axis.
    """

    side: int
    sizes: tuple[float, ...]
    shifts: tuple[float, ...]


WHOLE = View(SIZE, (98, 106), (-3, 0, 3))
"""Of one subject that fills the picture."""


def view_of(size: float) -> View:
    """Of one of several, or of a small one, that is to be this large."""
    return View(64, (size - 4, size, size + 4), (-6, -3, 0, 3, 6))


def square(pictures: np.ndarray, x: float, y: float, side: int) -> np.ndarray:
    """The squares around a point, `(n, side, side, channels)`; what lies beside the picture is as
    its border.
    """
    rim = side // 2
    wide = np.pad(pictures, ((0, 0), (rim, rim), (rim, rim), (0, 0)), "edge")
    return wide[:, round(y) : round(y) + side, round(x) : round(x) + side]


def over(style: str, grounds: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The colours behind and of the ink, `(n, 3)` and `(n, 1)` in [0, 1]; the ink of a style that
    has colours of its own is 0, for it is added to them.
    """
    behind = np.array([COLOURS[name] for name in grounds], np.float32) / 255
    ink = np.array([[style == "line" and name in DARK] for name in grounds], np.float32)
    return behind, ink


class Matcher:
    """Knows the drawings of a style.

    Args:
        style: its name.
        sprites: uint8 `(count, SIZE, SIZE, 4)`, colours times alpha, an array or a tensor.
    """

    def __init__(self, style: str, sprites):
        self.style, self.sprites = style, sprites

    def nearest(
        self, squares: np.ndarray, grounds: Sequence[str], view: View, most: int = 1
    ) -> np.ndarray:
        """The subjects of each square, the nearest first: int `(n, most)`; -1 where the ground
        alone is nearer.

        Args:
            squares: `(n, view.side, view.side, 3)` in [-1, 1].
            grounds: the name of each ground.
            view: what is looked for.
            most: how many.
        """
        behind, ink = over(self.style, grounds)
        means = _means(squares.astype(np.float32) / 2 + 0.5)
        # A drawing on its ground is colours + ink * alpha + ground * (1 - alpha), so what differs
        # from the ground is colours - (ground - ink) * alpha: one set of drawings serves all.
        seen = ops.convert_to_tensor((means - behind[:, None, None]).transpose(0, 3, 1, 2))
        less = ops.convert_to_tensor(behind - ink)
        best = None
        for drawings in self._small(view):
            each = _distances(seen, less, drawings)
            best = each if best is None else ops.minimum(best, each)
        distances = to_numpy(best)
        order = np.argsort(distances, axis=1, kind="stable")[:, :most]
        # The distance of the ground alone is 0, as the square's own square is left out of all.
        return np.where(np.take_along_axis(distances, order, axis=1) < 0, order, -1)

    def _small(self, view: View):
        """The drawings of all subjects, of each size and at each place: `(count, 4, CELLS, CELLS)`
        in [0, 1].
        """
        for size, dy in itertools.product(view.sizes, view.shifts):
            across = self._contracted(_reducing(view, size, dy))
            for dx in view.shifts:
                yield ops.einsum("ncyx,jx->ncyj", across, _reducing(view, size, dx))

    def _contracted(self, weights):
        parts = []
        for start in range(0, self.sprites.shape[0], _PART):
            part = ops.cast(self.sprites[start : start + _PART], "float32") / 255
            parts.append(ops.einsum("iy,nyxc->ncix", weights, part))
        return ops.concatenate(parts)

    def squares(self, ground: str, view: View) -> np.ndarray:
        """The drawings of all subjects as they look in a square, in the middle and of the middle
        size: `(count, side, side, 3)` in [-1, 1].
        """
        weights = _weights(view.side, view.sizes[len(view.sizes) // 2], 0)
        (behind,), (ink,) = over(self.style, [ground])
        made = []
        for start in range(0, self.sprites.shape[0], _PART):
            part = to_numpy(self.sprites[start : start + _PART]).astype(np.float32) / 255
            part = np.matmul(weights, part.transpose(0, 3, 1, 2)) @ weights.T
            part = np.clip(part, 0, 1).transpose(0, 2, 3, 1)
            colours, alpha = part[..., :3], part[..., 3:]
            made.append(np.minimum(colours, alpha) + ink * alpha + behind * (1 - alpha))
        return np.concatenate(made) * 2 - 1


@cache
def _weights(side: int, size: float, shift: float) -> np.ndarray:
    """Of the pixels of a drawing on those of a line across the square: `(side, SIZE)`."""
    middle = ops.convert_to_tensor(SIZE / 2 + shift, "float32")
    weights = resampling(middle, ops.convert_to_tensor(size, "float32"))
    first = (SIZE - side) // 2
    return to_numpy(weights)[first : first + side]


def _reducing(view: View, size: float, shift: float) -> np.ndarray:
    """Likewise on the `CELLS` means."""
    weights = _weights(view.side, size, shift)
    return weights.reshape(CELLS, view.side // CELLS, SIZE).mean(1)


def _means(pictures: np.ndarray) -> np.ndarray:
    n, side, _, channels = pictures.shape
    per_cell = side // CELLS
    return pictures.reshape(n, CELLS, per_cell, CELLS, per_cell, channels).mean((2, 4))


def _distances(seen, less, drawings):
    """Squared distances `(n, count)`, without what is the same for all drawings.

    Args:
        seen: what differs from the ground, `(n, 3, CELLS, CELLS)`.
        less: the ground without the ink, `(n, 3)`.
        drawings: `(count, 4, CELLS, CELLS)`.
    """
    n, count = seen.shape[0], drawings.shape[0]
    flat = ops.reshape(seen, (n, 3, -1))
    colours = ops.reshape(drawings[:, :3], (count, 3, -1))
    alpha = ops.reshape(drawings[:, 3], (count, -1))
    # |s - (c - l a)|^2 = |s|^2 + |c - l a|^2 - 2 s.c + 2 (l s).a, by channels
    weighted = ops.sum(flat * less[..., None], axis=1)
    products = ops.matmul(
        ops.reshape(flat, (n, -1)), ops.transpose(ops.reshape(colours, (count, -1)))
    ) - ops.matmul(weighted, ops.transpose(alpha))
    own = ops.sum(ops.square(colours), axis=(1, 2))[None]
    mixed = ops.matmul(less, ops.transpose(ops.sum(colours * alpha[:, None], axis=2)))
    square_of = ops.sum(ops.square(less), axis=1)[:, None] * ops.sum(ops.square(alpha), axis=1)
    return own - 2 * mixed + square_of - 2 * products
