"""The denoising network: a UNet over latents that attends to the text (Rombach et al. 2022)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_sd import backend
from keras_sd.config import UNetConfig
from keras_sd.networks.freeu import freed
from keras_sd.networks.layers import (
    Block,
    Downsample,
    GroupNorm,
    ResidualBlock,
    SpatialTransformer,
    Upsample,
    build_parts,
    conv,
    dense,
    rows,
)
from keras_sd.networks.network import Network

SHALLOW = 2
"""Blocks on the way up that are computed where deep features are given: those that see what
`conv_in` and the first block on the way down have kept."""


def timestep_embedding(timesteps, width: int, max_period: float = 10000.0):
    """Sinusoids of the timesteps (Vaswani et al. 2017): cosines first, then sines.

    Args:
        timesteps: `(batch,)` float32.
        width: even.
        max_period: of the slowest sinusoid, in timesteps.

    Returns:
        `(batch, width)` float32.
    """
    half = width // 2
    frequencies = ops.exp(ops.arange(half, dtype="float32") * (-math.log(max_period) / half))
    angles = ops.cast(timesteps, "float32")[:, None] * frequencies[None, :]
    return ops.concatenate([ops.cos(angles), ops.sin(angles)], axis=-1)


class Level(Block):
    """One residual block and, where `depth` is not 0, the transformer after it.

    The class's name is in every `.weights.h5` file of a UNet, so it cannot be another.
    """

    def __init__(self, config: UNetConfig, level: int, width_in: int, depth: int, name: str):
        super().__init__(name=name)
        width = config.widths[level]
        self.residual = ResidualBlock(
            width_in, width, config.groups, 1e-5, "residual", config.time_width
        )
        self.transformer = depth and SpatialTransformer(
            width,
            config.heads[level],
            depth,
            config.context_width,
            config.groups,
            config.linear_projection,
            config.transformer_epsilon,
            config.gelu,
            "transformer",
        )

    # Keras takes `**options` for one argument, which must not hold both tensors and others.
    def call(self, x, time, context, images=None, pairs=None, merging=0.0, **perturbed):
        x = self.residual(x, time)
        if not self.transformer:
            return x
        seen = {"images": images, "pairs": pairs}
        return self.transformer(x, context, **seen, merging=merging, **perturbed)


class WayDown(Network):
    """The way down and the middle of a UNet, of which a ControlNet has a copy."""

    def _make_way_down(self, config: UNetConfig) -> list[int]:
        """Makes the layers.

        Returns:
            The widths of what `_go_down` keeps on its way.
        """
        widths, depths, last = config.widths, config.depths, len(config.widths) - 1

        self.time1 = dense(widths[0], config.time_width, "time1")
        self.time2 = dense(config.time_width, config.time_width, "time2")
        self.conv_in = conv(config.in_channels, widths[0], "conv_in")
        self.guidance: keras.layers.Layer = None
        self.added1: keras.layers.Layer = None
        self.added2: keras.layers.Layer = None
        if config.guidance_width:
            self.guidance = dense(config.guidance_width, widths[0], "guidance", use_bias=False)
        if config.pooled_width:
            self.added1 = dense(config.added_width, config.time_width, "added1")
            self.added2 = dense(config.time_width, config.time_width, "added2")

        skips = [widths[0]]
        self.down: list[Level] = []
        self.downsamples: list[Downsample] = []
        for level, width in enumerate(widths):
            for i in range(config.blocks):
                block = Level(config, level, skips[-1], depths[level], f"down_{level}_{i}")
                self.down.append(block)
                skips.append(width)
            if level < last:
                self.downsamples.append(Downsample(width, f"downsample_{level}"))
                skips.append(width)

        self.middle = Level(config, last, widths[last], config.depth_of_middle, "middle")
        self.middle_residual: Any = config.depth_of_middle and ResidualBlock(
            widths[last], widths[last], config.groups, 1e-5, "middle_residual", config.time_width
        )
        return skips

    def build(self, input_shape=None):
        build_parts(self)

    def _embed_time(self, time, guidance=None, pooled=None, numbers=None):
        """The timesteps' embedding as the blocks take it, of their sinusoids, with what else is
        told of the whole picture.
        """
        time = ops.cast(time, self.compute_dtype)
        if self.guidance is not None:
            time = time + self.guidance(ops.cast(guidance, self.compute_dtype))
        time = self.time2(backend.silu(self.time1(time)))
        if self.added1 is None:
            return time
        count, width = self.config.numbers, self.config.number_width
        sinusoids = timestep_embedding(ops.reshape(numbers, (-1,)), width)
        sinusoids = ops.reshape(sinusoids, (-1, count * width))
        added = ops.concatenate([ops.cast(pooled, "float32"), sinusoids], axis=-1)
        added = self.added1(ops.cast(added, self.compute_dtype))
        return time + self.added2(backend.silu(added))

    def _go_down(self, x, time, context, features=(), beside=None, shallow=False, **perturbed):
        """What is kept for the way up, finest first; and the middle's output.

        Args:
            x: what `conv_in` gave.
            time: the timesteps' embedding.
            context: the text encoding.
            features: of each level what is added at its end, and of the middle; see `UNet`.
            beside: what else a block is called with, by its name.
            shallow: whether to turn back after the first block, whose output takes the place of the
                middle's.
            **perturbed: of the middle, see `UNet`.
        """
        levels, beside = len(self.config.widths), beside or {}
        skips = [x]
        for level, row in enumerate(rows(self.down, self.config.blocks)):
            within = self.config.adapted_within(level)
            for i, block in enumerate(row, 1):
                x = block(x, time, context, **beside.get(block.name, {}))
                if level < len(features) and within and i == len(row):
                    x = x + features[level]
                skips.append(x)
                if shallow:
                    return skips, x
            if level < len(self.downsamples):
                x = self.downsamples[level](x)
                if level < len(features) and not within:
                    x = x + features[level]
                skips.append(x)
        x = self.middle(x, time, context, **beside.get(self.middle.name, {}), **perturbed)
        x = self.middle_residual(x, time) if self.middle_residual else x
        return skips, x + features[levels] if levels < len(features) else x


@keras.saving.register_keras_serializable(package="keras_sd")
class UNet(WayDown):
    """Latent, timestep and text encoding -> prediction, `(batch, height, width, out_channels)`.

    Called as `unet(latent, timesteps, context)`: latent `(batch, height, width, in_channels)` of
    any height and width, timesteps `(batch,)` float32 (fractions allowed) in training steps,
    context `(batch, tokens, context_width)`. The timesteps are never rounded to the compute dtype.
    A fourth argument, `residuals`, is added to what the way down has kept and to the middle's
    output, as `keras_sd.networks.ControlNetwork` gives them. With `perturbed=True` the tokens of
    the middle see themselves alone, for `keras_sd.guides.PAG`.

    `features`, as `keras_sd.networks.FeatureNetwork` gives them, are added on the way down: one for
    each level, at its end, and one more for the middle, where there are so many. `images` are what
    attention sees beside the text: for each of `config.cross_attentions` a sequence of keys, values
    and strengths, see `keras_sd.networks.layers.Attention`.

    Of its config depends what else it is told: `pooled` `(batch, pooled_width)`, the whole text as
    one vector; `numbers` `(batch, numbers)` float32, such as the picture's size; `guidance`
    `(batch, guidance_width)` float32, as `keras_sd.guidance.embedded` gives it.

    With `freeu`, `(batch, 4)` float32, the first two levels of the way up see more of what came up
    to them and less of what the way down has kept: b1, b2, s1, s2 of `keras_sd.networks.freeu`.

    With `merging`, a number up to 0.75, self-attention in `config.finest_attention` is of fewer
    tokens by this part of them, see `keras_sd.networks.token_merging`.

    With `keeps=True` it gives the prediction and its deep features, a list: what the last two
    blocks of the way up are given, and, where there are residuals, those of these blocks. Given as
    `deep`, they take the place of all that lies deeper (Ma et al. 2023, "DeepCache"): computed are
    `conv_in`, the first block on the way down and the last two on the way up, which see what these
    have kept.

    Args:
        config: the network's numbers.
        name: of the Keras model.
    """

    config_class = UNetConfig

    def __init__(self, config: UNetConfig, name: str = "unet", **kwargs):
        super().__init__(name=name, autocast=False, **kwargs)
        self.config = config
        widths, last = config.widths, len(config.widths) - 1
        skips = self._make_way_down(config)

        self.up: list[Level] = []
        self.upsamples: list[Upsample] = []
        width_in = widths[last]
        for level in range(last, -1, -1):
            for i in range(config.blocks + 1):
                width_in += skips.pop()
                depth = config.depth_up(level, i)
                block = Level(config, level, width_in, depth, f"up_{level}_{i}")
                self.up.append(block)
                width_in = widths[level]
            if level > 0:
                self.upsamples.append(Upsample(widths[level], f"upsample_{level}"))

        self.norm_out = GroupNorm(widths[0], config.groups, 1e-5, "norm_out")
        self.conv_out = conv(widths[0], config.out_channels, "conv_out", zeros=True)
        self.build()

    # Keras takes all of `told` for tensors, so that flags are arguments of their own.
    def call(
        self,
        latent,
        timesteps,
        context,
        residuals=None,
        perturbed=False,
        keeps=False,
        merging=0.0,
        **told,
    ):
        time = timestep_embedding(timesteps, self.config.widths[0])
        flags = {"perturbed": perturbed, "keeps": keeps, "merging": merging}
        return self.predict_at(latent, time, context, residuals, **flags, **told)

    def predict_at(
        self,
        latent,
        time,
        context,
        residuals=None,
        features=(),
        images=(),
        pairs=(),
        perturbed=False,
        deep=None,
        keeps=False,
        merging=0.0,
        freeu=None,
        **told,
    ):
        """The prediction for timesteps that are embedded already, `(batch, widths[0])`."""
        time = self._embed_time(time, **told)
        context = ops.cast(context, self.compute_dtype)
        x = self.conv_in(ops.cast(latent, self.compute_dtype))
        beside = self._beside(images, pairs, merging)
        features = [ops.cast(each, self.compute_dtype) for each in features]
        middle = {"perturbed": True} if perturbed else {}
        shallow, end = len(self.up) - SHALLOW, len(self.up)
        if deep is None:
            skips, x = self._go_down(x, time, context, features, beside, **middle)
            if residuals is not None:
                *of_skips, of_middle = residuals
                skips = [skip + added for skip, added in zip(skips, of_skips, strict=True)]
                x = x + of_middle
            x = self._go_up(x, skips, time, context, beside, freeu, range(shallow))
            deep = [x, *(() if residuals is None else residuals[:SHALLOW])]
        else:
            skips, _ = self._go_down(x, time, context, features, beside, shallow=True)
            x, *added = (ops.cast(each, self.compute_dtype) for each in deep)
            if added:
                skips = [skip + each for skip, each in zip(skips, added, strict=True)]
        x = self._go_up(x, skips, time, context, beside, freeu, range(shallow, end))
        predicted = ops.cast(self.conv_out(backend.silu(self.norm_out(x))), "float32")
        return (predicted, deep) if keeps else predicted

    def _go_up(self, x, skips, time, context, beside, freeu, blocks: range):
        """The output of the last of these blocks, by their number; takes what they see off
        `skips`.
        """
        for number in blocks:
            block, skip = self.up[number], skips.pop()
            level, within = divmod(number, self.config.blocks + 1)
            if freeu is not None and level < 2:
                x, skip = freed(x, skip, freeu[:, level], freeu[:, 2 + level])
            x = ops.concatenate([x, skip], axis=-1)
            x = block(x, time, context, **beside.get(block.name, {}))
            if within == self.config.blocks and level < len(self.upsamples):
                x = self.upsamples[level](x, like=skips[-1])
        return x

    def pairs(self, context: Any) -> tuple[tuple[Any, Any], ...]:
        """What each attention on the text makes of it, a key and a value, in the order of
        `UNetConfig.cross_attentions`. They are the same in each step of a run.

        Args:
            context: the text encodings, `(batch, tokens, context width)`.
        """
        context = ops.cast(context, self.compute_dtype)
        levels = (*self.down, self.middle, *self.up)
        depths = [level.transformer.blocks for level in levels if level.transformer]
        return tuple(block.cross_attention.pair(context) for blocks in depths for block in blocks)

    def _beside(
        self, images: Iterable[Sequence[Any]], pairs: Iterable[Any], merging: float
    ) -> Mapping[str, dict[str, Any]]:
        """What a block is called with beside the rest, by its name."""
        found: dict[str, dict[str, Any]] = defaultdict(dict)
        for kind, each_has in (("images", images), ("pairs", pairs)):
            if each_has:
                for (name, _), seen in zip(self.config.cross_attentions, each_has, strict=True):
                    found[name].setdefault(kind, []).append(seen)
        if merging:
            for name in self.config.finest_attention:
                found[name]["merging"] = merging
        return found
