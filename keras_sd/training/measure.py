"""Which subject and which background a picture of the embedded model shows.

An image shows the subject whose rendering is nearest in mean squared error, over all subjects,
sizes and shifts of the training pictures, on the background that the image has; its background is
the colour nearest to the median of the pixels along its border.
"""

from __future__ import annotations

import itertools

import numpy as np

from keras_sd.training import judging
from keras_sd.training.pictures import COLOURS, HEIGHTS, SHIFT, SUBJECTS, Pictures


def backgrounds(images: np.ndarray) -> list[str]:
    """The colour of each image's border: images uint8 `(n, height, width, 3)`."""
    return judging.colours(images / 127.5 - 1, COLOURS)


def subjects(images: np.ndarray, colours: list[str], source: Pictures) -> list[str]:
    """The subject nearest to each image, among renderings on the image's own background.

    Args:
        images: uint8 `(n, 64, 64, 3)`.
        colours: the background of each, as `backgrounds` gives them.
        source: draws the renderings.
    """
    found: list[str] = [""] * len(images)
    names = list(SUBJECTS)
    shifts = range(-SHIFT, SHIFT + 1)
    variants = list(itertools.product(HEIGHTS, shifts, shifts))
    pixels = images.reshape(len(images), -1).astype(np.float32) / 127.5 - 1
    for colour in sorted(set(colours)):
        rows = [i for i, each in enumerate(colours) if each == colour]
        best = np.full(len(rows), np.inf)
        for name in names:
            drawn = np.stack([source.draw(name, colour, dx, dy, h) for h, dx, dy in variants])
            flat = drawn.reshape(len(drawn), -1)
            # |a - b|^2 without |a|^2, which is the same for every candidate.
            distance = (flat**2).sum(1)[None] - 2 * pixels[rows] @ flat.T
            for k, value in enumerate(distance.min(1)):
                if value < best[k]:
                    best[k], found[rows[k]] = value, name
    return found
