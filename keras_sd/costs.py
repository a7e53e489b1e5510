"""What a call of a network computes, and the tensors that it holds at once, from its config alone.

The walks here follow `keras_sd.networks` layer by layer. They count what torch holds when it runs a
network eagerly, the most memory that the same arithmetic can take; a compiler holds less of some
tensors and more of others. `keras_sd.planning` makes a plan of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from keras_sd.network_configs import (
    AutoencoderConfig,
    ControlConfig,
    TextEncoderConfig,
    UNetConfig,
)

__all__ = [
    "CHUNK_QUERIES",
    "CHUNK_SCORES",
    "Cost",
    "Scores",
    "chunked",
    "control",
    "decoder",
    "decoder_in_strips",
    "fused",
    "text_encoder",
    "unet",
    "whole",
]

CHUNK_SCORES = 2**25
"""Above this many scores an attention on a CPU is bound by memory traffic: as float32 they are 128
MB. `keras_sd.backend.attention` goes by it on jax."""

CHUNK_QUERIES = 512
"""Of one head, that are one product then."""

Scores = Callable[[int, int, int, int], int]
"""How many scores are there at once: of rows, heads, queries and keys."""


def fused(rows: int, heads: int, queries: int, keys: int) -> int:
    """A fused kernel keeps none."""
    return 0


def whole(rows: int, heads: int, queries: int, keys: int) -> int:
    """All of them: what their softmax is made of takes their place."""
    return rows * heads * queries * keys


def chunked(rows: int, heads: int, queries: int, keys: int) -> int:
    """All of a few, and of one head of many: all of its chunks of `CHUNK_QUERIES`, or one of them
    where they are in a loop.
    """
    if rows * heads * queries * keys <= CHUNK_SCORES:
        return whole(rows, heads, queries, keys)
    in_loop = queries * keys > CHUNK_SCORES
    return whole(1, 1, min(queries, CHUNK_QUERIES) if in_loop else queries, keys)


@dataclass(frozen=True)
class Cost:
    """Of one call.

    Attributes:
        operations: of floating point; a product that is added to a sum is two.
        held: bytes of the tensors that are alive at once at most, weights apart.
    """

    operations: int
    held: int


class _Walk:
    """A walk through a network.

    Args:
        rows: of the batch.
        itemsize: bytes of a number.
        scores: of an attention, see `Scores`; each is a float32.
    """

    def __init__(self, rows: int, itemsize: int, scores: Scores):
        self.rows, self.itemsize, self._scores = rows, itemsize, scores
        self.operations = self.held = 0
        self.kept = 0
        """Numbers a row that are held beside those of the layer."""

    @property
    def cost(self) -> Cost:
        return Cost(self.operations, self.held)

    def holds(self, numbers: int, other: int = 0) -> None:
        """So many numbers a row, beside those that are kept; and `other` bytes."""
        now = (self.kept + numbers) * self.rows * self.itemsize + other
        self.held = max(self.held, now)

    def product(self, places: int, width_in: int, width: int) -> None:
        """A linear map at each of `places`, or a convolution with a kernel of so many inputs."""
        self.operations += 2 * self.rows * places * width_in * width

    def conv(self, pixels: int, width_in: int, width: int, beside: int = 0) -> None:
        """A convolution of 3x3, while `beside` numbers are held with its input and output."""
        self.product(pixels, 9 * width_in, width)
        self.holds(beside + pixels * (width_in + width))

    def residual(self, pixels: int, width_in: int, width: int, beside: int = 0) -> None:
        """`keras_sd.networks.layers.ResidualBlock`, whose input is not among what is kept."""
        before, after = pixels * width_in, pixels * width
        self.conv(pixels, width_in, width, beside + before)
        self.conv(pixels, width, width, beside + before + after)
        self.holds(beside + 3 * before)  # input, its norm, and that with the activation
        self.holds(beside + before + 3 * after)
        if width_in != width:
            self.product(pixels, width_in, width)

    def attention(
        self, tokens: int, width: int, heads: int, beside: int, seen: int = 0, features: int = 0
    ) -> None:
        """`keras_sd.networks.layers.Attention`: of tokens on themselves, or on `seen` others of so
        many `features`. Held beside are the tokens and their norm.
        """
        keys, from_width = seen or tokens, features or width
        self.product(tokens, width, 2 * width)  # queries, and what is found
        self.product(keys, from_width, 2 * width)
        self.product(tokens, keys, 2 * width)
        scores = 4 * self._scores(self.rows, heads, tokens, keys)
        self.holds(beside + 2 * tokens * width + 2 * keys * width, scores)

    def feed_forward(self, tokens: int, width: int, beside: int) -> None:
        """`keras_sd.networks.layers.FeedForward`: hidden features, the gates, and both in one."""
        self.product(tokens, width, 8 * width)
        self.product(tokens, 4 * width, width)
        self.holds(beside + 16 * tokens * width)

    def transformer(
        self, tokens: int, width: int, heads: int, depth: int, seen: int, features: int, beside: int
    ) -> None:
        """`keras_sd.networks.layers.SpatialTransformer`."""
        if not depth:
            return
        one = tokens * width
        self.product(tokens, width, 2 * width)  # in and out
        for _ in range(depth):
            self.attention(tokens, width, heads, beside + 3 * one)
            self.attention(tokens, width, heads, beside + 3 * one, seen, features)
            self.feed_forward(tokens, width, beside + 3 * one)


def text_encoder(config: TextEncoderConfig, rows: int, itemsize: int, scores: Scores) -> Cost:
    """A call for so many rows of tokens.

    Args:
        config: the network's numbers.
        rows: of tokens.
        itemsize: bytes of a number.
        scores: that an attention has at once.
    """
    walk, tokens, width = _Walk(rows, itemsize, scores), config.max_length, config.width
    for _ in range(config.depth):
        walk.attention(tokens, width, config.heads, 2 * tokens * width)
        walk.product(tokens, width, 2 * config.mlp_width)
        walk.holds(tokens * (2 * width + 3 * config.mlp_width))
    return walk.cost


def unet(
    config: UNetConfig,
    rows: int,
    size: tuple[int, int],
    tokens: int,
    itemsize: int,
    scores: Scores,
) -> Cost:
    """An evaluation.

    Args:
        config: the network's numbers.
        rows: of latents; with guidance two a picture.
        size: height and width of a latent.
        tokens: of the text.
        itemsize: bytes of a number.
        scores: that an attention has at once.
    """
    walk = _Walk(rows, itemsize, scores)
    sizes, skips = _down(walk, config, size, tokens)
    width_in = config.widths[-1]
    for level in range(len(config.widths) - 1, -1, -1):
        (height, wide), width = sizes[level], config.widths[level]
        pixels = height * wide
        for i in range(config.blocks + 1):
            skip = skips.pop()
            width_in += skip // pixels
            walk.residual(pixels, width_in, width)
            depth = config.depth_up(level, i)
            heads = config.heads[level]
            # What came up and what was kept, in one, is held until the block is done.
            beside = pixels * width_in
            walk.transformer(pixels, width, heads, depth, tokens, config.context_width, beside)
            walk.kept -= skip
            width_in = width
        if level:
            _upsample(walk, pixels, width, sizes[level - 1])
    height, wide = size
    walk.conv(height * wide, config.widths[0], config.out_channels, height * wide * width_in)
    return walk.cost


def control(
    config: ControlConfig,
    rows: int,
    size: tuple[int, int],
    tokens: int,
    itemsize: int,
    scores: Scores,
) -> tuple[Cost, int]:
    """An evaluation of a ControlNet, whose arguments are those of `unet`.

    Returns:
        Its cost, and the bytes of what it adds, which are held during that of the UNet.
    """
    walk = _Walk(rows, itemsize, scores)
    sizes, skips = _down(walk, config, size, tokens)
    middle = sizes[-1][0] * sizes[-1][1] * config.widths[-1]
    added = [*skips, middle]
    for numbers in added:
        walk.kept += numbers
        walk.holds(0)
    widths = [config.widths[0]]
    for level, width in enumerate(config.widths):
        widths += [width] * (config.blocks + (level < len(config.widths) - 1))
    for numbers, width in zip(added, [*widths, config.widths[-1]], strict=True):
        walk.operations += 2 * rows * numbers * width
    return walk.cost, sum(added) * rows * itemsize


def decoder(
    config: AutoencoderConfig, rows: int, size: tuple[int, int], itemsize: int, scores: Scores
) -> Cost:
    """A decode.

    Args:
        config: the autoencoder's numbers.
        rows: of latents.
        size: height and width of a latent.
        itemsize: bytes of a number.
        scores: that an attention has at once.
    """
    walk, (height, wide) = _Walk(rows, itemsize, scores), size
    pixels = _start(walk, config, size)
    width_in = config.widths[-1]
    for level in range(len(config.widths) - 1, -1, -1):
        width = config.widths[level]
        for _ in range(config.blocks + 1):
            walk.residual(pixels, width_in, width)
            width_in = width
        if level:
            height, wide = 2 * height, 2 * wide
            _upsample(walk, pixels, width, (height, wide))
            pixels = height * wide
    walk.conv(pixels, width_in, 3, pixels * width_in)
    return walk.cost


def decoder_in_strips(
    config: AutoencoderConfig, size: tuple[int, int], side: int, itemsize: int, scores: Scores
) -> Cost:
    """A decode of one latent by `keras_sd.tiling`: the maps of a residual block wait in the host's
    memory, and of a strip there is one convolution at a time.

    Args:
        config: the autoencoder's numbers.
        size: height and width of the latent.
        side: of a strip's square, in cells of the latent.
        itemsize: bytes of a number.
        scores: that the attention has at once.
    """
    walk = _Walk(1, itemsize, scores)
    pixels = _start(walk, config, size)
    most, cells, width_in = walk.held, side * side, config.widths[-1]
    for level in range(len(config.widths) - 1, -1, -1):
        width = config.widths[level]
        if level < len(config.widths) - 1:
            pixels, cells = 4 * pixels, 4 * cells
            numbers = pixels * width_in + pixels * width_in // 4
            most = max(most, itemsize * (numbers + 2 * min(pixels, cells) * width_in))
        for _ in range(config.blocks + 1):
            numbers = pixels * (width_in + width)  # the result lies where the input was
            strip = min(pixels, cells) * (3 * max(width_in, width) + width)
            most = max(most, itemsize * (numbers + strip))
            width_in = width
    return Cost(decoder(config, 1, size, itemsize, scores).operations, most)


def _start(walk: _Walk, config: AutoencoderConfig, size: tuple[int, int]) -> int:
    """`keras_sd.networks.autoencoder.Decoder.start`; how many cells a latent has."""
    pixels, width = size[0] * size[1], config.widths[-1]
    walk.conv(pixels, config.latent_channels, width)
    walk.residual(pixels, width, width)
    walk.attention(pixels, width, 1, 2 * pixels * width)
    walk.residual(pixels, width, width)
    return pixels


def _down(
    walk: _Walk, config: UNetConfig, size: tuple[int, int], tokens: int
) -> tuple[list[tuple[int, int]], list[int]]:
    """The way down and the middle.

    Returns:
        Height and width of each level; and the numbers a row of what is kept, finest first.
    """
    sizes, skips, last = [size], [], len(config.widths) - 1

    def keep(pixels: int, width: int) -> None:
        skips.append(pixels * width)
        walk.kept += pixels * width

    pixels = size[0] * size[1]
    walk.conv(pixels, config.in_channels, config.widths[0])
    keep(pixels, config.widths[0])
    width_in = config.widths[0]
    for level, width in enumerate(config.widths):
        pixels = sizes[level][0] * sizes[level][1]
        heads, depth = config.heads[level], config.depths[level]
        for _ in range(config.blocks):
            walk.residual(pixels, width_in, width, -pixels * width_in)  # which is kept
            walk.transformer(pixels, width, heads, depth, tokens, config.context_width, 0)
            keep(pixels, width)
            width_in = width
        if level < last:
            height, wide = ((side + 1) // 2 for side in sizes[level])
            sizes.append((height, wide))
            walk.holds(pixels * width + height * wide * width)  # the input, padded
            walk.product(height * wide, 9 * width, width)
            keep(height * wide, width)
    depth, heads = config.depth_of_middle, config.heads[last]
    walk.residual(pixels, width_in, width_in, -pixels * width_in)
    if depth:
        walk.transformer(pixels, width_in, heads, depth, tokens, config.context_width, 0)
        walk.residual(pixels, width_in, width_in)
    return sizes, skips


def _upsample(walk: _Walk, pixels: int, width: int, size: tuple[int, int]) -> None:
    """`keras_sd.networks.layers.Upsample` to a size."""
    height, wide = size
    walk.conv(height * wide, width, width, pixels * width)
