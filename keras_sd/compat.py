"""The door to what KerasCV did otherwise: a run's rules by the name that `compat=` is given.

`keras_sd.keras_cv.versions` is behind it, and is not loaded before somebody asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keras_sd.rules import OWN, Rules

if TYPE_CHECKING:
    from keras_sd.keras_cv.versions import NAMES, KerasCV, get, stateless_normal, without

__all__ = ["NAMES", "KerasCV", "get", "rules_of", "stateless_normal", "without"]


def rules_of(name: str | None) -> Rules:
    """The rules of a run.

    Args:
        name: one of `NAMES`; None are Stable Diffusion's own.

    Raises:
        ValueError: there is no such name; the message lists them.
    """
    return OWN if name is None else __getattr__("get")(name)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from keras_sd.keras_cv import versions

    return getattr(versions, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
