"""Settings of what a UNet is told beside a prompt, such as SDXL of sizes (Podell et al. 2023,
section 2.2), and of where a refiner takes over: `Conditioning`, a part of every request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from keras_sd.checks import SettingError, SettingTypeError, choice, real, whole
from keras_sd.settings import Checked, setting

__all__ = ["EMPTY_NEGATIVES", "REFINE_AT", "Conditioning"]

EMPTY_NEGATIVES = ("encoded", "zeros")

REFINE_AT = 0.8
"""Where a refiner takes over by itself."""

_SCORES = (6.0, 2.5)
"""Of the prompt and of the negative prompt, by themselves."""

_TAKEN = {
    0: (),
    5: ("original_size", "crop", "aesthetic_score"),
    6: ("original_size", "crop", "target_size"),
}
"""What is told, by how many numbers a model takes."""

_MOST = 2**16


def _pair(least: int, first: str, second: str) -> Any:
    def check(name: str, value: Any) -> tuple[int, int]:
        if hasattr(value, "tolist"):
            value = value.tolist()
        if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
            raise SettingTypeError(name, f"is two numbers, {first} and {second}, not {value!r}")
        one, two = (whole(name, each, least, _MOST) for each in value)
        return one, two

    return check


def _four(name: str, value: Any) -> tuple[float, ...]:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 4:
        raise SettingTypeError(name, f"is four numbers, b1, b2, s1 and s2, not {value!r}")
    return tuple(real(name, each, 0.0, 10.0) for each in value)


_size = _pair(1, "height", "width")
_corner = _pair(0, "rows from the top", "columns from the left")
_score = partial(real, least=-100.0, most=100.0)


@dataclass(frozen=True, kw_only=True)
class Conditioning(Checked):
    """What a UNet is told of the picture beside the prompt, where it can be told.

    Raises:
        ValueError: a setting does not fit (`keras_sd.checks.SettingError`).
        TypeError: a setting is of another kind.
    """

    original_size: tuple[int, int] | None = setting(
        None,
        "Of SDXL: height and width of the picture that it is to look like a copy of, before it was "
        "scaled; by itself, its own.",
        _size,
    )
    crop: tuple[int, int] | None = setting(
        None,
        "Of SDXL: rows and columns that are to look cut off at the top and the left; by itself, "
        "none.",
        _corner,
    )
    target_size: tuple[int, int] | None = setting(
        None, "Of SDXL: height and width that are aimed at; by itself, its own.", _size
    )
    negative_original_size: tuple[int, int] | None = setting(
        None, "original_size to keep away from; by itself, that of the prompt.", _size
    )
    negative_crop: tuple[int, int] | None = setting(
        None, "crop to keep away from; by itself, that of the prompt.", _corner
    )
    negative_target_size: tuple[int, int] | None = setting(
        None, "target_size to keep away from; by itself, that of the prompt.", _size
    )
    aesthetic_score: float | None = setting(
        None,
        f"Of SDXL's refiner: how beautiful the picture is to be, about 1 to 10; by itself, "
        f"{_SCORES[0]:g}.",
        _score,
    )
    negative_aesthetic_score: float | None = setting(
        None, f"aesthetic_score to keep away from; by itself, {_SCORES[1]:g}.", _score
    )
    empty_negative: str | None = setting(
        None,
        "What an empty negative prompt is to the UNet: its text encoded, or zeros. A refiner does "
        "as it was trained.",
        partial(choice, choices=(None, *EMPTY_NEGATIVES)),
    )
    freeu: tuple[float, float, float, float] | None = setting(
        None,
        "FreeU's b1, b2, s1 and s2: how much of its backbone and of its skips' lowest frequencies "
        "a UNet sees on the way up, such as 1.5 1.6 0.9 0.2; by itself, 1 of each.",
        _four,
    )
    refine_at: float | None = setting(
        None,
        "Of a pipeline with a refiner: the part of the noise after which that goes on, from 0 to "
        f"1; by itself, {REFINE_AT:g}.",
        partial(real, least=0.0, most=1.0),
    )

    def numbers(
        self, count: int, size: tuple[int, int], *, negative: bool = False
    ) -> tuple[float, ...]:
        """What a UNet is told in numbers, in its order.

        Args:
            count: how many it takes: 0, SDXL's 6 or its refiner's 5.
            size: height and width of the picture.
            negative: for the negative prompts.
        """
        original, crop = self.original_size or size, self.crop or (0, 0)
        target, score = self.target_size or size, self.aesthetic_score
        score = _SCORES[0] if score is None else score
        if negative:
            original, crop = self.negative_original_size or original, self.negative_crop or crop
            target, score = self.negative_target_size or target, self.negative_aesthetic_score
            score = _SCORES[1] if score is None else score
        last = (score,) if count == 5 else target
        return tuple(map(float, (*original, *crop, *last)))[:count]

    def check_told(self, *counts: int) -> None:
        """Refuses a setting that no model of a run is told.

        Args:
            *counts: how many numbers each of them takes.

        Raises:
            SettingError: there is one.
        """
        taken = {name for count in counts for name in _TAKEN[count]}
        for name in ("original_size", "crop", "target_size", "aesthetic_score"):
            for each in (name, f"negative_{name}"):
                if name not in taken and getattr(self, each) is not None:
                    told = " and ".join(sorted(taken)) or "nothing of the kind"
                    raise SettingError(each, f"is not told to this model, which is told {told}")
