"""What both parts of the lab share: which samplers and schedules, and runs that may fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from keras_sd.aliases import resolve, resolve_schedule
from keras_sd.registry import get_sampler, get_schedule, list_samplers
from keras_sd.sampler import Sampler, label
from keras_sd.sampling import Step
from keras_sd.schedules import Schedule

Done = Callable[[str], object]
"""Called with the name of each sampler that has been measured."""


def chosen_samplers(
    samplers: Iterable[str | Sampler] | None,
) -> list[tuple[str, Sampler | Exception]]:
    """Name and sampler; of an installed one that cannot be made, the reason instead.

    Args:
        samplers: Names, those of `keras_sd.aliases` too, or instances; None is every one that is
            installed.

    Raises:
        ValueError: A name has a schedule in it, as "DPM++ 2M Karras".
        Exception: One that was asked for by name cannot be had, as `get_sampler` says.
    """
    if samplers is not None:
        own = [_alone(each) if isinstance(each, str) else each for each in samplers]
        return [(_label(each), get_sampler(each)) for each in own]
    installed = list_samplers()
    count = Counter(info.name for info in installed)
    names = [i.name if count[i.name] == 1 else i.qualified_name for i in installed]
    return [(name, _made(name)) for name in names]


def chosen_schedules(schedules: Iterable[str | Schedule]) -> list[tuple[str, str | Schedule]]:
    """Name and schedule; the names of other programs become ours.

    Raises:
        Exception: There is no schedule of a name, as `get_schedule` says.
    """
    chosen = [resolve_schedule(each) if isinstance(each, str) else each for each in schedules]
    for each in chosen:
        get_schedule(each)
    return [(_label(each), each) for each in chosen]


def is_stochastic(sampler: Sampler | Exception) -> bool:
    """Whether a sampler declares that it draws noise."""
    return bool(getattr(sampler, "stochastic", False))


def last_step(steps: Iterable[Step], latent: Callable[[Any], Any] = np.asarray) -> Step:
    """Runs to the end.

    Args:
        steps: Of a run.
        latent: Makes a NumPy array of a latent.

    Raises:
        FloatingPointError: A latent on the way is not finite.
    """
    for step in steps:
        if not np.isfinite(latent(step.latent)).all():
            raise FloatingPointError(f"step {step.index} is not finite")
    return step


def reason(error: Exception) -> str:
    """An error in one line, for `Row.failure`."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _alone(name: str) -> str:
    """Our name of a sampler, which every schedule that is asked for is run with."""
    sampler, schedule = resolve(name)
    if schedule is not None:
        raise ValueError(
            f"{name!r} is the sampler {sampler!r} with the schedule {schedule!r}: the lab takes "
            f"them apart, so ask for {sampler!r}, and give {schedule!r} with --schedules (the "
            "argument schedules)."
        )
    return sampler


def _made(name: str) -> Sampler | Exception:
    try:
        return get_sampler(name)
    except Exception as error:  # of a stranger's code; the others are measured all the same
        return error


def _label(given: Any) -> str:
    return given if isinstance(given, str) else label(given)
