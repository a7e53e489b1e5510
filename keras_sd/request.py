"""What to draw: `Request`, everything a picture depends on but the weights.

A `Request` is a frozen value. The doors of the pipeline and the command build one, a PNG file
holds one as JSON, and the run reads nothing else. Each setting is checked when the value is made;
`Request.resolved` checks what needs the model's defaults or the installed names.
"""

from __future__ import annotations

import difflib
import json
import math
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from keras_sd import aliases, choices, registry
from keras_sd.adaptations import Adaptation
from keras_sd.checks import (
    SettingError,
    check_area,
    check_size,
    choice,
    whole,
)
from keras_sd.conditioning import Conditioning
from keras_sd.controls import Control
from keras_sd.guidance import check_interval, check_rescale, check_scale
from keras_sd.image_prompts import ImagePrompt
from keras_sd.prompt_styles import STYLES
from keras_sd.settings import setting, settings
from keras_sd.sparing import Sparing
from keras_sd.start import Attachment, Masking, Start, read_attachments

if TYPE_CHECKING:
    from keras_sd.config import Defaults

__all__ = ["MAX_IMAGES", "VERSION", "Request"]

VERSION = 1
"""Version of the JSON form; `Request.from_dict` refuses a newer one."""

MAX_IMAGES = 2**16
"""The most pictures of one request."""


@dataclass(frozen=True)
class Request(Conditioning, Sparing):
    """Everything a picture depends on but the weights.

    Attributes:
        prompts: one a picture: a text, or an `Attachment` with its encoding `(tokens, features)`.
        negative_prompts: likewise, what to keep away from.
        images: the (seed, number) of each picture; its noise is a function of both, so that it can
            be made again alone. A seed of None is drawn when the request is resolved.
        noise: standard normal numbers to start from instead, `(latent height, latent width,
            channels)`: one for all, or one a picture. What a sampler draws later is still made
            from the seeds.
        start: the picture that the run begins at; None is noise alone.
        controls: pictures that steer it, each with its ControlNet or T2I-Adapter.
        image_prompts: pictures that are a part of the prompt, each with its IP-Adapter.
        adapters: LoRA files and the like, which the weights have while it is drawn.

    The other fields are settings, each with a sentence of its own; None leaves one to the model.

    Raises:
        ValueError: a setting does not fit (`SettingError`), or there are other numbers of prompts
            than of pictures.
        TypeError: a setting is of another kind.
    """

    prompts: tuple[str | Attachment, ...]
    negative_prompts: tuple[str | Attachment, ...] = ("",)
    images: tuple[tuple[int | None, int], ...] = ()
    height: int | None = setting(None, "Pixels, a multiple of 8.", check_size)
    width: int | None = setting(None, "Pixels, a multiple of 8.", check_size)
    num_steps: int | None = setting(
        None, "Sampler steps.", partial(whole, least=1, most=1_000_000), option="steps"
    )
    sampler: Any = setting(
        None,
        'A name that `keras-sd samplers` lists, with settings as "ddim:eta=1", or one of web UIs: '
        '"DPM++ 2M Karras".',
        choices.sampler,
    )
    schedule: Any = setting(
        None,
        "How noise levels are spread: a name that `keras-sd schedules` lists, with settings as "
        '"karras:rho=5".',
        choices.schedule,
    )
    guidance_scale: float | None = setting(
        None,
        "How closely to follow the prompt; 1 is no guidance.",
        check_scale,
        option="guidance",
    )
    guidance_rescale: float = setting(
        0.0,
        "From 0 to 1: how far colours that strong guidance overdoes are brought back.",
        check_rescale,
    )
    guidance_interval: tuple[float, float] | None = setting(
        None, "Lowest and highest sigma / alpha with guidance; by itself, all.", check_interval
    )
    guidance_method: Any = setting(
        None,
        "What makes one prediction of those with and without the prompt: a name that "
        '`keras-sd guidance` lists, with settings as "apg:norm=7.5".',
        choices.guidance,
    )
    prompt_style: str = setting(
        "plain",
        f"Whose grammar the prompts are written in: {', '.join(STYLES)}.",
        partial(choice, choices=STYLES),
    )
    clip_skip: int = setting(
        1,
        "Which layer of the text encoder is its last, counted from the end: 2 leaves one out.",
        partial(whole, least=1, most=1_000),
    )
    noise: tuple[Attachment, ...] = ()
    start: Start | None = None
    controls: tuple[Control, ...] = ()
    image_prompts: tuple[ImagePrompt, ...] = ()
    adapters: tuple[Adaptation, ...] = ()

    def __post_init__(self) -> None:
        prompts, negatives = (
            _texts("prompts", self.prompts),
            _texts("negative_prompts", self.negative_prompts),
        )
        count = max(len(prompts), len(self.images))
        images = tuple(map(tuple, self.images)) or tuple((None, i) for i in range(count))
        if len(prompts) not in (1, count) or len(images) != count:
            raise ValueError(f"{len(prompts)} prompts for {len(images)} pictures; give one of each")
        if len(negatives) not in (1, count):
            raise ValueError(
                f"{len(negatives)} negative prompts for {len(prompts)} prompts; give one for all, "
                "or one a prompt"
            )
        if count > MAX_IMAGES:
            raise ValueError(f"{count} pictures are too many for one request; {MAX_IMAGES} work")
        self._put("prompts", prompts * (count // len(prompts)))
        self._put("negative_prompts", negatives * (count // len(negatives)))
        self._put("images", tuple(_image(*image) for image in images))
        super().__post_init__()

    @classmethod
    def of(
        cls,
        prompt: Any,
        negative_prompt: Any = None,
        batch_size: Any = 1,
        seed: Any = None,
        *,
        first_image: Any = 0,
        image: Sequence[Attachment] = (),
        mask: Sequence[Attachment] = (),
        **given: Any,
    ) -> Request:
        """A request for a number of pictures of each prompt, with one seed.

        Args:
            prompt: a text, or several in a list, an array or a column of a table: a picture each.
                An array of numbers is encodings, `(tokens, features)` or with a row a picture.
            negative_prompt: one for all, or one a prompt.
            batch_size: pictures of each prompt.
            seed: from 0 to 2**64 - 1; None is a new one.
            first_image: number of the first picture.
            image: the picture that the run begins at: one for all, or one a picture.
            mask: likewise, which part of it is painted.
            **given: settings of `Request`, `Start` and `Masking`; `noise`, `controls`,
                `image_prompts`, `adapters`.

        Raises:
            ValueError: a setting does not fit.
            TypeError: a setting is of another kind, or there is none of this name.
        """
        batch_size = whole("batch_size", batch_size, 1, MAX_IMAGES)
        first_image = whole("first_image", first_image, 0, 2**64 - MAX_IMAGES)
        prompts = _texts("prompt", prompt)
        negatives = _texts("negative_prompt", "" if negative_prompt is None else negative_prompt)
        if len(negatives) not in (1, len(prompts)):
            raise ValueError(
                f"{len(negatives)} negative prompts for {len(prompts)} prompts; give one for all, "
                "or one a prompt"
            )
        shares = {part: _share(part, given) for part in (Masking, Start, cls)}
        if given:
            raise TypeError(_no_setting(next(iter(given))))
        if not mask and shares[Masking]:
            raise ValueError("To inpaint, give a mask: without one there is nothing to paint")
        if not image and (mask or shares[Start]):
            raise ValueError("A mask, a strength or a resize is of an image: give one")
        masking = Masking(masks=tuple(mask), **shares[Masking]) if mask else None
        start = Start(pictures=tuple(image), masking=masking, **shares[Start]) if image else None
        fits = start and (start.resize or (masking and masking.only_masked))
        sizes = [each for each in ("height", "width") if shares[cls].get(each) is not None]
        if start and sizes and not fits:
            raise SettingError(
                sizes[0],
                "is what a picture is brought to by resize='stretch', 'crop' or 'pad'; without it, "
                "the picture is drawn as large as it is",
            )
        numbers = range(first_image, first_image + batch_size * len(prompts))
        if len(negatives) > 1:
            negatives = tuple(text for text in negatives for _ in range(batch_size))
        return cls(
            tuple(text for text in prompts for _ in range(batch_size)),
            negatives,
            tuple((seed, number) for number in numbers),
            start=start,
            **shares[cls],
        )

    def __len__(self) -> int:
        """Pictures."""
        return len(self.images)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels.

        Raises:
            ValueError: the request is not resolved, and leaves them to the model.
        """
        if self.height is None or self.width is None:
            raise ValueError("The request leaves its size to the model: ask the resolved one")
        return self.height, self.width

    def only(self, *numbers: int) -> Request:
        """The request for some of its pictures alone. It makes the same pictures again; but where
        prompts of one request have several chunks (see `keras_sd.prompts`), all are brought to the
        number of the longest, which a short one sees.

        Args:
            *numbers: which, counted from 0 in this request.
        """

        def some(rows: tuple) -> tuple:
            return tuple(rows[i] for i in numbers) if len(rows) == len(self) else rows

        start = self.start
        if start is not None:
            masking = start.masking
            masking = masking and replace(masking, masks=some(masking.masks))
            start = replace(start, pictures=some(start.pictures), masking=masking)
        return replace(
            self,
            prompts=some(self.prompts),
            negative_prompts=some(self.negative_prompts),
            images=some(self.images),
            noise=some(self.noise),
            start=start,
            controls=tuple(replace(each, image=some(each.image)) for each in self.controls),
        )

    def resolved(self, defaults: Defaults) -> Request:
        """The request that is run: with a value for each None, and names as the registry has them.

        Args:
            defaults: what the model does where the request says nothing.

        Raises:
            ValueError: a name is not installed, or there are too many pixels.
            TypeError: a sampler, schedule or guidance has no such setting.
        """
        sampler, schedule = self.sampler or defaults.sampler, self.schedule
        if isinstance(sampler, str):
            sampler, named = aliases.resolve(sampler)
            schedule = named if schedule is None else schedule
        made = registry.get_sampler(sampler)
        method, scale = choices.guided(self.guidance_method, self.guidance_scale, made)
        if schedule is None:
            schedule = defaults.schedule
        if isinstance(schedule, str):
            schedule = aliases.resolve_schedule(schedule)
            registry.get_schedule(schedule)
        height = defaults.height if self.height is None else self.height
        width = defaults.width if self.width is None else self.width
        check_area(height, width)
        num_steps = self.num_steps
        if num_steps is None:
            num_steps = choices.steps_of(schedule) or defaults.num_steps
        start = self.start
        if start is not None and start.strength is None:
            start = replace(start, strength=0.8 if start.masking is None else 1.0)
        empty = self.empty_negative
        if (
            empty is None and defaults.empty_negative != "encoded"
        ):  # as it was before there were two
            empty = defaults.empty_negative
        drawn = secrets.randbits(32) if any(seed is None for seed, _ in self.images) else 0
        drawn = 0 if self.noise else drawn  # of what is drawn later, so that it can be had again
        return replace(
            self,
            images=tuple((drawn if seed is None else seed, n) for seed, n in self.images),
            height=height,
            width=width,
            num_steps=num_steps,
            sampler=sampler,
            schedule=schedule,
            guidance_scale=defaults.guidance_scale if scale is None else scale,
            guidance_method=method,
            empty_negative=empty,
            start=start,
        )

    # --- arrays -----------------------------------------------------------------------

    def attachments(self) -> tuple[Attachment, ...]:
        """All arrays that the request refers to."""
        texts = (
            each for each in (*self.prompts, *self.negative_prompts) if not isinstance(each, str)
        )
        start = self.start
        masks = start.masking.masks if start and start.masking else ()
        controls = (part for each in self.controls for part in (each.net, *each.image))
        shown = (part for each in self.image_prompts for part in (each.adapter, *each.image))
        adapters = (each.file for each in self.adapters)
        pictures = start.pictures if start else ()
        return (*texts, *self.noise, *pictures, *masks, *controls, *shown, *adapters)

    def attached(self, arrays: Iterable[Any]) -> Request:
        """The request with its arrays. One that was read from JSON knows them by their hash alone.

        Args:
            arrays: NumPy arrays, in any order, equal in dtype, shape and contents to those that the
                request was made of: of a picture what `keras_sd.image.read_image` gives, of a mask
                `read_mask`. Of a control its `keras_sd.ControlNet`, of an image prompt its
                `keras_sd.IPAdapter`.

        Raises:
            ValueError: an array is missing.
        """
        there = {each.sha256: each.data for each in map(Attachment.of, arrays)}

        def filled(each: Any) -> Any:
            if isinstance(each, tuple):
                return tuple(map(filled, each))
            if isinstance(each, Request | Start | Masking | Control | ImagePrompt | Adaptation):
                return replace(each, **{name: filled(part) for name, part in vars(each).items()})
            if not isinstance(each, Attachment) or each.data is not None:
                return each
            if each.sha256 not in there:
                raise ValueError(
                    f"The request needs {each.name or 'an array'} of SHA-256 {each.sha256}, which "
                    "is not among those that were given"
                )
            return replace(each, data=there[each.sha256])

        full: Request = filled(self)
        return full

    # --- JSON -------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The request in JSON's types; arrays are there by their hash.

        Raises:
            ValueError: the sampler, schedule or guidance is an object without an installed name.
        """
        found = {"version": VERSION, **super().to_dict()}
        # Readers of before these do not know them.
        new = {
            "controls": (),
            "image_prompts": (),
            "adapters": (),
            "guidance_method": None,
            **{
                each.name: each.default
                for part in (Conditioning, Sparing)
                for each in settings(part).values()
            },
        }
        for name in (name for name, usual in new.items() if getattr(self, name) == usual):
            del found[name]
        if self.guidance_interval and self.guidance_interval[1] == math.inf:
            found["guidance_interval"] = [self.guidance_interval[0], None]  # JSON has no infinity
        return found

    def to_json(self) -> str:
        """`to_dict` as a string."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_dict(cls, data: Any) -> Request:
        """Reads what `to_dict` gave; fields that are missing are their defaults.

        Raises:
            ValueError: the version is newer, a field is unknown, or a value does not fit.
        """
        version = data.get("version") if isinstance(data, Mapping) else VERSION
        if type(version) is not int or not 1 <= version <= VERSION:
            raise ValueError(
                f"The request is of version {version!r}; this keras_sd reads up to {VERSION}"
            )
        rest = data
        if isinstance(data, Mapping):
            rest = {name: value for name, value in data.items() if name != "version"}
        return super().from_dict(rest)

    @classmethod
    def from_json(cls, text: str | bytes) -> Request:
        """Reads what `to_json` wrote.

        Raises:
            ValueError: it is no JSON, or see `from_dict`.
        """
        return cls.from_dict(json.loads(text))

    @classmethod
    def _read(cls, name: str, value: Any) -> Any:
        if name == "start" and value is not None:
            return Start.from_dict(value)
        if name == "controls" and isinstance(value, list):
            return tuple(map(Control.from_dict, value))
        if name == "image_prompts" and isinstance(value, list):
            return tuple(map(ImagePrompt.from_dict, value))
        if name == "adapters" and isinstance(value, list):
            return tuple(map(Adaptation.from_dict, value))
        if name in ("prompts", "negative_prompts", "noise"):
            return read_attachments(name, value)
        if name == "images":
            if not isinstance(value, list) or any(
                not isinstance(each, list) or len(each) != 2 for each in value
            ):
                raise ValueError(f"images is a list of [seed, number], not {value!r}")
            return tuple(map(tuple, value))
        if name == "guidance_interval" and isinstance(value, list) and value[-1:] == [None]:
            return *value[:-1], math.inf
        return super()._read(name, value)


# --- checking -------------------------------------------------------------------------


def _image(seed: Any, number: Any) -> tuple[int | None, int]:
    if seed is not None:
        try:
            seed = whole("seed", seed, 0, 2**64 - 1)
        except SettingError as error:
            if isinstance(error, TypeError) or seed != -1:
                raise
            raise SettingError(
                "seed", "is from 0 to 2**64 - 1; for a new one each time, leave -1 out"
            ) from None
    return seed, whole("the number of an image", number, 0, 2**64 - 1)


def _texts(name: str, given: Any) -> tuple[str | Attachment, ...]:
    """Texts or encodings from whatever holds them, one a picture."""
    if isinstance(given, str | Attachment):
        return (given,)
    if hasattr(given, "dtype") and hasattr(given, "shape"):
        given = _of_array(name, given)
    if isinstance(given, list | tuple) and all(
        isinstance(each, str | Attachment) for each in given
    ):
        if not given:
            raise ValueError(f"{name} is an empty list; for a picture of anything, give ''")
        return tuple(each if isinstance(each, Attachment) else str(each) for each in given)
    raise TypeError(f"{name} is a string, a list of strings, or encodings of them, not {given!r}")


def _of_array(name: str, given: Any) -> Any:
    """Strings in an array or a column as a list; what holds numbers is encodings."""
    if not hasattr(given, "tolist"):
        return given
    listed = given.tolist()
    if isinstance(listed, str):
        return [listed]
    return listed if all(isinstance(each, str) for each in listed) else given


def _share(part: type, given: dict[str, Any]) -> dict[str, Any]:
    """The settings that are this part's, taken out of all."""
    beside = {"noise", "controls", "image_prompts", "adapters"} if part is Request else set()
    names = {*settings(part), *beside}
    return {name: given.pop(name) for name in list(given) if name in names}


def _no_setting(name: str) -> str:
    known = [each for part in (Request, Start, Masking) for each in settings(part)]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"There is no setting {name!r}.{hint} Settings: {', '.join(known)}"
