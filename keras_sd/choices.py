"""Samplers and schedules as settings: names with settings of their own, or objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from keras_sd import registry
from keras_sd.checks import SettingError, SettingTypeError, real
from keras_sd.noise import Levels
from keras_sd.specs import format_spec, parse_spec

__all__ = ["sampler", "schedule", "steps_of"]


def sampler(name: str, value: Any) -> Any:
    """The name with settings, or the object itself where it has no installed name."""
    return _spec("sampler", value, registry.get_sampler)


def schedule(name: str, value: Any) -> Any:
    if isinstance(value, Levels) or callable(value) or isinstance(value, str | Mapping):
        return (
            value if isinstance(value, Levels) else _spec("schedule", value, registry.get_schedule)
        )
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple | range) and len(value):
        return tuple(real("a timestep of the schedule", t) for t in value)
    raise SettingTypeError(
        name,
        "is a name, a function of (path, num_steps), levels, or a falling list of timesteps, "
        f"not {value!r}",
    )


def steps_of(schedule: Any) -> int | None:
    """How many steps a schedule of numbers has; a rule has as many as it is asked for."""
    if isinstance(schedule, Levels):
        return len(schedule) - 1  # the last level is where the last step ends
    return len(schedule) if isinstance(schedule, tuple) else None


def _spec(kind: str, value: Any, get: Callable[..., Any]) -> Any:
    if isinstance(value, str):
        if not value:
            raise SettingError(kind, "is a name, and '' is none")
        return value
    if isinstance(value, Mapping):
        return format_spec(*parse_spec(value))
    get(value)  # raises where it is none
    found = registry.settings_of(value)
    return value if found is None else format_spec(*found)
