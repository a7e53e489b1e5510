"""Networks that come and go: of a model's parts, those that work together are there together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any, NoReturn

from keras_sd.backend import release

__all__ = ["InTurn", "config_of", "stranger"]


class _Room:
    """Has one group of networks in it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.guest: InTurn | None = None


class InTurn(MutableMapping[str, Any]):
    """The parts of a model, of which one group at a time is in memory.

    A part that is asked for is built with those of its group, when the group before it is gone. A
    network that is set in place of a part stays.

    Args:
        groups: the names of the parts; those of a group are there together.
        build: makes the networks of these names.

    Attributes:
        caches: what else holds networks, such as compiled steps. They are emptied when a group
            goes.
    """

    def __init__(
        self, groups: Iterable[Iterable[str]], build: Callable[[tuple[str, ...]], Mapping[str, Any]]
    ):
        self._groups = {name: tuple(group) for group in map(tuple, groups) for name in group}
        self._build = build
        self._own: dict[str, Any] = {}
        self._here: Mapping[str, Any] = {}
        self._room = _Room()
        self.caches: list[dict[str, Any]] = []

    def __getitem__(self, name: str) -> Any:
        if name in self._own:
            return self._own[name]
        group = self._groups[name]
        with self._room.lock:
            if name not in self._here:
                if self._room.guest is not None:
                    self._room.guest.close()
                self._room.guest = self
                self._here = self._build(group)
            return self._here[name]

    def close(self) -> None:
        """Lets the networks go that are there."""
        with self._room.lock:
            self._here = {}
            for cache in self.caches:
                cache.clear()
            release()

    def share(self, other: InTurn) -> None:
        """From now on one group of both is in memory."""
        self.close()
        self._room = other._room

    def is_own(self, name: str) -> bool:
        """Whether a network was set in place of this part."""
        return name in self._own

    def __setitem__(self, name: str, network: Any) -> None:
        self._own[name] = network

    def __delitem__(self, name: str) -> None:
        del self._own[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._groups)

    def __len__(self) -> int:
        return len(self._groups)

    def __getstate__(self) -> NoReturn:
        raise TypeError(
            "A model with low_memory cannot be copied or pickled, since it reads its files again "
            "and again: load it where it is needed"
        )


def config_of(parts: Mapping[str, Any], name: str, known: Any) -> Any:
    """The numbers of a part, which is not loaded for that.

    Args:
        parts: of a model.
        name: of the part.
        known: the numbers that the model's config has for it; a network in its place has others.
    """
    if isinstance(parts, InTurn) and not parts.is_own(name):
        return known
    return parts[name].config


def stranger(parts: Mapping[str, Any], name: str, kind: type) -> Any | None:
    """The network of a part where it is of another kind, which is not loaded for that: one that is
    loaded in turn is of the kind.

    Args:
        parts: of a model.
        name: of the part.
        kind: the class that is wanted.
    """
    if isinstance(parts, InTurn) and not parts.is_own(name):
        return None
    return None if isinstance(parts[name], kind) else parts[name]
