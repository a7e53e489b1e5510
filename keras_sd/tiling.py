"""A function of pictures, a tile at a time: memory is that of one tile, whatever the picture is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

__all__ = ["TILE", "over_tiles"]

TILE = 512
"""Pixels of the side of a tile, where only that there are tiles was asked for."""


def over_tiles(
    call: Callable[..., np.ndarray],
    given: Sequence[np.ndarray],
    units: Sequence[int],
    unit: int,
    side: int,
    overlap: int,
) -> np.ndarray:
    """What `call` gives for pictures, made of tiles that are all of one shape.

    Tiles are spread evenly, and end where the picture ends. Where they overlap, each fades out
    towards its own edge.

    Args:
        call: of tiles of one picture, `(1, height, width, channels)` each, to such a tile.
        given: `(pictures, height, width, channels)` each, cut alike.
        units: of each, the numbers along an axis that are a cell.
        unit: likewise of the result.
        side: of a tile, in cells; a picture that is smaller along an axis is not cut there.
        overlap: the fewest cells that two neighbours share; fewer than `side`.

    Returns:
        float32 array `(pictures, height, width, channels)`.
    """
    height, width = (size // units[0] for size in given[0].shape[1:3])
    rows, columns = (_spans(cells, side, overlap, unit) for cells in (height, width))
    whole: Any = None
    for picture in range(len(given[0])):
        for (top, tall, down), (left, wide, across) in ((r, c) for r in rows for c in columns):
            tile = call(
                *(
                    array[picture : picture + 1, top * n : (top + tall) * n][
                        :, :, left * n : (left + wide) * n
                    ]
                    for array, n in zip(given, units, strict=True)
                )
            )
            if whole is None:
                shape = (len(given[0]), height * unit, width * unit, tile.shape[-1])
                whole = np.zeros(shape, np.float32)
            place = whole[picture, top * unit :, left * unit :]
            place[: tall * unit, : wide * unit] += tile[0] * (down[:, None] * across)[..., None]
    return whole


def _spans(cells: int, side: int, overlap: int, unit: int) -> list[tuple[int, int, np.ndarray]]:
    """The tiles along an axis: first cell, number of cells, and how far each number of the result
    counts. What all of them count anywhere is 1.
    """
    if cells <= side:
        return [(0, cells, np.ones(cells * unit, np.float32))]
    count = -(-(cells - overlap) // (side - overlap))
    starts = [round(i * (cells - side) / (count - 1)) for i in range(count)]
    fade = np.minimum(1.0, (np.arange(side * unit) + 0.5) / (overlap * unit))
    total = np.zeros(cells * unit)
    counts = []
    for start in starts:
        one = np.ones(side * unit)
        if start > 0:
            one *= fade
        if start + side < cells:
            one *= fade[::-1]
        total[start * unit : (start + side) * unit] += one
        counts.append(one)
    return [
        (start, side, (one / total[start * unit : (start + side) * unit]).astype(np.float32))
        for start, one in zip(starts, counts, strict=True)
    ]
