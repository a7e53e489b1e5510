"""Architectures as data: a model is one entry of frozen dataclasses, never a class of its own.

Every number of a network is in one of the dataclasses below. `SD_1` is Stable Diffusion 1.x
(Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models"); a preset
folder holds its own entry as `config.json`, read by `ModelConfig.from_dict`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from reprlib import repr as shown
from typing import Any, Literal

from keras_sd.checks import check_size as check_size
from keras_sd.noise import NoiseTable

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


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _require_sizes(where: str, config: Any, most: int, *names: str, least: int = 1) -> None:
    """Every one of the fields is a whole number from `least` to `most`."""
    for name in names:
        value = getattr(config, name)
        _require(
            type(value) is int and least <= value <= most,
            f"{where}: {name} is {shown(value)}, not a whole number from {least} to {most}",
        )


def _require_levels(where: str, config: Any, most: int, *names: str, least: int = 1) -> None:
    """Every one of the fields is a whole number from `least` to `most` for each of 1 to
    `MAX_LEVELS` resolutions.
    """
    for name in names:
        values = getattr(config, name)
        _require(
            isinstance(values, tuple)
            and 1 <= len(values) <= MAX_LEVELS
            and all(type(value) is int and least <= value <= most for value in values),
            f"{where}: {name} is {shown(values)}, not 1 to {MAX_LEVELS} whole numbers from "
            f"{least} to {most}",
        )


def _require_number(where: str, config: Any, name: str, below: float) -> None:
    """The field is above 0 and below `below`, which no infinity and no NaN is."""
    value = getattr(config, name)
    _require(
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
    """

    vocab_size: int = 49408
    max_length: int = 77
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_width: int = 3072
    activation: Literal["quick_gelu", "gelu", "gelu_tanh"] = "quick_gelu"
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        where = "text encoder"
        _require_sizes(where, self, MAX_VOCABULARY, "vocab_size")
        _require_sizes(where, self, MAX_WIDTH, "max_length", "width", "heads")
        _require_sizes(where, self, MAX_LAYERS, "depth")
        _require_sizes(where, self, MAX_MLP_WIDTH, "mlp_width")
        _require_number(where, self, "epsilon", 1.0)
        _require(
            self.width % self.heads == 0,
            f"text encoder: width {self.width} is not a multiple of its {self.heads} heads",
        )
        _require(
            self.activation in ("quick_gelu", "gelu", "gelu_tanh"),
            f"text encoder: activation {self.activation!r} is not one of quick_gelu, gelu, "
            "gelu_tanh",
        )


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

    def __post_init__(self) -> None:
        _require_sizes(
            "unet", self, MAX_WIDTH, "in_channels", "out_channels", "context_width", "groups"
        )
        _require_sizes("unet", self, MAX_BLOCKS, "blocks")
        _require_levels("unet", self, MAX_WIDTH, "widths", "heads")
        _require_levels("unet", self, MAX_DEPTH, "depths", least=0)
        _require_number("unet", self, "transformer_epsilon", 1.0)
        for name in ("heads", "depths"):
            _require(
                len(getattr(self, name)) == len(self.widths),
                f"unet: {name} {getattr(self, name)} and widths {self.widths} differ in length",
            )
        for width, heads in zip(self.widths, self.heads, strict=True):
            _require(
                width % heads == 0 and width % self.groups == 0,
                f"unet: width {width} is not a multiple of {heads} heads and {self.groups} groups",
            )
        _require(
            self.gelu in ("exact", "tanh"),
            f"unet: gelu {self.gelu!r} is not one of exact, tanh",
        )

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
        _require_sizes("control", self, MAX_WIDTH, "hint_channels")
        _require_levels("control", self, MAX_WIDTH, "hint_widths")

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
        _require_sizes("autoencoder", self, MAX_WIDTH, "latent_channels", "groups")
        _require_sizes("autoencoder", self, MAX_BLOCKS, "blocks")
        _require_levels("autoencoder", self, MAX_WIDTH, "widths")
        _require_number("autoencoder", self, "scale", 1e6)
        _require_number("autoencoder", self, "epsilon", 1.0)
        for width in self.widths:
            _require(
                width % self.groups == 0,
                f"autoencoder: width {width} is not a multiple of {self.groups} groups",
            )
        _require(
            self.encoder_pad in ((0, 1), (1, 1)),
            f"autoencoder: encoder_pad {self.encoder_pad} is not one of (0, 1), (1, 1)",
        )

    @property
    def factor(self) -> int:
        """Pixels of the image along one side of a latent cell."""
        return 2 ** (len(self.widths) - 1)


@dataclass(frozen=True)
class NoiseConfig:
    """How the model was trained to denoise.

    Attributes:
        beta_schedule: `"scaled_linear"` (Stable Diffusion) or `"linear"` (Ho et al. 2020).
        beta_start: first beta.
        beta_end: last beta.
        num_train_timesteps: levels of the training table.
        prediction: what the UNet gives: `"epsilon"` (the noise) or `"v"`
            (Salimans & Ho 2022, `v = alpha * noise - sigma * x0`).
        final_sigma: where a run ends: `"first"` (the table's least noise, as SD's own DDIM and
            PNDM do) or `"zero"`.
        zero_terminal_snr: whether the table is stretched to end in pure noise (Lin et al. 2023).
            There the noise says nothing of the image, so such a model predicts v.
    """

    beta_schedule: Literal["scaled_linear", "linear"] = "scaled_linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    num_train_timesteps: int = 1000
    prediction: Literal["epsilon", "v"] = "epsilon"
    final_sigma: Literal["first", "zero"] = "first"
    zero_terminal_snr: bool = False

    def __post_init__(self) -> None:
        _require_sizes("noise", self, MAX_TIMESTEPS, "num_train_timesteps")
        _require_number("noise", self, "beta_start", 1.0)
        _require_number("noise", self, "beta_end", 1.0)
        _require(
            self.beta_start <= self.beta_end,
            f"noise: beta_end is {self.beta_end}, not at least beta_start, {self.beta_start}",
        )
        for name, allowed in (
            ("beta_schedule", ("scaled_linear", "linear")),
            ("prediction", ("epsilon", "v")),
            ("final_sigma", ("first", "zero")),
        ):
            _require(
                getattr(self, name) in allowed,
                f"noise: {name} {getattr(self, name)!r} is not one of {', '.join(allowed)}",
            )
        _require(
            self.prediction == "v" or not self.zero_terminal_snr,
            "noise: zero_terminal_snr needs the prediction v, for the noise alone, which is what "
            "epsilon predicts, says nothing of the image",
        )

    def table(self) -> NoiseTable:
        """The noise of every training timestep."""
        make = getattr(NoiseTable, self.beta_schedule)
        table: NoiseTable = make(self.beta_start, self.beta_end, self.num_train_timesteps)
        return table.zero_terminal_snr() if self.zero_terminal_snr else table


@dataclass(frozen=True)
class Defaults:
    """What a run does where the caller says nothing.

    Attributes:
        height: pixels.
        width: pixels.
        sampler: an entry point's name.
        schedule: a schedule's name; None where the rules of a run say the steps.
        num_steps: sampler steps.
        guidance_scale: of classifier-free guidance.
    """

    height: int = 512
    width: int = 512
    sampler: str = "ddim"
    schedule: str | None = "leading"
    num_steps: int = 50
    guidance_scale: float = 7.5

    def __post_init__(self) -> None:
        _require_sizes("defaults", self, MAX_WIDTH, "height", "width")
        _require_sizes("defaults", self, MAX_TIMESTEPS, "num_steps")
        _require(
            abs(self.guidance_scale) < 1e6,
            f"defaults: guidance_scale is {self.guidance_scale}, not between -1e6 and 1e6",
        )


@dataclass(frozen=True)
class ModelConfig:
    """A whole model. `pad_token` is what fills a short prompt: `"end"` (SD 1.x) or `"zero"`.

    With `text_encoder_2` there are two text encoders, and the UNet attends to the features of both,
    one beside the other.
    """

    name: str
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    defaults: Defaults = field(default_factory=Defaults)
    pad_token: Literal["end", "zero"] = "end"
    text_encoder_2: TextEncoderConfig | None = None

    def __post_init__(self) -> None:
        width = sum(encoder.width for encoder in self.text_encoders.values())
        _require(
            width == self.unet.context_width,
            f"{self.name}: the text encoder gives {width} features a token, "
            f"the unet expects {self.unet.context_width}",
        )
        lengths = {encoder.max_length for encoder in self.text_encoders.values()}
        _require(
            len(lengths) == 1,
            f"{self.name}: the text encoders take {' and '.join(map(str, sorted(lengths)))} tokens",
        )
        _require(
            self.autoencoder.latent_channels == self.unet.out_channels,
            f"{self.name}: the autoencoder has {self.autoencoder.latent_channels} latent "
            f"channels, the unet predicts {self.unet.out_channels}",
        )

    @property
    def text_encoders(self) -> dict[str, TextEncoderConfig]:
        """Those that there are, by the names of their parts."""
        named = {"text_encoder": self.text_encoder, "text_encoder_2": self.text_encoder_2}
        return {name: config for name, config in named.items() if config is not None}

    @property
    def parts(self) -> dict[str, TextEncoderConfig | UNetConfig | AutoencoderConfig]:
        """The networks of the model by name: each part's config."""
        return {**self.text_encoders, "unet": self.unet, "autoencoder": self.autoencoder}

    def to_dict(self) -> dict[str, Any]:
        """The config as plain JSON types; `from_dict` is the inverse."""
        found = dataclasses.asdict(self)
        if self.text_encoder_2 is None:
            del found["text_encoder_2"]
        return found

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelConfig:
        """Reads what `to_dict` wrote.

        Raises:
            ValueError: a key is unknown, or a value does not fit; the message names it.
        """
        config: ModelConfig = from_dict(cls, data, "config")
        return config


def from_dict(cls: Any, data: Any, where: str) -> Any:
    """A config of the class `cls`, from what `dataclasses.asdict` gave of one, or JSON of it.

    Args:
        cls: one of the dataclasses of this module.
        data: a value a field; a field that is left out has its default.
        where: what to call it in a message.

    Raises:
        ValueError: a key is unknown, or a value does not fit; the message names it.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}
    if not isinstance(data, Mapping):
        raise ValueError(f"{where}: expected an object with {', '.join(fields)}, not {shown(data)}")
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise ValueError(
            f"{where}: unknown {', '.join(unknown)}; the fields are {', '.join(fields)}"
        )
    parts = {f: part for f, part in _PARTS.items() if cls is ModelConfig}
    values = {}
    for name, value in data.items():
        if name in parts:
            values[name] = from_dict(parts[name], value, f"{where}.{name}")
        else:
            values[name] = _checked_type(fields[name], value, f"{where}.{name}")
    try:
        return cls(**values)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from error


def _checked_type(of: dataclasses.Field, value: Any, where: str) -> Any:
    """The value, if it is of the type that the field's default has."""
    value = tuple(value) if isinstance(value, list) else value
    wanted = str if of.default is dataclasses.MISSING else type(of.default)
    accepted = (int, float) if wanted is float else (wanted,)
    if type(value) not in accepted:
        raise ValueError(f"{where}: expected {wanted.__name__}, not {shown(value)}")
    if wanted is tuple and any(type(item) is not int for item in value):
        raise ValueError(f"{where}: expected integers, not {shown(value)}")
    return value


_PARTS = {
    "text_encoder": TextEncoderConfig,
    "text_encoder_2": TextEncoderConfig,
    "unet": UNetConfig,
    "autoencoder": AutoencoderConfig,
    "noise": NoiseConfig,
    "defaults": Defaults,
}

SD_1 = ModelConfig(name="sd-1")
"""Stable Diffusion 1.1 to 1.5: epsilon prediction, 512x512, CLIP ViT-L/14."""

SD_2 = ModelConfig(
    name="sd-2",
    text_encoder=TextEncoderConfig(
        width=1024, depth=23, heads=16, mlp_width=4096, activation="gelu"
    ),
    unet=UNetConfig(heads=(5, 10, 20, 20), context_width=1024, linear_projection=True),
    noise=NoiseConfig(prediction="v"),
    defaults=Defaults(height=768, width=768),
    pad_token="zero",
)
"""Stable Diffusion 2.0 and 2.1: v prediction, 768x768, OpenCLIP ViT-H/14 up to its last but one
layer."""

SD_2_BASE = dataclasses.replace(
    SD_2, name="sd-2-base", noise=NoiseConfig(), defaults=Defaults(height=512, width=512)
)
"""Stable Diffusion 2.0 and 2.1 base: epsilon prediction, 512x512."""

EMOJI = ModelConfig(
    name="emoji",
    text_encoder=TextEncoderConfig(
        vocab_size=2048, max_length=40, width=192, depth=2, heads=4, mlp_width=512
    ),
    unet=UNetConfig(
        in_channels=8,
        out_channels=8,
        widths=(64, 128, 160),
        heads=(2, 4, 5),
        depths=(0, 1, 1),
        blocks=1,
        context_width=192,
        groups=16,
    ),
    autoencoder=AutoencoderConfig(
        latent_channels=8, widths=(32, 48, 96), blocks=1, groups=8, scale=1.0
    ),
    noise=NoiseConfig(prediction="v"),
    defaults=Defaults(height=64, width=64, schedule="trailing", num_steps=20, guidance_scale=3.0),
)
"""The embedded model: 64x64 emoji, trained by `keras_sd.training`."""
