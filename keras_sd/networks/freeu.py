"""FreeU: more of a UNet's backbone and less of its skips' lowest frequencies, without training (Si
et al. 2023, "FreeU: Free Lunch in Diffusion U-Net").
"""

from __future__ import annotations

import numpy as np
from keras import ops

__all__ = ["freed"]


def freed(x, skip, backbone, low):
    """What a block on the way up is given, with FreeU.

    Args:
        x: what came up to it; the first half of its features is scaled.
        skip: what the way down has kept for it, `(batch, height, width, features)`. Of its Fourier
            transform the frequencies 0 and -1 of either axis are scaled, and the real part of what
            that gives is taken, as the authors' code does.
        backbone: the first scale, one a row, `(batch,)` float32.
        low: the second one, likewise.

    Returns:
        Both.
    """
    half = x.shape[-1] // 2
    scale = ops.cast(backbone[:, None, None, None], x.dtype)
    x = ops.concatenate([x[..., :half] * scale, x[..., half:]], axis=-1)
    change = (low[:, None, None, None] - 1) * _lowest(ops.cast(skip, "float32"))
    return x, skip + ops.cast(change, skip.dtype)


def _lowest(x):
    """The real part of a picture's four lowest frequencies: a Fourier transform, a mask and the way
    back are two products with small matrices.
    """
    (real, imaginary), (across, turned) = (_waves(side) for side in x.shape[1:3])
    rows = [ops.einsum("hk,bkwc->bhwc", each, x) for each in (real, imaginary)]
    found = [
        ops.einsum("wv,bhvc->bhwc", each, row)
        for each, row in zip((across, turned), rows, strict=True)
    ]
    return found[0] - found[1]


def _waves(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Real and imaginary part of what takes frequencies 0 and -1 out of so many numbers."""
    apart = np.subtract.outer(np.arange(size), np.arange(size))
    frequencies = (0,) if size == 1 else (0, -1)
    waves = np.sum([np.exp(2j * np.pi * each * apart / size) for each in frequencies], 0) / size
    return waves.real.astype(np.float32), waves.imag.astype(np.float32)
