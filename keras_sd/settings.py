"""Settings: fields of frozen dataclasses that are checked, kept as JSON, and taken by their names
by doors and commands.

A field made with `setting` has its default, its sentence, its check and the name of the command's
option. So a setting is written once: the doors' signatures, the command's options and JSON are made
of the field.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, field, fields
from typing import Any, TypeVar, get_type_hints

__all__ = ["Check", "Checked", "setting", "settings", "takes"]

Check = Callable[[str, Any], Any]
"""``check(name, value)`` gives the plain value, or raises `keras_sd.checks.SettingError`."""

_T = TypeVar("_T", bound="Checked")
_F = TypeVar("_F", bound=Callable[..., Any])


def setting(default: Any, help: str, check: Check | None = None, *, option: str = "") -> Any:
    """A field that doors and the command take by its name.

    Args:
        default: None leaves it to the model.
        help: a sentence, which the command's `--help` shows.
        check: see `Check`. None is not checked where it is the default.
        option: what the command calls it; "" is the field's name.
    """
    return field(default=default, metadata={"help": help, "check": check, "option": option})


def settings(part: type[Checked]) -> dict[str, Field]:
    """The settings of a dataclass by name, in the order of its arguments."""
    return {each.name: each for each in _arguments(part) if "help" in each.metadata}


def takes(*sources: Any, without: Sequence[str] = ()) -> Callable[[_F], _F]:
    """A decorator for a function that passes ``*args`` and ``**settings`` on: puts the arguments of
    the functions that get them into its signature, where `help` and editors find them.

    A call is not changed, nor checked.

    Args:
        *sources: functions that get the arguments, and dataclasses that get settings.
        without: names that are left out.
    """

    def spread(function: _F) -> _F:
        own = inspect.signature(function)
        kinds: dict[Any, list[inspect.Parameter]] = {}
        for each in own.parameters.values():
            kinds.setdefault(each.kind, []).append(each)
        taken = {*own.parameters, *without, "self", "cls"}
        for each in (parameter for source in sources for parameter in _parameters(source)):
            # Names come in at the place of the star that takes them.
            variable = each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
            if each.name in taken or variable:
                continue
            taken.add(each.name)
            if each.kind is not each.KEYWORD_ONLY and each.VAR_POSITIONAL not in kinds:
                each = each.replace(kind=each.KEYWORD_ONLY)
            kinds.setdefault(each.kind, []).append(each)
        ordered = [
            each
            for kind in (
                inspect.Parameter.POSITIONAL_ONLY,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                inspect.Parameter.KEYWORD_ONLY,
            )
            for each in kinds.get(kind, [])
        ]
        function.__signature__ = own.replace(parameters=ordered)  # type: ignore[attr-defined]
        return function

    return spread


def _parameters(source: Any) -> list[inspect.Parameter]:
    if not (inspect.isclass(source) and issubclass(source, Checked)):
        return list(inspect.signature(source).parameters.values())
    hints = get_type_hints(source)
    return [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=hints[name]
        )
        for name, each in settings(source).items()
    ]


class Checked:
    """A frozen dataclass whose settings are checked when it is made, and that JSON can hold."""

    def __post_init__(self) -> None:
        for name, each in settings(type(self)).items():
            check, given = each.metadata["check"], getattr(self, name)
            if check is not None and (given is not None or each.default is not None):
                self._put(name, check(name, given))

    def _put(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def to_dict(self) -> dict[str, Any]:
        """The value in JSON's types.

        Raises:
            ValueError: a field holds an object that JSON has no place for.
        """
        return {name: _plain(name, getattr(self, name)) for name in _names(type(self))}

    @classmethod
    def from_dict(cls: type[_T], data: Any) -> _T:
        """Reads what `to_dict` gave; fields that are missing are their defaults.

        Raises:
            ValueError: a field is unknown or lacking, or a value does not fit.
        """
        what, names = cls.__name__, _names(cls)
        if not isinstance(data, Mapping):
            raise ValueError(f"{what} is an object with {', '.join(names)}, not {data!r}")
        if unknown := [name for name in data if name not in names]:
            raise ValueError(
                f"{what} has no {', '.join(map(str, unknown))}; there are {', '.join(names)}"
            )
        needed = {each.name for each in fields(cls) if each.default is MISSING}  # type: ignore[arg-type]
        if lacking := sorted(needed - set(data)):
            raise ValueError(f"{what} lacks {', '.join(lacking)}")
        return cls(**{name: cls._read(name, value) for name, value in data.items()})

    @classmethod
    def _read(cls, name: str, value: Any) -> Any:
        """A field's value from JSON's."""
        return tuple(value) if isinstance(value, list) else value


def _arguments(part: type[Checked]) -> list[Field]:
    """Those that have a place before those that have a name alone."""
    known: tuple[Field, ...] = fields(part)  # type: ignore[arg-type]
    return sorted(known, key=lambda each: each.kw_only is True)


def _names(part: type[Checked]) -> list[str]:
    return [each.name for each in _arguments(part)]


def _plain(name: str, value: Any) -> Any:
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if type(value) is tuple:
        return [_plain(name, each) for each in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise ValueError(
        f"{name} is {value!r}, which has no installed name, so that JSON cannot hold it"
    )
