"""Samplers and schedules by name, through the entry-point groups ``keras_sd.samplers`` and
``keras_sd.schedules``.

The core's own come in through the same door as a stranger's. Listing reads the metadata of
installed distributions and imports nothing; only what is asked for is imported.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Generic, TypeVar, cast

from keras_sd.sampler import Sampler
from keras_sd.schedules import Schedule

__all__ = [
    "AmbiguousSamplerError",
    "AmbiguousScheduleError",
    "Declared",
    "SamplerInfo",
    "SamplerLoadError",
    "SamplerNotFoundError",
    "ScheduleInfo",
    "ScheduleLoadError",
    "ScheduleNotFoundError",
    "get_sampler",
    "get_schedule",
    "list_samplers",
    "list_schedules",
]

_OURS = "keras-sd"
_warned: set[tuple[str, str, str]] = set()


class SamplerNotFoundError(LookupError, ValueError):
    """No installed distribution declares a sampler of that name."""


class AmbiguousSamplerError(ValueError):
    """Several distributions declare the sampler that was asked for, and none of them is
    keras-sd."""


class SamplerLoadError(ImportError):
    """A declared sampler could not be imported, or is no sampler."""


class ScheduleNotFoundError(LookupError, ValueError):
    """No installed distribution declares a schedule of that name."""


class AmbiguousScheduleError(ValueError):
    """Several distributions declare the schedule that was asked for, and none of them is
    keras-sd."""


class ScheduleLoadError(ImportError):
    """A declared schedule could not be imported, or is no schedule."""


@dataclass(frozen=True, order=True)
class Declared:
    """What a distribution declares, known from metadata alone.

    Args:
        name: The name it is asked for by.
        distribution: Who declares it, as in ``pip install``.
        version: The distribution's version.
        value: Where it is: ``module:attribute``.
    """

    name: str
    distribution: str
    version: str
    value: str

    @property
    def qualified_name(self) -> str:
        """``distribution:name``, to ask by where a name alone is not enough."""
        return f"{self.distribution}:{self.name}"


class SamplerInfo(Declared):
    """A declared sampler."""


class ScheduleInfo(Declared):
    """A declared schedule."""


def list_samplers() -> list[SamplerInfo]:
    """Every declared sampler, by name, keras-sd's own first among equals. Imports none of them."""
    return _SAMPLERS.listed()


def list_schedules() -> list[ScheduleInfo]:
    """Every declared schedule, by name, keras-sd's own first among equals. Imports none of
    them."""
    return _SCHEDULES.listed()


def get_sampler(sampler: str | Sampler, **settings: Any) -> Sampler:
    """The sampler of a name.

    Args:
        sampler: A name as in `list_samplers`, ``"distribution:name"``, or a sampler, which is
            returned as it is.
        **settings: The sampler's own settings, as ``eta=0.5``. A function's are its arguments
            beyond those of the contract; they are bound to it.

    Returns:
        A sampler with those settings.

    Raises:
        SamplerNotFoundError: Nothing of that name is installed.
        AmbiguousSamplerError: Two distributions claim the name.
        SamplerLoadError: The plugin is broken.
        TypeError: A setting the sampler does not have, settings beside an instance, or no sampler.
        ValueError: A setting's value, as the sampler says.
    """
    return cast(Sampler, _SAMPLERS.get(sampler, settings))


def get_schedule(schedule: str | Schedule, **settings: Any) -> Schedule:
    """The schedule of a name.

    Args:
        schedule: A name as in `list_schedules`, ``"distribution:name"``, or a schedule.
        **settings: The schedule's own settings, as ``rho=5.0``. They are bound to it; their values
            are checked when it is called.

    Returns:
        A callable ``(table, num_steps) -> Levels``.

    Raises:
        ScheduleNotFoundError: Nothing of that name is installed.
        AmbiguousScheduleError: Two distributions claim the name.
        ScheduleLoadError: The plugin is broken.
        TypeError: A setting the schedule does not have, or no schedule.
    """
    return cast(Schedule, _SCHEDULES.get(schedule, settings))


_Info = TypeVar("_Info", bound=Declared)


@dataclass(frozen=True)
class _Registry(Generic[_Info]):
    """One kind of thing that distributions declare.

    Args:
        noun: What it is called; its group is ``keras_sd.`` and the noun's plural.
        given: How many arguments it is called with, before its settings.
        info: What is known of a declared one.
        not_found: Raised where nothing has the name,
        ambiguous: where two strangers have it,
        broken: and where it cannot be imported or called.
    """

    noun: str
    given: int
    info: type[_Info]
    not_found: type[Exception]
    ambiguous: type[Exception]
    broken: type[Exception]

    @property
    def group(self) -> str:
        return f"keras_sd.{self.noun}s"

    def listed(self) -> list[_Info]:
        found: dict[tuple[str, str], _Info] = {}
        for info in sorted(self._declared(), key=lambda i: (i.name, not _is_ours(i), i)):
            # The same object declared twice under one name is one, whoever declares it.
            found.setdefault((info.name, info.value), info)
        return list(found.values())

    def get(self, asked: Any, settings: dict[str, Any]) -> Any:
        if not isinstance(asked, str):
            return self._own(asked, settings)
        info = self._find(asked)
        try:
            target = metadata.EntryPoint(info.name, info.value, self.group).load()
        except (Exception, SystemExit) as error:
            raise self.broken(
                f"{self._origin(info)} could not be loaded: {type(error).__name__}: {error}"
            ) from error
        made = self._made(info.name, target, settings) if callable(target) else target
        if not callable(made):
            raise self.broken(f"{self._origin(info)} is no {self.noun}: {made!r} is not callable.")
        return made

    def _own(self, asked: Any, settings: dict[str, Any]) -> Any:
        if inspect.isclass(asked):
            raise TypeError(
                f"{asked.__name__} is a class: pass a {self.noun}, {asked.__name__}(...), or its "
                "name."
            )
        if not callable(asked):
            raise TypeError(f"A {self.noun} is a name or a callable, got {asked!r}.")
        if not settings:
            return asked
        if not inspect.isfunction(asked):
            raise TypeError(
                f"{asked!r} is made already: give {', '.join(settings)} where it is made, or pass "
                "a name."
            )
        return self._made(asked.__name__, asked, settings)

    def _made(self, name: str, target: Any, settings: dict[str, Any]) -> Any:
        if inspect.isclass(target):
            self._check_settings(name, target, 0, settings)
            return target(**settings)
        if not settings:
            return target
        self._check_settings(name, target, self.given, settings)
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
            raise TypeError(
                f"{self.noun.title()} {name!r} {what}{hint} Its settings: {listed}."
            ) from None

    def _find(self, asked: str) -> _Info:
        installed = self.listed()
        distribution, _, name = asked.rpartition(":")
        matching = [info for info in installed if info.name == name]
        if distribution:
            wanted = _normalized(distribution)
            matching = [i for i in matching if _normalized(i.distribution) == wanted]
        if not matching:
            raise self.not_found(self._missing(asked, installed))
        if len(matching) == 1:
            return matching[0]
        title = f"{self.noun.title()} {name!r}"
        if not _is_ours(matching[0]):
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
        by: dict[str, list[str]] = {}
        for info in sorted(installed, key=lambda i: (not _is_ours(i), i.distribution)):
            by.setdefault(f"{info.distribution} {info.version}", []).append(info.name)
        listed = ", ".join(f"{', '.join(found)} ({who})" for who, found in by.items())
        return f"No {self.noun} {asked!r}.{hint} Installed: {listed}."

    def _declared(self) -> list[_Info]:
        try:
            points: Iterable[metadata.EntryPoint] = metadata.entry_points(group=self.group)
        except Exception:
            # One unreadable entry_points.txt fails the whole listing there: read them one by one
            # instead.
            points = self._readable_entry_points()
        return [self._info(point) for point in points]

    def _readable_entry_points(self) -> Iterable[metadata.EntryPoint]:
        seen = set()
        for distribution in metadata.distributions():
            try:
                name = _normalized(distribution.metadata["Name"])
                points = distribution.entry_points.select(group=self.group)
            except Exception as error:
                warnings.warn(
                    f"The metadata of an installed distribution is unreadable, its {self.noun}s "
                    f"are not listed: {error}",
                    RuntimeWarning,
                    stacklevel=2,
                )
                continue
            if name not in seen:
                seen.add(name)
                yield from points

    def _info(self, point: metadata.EntryPoint) -> _Info:
        found = point.dist.metadata if point.dist else None
        name = found["Name"] if found and found["Name"] else "unknown"
        version = found["Version"] if found and found["Version"] else "unknown"
        return self.info(point.name, name, version, point.value)

    def _origin(self, info: _Info) -> str:
        of = f"of {info.distribution} {info.version} ({info.value})"
        return f"{self.noun.title()} {info.name!r} {of}"


_SAMPLERS = _Registry(
    "sampler",
    4,  # denoise, x, levels, noise
    SamplerInfo,
    SamplerNotFoundError,
    AmbiguousSamplerError,
    SamplerLoadError,
)
_SCHEDULES = _Registry(
    "schedule",
    2,  # table, num_steps
    ScheduleInfo,
    ScheduleNotFoundError,
    AmbiguousScheduleError,
    ScheduleLoadError,
)


def _setting(parameter: inspect.Parameter) -> str:
    if parameter.default is inspect.Parameter.empty:
        return parameter.name
    return f"{parameter.name}={parameter.default!r}"


def _is_ours(info: Declared) -> bool:
    return _normalized(info.distribution) == _OURS


def _normalized(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()
