"""One rule for every number, switch and choice that a user gives.

A number may come from Python, NumPy or a tensor of no dimensions; a bool is no number. What is
checked is what is passed on: each function returns the plain Python value.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from numbers import Complex, Real
from typing import Any

__all__ = [
    "MAX_AREA",
    "MAX_SIDE",
    "SIZE_UNIT",
    "TILE",
    "SettingError",
    "SettingTypeError",
    "check_area",
    "check_size",
    "check_sizes",
    "choice",
    "flag",
    "real",
    "strip_side",
    "whole",
]

SIZE_UNIT = 8
"""Heights and widths are multiples of this many pixels."""

TILE = 256
"""A strip of `tiled` has as many pixels as a square of this side, where no number was asked for."""

MAX_SIDE = 16_384
"""The most pixels of a height or width."""

MAX_AREA = 2**26
"""The most pixels of a picture: 8192 x 8192."""


class SettingError(ValueError):
    """A setting has a value that does not fit.

    Attributes:
        name: of the setting.
        problem: what is wrong with it, to be read after the name.
    """

    def __init__(self, name: str, problem: str):
        super().__init__(f"{name} {problem}")
        self.name, self.problem = name, problem


class SettingTypeError(SettingError, TypeError):
    """A setting has a value of another kind than it can have."""


def whole(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """A whole number as an int.

    Args:
        name: of the setting, for the error.
        value: anything with `__index__` but a bool.
        least: the smallest that fits.
        most: the largest that fits.

    Raises:
        SettingTypeError: it is no whole number.
        SettingError: it is out of range.
    """
    wanted = f"is a whole number{_range(least, most)}"
    try:
        if _is_truth(value):
            raise TypeError
        number = operator.index(value)
    except Exception:  # a tensor's own class of errors, for one with many numbers
        raise SettingTypeError(name, f"{wanted}, not {_shown(value)}") from None
    if (least is not None and number < least) or (most is not None and number > most):
        raise SettingError(name, f"{wanted}, not {_shown(number)}")
    return number


def real(
    name: str,
    value: Any,
    least: float = -math.inf,
    most: float = math.inf,
    *,
    above: float = -math.inf,
    what: str = "",
) -> float:
    """A finite number as a float.

    Args:
        name: of the setting, for the error.
        value: a real number, or anything of no dimensions that has one, but a bool.
        least: the smallest that fits.
        most: the largest that fits.
        above: what it has to be larger than.
        what: the error calls the number so.

    Raises:
        SettingTypeError: it is no real number.
        SettingError: it is out of range or not finite.
    """
    within = _range(least, most)
    if above > -math.inf:
        within = f" above {above:g}" + (f" and at most {most:g}" if most < math.inf else "")
    noun = what or ("" if within else "finite number")
    wanted = f"is{noun and f' a {noun}'}{within}"
    try:
        if _is_truth(value) or isinstance(value, str | bytes):
            raise TypeError
        if not isinstance(value, Real) and (
            isinstance(value, Complex)
            or getattr(value, "shape", None) != ()
            or "complex" in str(getattr(value, "dtype", ""))
        ):
            raise TypeError
        number = float(value)
    except OverflowError:
        raise SettingError(name, f"{wanted}, not {_shown(value)}") from None
    except Exception:
        raise SettingTypeError(name, f"{wanted}, not {_shown(value)}") from None
    if not (math.isfinite(number) and least <= number <= most and number > above):
        raise SettingError(name, f"{wanted}, not {_shown(value)}")
    return number


def flag(name: str, value: Any) -> bool:
    """True or False, of Python or NumPy.

    Raises:
        SettingTypeError: it is something else, such as `"no"`.
    """
    if not _is_truth(value):
        raise SettingTypeError(name, f"is True or False, not {_shown(value)}")
    return bool(value)


def strip_side(tiled: Any, factor: int) -> int:
    """What the setting `tiled` says, in pixels: a strip has as many as a square of this side; 0 is
    no strips.

    Args:
        tiled: True is `TILE`.
        factor: pixels of a cell of the latent, which divides a side.

    Raises:
        SettingTypeError: it is neither a switch nor a whole number.
        SettingError: the number is less than four cells, or no multiple of one.
    """
    if _is_truth(tiled):
        return TILE if tiled else 0
    side = whole("tiled", tiled, least=4 * factor)
    if side % factor:
        raise SettingError("tiled", f"is a multiple of {factor} pixels, not {side}")
    return side


def choice(name: str, value: Any, choices: Sequence[str | None]) -> Any:
    """One of a few names.

    Raises:
        SettingError: it is none of them.
    """
    if not (value is None or isinstance(value, str)) or value not in choices:
        listed = ", ".join(map(repr, choices))
        raise SettingError(name, f"is one of {listed}, not {_shown(value)}")
    return None if value is None else str(value)


def check_size(name: str, size: Any) -> int:
    """A height or width that works.

    Raises:
        SettingError: it is not a multiple of 8 from 8 to `MAX_SIDE`; the message has the nearest.
    """
    size = whole(name, size)
    if size > MAX_SIDE:
        raise SettingError(name, f"{size} is too large; at most {MAX_SIDE} pixels work")
    if size < SIZE_UNIT or size % SIZE_UNIT:
        below = max(SIZE_UNIT, size // SIZE_UNIT * SIZE_UNIT)
        raise SettingError(
            name,
            f"{size} is not a multiple of {SIZE_UNIT}; the nearest that work are "
            f"{below} and {below + SIZE_UNIT}",
        )
    return size


def check_sizes(height: Any, width: Any) -> dict[str, int]:
    """Those of a height and a width that were given, None for the others.

    Raises:
        SettingError: see `check_size`.
        ValueError: see `check_area`.
    """
    given = {"height": height, "width": width}
    sizes = {name: check_size(name, size) for name, size in given.items() if size is not None}
    check_area(*(sizes.get(name, SIZE_UNIT) for name in given))
    return sizes


def check_area(height: int, width: int) -> None:
    """Checks height and width together.

    Raises:
        ValueError: there are more than `MAX_AREA` pixels.
    """
    if height * width > MAX_AREA:
        raise ValueError(f"{width}x{height} pixels are too many; at most {MAX_AREA} work")


def _is_truth(value: Any) -> bool:
    # NumPy's is no bool, and NumPy is not imported for it.
    return isinstance(value, bool) or (
        getattr(value, "shape", None) == () and str(getattr(value, "dtype", "")) in _TRUTHS
    )


_TRUTHS = ("bool", "torch.bool", "<dtype: 'bool'>")


def _range(least: float | None, most: float | None) -> str:
    low = None if least in (None, -math.inf) else least
    high = None if most in (None, math.inf) else most
    if low is not None and high is not None:
        return f" from {_number(low)} to {_number(high)}"
    if low is not None:
        return f" from {_number(low)} up"
    return "" if high is None else f" up to {_number(high)}"


def _number(bound: float) -> str:
    if isinstance(bound, float):
        return f"{bound:g}"
    power = (bound + 1).bit_length() - 1
    return f"2**{power} - 1" if power > 30 and bound + 1 == 2**power else str(bound)


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except Exception as error:  # an object whose repr is broken, or an int with too many digits
        text = f"a {type(value).__name__} ({type(error).__name__})"
    return text if len(text) < 100 else f"{text[:97]}..."
