"""Samplers, schedules and guidance by name, through the entry-point groups ``keras_sd.samplers``,
``keras_sd.schedules`` and ``keras_sd.guidance``.

The core's own come in through the same door as a stranger's. Listing reads the metadata of
installed distributions and imports nothing; only what is asked for is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from keras_sd.guidance import Guide
from keras_sd.installed import Declared
from keras_sd.plugins import Registry
from keras_sd.sampler import Sampler, label
from keras_sd.schedules import Schedule
from keras_sd.specs import format_spec, parse_spec

__all__ = [
    "AmbiguousGuidanceError",
    "AmbiguousSamplerError",
    "AmbiguousScheduleError",
    "Declared",
    "GuidanceInfo",
    "GuidanceLoadError",
    "GuidanceNotFoundError",
    "SamplerInfo",
    "SamplerLoadError",
    "SamplerNotFoundError",
    "ScheduleInfo",
    "ScheduleLoadError",
    "ScheduleNotFoundError",
    "format_spec",
    "get_guidance",
    "get_sampler",
    "get_schedule",
    "list_guidance",
    "list_samplers",
    "list_schedules",
    "mismatch",
    "parse_spec",
    "settings_of",
]


class SamplerNotFoundError(LookupError, ValueError):
    """No installed distribution declares a sampler of that name."""


class AmbiguousSamplerError(ValueError):
    """Several distributions declare the sampler that was asked for, and none of them is
    keras-sd.
    """


class SamplerLoadError(ImportError):
    """A declared sampler could not be imported, or is no sampler."""


class ScheduleNotFoundError(LookupError, ValueError):
    """No installed distribution declares a schedule of that name."""


class AmbiguousScheduleError(ValueError):
    """Several distributions declare the schedule that was asked for, and none of them is
    keras-sd.
    """


class ScheduleLoadError(ImportError):
    """A declared schedule could not be imported, or is no schedule."""


class GuidanceNotFoundError(LookupError, ValueError):
    """No installed distribution declares a guidance of that name."""


class AmbiguousGuidanceError(ValueError):
    """Several distributions declare the guidance that was asked for, and none of them is
    keras-sd.
    """


class GuidanceLoadError(ImportError):
    """A declared guidance could not be imported, or is no guidance."""


class SamplerInfo(Declared):
    """A declared sampler."""


class ScheduleInfo(Declared):
    """A declared schedule."""


class GuidanceInfo(Declared):
    """A declared guidance."""


def list_samplers() -> list[SamplerInfo]:
    """Every declared sampler, by name, keras-sd's own first among equals. Imports none of them."""
    return _SAMPLERS.listed()


def list_schedules() -> list[ScheduleInfo]:
    """Every declared schedule, by name, keras-sd's own first among equals. Imports none of
    them.
    """
    return _SCHEDULES.listed()


def list_guidance() -> list[GuidanceInfo]:
    """Every declared guidance, by name, keras-sd's own first among equals. Imports none of them."""
    return _GUIDANCE.listed()


def get_sampler(sampler: str | Mapping[str, Any] | Sampler, **settings: Any) -> Sampler:
    """The sampler of a name.

    Args:
        sampler: A name as in `list_samplers`, ``"distribution:name"``, either with settings as
            `parse_spec` reads them, ``"ddim:eta=0.5"`` or ``{"name": "ddim", "eta": 0.5}``, or a
            sampler, which is returned as it is.
        **settings: The sampler's own settings, as ``eta=0.5``. A function's are its arguments
            beyond those of the contract; they are bound to it.

    Returns:
        A sampler with those settings.

    Raises:
        SamplerNotFoundError: Nothing of that name is installed.
        AmbiguousSamplerError: Two distributions claim the name.
        SamplerLoadError: The plugin is broken.
        TypeError: A setting that the sampler does not have or of a wrong type, settings beside an
            instance, no sampler, or one that does not take a sampler's four arguments.
        ValueError: A setting's value, as the sampler says, or a name that cannot be read.
    """
    return cast(Sampler, _SAMPLERS.get(sampler, settings))


def get_schedule(schedule: str | Mapping[str, Any] | Schedule, **settings: Any) -> Schedule:
    """The schedule of a name.

    Args:
        schedule: A name as in `list_schedules`, ``"distribution:name"``, either with settings,
            ``"karras:rho=5"`` or ``{"name": "karras", "rho": 5}``, or a schedule.
        **settings: The schedule's own settings, as ``rho=5.0``. They are bound to it; their values
            are checked when it is called.

    Returns:
        A callable ``(path, num_steps) -> Levels``.

    Raises:
        ScheduleNotFoundError: Nothing of that name is installed.
        AmbiguousScheduleError: Two distributions claim the name.
        ScheduleLoadError: The plugin is broken.
        TypeError: A setting the schedule does not have, no schedule, or one that does not take a
            schedule's two arguments.
        ValueError: A name that cannot be read.
    """
    return cast(Schedule, _SCHEDULES.get(schedule, settings))


def get_guidance(guidance: str | Mapping[str, Any] | Guide, **settings: Any) -> Guide:
    """The guidance of a name.

    Args:
        guidance: A name as in `list_guidance`, ``"distribution:name"``, either with settings,
            ``"apg:norm=2.5"`` or ``{"name": "apg", "norm": 2.5}``, or a guidance.
        **settings: The guidance's own settings, as ``norm=2.5``.

    Returns:
        A callable ``(seen, scale, memory) -> clean latent``, see `keras_sd.guidance.Guide`.

    Raises:
        GuidanceNotFoundError: Nothing of that name is installed.
        AmbiguousGuidanceError: Two distributions claim the name.
        GuidanceLoadError: The plugin is broken.
        TypeError: A setting that the guidance does not have, no guidance, or one that does not take
            a guidance's three arguments.
        ValueError: A setting's value, as the guidance says, or a name that cannot be read.
    """
    return cast(Guide, _GUIDANCE.get(guidance, settings))


def settings_of(made: Sampler | Schedule | Guide) -> tuple[str, dict[str, Any]] | None:
    """The name and the settings that `get_sampler`, `get_schedule` or `get_guidance` makes a thing
    from.

    Args:
        made: A sampler, a schedule or a guidance.

    Returns:
        A name and those settings that are not the default, for `format_spec`. None if nothing
        installed declares it, or a setting of it cannot be written as a literal.
    """
    kinds: tuple[Registry[Any], ...] = (_SAMPLERS, _SCHEDULES, _GUIDANCE)
    return next((found for kind in kinds if (found := kind.settings_of(made))), None)


def mismatch(sampler: Sampler, schedule: str) -> str | None:
    """Why a sampler should not run on a schedule, in one sentence for a log line.

    Args:
        sampler: It may declare so, as ``unsuited`` of `keras_sd.sampler`.
        schedule: The name of a schedule, with settings or without.

    Returns:
        None where nothing is known against it.

    Raises:
        ValueError: The name cannot be read.
    """
    name = parse_spec(schedule)[0].rpartition(":")[2]
    why = (getattr(sampler, "unsuited", None) or {}).get(name)
    if why is None:
        return None
    return f"The sampler {label(sampler)} and the schedule {name!r} do not go together: {why}."


_SAMPLERS = Registry(
    "sampler",
    "keras_sd.samplers",
    ("denoise", "x", "levels", "noise"),
    SamplerInfo,
    SamplerNotFoundError,
    AmbiguousSamplerError,
    SamplerLoadError,
)
_SCHEDULES = Registry(
    "schedule",
    "keras_sd.schedules",
    ("path", "num_steps"),
    ScheduleInfo,
    ScheduleNotFoundError,
    AmbiguousScheduleError,
    ScheduleLoadError,
)
_GUIDANCE = Registry(
    "guidance",
    "keras_sd.guidance",
    ("seen", "scale", "memory"),
    GuidanceInfo,
    GuidanceNotFoundError,
    AmbiguousGuidanceError,
    GuidanceLoadError,
)
