"""What a training is: a TOML file as a value, checked before anything is loaded."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from keras_sd.checks import SettingError, SettingTypeError, check_size, choice, flag, real, whole
from keras_sd.files import checked_path
from keras_sd.prompts.names import MAX_NAME, is_name, spelled
from keras_sd.settings import Checked, setting, settings

__all__ = [
    *(
        "ControlNetSettings",
        "Data",
        "LoRASettings",
        "Log",
        "Prior",
        "Samples",
        "Targets",
        "TextualInversion",
    ),
    *("Training", "TrainConfig", "read_config"),
]

Method = Literal["full", "lora", "textual_inversion", "controlnet"]
Targets = Literal["attention", "transformer", "all"]
HintName = Literal["canny", "invert", "threshold", "ready"]
_DTYPES = ("float32", "mixed_float16", "mixed_bfloat16")


def _of(check: Callable[..., Any], *args: Any, **options: Any) -> Callable[[str, Any], Any]:
    return lambda name, value: check(name, value, *args, **options)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise SettingTypeError(name, f"is a text, not {value!r}")
    return value


def _path(name: str, value: Any) -> str:
    try:
        return str(checked_path(value, name, "a path"))
    except (TypeError, ValueError) as error:
        raise SettingTypeError(name, f"is a path, not {value!r}") from error


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
        raise SettingTypeError(name, f"is a list of texts, not {value!r}")
    return tuple(value)


def _word(name: str, value: Any) -> str:
    if not is_name(spelled(_text(name, value))):
        raise SettingError(
            name,
            f"has a letter or a digit, at most {MAX_NAME} signs, and no mark of a text, not "
            f"{value!r}",
        )
    return value


_part = _of(real, 0.0, 1.0)
_positive = partial(_of, real, above=0.0)


_ALONE = {"textual_inversion": "word's vectors", "controlnet": "ControlNet's weights"}
"""What the other methods change."""


@dataclass(frozen=True)
class Data(Checked):
    """The section `[data]`."""

    folder: str = setting("", "Pictures with captions, of one of the three kinds.", _path)
    caption: str | None = setting(None, "Of pictures that have none of their own.", _text)
    resolution: int | None = setting(
        None, "Pixels of a square's side, a multiple of 8; the model's own by default.", check_size
    )
    buckets: bool = setting(
        True, "Whether pictures keep their shape, nearly; else their middle square is taken.", flag
    )
    caption_dropout: float = setting(
        0.1, "Part of the samples that have no caption, which guidance needs.", _part
    )
    latents: str | None = setting(
        None, "Folder of the encoded pictures; by default `latents` in the output.", _path
    )


@dataclass(frozen=True)
class Training(Checked):
    """The section `[train]`."""

    method: Method = setting(
        "full",
        "What is learned: all weights of the UNet, a `lora` beside them, a word's vectors, or a "
        "`controlnet`.",
        _of(choice, get_args(Method)),
    )
    text_encoder: bool = setting(
        False, "Whether `full` and `lora` train the text encoders too.", flag
    )
    steps: int = setting(1000, "Updates of the weights.", _of(whole, 1))
    batch_size: int = setting(4, "Samples that are in memory at once.", _of(whole, 1))
    accumulate: int = setting(1, "Batches of one update, whose gradients add up.", _of(whole, 1))
    learning_rate: float = setting(1e-4, "The highest.", _positive())
    warmup: int = setting(0, "Updates in which the rate rises to it.", _of(whole, 0))
    schedule: str = setting(
        "cosine",
        "After these: `cosine` falls to 0, `constant` stays.",
        _of(choice, ("cosine", "constant")),
    )
    weight_decay: float = setting(0.01, "Of AdamW.", _of(real, 0.0))
    clip: float | None = setting(
        1.0, "Norm that the gradients are brought down to; 0 does not.", _of(real, 0.0)
    )
    ema: float = setting(
        0.0, "Most that an update keeps of the averaged weights, such as 0.999; 0 has none.", _part
    )
    min_snr: float = setting(
        0.0, "Gamma of min-SNR weights, 5 in the paper; 0 weighs all levels alike.", _of(real, 0.0)
    )
    seed: int = setting(0, "Of order, levels, noise and first values.", _of(whole, 0, 2**32 - 1))
    dtype: str = setting(
        "float32",
        "`mixed_float16` scales the loss; `mixed_bfloat16` need not.",
        _of(choice, _DTYPES),
    )
    remat: bool = setting(
        False, "Whether blocks compute again in place of keeping what gradients need.", flag
    )
    devices: str = setting(
        "one",
        "`all` gives each a part of every batch, on JAX.",
        _of(choice, ("one", "all")),
    )


@dataclass(frozen=True)
class LoRASettings(Checked):
    """The section `[lora]`."""

    rank: int = setting(8, "Of the low-rank arrays.", _of(whole, 1))
    alpha: float | None = setting(
        None, "Their product counts alpha / rank; the rank by default.", _positive()
    )
    targets: Targets = setting(
        "attention",
        "Layers: of `attention`, of the whole `transformer`, or `all` of the blocks.",
        _of(choice, get_args(Targets)),
    )


@dataclass(frozen=True)
class TextualInversion(Checked):
    """The section `[textual_inversion]`."""

    token: str = setting("<new>", "The word in the captions whose vectors are learned.", _word)
    initial: str | None = setting(
        None, "A word, or several, whose vectors they begin as; zeros by default.", _text
    )
    vectors: int = setting(
        1, "How many the word has: at least as many as `initial` has tokens.", _of(whole, 1, 75)
    )


@dataclass(frozen=True)
class ControlNetSettings(Checked):
    """The section `[controlnet]`."""

    hint: HintName = setting(
        "canny",
        "What it is shown of each picture: what is made of it by one of `keras_sd.hints`, `canny`, "
        "`invert`, `threshold`; or `ready`, a picture of its own.",
        _of(choice, get_args(HintName)),
    )
    folder: str | None = setting(
        None,
        "Of the ready hints, each of its picture's name; by default they are in the column "
        "`conditioning_image`.",
        _path,
    )

    @property
    def ready(self) -> bool:
        """Whether hints are pictures of their own."""
        return self.hint == "ready"


@dataclass(frozen=True)
class Prior(Checked):
    """The section `[prior]`, which makes it DreamBooth (Ruiz et al. 2022)."""

    caption: str | None = setting(
        None, "Of the kind of thing, such as `a dog`. None is no prior.", _text
    )
    folder: str | None = setting(
        None, "Pictures of the kind; by default `prior` in the output.", _path
    )
    count: int = setting(100, "Pictures; those that lack are drawn by the model.", _of(whole, 1))
    weight: float = setting(1.0, "Of their loss.", _of(real, 0.0))


@dataclass(frozen=True)
class Samples(Checked):
    """The section `[samples]`."""

    prompts: tuple[str, ...] = setting((), "What is drawn to see how it goes.", _texts)
    every: int = setting(500, "Updates between two sheets.", _of(whole, 1))
    steps: int | None = setting(None, "Of the sampler; the model's own by default.", _of(whole, 1))
    seed: int = setting(0, "Of the pictures.", _of(whole, 0, 2**64 - 1))


@dataclass(frozen=True)
class Log(Checked):
    """The section `[log]`."""

    save_every: int = setting(500, "Updates between two saved states.", _of(whole, 1))
    csv: bool = setting(True, "Whether `log.csv` has every loss.", flag)
    tensorboard: bool = setting(False, "Whether `tensorboard/` has, too.", flag)


@dataclass(frozen=True)
class TrainConfig:
    """A training.

    Attributes:
        model: a preset's name, or the path of a checkpoint; see `keras_sd.model.Model.from_preset`.
        output: the folder of what is made.
        data: the pictures.
        train: how.
        lora: of the method `lora`.
        textual_inversion: of the method `textual_inversion`.
        controlnet: of the method `controlnet`.
        prior: of DreamBooth.
        samples: what is drawn meanwhile.
        log: what is written meanwhile.

    Raises:
        keras_sd.checks.SettingError: settings do not go together.
    """

    model: str
    output: str
    data: Data = field(default_factory=Data)
    train: Training = field(default_factory=Training)
    lora: LoRASettings = field(default_factory=LoRASettings)
    textual_inversion: TextualInversion = field(default_factory=TextualInversion)
    controlnet: ControlNetSettings = field(default_factory=ControlNetSettings)
    prior: Prior = field(default_factory=Prior)
    samples: Samples = field(default_factory=Samples)
    log: Log = field(default_factory=Log)

    def __post_init__(self) -> None:
        _text("model", self.model)
        _path("output", self.output)
        _path("data.folder", self.data.folder)
        if self.train.warmup >= self.train.steps:
            raise SettingError(
                "train.warmup",
                f"is less than the {self.train.steps} steps, not {self.train.warmup}",
            )
        self._check_method()
        if self.controlnet.folder is not None and not self.controlnet.ready:
            raise SettingError(
                "controlnet.folder",
                f"goes with the hint 'ready'; by {self.controlnet.hint!r} hints are made",
            )
        if self.prior.caption is not None and self.data.buckets:
            raise SettingError(
                "data.buckets",
                "is false with a prior, whose pictures are squares in one batch with the others",
            )
        self._check_folders()

    def _check_method(self) -> None:
        """Refuses settings that the method would not look at."""
        method = self.train.method
        given = {"train.text_encoder": self.train.text_encoder, "prior.caption": self.prior.caption}
        for name, value in given.items():
            if value and method in _ALONE:
                raise SettingError(
                    name, f"goes with full and lora; here only the {_ALONE[method]} change"
                )
        for section in ("lora", "textual_inversion", "controlnet"):
            if method != section and (changed := _changed(getattr(self, section))):
                raise SettingError(
                    f"{section}.{changed}", f"goes with the method {section!r}, not {method!r}"
                )
        if self.prior.caption is None and (changed := _changed(self.prior)):
            raise SettingError(
                f"prior.{changed}", "goes with prior.caption, without which there is no prior"
            )

    def _check_folders(self) -> None:
        """Refuses to train on the folder that pictures are drawn to."""
        drawn = {"samples": self._samples} if self.samples.prompts else {}
        if self.prior.caption is not None:
            drawn["pictures of the prior"] = self.prior_folder
        for what, folder in drawn.items():
            if folder.resolve() == Path(self.data.folder).resolve():
                raise SettingError(
                    "data.folder", f"is another folder than {folder}, to which the {what} are drawn"
                )

    @property
    def _samples(self) -> Path:
        return Path(self.output) / "samples"

    @property
    def prior_folder(self) -> Path:
        """Where the pictures of the prior are, or will be."""
        return Path(self.prior.folder or Path(self.output) / "prior")

    @property
    def apart(self) -> tuple[Path, ...]:
        """Folders with pictures of one kind each: those that are trained on, the prior, and what is
        made. Where one of them lies in another, its pictures are none of the other's.
        """
        return Path(self.data.folder), self.prior_folder, Path(self.output), self._samples

    def to_dict(self) -> dict[str, Any]:
        """The config in JSON's types, a dictionary a section."""
        return {
            each.name: value.to_dict() if isinstance(value, Checked) else value
            for each in fields(self)
            for value in (getattr(self, each.name),)
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainConfig:
        """Reads what `to_dict` gave, or a TOML file says.

        Raises:
            ValueError: a name is unknown or lacking, or a value does not fit.
        """
        names = {each.name: each for each in fields(cls)}
        for name in data:
            _known(name, list(names), "A training")
        if lacking := [name for name in ("model", "output", "data") if name not in data]:
            raise SettingError(lacking[0], "is missing")
        given: dict[str, Any] = {}
        for name, value in data.items():
            section = _SECTIONS.get(name)
            given[name] = value if section is None else _section(section, name, value)
        return cls(**given)

    def relative_to(self, folder: Path) -> TrainConfig:
        """The config with paths that are relative to a folder; a model's name stays one."""

        def placed(path: Any) -> Any:
            return None if path is None else str(folder / Path(path).expanduser())

        model = placed(self.model) if (folder / self.model).exists() else self.model
        return replace(
            self,
            model=model,
            output=placed(self.output),
            data=replace(
                self.data, folder=placed(self.data.folder), latents=placed(self.data.latents)
            ),
            prior=replace(self.prior, folder=placed(self.prior.folder)),
            controlnet=replace(self.controlnet, folder=placed(self.controlnet.folder)),
        )


_SECTIONS: dict[str, type[Checked]] = {
    "data": Data,
    "train": Training,
    "lora": LoRASettings,
    "textual_inversion": TextualInversion,
    "controlnet": ControlNetSettings,
    "prior": Prior,
    "samples": Samples,
    "log": Log,
}


def read_config(path: str | Path) -> TrainConfig:
    """Reads a TOML file. Paths in it are relative to its folder.

    Args:
        path: of the file.

    Raises:
        ValueError: it is no TOML, a name is unknown or lacking, or a value does not fit; the
            message names the file and the setting.
        FileNotFoundError: there is no such file.
    """
    path = checked_path(path, "config", "the path of a TOML file")
    try:
        data = tomllib.loads(path.read_bytes().decode("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no TOML: {error}") from error
    try:
        return TrainConfig.from_dict(data).relative_to(path.resolve().parent)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _changed(section: Checked) -> str | None:
    """The first setting of a section that is not its default, or None."""
    given = settings(type(section)).items()
    return next((name for name, each in given if getattr(section, name) != each.default), None)


def _section(kind: type[Checked], section: str, value: Any) -> Checked:
    if not isinstance(value, Mapping):
        raise SettingTypeError(section, f"is a table, [{section}], not {value!r}")
    for name in value:
        _known(name, list(settings(kind)), f"[{section}]")
    try:
        return kind.from_dict(value)
    except SettingError as error:
        raise type(error)(f"{section}.{error.name}", error.problem) from error


def _known(name: str, names: list[str], where: str) -> None:
    if name in names:
        return
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    raise ValueError(f"{where} has no {name!r}. {hint}There are {', '.join(names)}")
