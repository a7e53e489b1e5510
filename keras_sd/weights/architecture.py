"""The numbers of a network, told from the shapes of its tensors, whatever those are called.

Each layout says in a row of `NAMES` what it calls the few tensors that tell: the first of each
resolution, the ends, the attention of the middle. `numbers_of` reads them. What no shape tells
(heads, groups, activation, epsilons) is the family's, see `part_config`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from keras_sd.config import SDXL_REFINER, ModelConfig
from keras_sd.weights.readers import WeightsError

Shapes = Mapping[str, tuple[int, ...]]

PARTS = {
    "text_encoder": "text encoder",
    "text_encoder_2": "second text encoder",
    "unet": "UNet",
    "autoencoder": "autoencoder",
}
"""The parts that a model may have, and what messages call them."""

_HEAD = 64
"""Features of a head in CLIP and in the UNet of 2.x and XL."""
_HEADS = 8
"""Heads at every resolution in the UNet of 1.x."""

_XL_TEXT = SDXL_REFINER.text_encoder
_XL_POOLED = _XL_TEXT.projection_width

_TRANSFORMER_TENSORS = 20
"""Tensors of a transformer block."""
_MOST_MISSING = 20
"""How many times the tensors of a file its UNet may have; of a file that is whole, once."""


# What the layouts call the tensors that tell. In a template stand {level} and {i}, a resolution and
# a block of it; {place}, where the block is in a list that has the downsamplings too; {nth}, "" or
# "_1", "_2", ..., where it is in a list of blocks alone; {k} and {kth} likewise for layers.


@dataclass(frozen=True)
class TextEncoderNames:
    """Of a text encoder: both embeddings, the wide layer of each block, and the projection.

    Attributes:
        features: axis of the projection that has the features of the pooled vector.
    """

    tokens: str
    positions: str
    hidden: str
    projection: str
    features: int = 1


@dataclass(frozen=True)
class Blocks:
    """Residual blocks, by resolution.

    Attributes:
        width: a convolution of a block, whose features are those of the resolution.
        sample: what is between two resolutions, where `width` does not tell where one ends.
        coarse_first: the list begins with the smallest resolution.
        more: blocks of a resolution beyond the config's number.
    """

    width: str
    sample: str = ""
    coarse_first: bool = False
    more: int = 0


@dataclass(frozen=True)
class UNetNames:
    """Of a UNet: its ends, its blocks, its transformers, and the first dense layers of what else it
    is told.

    Attributes:
        down: what the names in the transformer behind a block on the way down begin with.
        middle: likewise in the middle.
        up: likewise on the way up; there are {coarse}, a resolution counted from the smallest,
            {up}, where the block is, and {after}, where it is behind those of the way down and the
            middle.
        inside: in a transformer, the key of a block's cross-attention, and what projects into it.
        added: of the pooled vector and the numbers.
        guidance: of the guidance scale.
    """

    conv_in: str
    conv_out: str
    blocks: Blocks
    down: str
    middle: str
    up: str
    inside: tuple[str, str]
    added: str
    guidance: str


@dataclass(frozen=True)
class AutoencoderNames:
    """Of an autoencoder: where the latent comes in, the blocks of a half or, where a file may have
    one half alone, of both; and then where the latent goes out.
    """

    latent: str
    halves: tuple[Blocks, ...]
    moments: str = ""


Names = TextEncoderNames | UNetNames | AutoencoderNames

_TORCH_INSIDE = ("transformer_blocks.{k}.attn2.to_k.weight", "proj_in.weight")
_H5_INSIDE = (
    "/transformer/blocks/transformer_block{kth}/cross_attention/key/vars/0",
    "/transformer/proj_in/vars/0",
)
_OWN_INSIDE = (
    "/transformer/block_{k}/cross_attention/key/kernel",
    "/transformer/proj_in/kernel",
)

NAMES: dict[str, dict[str, Names]] = {
    "diffusers": {
        "text_encoder": TextEncoderNames(
            "embeddings.token_embedding.weight",
            "embeddings.position_embedding.weight",
            "encoder.layers.{k}.mlp.fc1.weight",
            "text_projection.weight",
            features=0,
        ),
        "unet": UNetNames(
            "conv_in.weight",
            "conv_out.weight",
            Blocks("down_blocks.{level}.resnets.{i}.conv2.weight"),
            "down_blocks.{level}.attentions.{i}.",
            "mid_block.attentions.0.",
            "up_blocks.{coarse}.attentions.{i}.",
            _TORCH_INSIDE,
            "add_embedding.linear_1.weight",
            "time_embedding.cond_proj.weight",
        ),
        "autoencoder": AutoencoderNames(
            "decoder.conv_in.weight",
            (Blocks("encoder.down_blocks.{level}.resnets.{i}.conv2.weight"),),
        ),
    },
    "original": {
        "text_encoder": TextEncoderNames(
            "token_embedding.weight",
            "positional_embedding",
            "transformer.resblocks.{k}.mlp.c_fc.weight",
            "text_projection",
        ),
        "unet": UNetNames(
            "input_blocks.0.0.weight",
            "out.2.weight",
            Blocks("input_blocks.{place}.0.out_layers.3.weight"),
            "input_blocks.{place}.1.",
            "middle_block.1.",
            "output_blocks.{up}.1.",
            _TORCH_INSIDE,
            "label_emb.0.0.weight",
            "time_embed.cond_proj.weight",
        ),
        "autoencoder": AutoencoderNames(
            "decoder.conv_in.weight",
            (Blocks("encoder.down.{level}.block.{i}.conv2.weight"),),
        ),
    },
    # The paths of our variables.
    "keras_sd": {
        "text_encoder": TextEncoderNames(
            "embedding/tokens/embeddings",
            "embedding/positions/embeddings",
            "layer_{k}/hidden/kernel",
            "projection/kernel",
        ),
        "unet": UNetNames(
            "conv_in/kernel",
            "conv_out/kernel",
            Blocks("down_{level}_{i}/residual/conv2/kernel"),
            "down_{level}_{i}",
            "middle",
            "up_{level}_{i}",
            _OWN_INSIDE,
            "added1/kernel",
            "guidance/kernel",
        ),
        "autoencoder": AutoencoderNames(
            "decoder/conv_in/kernel",
            (
                Blocks("encoder/level_{level}_{i}/conv2/kernel"),
                Blocks("decoder/level_{level}_{i}/conv2/kernel", more=1),
            ),
            "encoder/moments/kernel",
        ),
    },
    # What Keras' `save_weights` calls them, see `names.weights_h5`.
    "weights_h5": {
        "text_encoder": TextEncoderNames(
            "embedding/tokens/vars/0",
            "embedding/positions/vars/0",
            "blocks/text_layer{kth}/hidden/vars/0",
            "layers/dense/vars/0",
        ),
        "unet": UNetNames(
            "conv_in/vars/0",
            "conv_out/vars/0",
            Blocks(
                "down/level{nth}/residual/conv2/vars/0", "downsamples/downsample{nth}/conv/vars/0"
            ),
            "down/level{nth}",
            # Keras counts the middle and the way up after the levels on the way down.
            "layers/level{nth}",
            "layers/level{after}",
            _H5_INSIDE,
            "added1/vars/0",
            "guidance/vars/0",
        ),
        "autoencoder": AutoencoderNames(
            "decoder/conv_in/vars/0",
            (
                Blocks(
                    "decoder/levels/residual_block{nth}/conv2/vars/0",
                    "decoder/upsamples/upsample{nth}/conv/vars/0",
                    coarse_first=True,
                    more=1,
                ),
            ),
        ),
    },
}
"""By layout and part."""

_OUT_FIRST = ("diffusers", "original")
"""The layouts of torch, where kernels are (out, in, ...); Keras' are (..., in, out)."""


@dataclass(frozen=True)
class Telling:
    """The tensors of a file that tell, under the names of a layout.

    Attributes:
        layout: a key of `NAMES`.
        shapes: of the file's tensors, by name.
        source: the file, for messages.
        name: what the file calls a tensor of the layout.
    """

    layout: str
    shapes: Shapes
    source: str = "the file"
    name: Callable[[str], str] = field(default=lambda name: name)

    def has(self, name: str) -> bool:
        return self.name(name) in self.shapes

    def of(self, name: str, *ranks: int) -> tuple[int, ...]:
        """The shape of a tensor that has to be there, with as many axes as one of the `ranks`."""
        name = self.name(name)
        shape = self.shapes.get(name)
        if shape is None:
            raise WeightsError(f"{self.source} is not whole: it has no {name}")
        if len(shape) not in ranks or 0 in shape:
            raise WeightsError(f"{self.source}: {name} cannot be of shape {tuple(shape)}")
        return tuple(shape)

    def kernel(self, name: str, *ranks: int) -> tuple[int, int]:
        """How many features a kernel takes, and how many it gives."""
        shape = self.of(name, *ranks)
        first = self.layout in _OUT_FIRST
        return (shape[1], shape[0]) if first else (shape[-2], shape[-1])

    def count(self, template: str, least: int = 1, **place: Any) -> int:
        """How many layers there are of a template with {k} or {kth}, or blocks, with {nth}."""

        def name(k: int) -> str:
            return template.format(**{"k": k, "kth": _nth(k), "nth": _nth(k), **place})

        found = 0
        while self.has(name(found)):
            found += 1
        if found < least:
            self.of(name(found))
        return found

    def firsts(self, blocks: Blocks) -> tuple[int, list[dict[str, Any]]]:
        """How many blocks a resolution has, and where the first of each resolution is."""
        if blocks.sample:
            levels = 1 + self.count(blocks.sample, least=0)
            each = max(self.count(blocks.width) // levels, 1)
        else:
            each = levels = 0
            while self.has(blocks.width.format(**_place(0, each, 0))):
                each += 1
            while each and self.has(blocks.width.format(**_place(levels, 0, each))):
                levels += 1
            if not each:
                self.of(blocks.width.format(**_place(0, 0, 0)))
        order = reversed(range(levels)) if blocks.coarse_first else range(levels)
        return each - blocks.more, [_place(level, 0, each) for level in order]


def numbers_of(part: str, telling: Telling) -> dict[str, Any]:
    """What the shapes tell of a network, by the names of its config's fields.

    Args:
        part: a key of `PARTS`.
        telling: its tensors.

    Returns:
        Of a UNet that is told a text as one vector, `added_width` among them, which `part_config`
        takes apart.

    Raises:
        WeightsError: one of those that tell is not there or cannot be of its shape, or the file is
            much too small for what it tells.
    """
    names = NAMES[telling.layout]["text_encoder" if part == "text_encoder_2" else part]
    if isinstance(names, TextEncoderNames):
        return _text_encoder(telling, names)
    if isinstance(names, UNetNames):
        return _unet(telling, names)
    return _autoencoder(telling, names)


def part_config(base: ModelConfig, part: str, numbers: Mapping[str, Any]) -> Any:
    """A part of the family's config, with the numbers of a file.

    Args:
        base: of the family.
        part: a key of `PARTS`.
        numbers: what `numbers_of` gave, and of a UNet the `pooled_width` where it is known.

    Raises:
        ValueError: there can be no such part.
    """

    def heads(width: int) -> int:
        if width % _HEAD:
            raise ValueError(f"width {width} of a {PARTS[part]} is no multiple of {_HEAD}, a head")
        return width // _HEAD

    changed = dict(numbers)
    if part in ("text_encoder", "text_encoder_2"):
        changed["heads"] = heads(changed["width"])
        if part == "text_encoder_2":
            return replace(base.text_encoder_2 or _XL_TEXT, **changed)
    elif part == "unet":
        if added := changed.pop("added_width", 0):
            pooled = changed.setdefault("pooled_width", base.unet.pooled_width or _XL_POOLED)
            changed["numbers"], rest = divmod(added - pooled, base.unet.number_width)
            if rest or changed["numbers"] not in (5, 6):
                raise ValueError(
                    f"a UNet that is told {added} features beside its context is told no text of "
                    f"{pooled} features with 5 or 6 numbers"
                )
        changed["heads"] = tuple(
            heads(width) if changed["linear_projection"] else _HEADS for width in changed["widths"]
        )
    return replace(getattr(base, part), **changed)


def _text_encoder(telling: Telling, names: TextEncoderNames) -> dict[str, Any]:
    vocab_size, width = telling.of(names.tokens, 2)
    return {
        "vocab_size": vocab_size,
        "max_length": telling.of(names.positions, 2)[0],
        "width": width,
        "depth": telling.count(names.hidden),
        "mlp_width": telling.kernel(names.hidden.format(k=0, kth=""), 2)[1],
    }


def projection_of(telling: Telling) -> int:
    """Features of a text encoder's pooled vector; 0 where it has no projection."""
    names = NAMES[telling.layout]["text_encoder"]
    assert isinstance(names, TextEncoderNames)
    if not telling.has(names.projection):
        return 0
    return telling.of(names.projection, 2)[names.features]


def _unet(telling: Telling, names: UNetNames) -> dict[str, Any]:
    blocks, firsts = telling.firsts(names.blocks)
    key, proj = names.inside
    depths = tuple(telling.count(names.down + key, least=0, **place) for place in firsts)
    # A few names must not make a table of thousands: it would list what is missing of a network
    # that nobody has.
    tensors = _TRANSFORMER_TENSORS * sum(depths) * (2 * blocks + 1)
    if tensors > _MOST_MISSING * len(telling.shapes):
        raise WeightsError(
            f"{telling.source} is not whole: a UNet with {blocks} blocks at each resolution and "
            f"{sum(depths)} transformers behind the first ones has {tensors} tensors or more, and "
            f"the file {len(telling.shapes)}"
        )
    middle = _place(len(firsts), 0, blocks)
    found: dict[str, Any] = {}
    attends = names.middle.format(**middle)
    if telling.has(names.added):
        found = {
            "added_width": telling.kernel(names.added, 2)[0],
            **_depths_of_xl(telling, names, depths, blocks, middle),
        }
        # Some have no transformer in the middle.
        there = (place for place, depth in zip(firsts, depths, strict=True) if depth)
        attends = next((names.down.format(**place) for place in there), attends)
    if telling.has(names.guidance):
        found["guidance_width"] = telling.kernel(names.guidance, 2)[0]
    return {
        "in_channels": telling.kernel(names.conv_in, 4)[0],
        "out_channels": telling.kernel(names.conv_out, 4)[1],
        "widths": _widths(telling, names.blocks, firsts),
        "depths": depths,
        "blocks": blocks,
        "context_width": telling.kernel(attends + key.format(k=0, kth=""), 2)[0],
        "linear_projection": len(telling.of(attends + proj, 2, 4)) == 2,
        **found,
    }


def _depths_of_xl(
    telling: Telling,
    names: UNetNames,
    depths: tuple[int, ...],
    blocks: int,
    middle: Mapping[str, Any],
) -> dict[str, Any]:
    """Transformer blocks in the middle and on the way up, where they do not follow from those on
    the way down, as in models that were made smaller.
    """
    key, last = names.inside[0], len(depths) - 1
    ups = [(level, i) for level in range(last, -1, -1) for i in range(blocks + 1)]
    of_up = tuple(
        telling.count(
            names.up + key,
            least=0,
            level=level,
            i=i,
            coarse=last - level,
            up=index,
            after=_nth(len(depths) * blocks + 1 + index),
        )
        for index, (level, i) in enumerate(ups)
    )
    of_middle = telling.count(names.middle + key, least=0, **middle)
    found: dict[str, Any] = {}
    if of_middle != max(depths[-1], 1):
        found["middle_depth"] = of_middle
    if of_up != tuple(depths[level] for level, _ in ups):
        found["up_depths"] = of_up
    return found


def _autoencoder(telling: Telling, names: AutoencoderNames) -> dict[str, Any]:
    first, *others = names.halves
    there = (half for half in others if telling.has(half.width.format(**_place(0, 0, 0))))
    half = first
    if not telling.has(first.width.format(**_place(0, 0, 0))):
        half = next(there, first)
    if names.moments and not telling.has(names.latent):
        channels = telling.kernel(names.moments, 4)[1] // 2
    else:
        channels = telling.kernel(names.latent, 4)[0]
    blocks, firsts = telling.firsts(half)
    widths = _widths(telling, half, firsts)
    return {"latent_channels": channels, "widths": widths, "blocks": blocks}


def _widths(telling: Telling, blocks: Blocks, firsts: list[dict[str, Any]]) -> tuple[int, ...]:
    return tuple(telling.kernel(blocks.width.format(**place), 4)[1] for place in firsts)


def _place(level: int, i: int, blocks: int) -> dict[str, Any]:
    """Where a block is, for a template."""
    flat = level * blocks + i
    return {"level": level, "i": i, "place": 1 + level * (blocks + 1) + i, "nth": _nth(flat)}


def _nth(number: int) -> str:
    return f"_{number}" if number else ""
