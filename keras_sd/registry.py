"""Samplers by name, through the entry-point group ``keras_sd.samplers``.

The core knows no sampler: its own come in through the same door as a stranger's. Listing reads the
metadata of installed distributions and imports nothing; only the sampler that is asked for is
imported.
"""

from __future__ import annotations

import difflib
import inspect
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from keras_sd.sampler import Sampler

__all__ = [
    "GROUP",
    "AmbiguousSamplerError",
    "SamplerInfo",
    "SamplerLoadError",
    "SamplerNotFoundError",
    "get_sampler",
    "list_samplers",
]

GROUP = "keras_sd.samplers"
"""The entry-point group a distribution declares its samplers in."""

_OURS = "keras-sd"
_warned: set[tuple[str, str]] = set()


class SamplerNotFoundError(LookupError, ValueError):
    """No installed distribution declares a sampler of that name."""


class AmbiguousSamplerError(ValueError):
    """Several distributions declare the sampler that was asked for, and none of them is
    keras-sd."""


class SamplerLoadError(ImportError):
    """A declared sampler could not be imported, or is no sampler."""


@dataclass(frozen=True, order=True)
class SamplerInfo:
    """A declared sampler, known from metadata alone.

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
        """``distribution:name``, which `get_sampler` takes where a name alone is not enough."""
        return f"{self.distribution}:{self.name}"


def list_samplers() -> list[SamplerInfo]:
    """Every declared sampler, by name, keras-sd's own first among equals. Imports none of them."""
    found: dict[tuple[str, str], SamplerInfo] = {}
    for info in sorted(_declared(), key=lambda i: (i.name, not _is_ours(i), i)):
        # The same object declared twice under one name is one sampler, whoever declares it.
        found.setdefault((info.name, info.value), info)
    return list(found.values())


def get_sampler(sampler: str | Sampler, **settings: Any) -> Sampler:
    """The sampler of a name.

    Args:
        sampler: A name as in `list_samplers`, ``"distribution:name"``, or a sampler, which is
            returned as it is.
        **settings: The sampler's own settings, as ``eta=0.5``.

    Returns:
        A sampler with those settings.

    Raises:
        SamplerNotFoundError: Nothing of that name is installed.
        AmbiguousSamplerError: Two distributions claim the name.
        SamplerLoadError: The plugin is broken.
        TypeError: A setting the sampler does not have, settings beside an instance, or no sampler.
        ValueError: A setting's value, as the sampler says.
    """
    if not isinstance(sampler, str):
        return _given(sampler, settings)
    info = _find(sampler)
    target = _load(info)
    if not inspect.isclass(target):
        if settings:
            raise TypeError(
                f"Sampler {info.name!r} is a plain callable and has no settings, got "
                f"{_names(settings)}."
            )
        made = target
    else:
        _check_settings(info, target, settings)
        made = target(**settings)
    if not callable(made):
        raise SamplerLoadError(f"{_origin(info)} is no sampler: {made!r} is not callable.")
    return made


def _declared() -> list[SamplerInfo]:
    try:
        points: Iterable[metadata.EntryPoint] = metadata.entry_points(group=GROUP)
    except Exception:
        # One unreadable entry_points.txt fails the whole listing there: read them one by one
        # instead.
        points = _readable_entry_points()
    return [_info(point) for point in points]


def _readable_entry_points() -> Iterable[metadata.EntryPoint]:
    seen = set()
    for distribution in metadata.distributions():
        try:
            name = _normalized(distribution.metadata["Name"])
            points = distribution.entry_points.select(group=GROUP)
        except Exception as error:
            warnings.warn(
                f"The metadata of an installed distribution is unreadable, its samplers are not "
                f"listed: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
            continue
        if name not in seen:
            seen.add(name)
            yield from points


def _info(point: metadata.EntryPoint) -> SamplerInfo:
    found = point.dist.metadata if point.dist else None
    name = found["Name"] if found and found["Name"] else "unknown"
    version = found["Version"] if found and found["Version"] else "unknown"
    return SamplerInfo(point.name, name, version, point.value)


def _find(asked: str) -> SamplerInfo:
    installed = list_samplers()
    distribution, _, name = asked.rpartition(":")
    matching = [info for info in installed if info.name == name]
    if distribution:
        matching = [i for i in matching if _normalized(i.distribution) == _normalized(distribution)]
    if not matching:
        raise SamplerNotFoundError(_not_found(asked, installed))
    if len(matching) == 1:
        return matching[0]
    if not _is_ours(matching[0]):
        raise AmbiguousSamplerError(
            f"Sampler {name!r} is declared by "
            + " and ".join(f"{i.distribution} {i.version} ({i.value})" for i in matching)
            + ": ask for "
            + " or ".join(repr(i.qualified_name) for i in matching)
            + ", or uninstall one."
        )
    ours, *others = matching
    for other in others:
        if not distribution and (name, other.distribution) not in _warned:
            _warned.add((name, other.distribution))
            warnings.warn(
                f"Sampler {name!r} is declared by {ours.distribution} {ours.version} and by "
                f"{other.distribution} {other.version}; {ours.distribution}'s is used. The other "
                f"is {other.qualified_name!r}.",
                UserWarning,
                stacklevel=3,
            )
    return ours


def _not_found(asked: str, installed: list[SamplerInfo]) -> str:
    if not installed:
        return (
            f"No sampler {asked!r}: none is installed. keras-sd declares its own when it is "
            "installed (pip install keras-sd), not when it is imported from a folder."
        )
    names = {i.name.lower(): i.name for i in installed}
    names |= {i.qualified_name.lower(): i.qualified_name for i in installed if ":" in asked}
    close = difflib.get_close_matches(asked.lower(), names, n=1)
    hint = f" Did you mean {names[close[0]]!r}?" if close else ""
    by: dict[str, list[str]] = {}
    for info in sorted(installed, key=lambda i: (not _is_ours(i), i.distribution)):
        by.setdefault(f"{info.distribution} {info.version}", []).append(info.name)
    listed = ", ".join(f"{', '.join(found)} ({who})" for who, found in by.items())
    return f"No sampler {asked!r}.{hint} Installed: {listed}."


def _load(info: SamplerInfo) -> Any:
    try:
        target = metadata.EntryPoint(info.name, info.value, GROUP).load()
    except (Exception, SystemExit) as error:
        raise SamplerLoadError(
            f"{_origin(info)} could not be loaded: {type(error).__name__}: {error}"
        ) from error
    if not callable(target):
        raise SamplerLoadError(f"{_origin(info)} is no sampler: {target!r} is not callable.")
    return target


def _check_settings(info: SamplerInfo, target: Any, settings: dict[str, Any]) -> None:
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):
        return  # no signature to read: the class itself will say
    try:
        signature.bind(**settings)
    except TypeError as error:
        accepted = list(signature.parameters.values())
        known = [p.name for p in accepted]
        unknown = [s for s in settings if s not in known]
        close = difflib.get_close_matches(unknown[0], known, n=1) if unknown else []
        what = f"has no setting {unknown[0]!r}." if unknown else f"cannot be made: {error}."
        hint = f" Did you mean {close[0]!r}?" if close else ""
        listed = ", ".join(_setting(p) for p in accepted) or "none"
        raise TypeError(f"Sampler {info.name!r} {what}{hint} Its settings: {listed}.") from None


def _given(sampler: Any, settings: dict[str, Any]) -> Sampler:
    if inspect.isclass(sampler):
        raise TypeError(
            f"{sampler.__name__} is a class: pass a sampler, {sampler.__name__}(...), or its name."
        )
    if not callable(sampler):
        raise TypeError(f"A sampler is a name or a callable, got {sampler!r}.")
    if settings:
        raise TypeError(
            f"{sampler!r} is made already: give {_names(settings)} where it is made, or pass a "
            "name."
        )
    return sampler


def _setting(parameter: inspect.Parameter) -> str:
    if parameter.default is inspect.Parameter.empty:
        return parameter.name
    return f"{parameter.name}={parameter.default!r}"


def _names(settings: dict[str, Any]) -> str:
    return ", ".join(settings)


def _origin(info: SamplerInfo) -> str:
    return f"Sampler {info.name!r} of {info.distribution} {info.version} ({info.value})"


def _is_ours(info: SamplerInfo) -> bool:
    return _normalized(info.distribution) == _OURS


def _normalized(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()
