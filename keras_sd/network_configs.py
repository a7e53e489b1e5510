"""The numbers of each network as frozen dataclasses; `keras_sd.config` has those of a model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from reprlib import repr as shown
from typing import Any, Literal

# The largest numbers of a config, many times those of any model there is: a config comes from a
# file, and what is made from it grows with them.
MAX_LEVELS = 8
"""Resolutions of a network."""
MAX_BLOCKS = 8
"""Residual blocks a resolution."""
MAX_DEPTH = 32
"""Transformer blocks after a residual block."""
MAX_LAYERS = 128
"""Layers of a text encoder."""
MAX_WIDTH = 16_384
"""Features, channels, heads, groups, tokens of a prompt, pixels."""
MAX_MLP_WIDTH = 65_536
MAX_VOCABULARY = 2**20
MAX_TIMESTEPS = 1_000_000


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def require_sizes(where: str, config: Any, most: int, *names: str, least: int = 1) -> None:
    """Every one of the fields is a whole number from `least` to `most`."""
    for name in names:
        value = getattr(config, name)
        require(
            type(value) is int and least <= value <= most,
            f"{where}: {name} is {shown(value)}, not a whole number from {least} to {most}",
        )


def require_levels(where: str, config: Any, most: int, *names: str, least: int = 1) -> None:
    """Every one of the fields is a whole number from `least` to `most` for each of 1 to
    `MAX_LEVELS` resolutions.
    """
    for name in names:
        values = getattr(config, name)
        require(
            isinstance(values, tuple)
            and 1 <= len(values) <= MAX_LEVELS
            and all(type(value) is int and least <= value <= most for value in values),
            f"{where}: {name} is {shown(values)}, not 1 to {MAX_LEVELS} whole numbers from "
            f"{least} to {most}",
        )


def require_number(where: str, config: Any, name: str, below: float) -> None:
    """The field is above 0 and below `below`, which no infinity and no NaN is."""
    value = getattr(config, name)
    require(
        0 < value < below,
        f"{where}: {name} is {shown(value)}, not above 0 and below {below:g}",
    )


@dataclass(frozen=True)
class TextEncoderConfig:
    """A CLIP text transformer (Radford et al. 2021).

    Attributes:
        vocab_size: number of token ids.
        max_length: tokens in a prompt, start and end included.
        width: features of a token.
        depth: transformer layers.
        heads: attention heads; divides `width`.
        mlp_width: hidden features of the feed-forward part.
        activation: `"quick_gelu"` (OpenAI's CLIP), `"gelu"` (exact, OpenCLIP) or `"gelu_tanh"`
            (its approximation).
        epsilon: of the layer norms.
        penultimate: the encoding is what goes into the last layer, without the final norm (SDXL),
            rather than what comes out of it, normalised.
        projection_width: features of a whole text, its pooled vector; 0 where there is none.
    """

    vocab_size: int = 49408
    max_length: int = 77
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_width: int = 3072
    activation: Literal["quick_gelu", "gelu", "gelu_tanh"] = "quick_gelu"
    epsilon: float = 1e-5
    penultimate: bool = False
    projection_width: int = 0

    def __post_init__(self) -> None:
        where = "text encoder"
        require_sizes(where, self, MAX_VOCABULARY, "vocab_size")
        require_sizes(where, self, MAX_WIDTH, "max_length", "width", "heads")
        require_sizes(where, self, MAX_LAYERS, "depth")
        require_sizes(where, self, MAX_MLP_WIDTH, "mlp_width")
        require_sizes(where, self, MAX_WIDTH, "projection_width", least=0)
        require_number(where, self, "epsilon", 1.0)
        require(
            self.width % self.heads == 0,
            f"text encoder: width {self.width} is not a multiple of its {self.heads} heads",
        )
        require(
            self.activation in ("quick_gelu", "gelu", "gelu_tanh"),
            f"text encoder: activation {self.activation!r} is not one of quick_gelu, gelu, "
            "gelu_tanh",
        )
        require(
            self.passed > 0,
            "text encoder: with one layer there is none before the last (penultimate)",
        )

    @property
    def passed(self) -> int:
        """Layers that the encoding has passed."""
        return self.depth - self.penultimate


@dataclass(frozen=True)
class UNetConfig:
    """The denoising network. One entry of `widths`, `heads` and `depths` is one resolution.

    Attributes:
        in_channels: channels of the latent that comes in.
        out_channels: channels of the prediction.
        widths: features at each resolution, finest first; each next one is half the size.
        heads: attention heads at each resolution.
        depths: transformer blocks after each residual block; 0 means no attention there.
        blocks: residual blocks a resolution on the way down (one more on the way up).
        context_width: features of a token of the text encoding.
        groups: groups of every group norm; divides every width.
        linear_projection: project in and out of the transformers on tokens (SD 2.x) rather than
            with 1x1 convolutions (SD 1.x). The arithmetic is the same, the weights' shapes differ.
        transformer_epsilon: of the group norm that each transformer begins with.
        gelu: of the gates in the transformers: `"exact"`, or `"tanh"`, its approximation.
        middle_depth: transformer blocks in the middle; 0 is none, and one residual block in place
            of two. -1 is as many as at the last resolution, or one.
        up_depths: transformer blocks after each residual block on the way up, coarsest first, where
            they are not those of `depths`; empty where they are.
        pooled_width: features of a whole text that the UNet is told (SDXL); 0 is none.
        numbers: of the picture that it is told beside: 6 are the sizes of SDXL, 5 those of its
            refiner.
        number_width: features of each of them.
        guidance_width: features of the guidance scale, where the UNet is told that (Luo et al.
            2023, "Latent Consistency Models"); 0 where it is not.
    """

    in_channels: int = 4
    out_channels: int = 4
    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    heads: tuple[int, ...] = (8, 8, 8, 8)
    depths: tuple[int, ...] = (1, 1, 1, 0)
    blocks: int = 2
    context_width: int = 768
    groups: int = 32
    linear_projection: bool = False
    transformer_epsilon: float = 1e-6
    gelu: Literal["exact", "tanh"] = "exact"
    middle_depth: int = -1
    up_depths: tuple[int, ...] = ()
    pooled_width: int = 0
    numbers: int = 0
    number_width: int = 256
    guidance_width: int = 0

    def __post_init__(self) -> None:
        require_sizes(
            "unet", self, MAX_WIDTH, "in_channels", "out_channels", "context_width", "groups"
        )
        require_sizes("unet", self, MAX_WIDTH, "pooled_width", "guidance_width", least=0)
        require_sizes("unet", self, MAX_WIDTH, "number_width")
        require_sizes("unet", self, MAX_DEPTH, "middle_depth", least=-1)
        require(
            (self.pooled_width > 0, self.numbers) in ((False, 0), (True, 5), (True, 6)),
            f"unet: numbers is {shown(self.numbers)} and pooled_width {self.pooled_width}; with a "
            "pooled vector numbers are 5 or 6, without one 0",
        )
        require_sizes("unet", self, MAX_BLOCKS, "blocks")
        require_levels("unet", self, MAX_WIDTH, "widths", "heads")
        require_levels("unet", self, MAX_DEPTH, "depths", least=0)
        require_number("unet", self, "transformer_epsilon", 1.0)
        for name in ("heads", "depths"):
            require(
                len(getattr(self, name)) == len(self.widths),
                f"unet: {name} {getattr(self, name)} and widths {self.widths} differ in length",
            )
        for width, heads in zip(self.widths, self.heads, strict=True):
            require(
                width % heads == 0 and width % self.groups == 0,
                f"unet: width {width} is not a multiple of {heads} heads and {self.groups} groups",
            )
        require(
            self.gelu in ("exact", "tanh"),
            f"unet: gelu {self.gelu!r} is not one of exact, tanh",
        )
        self._check_depths()

    def _check_depths(self) -> None:
        """And one form for each network: what follows from `depths` is not said twice."""
        usual = tuple(depth for depth in self.depths[::-1] for _ in range(self.blocks + 1))
        require(
            isinstance(self.up_depths, tuple)
            and len(self.up_depths) in (0, len(usual))
            and all(type(each) is int and 0 <= each <= MAX_DEPTH for each in self.up_depths),
            f"unet: up_depths is {shown(self.up_depths)}, not {len(usual)} whole numbers from 0 to "
            f"{MAX_DEPTH}, one a residual block on the way up, or none",
        )
        if self.up_depths == usual:
            object.__setattr__(self, "up_depths", ())
        if self.middle_depth == max(self.depths[-1], 1):
            object.__setattr__(self, "middle_depth", -1)

    @property
    def depth_of_middle(self) -> int:
        """Transformer blocks in the middle."""
        return max(self.depths[-1], 1) if self.middle_depth < 0 else self.middle_depth

    def depth_up(self, level: int, i: int) -> int:
        """Transformer blocks after a residual block on the way up.

        Args:
            level: its resolution, counted from the finest.
            i: which of the resolution's blocks it is, in the order in which they are passed.
        """
        if not self.up_depths:
            return self.depths[level]
        return self.up_depths[(len(self.widths) - 1 - level) * (self.blocks + 1) + i]

    @property
    def cross_attentions(self) -> tuple[tuple[str, int], ...]:
        """Each attention on the text, in the order in which they are passed: the name of its block
        in the UNet, and its features.
        """
        last = len(self.widths) - 1
        down = [
            (f"down_{level}_{i}", level, self.depths[level])
            for level in range(last + 1)
            for i in range(self.blocks)
        ]
        up = [
            (f"up_{level}_{i}", level, self.depth_up(level, i))
            for level in range(last, -1, -1)
            for i in range(self.blocks + 1)
        ]
        found = [*down, ("middle", last, self.depth_of_middle), *up]
        return tuple((name, self.widths[n]) for name, n, depth in found for _ in range(depth))

    @property
    def finest_attention(self) -> tuple[str, ...]:
        """The blocks with attention of the finest resolution that has any, by their names in the
        UNet; the middle is none of them.
        """
        for level in range(len(self.widths)):
            down = [f"down_{level}_{i}" for i in range(self.blocks) if self.depths[level]]
            up = [f"up_{level}_{i}" for i in range(self.blocks + 1) if self.depth_up(level, i)]
            if down or up:
                return (*down, *up)
        return ()

    def adapted_within(self, level: int) -> bool:
        """Whether the features of a T2I-Adapter are added before a level's features are halved, or
        after: that is so where it has no attention, but for the last.
        """
        return self.depths[level] > 0 or level == len(self.widths) - 1

    @property
    def added_width(self) -> int:
        """Features of what is added to the timestep's embedding, before its two dense layers."""
        return self.pooled_width + self.numbers * self.number_width

    @property
    def time_width(self) -> int:
        """Features of the timestep's embedding after its two dense layers."""
        return 4 * self.widths[0]


@dataclass(frozen=True)
class ControlConfig(UNetConfig):
    """A ControlNet: the numbers of the UNet that it has a part of, and those of the hint.

    Attributes:
        hint_channels: of the picture that it is shown.
        hint_widths: features on the way from its size to a latent's, which is half at each but the
            first.
        pooled: what it adds is the same at all places, their mean.
    """

    hint_channels: int = 3
    hint_widths: tuple[int, ...] = (16, 32, 96, 256)
    pooled: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_sizes("control", self, MAX_WIDTH, "hint_channels")
        require_levels("control", self, MAX_WIDTH, "hint_widths")

    @classmethod
    def of(cls, unet: UNetConfig, **numbers: Any) -> ControlConfig:
        """That for a UNet, with other numbers where they are given."""
        return cls(**{**dataclasses.asdict(unet), **numbers})

    @property
    def factor(self) -> int:
        """Pixels of the hint along one side of a cell of the latent."""
        return int(2 ** (len(self.hint_widths) - 1))


@dataclass(frozen=True)
class AutoencoderConfig:
    """The variational autoencoder between images and latents (Rombach et al. 2022, section 3.1).

    Attributes:
        latent_channels: channels of a latent.
        widths: features at each resolution, finest first.
        blocks: residual blocks a resolution in the encoder (one more in the decoder).
        groups: groups of every group norm.
        scale: what an encoded latent is multiplied by, to have about unit variance.
        epsilon: of the group norms.
        encoder: whether there is one; without it images are made, and none become latents.
        encoder_pad: rows and columns of zeros before and after what the encoder halves: (0, 1), or
            (1, 1) as in KerasCV 0.4.
    """

    latent_channels: int = 4
    widths: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 2
    groups: int = 32
    scale: float = 0.18215
    epsilon: float = 1e-6
    encoder: bool = True
    encoder_pad: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        require_sizes("autoencoder", self, MAX_WIDTH, "latent_channels", "groups")
        require_sizes("autoencoder", self, MAX_BLOCKS, "blocks")
        require_levels("autoencoder", self, MAX_WIDTH, "widths")
        require_number("autoencoder", self, "scale", 1e6)
        require_number("autoencoder", self, "epsilon", 1.0)
        for width in self.widths:
            require(
                width % self.groups == 0,
                f"autoencoder: width {width} is not a multiple of {self.groups} groups",
            )
        require(
            self.encoder_pad in ((0, 1), (1, 1)),
            f"autoencoder: encoder_pad {self.encoder_pad} is not one of (0, 1), (1, 1)",
        )

    @property
    def factor(self) -> int:
        """Pixels of the image along one side of a latent cell."""
        return 2 ** (len(self.widths) - 1)
