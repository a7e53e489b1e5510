"""The autoencoder a strip of rows at a time: the backend's memory is that of a strip.

What a strip cannot know by itself it is told. Norms take the statistics of the whole feature map,
to which every strip has added its own; convolutions see a row beyond the strip on either side;
attention, which is at the smallest size, takes the whole. So the result is that of the whole
picture, up to rounding. Between two layers a feature map waits in the host's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sd import backend
from keras_sd.backend import JitCompile, compile_step, to_numpy
from keras_sd.networks import Autoencoder
from keras_sd.networks.autoencoder import Decoder, Encoder, mean_and_log_variance
from keras_sd.networks.layers import Downsample, GroupNorm, ResidualBlock, Upsample

__all__ = ["InStrips", "layers_of"]


@dataclass(frozen=True)
class _Map:
    """A feature map on the host: `(1, height, width, channels)`, and of each channel the sum and
    the sum of squares over all pixels, float64 `(2, channels)`.
    """

    values: np.ndarray
    sums: np.ndarray

    def scale_and_shift(self, norm: GroupNorm) -> list[np.ndarray]:
        """What a group norm does to each channel."""
        count = self.values.shape[1] * self.values.shape[2]
        gamma, beta = (to_numpy(each).astype(np.float64) for each in (norm.gamma, norm.beta))
        with np.errstate(invalid="ignore"):  # what overflowed is found in the result
            grouped = self.sums.reshape(2, norm.groups, -1).mean(axis=-1, keepdims=True) / count
            spread = np.broadcast_to(grouped, (2, norm.groups, len(gamma) // norm.groups))
            mean, square = spread.reshape(2, -1)
            scale = gamma / np.sqrt(np.maximum(square - mean**2, 0.0) + norm.epsilon)
            shift = beta - mean * scale
        return [scale.astype(np.float32), shift.astype(np.float32)]


def layers_of(network: Any, method: str) -> Any:
    """The part of an autoencoder that does `"encode"` or `"decode"`, if its layers are known.

    Raises:
        TypeError: they are not, for it is none of this package.
    """
    part = getattr(network, f"{method}r", None)
    if type(part) is not {"encode": Encoder, "decode": Decoder}[method]:
        raise TypeError(
            f"`tiled` knows the layers of keras_sd's own autoencoder, and not those of a "
            f"{type(network).__name__} whose {method}r is a {type(part).__name__}: set tiled=False"
        )
    return part


class InStrips:
    """A method of an autoencoder, a strip at a time.

    Args:
        network: the autoencoder.
        method: `"encode"` or `"decode"`.
        jit_compile: see `keras_sd.backend.compile_step`.
        side: a strip has about as many pixels as a square of this side.

    Raises:
        TypeError: see `layers_of`.
    """

    def __init__(
        self, network: Autoencoder, method: str, jit_compile: JitCompile = "auto", *, side: int
    ):
        part = layers_of(network, method)
        self._network, self._part, self._jit, self._side = network, part, jit_compile, side
        self._run = self._encode if method == "encode" else self._decode
        self._compiled: dict[Any, Callable[..., Any]] = {}

    def __call__(self, *given: Any) -> np.ndarray:
        """What the method gives for one picture or latent, float32 `(1, ...)`."""
        arrays = [to_numpy(ops.convert_to_tensor(each, "float32")) for each in given]
        return self._run(*arrays).astype(np.float32)

    def _decode(self, latents: np.ndarray) -> np.ndarray:
        network, decoder = self._network, self._part
        factor = network.config.factor

        def start(latents: Any) -> Any:
            return _with_sums(decoder.start(latents / network.config.scale))

        x = _Map(*map(to_numpy, self._step("start", start, [decoder])(_tensor(latents))))
        for level in range(len(decoder.upsamples) + 1):
            cells = self._cells(factor >> level)
            for block in decoder.levels[level * decoder.blocks :][: decoder.blocks]:
                x = self._residual(block, x, cells)
            if level < len(decoder.upsamples):
                up = decoder.upsamples[level]
                # A strip is of the smaller map, and four times as large afterwards.
                x = self._strips([up], partial(_doubled, up), x, cells // 4, ratio=(2, 1))
        return self._activated(decoder.conv_out, decoder.norm_out, x, self._cells(1)).values

    def _encode(self, pixels: np.ndarray, *noise: np.ndarray) -> np.ndarray:
        network, encoder = self._network, self._part
        into, cells = encoder.conv_in, self._cells(1)
        nothing = np.zeros((2, pixels.shape[-1]))
        x = self._strips([into], lambda x: into(x)[:, 1:-1], _Map(pixels, nothing), cells)
        for level in range(len(encoder.downsamples) + 1):
            cells = self._cells(2**level)
            for block in encoder.levels[level * encoder.blocks :][: encoder.blocks]:
                x = self._residual(block, x, cells)
            if level < len(encoder.downsamples):
                down = encoder.downsamples[level]
                x = self._strips([down], partial(_halved, down), x, cells, ratio=(1, 2))

        def end(x: Any, *noise: Any) -> Any:
            return network.scaled(*mean_and_log_variance(encoder.end(x)), *noise)

        return to_numpy(self._step("end", end, [encoder])(_tensor(x.values), *map(_tensor, noise)))

    def _residual(self, block: ResidualBlock, x: _Map, cells: int) -> _Map:
        """A residual block: two norms, activations and convolutions, and the shortcut."""
        h = self._activated(block.conv1, block.norm1, x, cells)
        return self._activated(block.conv2, block.norm2, h, cells, x, block.shortcut)

    def _activated(
        self,
        conv: keras.layers.Layer,
        norm: GroupNorm,
        x: _Map,
        cells: int,
        skipped: _Map | None = None,
        shortcut: keras.layers.Layer | None = None,
    ) -> _Map:
        """A norm, silu and a convolution, and what is added to it."""

        def call(x: Any, inside: Any, scale: Any, shift: Any, *beside: Any) -> Any:
            normed = ops.cast(ops.cast(x, "float32") * scale + shift, x.dtype)
            # A convolution's padding is of zeros, and what an activation makes of them is none.
            h = conv(backend.silu(normed) * ops.cast(inside, x.dtype)[:, None, None])[:, 1:-1]
            for one in beside:
                h = h + (one if shortcut is None else shortcut(one))
            return h

        beside = () if skipped is None else (skipped.values,)
        layers = [conv] if shortcut is None else [conv, shortcut]
        return self._strips(layers, call, x, cells, x.scale_and_shift(norm), beside)

    def _strips(
        self,
        layers: Sequence[keras.layers.Layer],
        call: Callable[..., Any],
        x: _Map,
        cells: int,
        norm: Sequence[np.ndarray] = (),
        beside: Sequence[np.ndarray] = (),
        ratio: tuple[int, int] = (1, 1),
    ) -> _Map:
        """What layers make of a feature map, by strips that are all of one shape.

        Args:
            layers: that it calls; a program is compiled for the first of them once.
            call: what it does to a strip with a row more on either side, which is zeros beyond the
                edge. It is given the strip; with a `norm` which rows are inside, what the norm
                does, and the rows of `beside` that are the strip's own.
            x: the feature map.
            cells: a strip has about so many, and two rows at least.
            norm: scale and shift of each channel.
            beside: a map of the size of `x`, if any, whose memory the result takes if it can.
            ratio: so many rows come of so many.
        """
        up, down = ratio

        def counted(x: Any, new: Any, *rest: Any) -> Any:
            return _with_sums(call(x, *rest), new)

        step = self._step(layers[0], counted, layers)
        height, width, channels = x.values.shape[1:]
        tall = min(height, max(2, cells // width // 2 * 2))
        told = [_tensor(each) for each in norm]
        whole: Any = None
        sums: Any = 0.0
        done = 0
        for start in range(0, height, tall):
            first = min(start, height - tall)  # the last one ends where the map ends
            rows = np.arange(first - 1, first + tall + 1)
            inside = (rows >= 0) & (rows < height)
            strip = np.zeros((1, tall + 2, width, channels), x.values.dtype)
            strip[:, inside] = x.values[:, rows[inside]]
            new = np.repeat(np.arange(first, first + tall) >= done, up)[::down]
            rest = (inside.astype(np.float32),) if norm else ()
            others = (each[:, first : first + tall] for each in beside)
            result, found = step(
                _tensor(strip),
                *map(_tensor, (new.astype(np.float32), *rest)),
                *told,
                *map(_tensor, others),
            )
            made = to_numpy(result)
            if whole is None:
                whole = _room(beside, made, height * up // down)
            # Rows that are done may lie where `beside` was, so they are not what they would be.
            whole[:, done * up // down : (first + tall) * up // down] = made[:, new]
            sums = sums + to_numpy(found).astype(np.float64)
            done = first + tall
        return _Map(whole, sums)

    def _step(
        self, key: Any, call: Callable[..., Any], layers: Sequence[keras.layers.Layer]
    ) -> Callable[..., Any]:
        if key not in self._compiled:
            self._compiled[key] = compile_step(call, layers, self._jit)
        return self._compiled[key]

    def _cells(self, factor: int) -> int:
        """Of a strip, where a cell stands for `factor` pixels in either direction."""
        return (self._side // factor) ** 2


def _room(beside: Sequence[np.ndarray], made: np.ndarray, height: int) -> np.ndarray:
    """Where a map goes of which `made` is a strip."""
    *_, width, channels = made.shape
    for each in beside:
        if each.dtype == made.dtype and each.shape[-1] >= channels:
            return each[..., :channels]
    return np.empty((1, height, width, channels), made.dtype)


def _doubled(up: Upsample, x: Any) -> Any:
    """Twice the rows of a strip that has a row more on either side."""
    return up(x)[:, 2:-2]


def _halved(down: Downsample, x: Any) -> Any:
    """Half of the rows of a strip that has a row more on either side."""
    (top, _), sides = down.pad.padding
    x = ops.pad(x[:, 1 - top :], ((0, 0), (0, 0), sides, (0, 0)))
    return down.conv(x)[:, : (x.shape[1] - 1) // 2]


def _with_sums(x: Any, counted: Any = None) -> tuple[Any, Any]:
    """A feature map, and the sums of its channels over the rows that count."""
    exact = ops.cast(x, "float32")
    rows = exact if counted is None else exact * counted[:, None, None]
    sums = (ops.sum(each, axis=(0, 1, 2)) for each in (rows, rows * exact))
    return x, ops.stack(list(sums))


def _tensor(array: np.ndarray) -> Any:
    return ops.convert_to_tensor(array, array.dtype.name)
