"""What an object has by way of another that it owns."""

from __future__ import annotations

import functools
from collections.abc import Callable
from operator import attrgetter
from typing import Any

__all__ = ["attribute_of", "item_of", "method_of"]


def method_of(owned: str, method: Callable[..., Any]) -> Any:
    """A method of the object's own that calls another's.

    Args:
        owned: the attribute that holds the other.
        method: of its class; the one of the object itself is called, which may be a subclass's.
    """
    get = attrgetter(owned)

    @functools.wraps(method)
    def call(self: Any, *args: Any, **options: Any) -> Any:
        return getattr(get(self), method.__name__)(*args, **options)

    return call


def attribute_of(owned: str, name: str, doc: str) -> Any:
    """Another's attribute, to be read and set."""
    get = attrgetter(owned)
    return property(
        lambda self: getattr(get(self), name),
        lambda self, value: setattr(get(self), name, value),
        doc=doc,
    )


def item_of(owned: str, key: str, doc: str) -> Any:
    """An item of a mapping, to be read and set."""
    get = attrgetter(owned)
    return property(
        lambda self: get(self)[key],
        lambda self, value: get(self).__setitem__(key, value),
        doc=doc,
    )
