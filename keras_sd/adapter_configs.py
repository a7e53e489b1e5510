"""The numbers of the networks by which pictures steer a run, beside a ControlNet's."""

from __future__ import annotations

from dataclasses import dataclass
from reprlib import repr as shown
from typing import ClassVar, Literal

from keras_sd.config import MAX_BLOCKS, MAX_LAYERS, MAX_MLP_WIDTH, MAX_WIDTH
from keras_sd.network_configs import require, require_levels, require_number, require_sizes

__all__ = ["FeatureConfig", "ImageEncoderConfig", "ImagePromptConfig"]

MAX_IMAGE = 4_096
"""Pixels of a side that an image encoder takes, many times those of any there is."""


@dataclass(frozen=True)
class ImageEncoderConfig:
    """The image encoder of CLIP, a vision transformer (Dosovitskiy et al. 2020; Radford et al.
    2021). By itself, that of ViT-H/14.

    Attributes:
        image_size: pixels of a side.
        patch: pixels of a side of what becomes a token.
        width: features of a token.
        depth: transformer layers.
        heads: attention heads; divides `width`.
        mlp_width: hidden features of the feed-forward part.
        activation: as a `TextEncoderConfig` has it.
        epsilon: of the layer norms.
        projection_width: features of the whole picture.
    """

    image_size: int = 224
    patch: int = 14
    width: int = 1280
    depth: int = 32
    heads: int = 16
    mlp_width: int = 5120
    activation: Literal["quick_gelu", "gelu", "gelu_tanh"] = "gelu"
    epsilon: float = 1e-5
    projection_width: int = 1024

    def __post_init__(self) -> None:
        where = "image encoder"
        require_sizes(where, self, MAX_WIDTH, "width", "heads", "projection_width")
        require_sizes(where, self, MAX_IMAGE, "image_size", "patch")
        require_sizes(where, self, MAX_LAYERS, "depth")
        require_sizes(where, self, MAX_MLP_WIDTH, "mlp_width")
        require_number(where, self, "epsilon", 1.0)
        require(
            self.width % self.heads == 0,
            f"{where}: width {self.width} is not a multiple of its {self.heads} heads",
        )
        require(
            self.image_size % self.patch == 0,
            f"{where}: {self.image_size} pixels are not a multiple of {self.patch}",
        )
        require(
            self.activation in ("quick_gelu", "gelu", "gelu_tanh"),
            f"{where}: activation {self.activation!r} is not one of quick_gelu, gelu, gelu_tanh",
        )

    @property
    def tokens(self) -> int:
        """Patches of a picture, and one token of all of it."""
        return int((self.image_size // self.patch) ** 2 + 1)


@dataclass(frozen=True)
class ImagePromptConfig:
    """An IP-Adapter: from a picture's features to tokens, and how attention sees them.

    Attributes:
        kind: `"base"`, tokens of the whole picture's vector, or `"plus"`, tokens of its patches.
        widths: features of each attention on the text of the UNet, as
            `UNetConfig.cross_attentions` has them.
        context_width: features of a token.
        tokens: of a picture.
        feature_width: features that the image encoder gives: of the whole picture in `"base"`, of a
            patch in `"plus"`.
        width: features inside of the `"plus"` kind; it and the rest are of that kind alone.
        depth: its layers.
        heads: its attention heads.
        mlp_width: hidden features of its feed-forward part.
    """

    head_width: ClassVar[int] = 64
    """Of an attention head of the `"plus"` kind."""

    kind: Literal["base", "plus"] = "base"
    widths: tuple[int, ...] = ()
    context_width: int = 768
    tokens: int = 4
    feature_width: int = 1024
    width: int = 0
    depth: int = 0
    heads: int = 0
    mlp_width: int = 0

    def __post_init__(self) -> None:
        where, least = "image prompt", int(self.kind == "plus")
        require(
            self.kind in ("base", "plus"), f"{where}: kind {self.kind!r} is not one of base, plus"
        )
        require_sizes(where, self, MAX_WIDTH, "context_width", "tokens", "feature_width")
        require_sizes(where, self, MAX_WIDTH, "width", "heads", least=least)
        require_sizes(where, self, MAX_LAYERS, "depth", least=least)
        require_sizes(where, self, MAX_MLP_WIDTH, "mlp_width", least=least)
        require(
            isinstance(self.widths, tuple)
            and all(type(each) is int and 1 <= each <= MAX_WIDTH for each in self.widths),
            f"{where}: widths is {shown(self.widths)}, not whole numbers from 1 to {MAX_WIDTH}",
        )


@dataclass(frozen=True)
class FeatureConfig:
    """A T2I-Adapter: from a picture to features for the levels of a UNet. By itself, that of 1.x.

    Attributes:
        kind: `"full"`; `"full_xl"`, which halves once alone; or `"light"`.
        widths: features of each of its tensors.
        hint_channels: of the picture that it is shown, 3, or 1 for grey.
        factor: pixels along one side of a cell of its first tensor.
        blocks: residual blocks of each.
    """

    kind: Literal["full", "full_xl", "light"] = "full"
    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    hint_channels: int = 3
    factor: int = 8
    blocks: int = 2

    def __post_init__(self) -> None:
        where = "T2I-Adapter"
        kinds = ("full", "full_xl", "light")
        require(self.kind in kinds, f"{where}: kind {self.kind!r} is not one of {', '.join(kinds)}")
        require_levels(where, self, MAX_WIDTH, "widths")
        require_sizes(where, self, MAX_WIDTH, "hint_channels", "factor")
        require_sizes(where, self, MAX_BLOCKS, "blocks")
        require(
            self.hint_channels in (1, 3),
            f"{where}: hint_channels is {self.hint_channels}, not 1 or 3",
        )
        require(
            self.kind != "light" or all(width % 4 == 0 for width in self.widths),
            f"{where}: widths {self.widths} of the light kind are not multiples of 4",
        )

    def halves(self, level: int) -> bool:
        """Whether a level's features are half the size of those before."""
        return level == 2 if self.kind == "full_xl" else level > 0
