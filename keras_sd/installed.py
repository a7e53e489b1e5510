"""What installed distributions declare, read from their metadata alone: nothing is imported.

Reading takes 20 ms for a hundred distributions, several steps of a small model, so it is done again
only when a folder on ``sys.path`` or an ``entry_points.txt`` in it has changed.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata

__all__ = ["Declared", "declared", "keep", "normalized"]

_Stamp = tuple[int, int]
_PREFIX = "keras_sd."
_cached: tuple[object, dict[str, tuple[Declared, ...]]] = (None, {})
_kept = False
_folders: dict[str, tuple[_Stamp, tuple[str, ...]]] = {}


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

    @property
    def is_ours(self) -> bool:
        """Whether keras-sd itself declares it."""
        return normalized(self.distribution) == "keras-sd"


def declared(*groups: str) -> tuple[tuple[Declared, ...], ...]:
    """All entry points of each group ``keras_sd.*``, in no order.

    A distribution whose entry points cannot be read is left out with a warning; one whose name and
    version cannot is listed under its folder's name.
    """
    global _cached
    state = _cached[0] if _kept else _state()
    if state is None or _cached[0] != state:
        found: dict[str, list[Declared]] = {}
        for point in _entry_points():
            found.setdefault(point.group, []).append(_declared(point))
        _cached = state, {group: tuple(points) for group, points in found.items()}
    known = _cached[1]
    return tuple(known.get(group, ()) for group in groups)


def keep() -> None:
    """From here on, what is installed is what was: for a process that serves, where a name is
    looked up for each request, and what is installed while it runs is for the next one.
    """
    global _kept
    declared()
    _kept = True


def normalized(distribution: str) -> str:
    """The one spelling of a distribution's name."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _entry_points() -> Iterable[metadata.EntryPoint]:
    try:
        found = metadata.entry_points()
        ours = [group for group in found.groups if group.startswith(_PREFIX)]
        return [point for group in ours for point in found.select(group=group)]
    except Exception:
        # One unreadable entry_points.txt fails the whole listing there: read them one by one.
        return _readable_entry_points()


def _readable_entry_points() -> Iterable[metadata.EntryPoint]:
    seen = set()
    for distribution in metadata.distributions():
        name = normalized(_name(distribution))
        if name in seen:
            continue
        try:
            points = distribution.entry_points
        except Exception as error:
            warnings.warn(
                f"The metadata of the installed distribution {name} is unreadable, what it "
                f"declares for keras-sd is not listed: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
            continue
        seen.add(name)
        yield from (point for point in points if point.group.startswith(_PREFIX))


def _declared(point: metadata.EntryPoint) -> Declared:
    if point.dist is None:
        return Declared(point.name, "unknown", "unknown", point.value)
    return Declared(point.name, _name(point.dist), _version(point.dist), point.value)


def _name(distribution: metadata.Distribution) -> str:
    try:
        return _told(distribution, "Name")
    except (UnicodeError, OSError):
        # importlib knows it from the folder's, acme-1.0.dist-info, but does not tell.
        return str(getattr(distribution, "_normalized_name", None) or "unknown")


def _version(distribution: metadata.Distribution) -> str:
    try:
        return _told(distribution, "Version")
    except (UnicodeError, OSError):
        return "unknown"


def _told(distribution: metadata.Distribution, field: str) -> str:
    # To take one that is missing by its key will be an error in some Python to come.
    return str(next(iter(distribution.metadata.get_all(field, [])), "") or "unknown")


def _state() -> object:
    """What changes whenever the metadata of a distribution may have."""
    return tuple((folder, _stamps(folder)) for folder in sys.path)


def _stamps(folder: str) -> tuple[_Stamp | None, ...]:
    """Of a folder, or an archive, and of the entry points in it: when they were changed."""
    changed = _stamp(folder or ".")
    if changed is None:
        return (None,)
    known = _folders.get(folder)
    if known is None or known[0] != changed or not os.path.isabs(folder):
        known = _folders[folder] = changed, tuple(_metadata_files(folder or "."))
    return (changed, *map(_stamp, known[1]))


def _metadata_files(folder: str) -> Iterable[str]:
    try:
        names = sorted(os.listdir(folder))
    except OSError:  # an archive
        return
    for name in names:
        if name.endswith((".dist-info", ".egg-info")):
            yield os.path.join(folder, name, "entry_points.txt")


def _stamp(path: str) -> _Stamp | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size
