"""Things that installed distributions declare and that are asked for by name: `Registry`, the one
machinery of samplers, schedules and guidance.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import sys
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from importlib import metadata
from typing import Any, Generic, TypeVar

from keras_sd.installed import Declared, declared, normalized
from keras_sd.sampler import label
from keras_sd.specs import format_spec, merged, parse_spec

__all__ = ["Registry", "shortest"]

_warned: set[tuple[str, str, str]] = set()


class _WrongSettings(TypeError):
    """Settings that a signature does not have: the caller's error, not the plugin's."""


_Info = TypeVar("_Info", bound=Declared)


@dataclass(frozen=True)
class Registry(Generic[_Info]):
    """One kind of thing that distributions declare.

    Args:
        noun: What it is called.
        group: Of its entry points.
        given: The arguments it is called with, before its settings.
        info: What is known of a declared one.
        not_found: Raised where nothing has the name,
        ambiguous: where two strangers have it,
        broken: and where it cannot be imported or called.
    """

    noun: str
    group: str
    given: tuple[str, ...]
    info: type[_Info]
    not_found: type[Exception]
    ambiguous: type[Exception]
    broken: type[Exception]

    def listed(self) -> list[_Info]:
        found: dict[tuple[str, str], _Info] = {}
        (group,) = declared(self.group)
        for each in sorted(group, key=lambda i: (i.name, not i.is_ours, i)):
            info = self.info(each.name, each.distribution, each.version, each.value)
            # The same object declared twice under one name is one, whoever declares it.
            found.setdefault((info.name, info.value), info)
        return list(found.values())

    def get(self, asked: Any, settings: dict[str, Any]) -> Any:
        if not isinstance(asked, str | Mapping):
            return self._own(asked, settings)
        name, given = parse_spec(asked)
        info = self._find(name)
        settings = merged(name, given, settings)
        target = self._loaded(info)
        try:
            made = self._made(info.name, target, settings) if callable(target) else target
        except (KeyboardInterrupt, _WrongSettings):
            raise
        except BaseException as error:
            if settings and isinstance(error, ValueError | TypeError) and _speaks(error):
                raise  # about a setting, in the plugin's words or in ours
            raise self.broken(f"{self._origin(info)} could not be made: {_said(error)}") from error
        if wrong := self._wrong_arguments(made):
            raise self.broken(f"{self._origin(info)} is no {self.noun}: {wrong}")
        return made

    def settings_of(self, made: Any) -> tuple[str, dict[str, Any]] | None:
        target, settings = _taken_apart(made)
        listed = self.listed()
        for info in listed:
            if _is_at(made, info.value):
                return shortest(info, listed), {}
            if settings is not None and _is_at(target, info.value):
                try:
                    return parse_spec(format_spec(shortest(info, listed), settings))
                except ValueError:  # a value that no literal writes
                    return None
        return None

    def _loaded(self, info: _Info) -> Any:
        try:
            return metadata.EntryPoint(info.name, info.value, self.group).load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit too: no plugin ends this process
            raise self.broken(
                f"{self._origin(info)} could not be loaded: {_said(error)}"
            ) from error

    def _own(self, asked: Any, settings: dict[str, Any]) -> Any:
        if inspect.isclass(asked):
            raise TypeError(
                f"{asked.__name__} is a class: pass a {self.noun}, {asked.__name__}(...), or its "
                "name."
            )
        if not callable(asked):
            raise TypeError(f"A {self.noun} is a name or a callable, got {label(asked)}.")
        if not settings:
            if wrong := self._wrong_arguments(asked):
                raise TypeError(f"That is no {self.noun}: {wrong}")
            return asked
        if not inspect.isfunction(asked):
            raise TypeError(
                f"{label(asked)} is made already: give {', '.join(settings)} where it is made, or "
                "pass a name."
            )
        return self._made(asked.__name__, asked, settings)

    def _made(self, name: str, target: Any, settings: dict[str, Any]) -> Any:
        if inspect.isclass(target):
            self._check_settings(name, target, 0, settings)
            try:
                return target(**settings)
            except TypeError as error:
                if not settings:
                    raise
                given = ", ".join(f"{key}={value!r}" for key, value in settings.items())
                raise TypeError(
                    f"{self.noun.title()} {name!r} cannot be made with {given}: {_said(error)}"
                ) from error
        if not settings:
            return target
        self._check_settings(name, target, len(self.given), settings)
        # With its name, and with what it declares as attributes.
        return functools.update_wrapper(functools.partial(target, **settings), target)

    def _check_settings(self, name: str, target: Any, given: int, settings: dict[str, Any]) -> None:
        try:
            signature = inspect.signature(target)
        except (TypeError, ValueError):
            return  # no signature to read: the call itself will say
        try:
            signature.bind(*[None] * given, **settings)
        except TypeError as error:
            accepted = list(signature.parameters.values())[given:]
            known = [p.name for p in accepted]
            unknown = [s for s in settings if s not in known]
            close = difflib.get_close_matches(unknown[0], known, n=1) if unknown else []
            what = f"has no setting {unknown[0]!r}." if unknown else f"cannot be made: {error}."
            hint = f" Did you mean {close[0]!r}?" if close else ""
            listed = ", ".join(_setting(p) for p in accepted) or "none"
            raise _WrongSettings(
                f"{self.noun.title()} {name!r} {what}{hint} Its settings: {listed}."
            ) from None

    def _wrong_arguments(self, made: Any) -> str:
        """Why something cannot be called as this kind is, "" if it can."""
        if not callable(made):
            return f"{label(made)} is not callable."
        try:
            # What is bound to a partial object counts, not what it wraps.
            signature = inspect.signature(made, follow_wrapped=False)
        except (TypeError, ValueError):
            return ""
        try:
            signature.bind(*self.given)
        except TypeError as error:
            given = ", ".join(self.given)
            return f"{label(made)} cannot be called with ({given}): {error}."
        return ""

    def _find(self, asked: str) -> _Info:
        installed = self.listed()
        distribution, _, name = asked.rpartition(":")
        matching = [info for info in installed if info.name == name]
        if distribution:
            wanted = normalized(distribution)
            matching = [i for i in matching if normalized(i.distribution) == wanted]
        if not matching:
            raise self.not_found(self._missing(asked, installed))
        if len(matching) == 1:
            return matching[0]
        title = f"{self.noun.title()} {name!r}"
        if not matching[0].is_ours:
            raise self.ambiguous(
                f"{title} is declared by "
                + " and ".join(f"{i.distribution} {i.version} ({i.value})" for i in matching)
                + ": ask for "
                + " or ".join(repr(i.qualified_name) for i in matching)
                + ", or uninstall one."
            )
        ours, *others = matching
        for other in others:
            once = (self.noun, name, other.distribution)
            if not distribution and once not in _warned:
                _warned.add(once)
                warnings.warn(
                    f"{title} is declared by {ours.distribution} {ours.version} and by "
                    f"{other.distribution} {other.version}; {ours.distribution}'s is used. The "
                    f"other is {other.qualified_name!r}.",
                    UserWarning,
                    stacklevel=4,
                )
        return ours

    def _missing(self, asked: str, installed: list[_Info]) -> str:
        if not installed:
            return (
                f"No {self.noun} {asked!r}: none is installed. keras-sd declares its own when it "
                "is installed (pip install keras-sd), not when it is imported from a folder."
            )
        names = {i.name.lower(): i.name for i in installed}
        names |= {i.qualified_name.lower(): i.qualified_name for i in installed if ":" in asked}
        close = difflib.get_close_matches(asked.lower(), names, n=1)
        hint = f" Did you mean {names[close[0]]!r}?" if close else ""
        before = asked.rpartition(":")[0]
        if any(before == i.name for i in installed):
            hint = f" A setting of {before!r} has a value: {asked + '=VALUE'!r}."
        by: dict[str, list[str]] = {}
        for info in sorted(installed, key=lambda i: (not i.is_ours, i.distribution)):
            by.setdefault(f"{info.distribution} {info.version}", []).append(info.name)
        listed = ", ".join(f"{', '.join(found)} ({who})" for who, found in by.items())
        return f"No {self.noun} {asked!r}.{hint} Installed: {listed}."

    def _origin(self, info: _Info) -> str:
        of = f"of {info.distribution} {info.version} ({info.value})"
        return f"{self.noun.title()} {info.name!r} {of}"


def _setting(parameter: inspect.Parameter) -> str:
    if parameter.default is inspect.Parameter.empty:
        return parameter.name
    return f"{parameter.name}={parameter.default!r}"


def shortest(info: Declared, declared: Iterable[Declared]) -> str:
    """The name alone, where among all that is declared that is enough to get this one, else with
    its distribution.
    """
    named = [each for each in declared if each.name == info.name]
    ours = {each.value for each in named if each.is_ours}
    # keras-sd's own has its name whoever else does; the same object twice is one.
    alone = len({each.value for each in named}) == 1 or info.value in ours
    return info.name if alone else info.qualified_name


def _said(error: BaseException) -> str:
    """What an error says, of which a stranger's may fail even at that."""
    return f"{type(error).__name__}" + (f": {error}" if _speaks(error) else ", and no more")


def _speaks(error: BaseException) -> bool:
    try:
        return isinstance(str(error), str)
    except Exception:
        return False


def _taken_apart(made: Any) -> tuple[Any, dict[str, Any] | None]:
    """What a sampler or schedule is made of: a class or a function, and the settings that are not
    the default. Without settings if they cannot be told.
    """
    if isinstance(made, functools.partial):
        return made.func, None if made.args else dict(made.keywords)
    if inspect.isroutine(made) or inspect.isclass(made):
        return made, None if inspect.isclass(made) else {}
    cls = type(made)
    try:
        parameters = inspect.signature(cls).parameters
    except (TypeError, ValueError):
        return cls, None
    if not is_dataclass(made):
        return cls, None if parameters else {}
    given = {field.name: getattr(made, field.name) for field in fields(made) if field.init}
    return cls, {
        name: value
        for name, value in given.items()
        if name not in parameters or not _same(value, parameters[name].default)
    }


def _same(value: Any, default: Any) -> bool:
    try:
        return bool(value == default)
    except Exception:  # an array says so, which is no literal either
        return False


def _is_at(target: Any, value: str) -> bool:
    """Whether an entry point is of this object; nothing is imported for that."""
    module, _, name = value.partition(":")
    found: Any = sys.modules.get(module.strip())
    for part in name.strip().split("."):
        found = getattr(found, part, None)
    return found is target
