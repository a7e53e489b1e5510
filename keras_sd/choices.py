"""Samplers, schedules and guidance as settings: names with settings of their own, or objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from keras_sd import registry
from keras_sd.checks import SettingError, SettingTypeError, real
from keras_sd.noise import Levels
from keras_sd.sampler import Sampler, label
from keras_sd.specs import format_spec, parse_spec

__all__ = ["guidance", "guided", "sampler", "schedule", "steps_of"]


def sampler(name: str, value: Any) -> Any:
    """The name with settings, or the object itself where it has no installed name."""
    return _spec("sampler", value, registry.get_sampler)


def guidance(name: str, value: Any) -> Any:
    """Likewise of a guidance."""
    return _spec("guidance_method", value, registry.get_guidance)


def guided(method: Any, scale: float | None, sampler: Sampler) -> tuple[Any, float | None]:
    """The guidance and the scale that fit a sampler.

    Args:
        method: as a request has it; None is what goes with the sampler.
        scale: likewise.
        sampler: of the run.

    Returns:
        Both; None leaves one to the model.

    Raises:
        SettingError: the guidance and the sampler do not go together.
    """
    wanted = bool(getattr(sampler, "unconditional_noise", False))
    if method is None:
        if not wanted:
            return None, scale
        method = "cfg_pp"
    guide = registry.get_guidance(method)
    if bool(getattr(guide, "unconditional_noise", False)) != wanted:
        raise SettingError("guidance_method", _unlike(method, sampler, wanted))
    return method, getattr(guide, "default_scale", None) if scale is None else scale


def _unlike(method: Any, sampler: Sampler, wanted: bool) -> str:
    if wanted:
        return (
            f"is {label(method)}, and the sampler {label(sampler)} keeps the noise of the "
            "unconditional prediction, which 'cfg_pp' is for: leave guidance_method out"
        )
    names = [info.name for info in registry.list_samplers() if info.name.endswith("cfg_pp")]
    return (
        f"is {label(method)}, which is for samplers that keep the noise of the unconditional "
        f"prediction, and {label(sampler)} keeps that of the guided one: take one of "
        f"{', '.join(names)}"
    )


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
