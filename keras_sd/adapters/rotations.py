"""OFT (Qiu et al. 2023): a weight whose outputs are turned in blocks. BOFT (Liu et al. 2023,
"Parameter-efficient orthogonal finetuning via butterfly factorization"): several times, each in
blocks of others, as the stages of a fast Fourier transform.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Factors = Mapping[str, np.ndarray]


def _rotations(blocks: np.ndarray, bound: float, outputs: int) -> np.ndarray:
    """Cayley's `(I + Q) (I - Q)^-1` of blocks `(..., n, n)`, where `Q = B - B^T`; if its norm is
    over `bound * outputs`, it is made as short as that. A bound of 0 is none.
    """
    turn = blocks - np.swapaxes(blocks, -1, -2)
    longest, length = bound * outputs, float(np.linalg.norm(turn))
    if 0 < longest < length:
        turn = turn * np.float32(longest / length)
    one = np.eye(blocks.shape[-1], dtype=np.float32)
    try:
        return (one + turn) @ np.linalg.inv(one - turn)
    except np.linalg.LinAlgError:  # numbers so large that the one is lost beside them
        return np.full_like(turn, np.nan)  # which merging refuses


def _partly(rotations: np.ndarray, strength: float) -> np.ndarray:
    """On a straight line from no rotation to all of it."""
    one = np.eye(rotations.shape[-1], dtype=np.float32)
    return np.float32(strength) * rotations + np.float32(1 - strength) * one


def turned(factors: Factors, weight: np.ndarray, bound: float, strength: float) -> np.ndarray:
    """The changed weight.

    Args:
        factors: `oft_blocks`, `(blocks, size, size)`, or of BOFT with an axis of stages before; and
            `rescale`, what each output is multiplied by, where there is one.
        weight: (out, in) or (out, in, height, width).
        bound: see `_rotations`.
        strength: how much of each rotation, on a straight line from none.
    """
    turn = _turned_once if factors["oft_blocks"].ndim == 3 else _turned_in_stages
    return turn(factors, weight, bound, strength)


def _turned_once(factors: Factors, weight: np.ndarray, bound: float, strength: float) -> np.ndarray:
    blocks = factors["oft_blocks"]
    rotations = _partly(_rotations(blocks, bound, len(weight)), strength)
    rows = weight.reshape(*blocks.shape[:2], -1)
    return _lengthened(np.swapaxes(rotations, 1, 2) @ rows, factors, weight, strength)


def _turned_in_stages(
    factors: Factors, weight: np.ndarray, bound: float, strength: float
) -> np.ndarray:
    blocks = factors["oft_blocks"]
    size = blocks.shape[-1]
    rotations = _partly(_rotations(blocks, bound, len(weight)), strength)
    rows: np.ndarray = weight.reshape(len(weight), -1)
    for stage, each in enumerate(rotations):
        # Outputs that are `apart` become neighbours, and go back after they were turned.
        apart = 2**stage * size // 2
        rows = rows.reshape(-1, 2, apart, rows.shape[-1]).swapaxes(1, 2)
        rows = each @ rows.reshape(-1, size, rows.shape[-1])
        rows = rows.reshape(-1, apart, 2, rows.shape[-1]).swapaxes(1, 2)
        rows = rows.reshape(len(weight), -1)
    return _lengthened(rows, factors, weight, strength)


def _lengthened(
    rows: np.ndarray, factors: Factors, weight: np.ndarray, strength: float
) -> np.ndarray:
    turned = rows.reshape(weight.shape)
    if (lengths := factors.get("rescale")) is None:
        return turned
    part = 1 + np.float32(strength) * (lengths.reshape(-1, *(1 for _ in weight.shape[1:])) - 1)
    return turned * part


def outputs_of(shapes: Shapes) -> Shape | None:
    """Of the weight its outputs, which is all that blocks tell."""
    blocks = shapes["oft_blocks"]
    if len(blocks) not in (3, 4) or blocks[-1] != blocks[-2]:
        return None
    return (blocks[-3] * blocks[-1],)


def fits(shapes: Shapes, wanted: Shape) -> bool:
    """Whether the blocks are of a weight of this shape."""
    *stages, count, size, _ = shapes["oft_blocks"]
    if len(wanted) < 2 or count * size != wanted[0]:
        return False
    if math.prod(shapes.get("rescale", wanted[:1])) != wanted[0]:
        return False
    return not stages or (size % 2 == 0 and wanted[0] % (2 ** (stages[0] - 1) * size) == 0)
