"""Hints for ControlNets, made of pictures in NumPy: edges, line art inverted, black and white, and
the picture itself.

Depth, poses and the like take networks of their own: make such a hint elsewhere and give it as it
is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_sd import image as images
from keras_sd.checks import MAX_SIDE, real, whole

__all__ = ["HINTS", "canny", "invert", "threshold", "tile"]

_TAN = 0.4142135623730951
"""Of 22.5 degrees: half of the angle between two directions."""

_AROUND = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]


def canny(image: Any, low: float = 100, high: float = 200, blur: float = 0) -> np.ndarray:
    """Edges, white on black (Canny 1986): gradients of the brightness by Sobel's filters, thinned
    to their ridges; a ridge counts where it is above `high`, and as far as it goes on above `low`.

    The gradient is `|dx| + |dy|`, for which 100 and 200 are the usual thresholds.

    Args:
        image: a path, a Pillow image or a uint8 array `(height, width, 3)`.
        low: the lower threshold, of a scale from 0 to 2040.
        high: the upper one.
        blur: standard deviation of a Gaussian that goes before, in pixels; 0 is none.

    Returns:
        uint8 array `(height, width, 3)`, 0 and 255.

    Raises:
        ValueError: it is no picture, or a number does not fit.
    """
    low, high = real("low", low, 0, 2040), real("high", high, 0, 2040)
    if low > high:
        raise ValueError(f"The lower threshold is at most the upper one; {low:g} is above {high:g}")
    grey = _grey(images.read_image(image), real("blur", blur, 0, MAX_SIDE))
    dx, dy = _sobel(grey), _sobel(grey.T).T
    size = np.abs(dx) + np.abs(dy)
    ridge = _ridge(size, dx, dy)
    return _white(_connected(ridge & (size > high), ridge & (size > low)))


def invert(image: Any) -> np.ndarray:
    """Black for white, as for line art that is drawn in black.

    Args:
        image: as for `canny`.

    Returns:
        uint8 array `(height, width, 3)`.
    """
    return 255 - images.read_image(image)


def threshold(image: Any, level: int = 128) -> np.ndarray:
    """White where the brightness is at least `level`, black elsewhere, as for scribbles.

    Args:
        image: as for `canny`.
        level: from 0 to 255.

    Returns:
        uint8 array `(height, width, 3)`, 0 and 255.

    Raises:
        ValueError: it is no picture, or no such level.
    """
    level = whole("level", level, 0, 255)
    return _white(_grey(images.read_image(image), 0) >= level)


def tile(image: Any, height: int, width: int) -> np.ndarray:
    """The picture in the size of the run, as for the ControlNets that add detail.

    Args:
        image: as for `canny`.
        height: in pixels.
        width: likewise.

    Returns:
        uint8 array `(height, width, 3)`.

    Raises:
        ValueError: it is no picture, or no such size.
    """
    sizes = (whole("height", height, 1, MAX_SIDE), whole("width", width, 1, MAX_SIDE))
    return images.resize(images.read_image(image), *sizes, "stretch")


HINTS: dict[str, Callable[[Any], np.ndarray]] = {
    "canny": canny,
    "invert": invert,
    "threshold": threshold,
}
"""Those that need no more than a picture, by name."""


def _grey(image: np.ndarray, blur: float) -> np.ndarray:
    """The brightness (ITU-R BT.601), from 0 to 255 in whole numbers."""
    from PIL import Image, ImageFilter

    grey = Image.fromarray(image).convert("L")
    if blur:
        grey = grey.filter(ImageFilter.GaussianBlur(blur))
    return np.asarray(grey, np.int32)


def _sobel(grey: np.ndarray) -> np.ndarray:
    """How the brightness rises to the right; beyond the picture its edges go on."""
    wide = np.pad(grey, 1, mode="edge")
    rise = wide[:, 2:] - wide[:, :-2]
    return np.asarray(rise[:-2] + 2 * rise[1:-1] + rise[2:])


def _ridge(size: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """Where the gradient is larger than before and behind, along its own direction."""
    height, width = size.shape
    wide = np.pad(size, 1)

    def beside(y: int, x: int) -> np.ndarray:
        return wide[1 + y : 1 + y + height, 1 + x : 1 + x + width]

    across, down = np.abs(dx), np.abs(dy)
    flat, steep = down < _TAN * across, across < _TAN * down
    falls = (dx < 0) == (dy < 0)
    # Of two that are equal the second is taken, so that an edge is one pixel wide.
    return np.where(
        flat,
        (size > beside(0, -1)) & (size >= beside(0, 1)),
        np.where(
            steep,
            (size > beside(-1, 0)) & (size >= beside(1, 0)),
            np.where(
                falls,
                (size > beside(-1, -1)) & (size > beside(1, 1)),
                (size > beside(-1, 1)) & (size > beside(1, -1)),
            ),
        ),
    )


def _connected(seeds: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The places that a way through neighbours leads to from a seed."""
    height, width = places.shape
    free = np.pad(places & ~seeds, 1).ravel()
    found = np.pad(seeds, 1).ravel()
    steps = np.array([y * (width + 2) + x for y, x in _AROUND])
    front = np.flatnonzero(found)
    while front.size:
        front = np.unique((front[:, None] + steps).ravel())
        front = front[free[front]]
        free[front], found[front] = False, True
    return found.reshape(height + 2, width + 2)[1:-1, 1:-1]


def _white(where: np.ndarray) -> np.ndarray:
    return np.repeat(np.where(where, np.uint8(255), np.uint8(0))[..., None], 3, axis=2)
