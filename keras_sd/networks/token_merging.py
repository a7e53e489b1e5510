"""Token merging: self-attention on fewer tokens, where many are alike (Bolya & Hoffman 2023, "Token
Merging for Fast Stable Diffusion"; Bolya et al. 2022, "Token Merging: Your ViT But Faster").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from keras import ops

__all__ = ["Merging", "merged"]

Merging: TypeAlias = tuple[int, int, float]
"""Height and width of a feature map, and the part of its tokens that is merged."""

_STRIDE = 2


def merged(x, merging: Merging) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """The ways to fewer tokens and back.

    The upper left token of each cell of 2x2 stays; of the others, those go whose cosine with one of
    these is highest, each into the one that it is most like. All numbers of tokens follow from the
    shape alone. Where cosines are equal, the first token in the order of rows counts.

    Args:
        x: the tokens that are compared, `(batch, height * width, features)`, row by row.
        merging: their map, and which part of all tokens is to go, at most 0.75. As many go as
            there are outside of whole cells' corners.

    Returns:
        What makes of tokens like `x` the fewer ones, `(batch, kept, features)`: first those that
        nothing was merged into, then the corners, each the mean of itself and of what went into it;
        and what gives each of `x` the one that it is in.
    """
    height, width, ratio = merging
    stays, goes = _split(height, width)
    count = min(len(goes), int(ratio * height * width)) if len(stays) else 0
    if not count:
        return _same, _same
    x = ops.cast(x, "float32")
    x = x * ops.rsqrt(ops.maximum(ops.sum(x * x, axis=-1, keepdims=True), 1e-24))
    likeness = ops.matmul(ops.take(x, goes, axis=1), ops.moveaxis(ops.take(x, stays, axis=1), 1, 2))
    # Of each of those that may go, by its number among them.
    into = ops.cast(ops.argmax(likeness, axis=-1), "int32")
    order = ops.cast(ops.argsort(-ops.max(likeness, axis=-1), axis=-1), "int32")
    rank = ops.cast(ops.argsort(order, axis=-1), "int32")
    left = len(goes) - count
    gone, kept = order[:, :count], order[:, count:]
    # A product with ones and zeros: sums that devices compute in one order, unlike a scatter's.
    share = ops.one_hot(ops.take_along_axis(into, gone, axis=1), len(stays), dtype="float32")
    number = 1 + ops.sum(share, axis=1)[:, :, None]

    def fewer(tokens):
        going, staying = (ops.take(tokens, each, axis=1) for each in (goes, stays))
        added = ops.matmul(ops.moveaxis(ops.cast(share, tokens.dtype), 1, 2), _rows(going, gone))
        mean = (ops.cast(staying, "float32") + ops.cast(added, "float32")) / number
        return ops.concatenate([_rows(going, kept), ops.cast(mean, tokens.dtype)], axis=1)

    corners = ops.broadcast_to(
        ops.arange(left, left + len(stays), dtype="int32"), (ops.shape(into)[0], len(stays))
    )
    places = ops.concatenate([ops.where(rank < count, left + into, rank - count), corners], axis=1)
    places = ops.take(places, np.argsort(np.concatenate([goes, stays])).astype(np.int32), axis=1)
    return fewer, lambda tokens: _rows(tokens, places)


def _split(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Those that stay and those that may go, by their numbers in the map; int32."""
    down, across = (size // _STRIDE * _STRIDE for size in (height, width))
    corner = np.zeros((height, width), bool)
    corner[:down:_STRIDE, :across:_STRIDE] = True
    return np.flatnonzero(corner).astype(np.int32), np.flatnonzero(~corner).astype(np.int32)


def _rows(tokens, numbers):
    """Of each of the batch the tokens of these numbers, `(batch, count)`."""
    return ops.take_along_axis(tokens, numbers[:, :, None], axis=1)


def _same(tokens):
    return tokens
