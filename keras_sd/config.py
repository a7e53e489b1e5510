"""Architectures as data: a model is one entry of frozen dataclasses, never a class of its own.

Every number of a network is in a dataclass of `keras_sd.network_configs`. `SD_1` is Stable
Diffusion 1.x (Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models");
a preset folder holds its own entry as `config.json`, read by `ModelConfig.from_dict`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from reprlib import repr as shown
from typing import Any, Literal, get_args

from keras_sd.checks import check_size as check_size
from keras_sd.network_configs import MAX_BLOCKS as MAX_BLOCKS
from keras_sd.network_configs import MAX_DEPTH as MAX_DEPTH
from keras_sd.network_configs import MAX_LAYERS as MAX_LAYERS
from keras_sd.network_configs import MAX_LEVELS as MAX_LEVELS
from keras_sd.network_configs import MAX_MLP_WIDTH as MAX_MLP_WIDTH
from keras_sd.network_configs import MAX_TIMESTEPS as MAX_TIMESTEPS
from keras_sd.network_configs import MAX_VOCABULARY as MAX_VOCABULARY
from keras_sd.network_configs import MAX_WIDTH as MAX_WIDTH
from keras_sd.network_configs import AutoencoderConfig as AutoencoderConfig
from keras_sd.network_configs import ControlConfig as ControlConfig
from keras_sd.network_configs import TextEncoderConfig as TextEncoderConfig
from keras_sd.network_configs import UNetConfig as UNetConfig
from keras_sd.network_configs import require, require_number, require_sizes
from keras_sd.noise import NoiseTable

Prediction = Literal["epsilon", "v", "x0"]
"""What a UNet gives, see `NoiseConfig`."""


@dataclass(frozen=True)
class NoiseConfig:
    """How the model was trained to denoise.

    Attributes:
        beta_schedule: `"scaled_linear"` (Stable Diffusion) or `"linear"` (Ho et al. 2020).
        beta_start: first beta.
        beta_end: last beta.
        num_train_timesteps: levels of the training table.
        prediction: what the UNet gives: `"epsilon"` (the noise), `"v"` (Salimans & Ho 2022, `v =
            alpha * noise - sigma * x0`) or `"x0"` (the clean latent, as some that were distilled to
            one step).
        final_sigma: where a run ends: `"first"` (the table's least noise, as SD's own DDIM and
            PNDM do) or `"zero"`.
        zero_terminal_snr: whether the table is stretched to end in pure noise (Lin et al. 2023).
            There the noise says nothing of the image, so such a model does not predict it.
    """

    beta_schedule: Literal["scaled_linear", "linear"] = "scaled_linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    num_train_timesteps: int = 1000
    prediction: Prediction = "epsilon"
    final_sigma: Literal["first", "zero"] = "first"
    zero_terminal_snr: bool = False

    def __post_init__(self) -> None:
        require_sizes("noise", self, MAX_TIMESTEPS, "num_train_timesteps")
        require_number("noise", self, "beta_start", 1.0)
        require_number("noise", self, "beta_end", 1.0)
        require(
            self.beta_start <= self.beta_end,
            f"noise: beta_end is {self.beta_end}, not at least beta_start, {self.beta_start}",
        )
        for name, allowed in (
            ("beta_schedule", ("scaled_linear", "linear")),
            ("prediction", get_args(Prediction)),
            ("final_sigma", ("first", "zero")),
        ):
            require(
                getattr(self, name) in allowed,
                f"noise: {name} {getattr(self, name)!r} is not one of {', '.join(allowed)}",
            )
        require(
            self.prediction != "epsilon" or not self.zero_terminal_snr,
            "noise: zero_terminal_snr needs the prediction v or x0, for the noise alone, which is "
            "what epsilon predicts, says nothing of the image",
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
        empty_negative: what an empty negative prompt is to the UNet: its text `"encoded"`, or
            `"zeros"`, as SDXL was trained.
    """

    height: int = 512
    width: int = 512
    sampler: str = "ddim"
    schedule: str | None = "leading"
    num_steps: int = 50
    guidance_scale: float = 7.5
    empty_negative: Literal["encoded", "zeros"] = "encoded"

    def __post_init__(self) -> None:
        require_sizes("defaults", self, MAX_WIDTH, "height", "width")
        require_sizes("defaults", self, MAX_TIMESTEPS, "num_steps")
        require(
            abs(self.guidance_scale) < 1e6,
            f"defaults: guidance_scale is {self.guidance_scale}, not between -1e6 and 1e6",
        )
        require(
            self.empty_negative in ("encoded", "zeros"),
            f"defaults: empty_negative {self.empty_negative!r} is not one of encoded, zeros",
        )


@dataclass(frozen=True)
class ModelConfig:
    """A whole model. `pad_token` is what fills a short prompt: `"end"` (SD 1.x) or `"zero"`.

    With `text_encoder_2` there are two text encoders, and the UNet attends to the features of both,
    one beside the other; `pad_token_2` fills the second one's prompts. The pooled vector, where the
    UNet is told one, is that of the last text encoder.
    """

    name: str
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    defaults: Defaults = field(default_factory=Defaults)
    pad_token: Literal["end", "zero"] = "end"
    text_encoder_2: TextEncoderConfig | None = None
    pad_token_2: Literal["end", "zero"] = "zero"

    def __post_init__(self) -> None:
        width = sum(encoder.width for encoder in self.text_encoders.values())
        require(
            width == self.unet.context_width,
            f"{self.name}: the text encoder gives {width} features a token, "
            f"the unet expects {self.unet.context_width}",
        )
        pooled = list(self.text_encoders.values())[-1].projection_width
        require(
            self.unet.pooled_width in (0, pooled),
            f"{self.name}: the last text encoder gives a pooled vector of {pooled} features, "
            f"the unet expects {self.unet.pooled_width}",
        )
        lengths = {encoder.max_length for encoder in self.text_encoders.values()}
        require(
            len(lengths) == 1,
            f"{self.name}: the text encoders take {' and '.join(map(str, sorted(lengths)))} tokens",
        )
        require(
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
            del found["text_encoder_2"], found["pad_token_2"]
        # Readers of before them do not know these; most models have none of them.
        for part, names in _LATER.items():
            usual = {each.name: each.default for each in dataclasses.fields(_PARTS[part])}
            for name in names if part in found else ():
                if found[part][name] == usual[name]:
                    del found[part][name]
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

_LATER = {
    "text_encoder": ("penultimate", "projection_width"),
    "text_encoder_2": ("penultimate", "projection_width"),
    "unet": (
        *("middle_depth", "up_depths", "pooled_width", "numbers", "number_width"),
        "guidance_width",
    ),
    "defaults": ("empty_negative",),
}
"""Fields that are written where they are not their defaults."""

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

_CLIP_L = TextEncoderConfig(penultimate=True)
_CLIP_BIG_G = TextEncoderConfig(
    width=1280,
    depth=32,
    heads=20,
    mlp_width=5120,
    activation="gelu",
    penultimate=True,
    projection_width=1280,
)

SDXL = ModelConfig(
    name="sdxl",
    text_encoder=_CLIP_L,
    text_encoder_2=_CLIP_BIG_G,
    unet=UNetConfig(
        widths=(320, 640, 1280),
        heads=(5, 10, 20),
        depths=(0, 2, 10),
        context_width=2048,
        linear_projection=True,
        pooled_width=1280,
        numbers=6,
    ),
    autoencoder=AutoencoderConfig(scale=0.13025),
    noise=NoiseConfig(final_sigma="zero"),
    defaults=Defaults(
        height=1024,
        width=1024,
        sampler="euler",
        guidance_scale=5.0,
        empty_negative="zeros",
    ),
)
"""Stable Diffusion XL 1.0 (Podell et al. 2023): epsilon prediction, 1024x1024, CLIP ViT-L/14 and
OpenCLIP ViT-bigG/14, each up to its last but one layer."""

SDXL_TURBO = dataclasses.replace(
    SDXL,
    name="sdxl-turbo",
    defaults=dataclasses.replace(
        SDXL.defaults,
        height=512,
        width=512,
        sampler="euler_ancestral",
        schedule="trailing",
        num_steps=1,
        guidance_scale=1.0,
    ),
)
"""SDXL-Turbo (Sauer et al. 2023): SDXL, distilled to 1 to 4 steps without guidance, 512x512."""

SDXL_LIGHTNING = dataclasses.replace(
    SDXL,
    name="sdxl-lightning",
    defaults=dataclasses.replace(
        SDXL.defaults, schedule="trailing", num_steps=4, guidance_scale=1.0
    ),
)
"""SDXL-Lightning (Lin et al. 2024) of 4 steps: SDXL, distilled to few steps without guidance."""

SDXL_LCM = dataclasses.replace(
    SDXL,
    name="sdxl-lcm",
    unet=dataclasses.replace(SDXL.unet, guidance_width=256),
    defaults=dataclasses.replace(
        SDXL.defaults, sampler="lcm", schedule="lcm", num_steps=4, guidance_scale=8.0
    ),
)
"""LCM-SDXL (Luo et al. 2023): SDXL, distilled to few steps, whose UNet is told the guidance scale
and gives what guidance would make of two evaluations."""

SDXL_REFINER = dataclasses.replace(
    SDXL,
    name="sdxl-refiner",
    text_encoder=_CLIP_BIG_G,
    text_encoder_2=None,
    unet=UNetConfig(
        widths=(384, 768, 1536, 1536),
        heads=(6, 12, 24, 24),
        depths=(0, 4, 4, 0),
        context_width=1280,
        linear_projection=True,
        middle_depth=4,
        pooled_width=1280,
        numbers=5,
    ),
    defaults=dataclasses.replace(SDXL.defaults, empty_negative="encoded"),
    pad_token="zero",
)
"""The refiner of Stable Diffusion XL 1.0: the end of a run, or image-to-image of little strength;
told an aesthetic score in place of the size that is aimed at."""

SSD_1B = dataclasses.replace(
    SDXL,
    name="ssd-1b",
    unet=dataclasses.replace(
        SDXL.unet, depths=(0, 2, 4), middle_depth=0, up_depths=(4, 4, 10, 2, 1, 1, 0, 0, 0)
    ),
)
"""SSD-1B (Gupta et al. 2024): SDXL with half of its transformer blocks."""

SEGMIND_VEGA = dataclasses.replace(
    SDXL,
    name="segmind-vega",
    unet=dataclasses.replace(
        SDXL.unet, depths=(0, 1, 2), middle_depth=0, up_depths=(2, 2, 2, 1, 1, 1, 0, 0, 0)
    ),
)
"""Segmind-Vega (Gupta et al. 2024): SDXL with a quarter of them."""

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
