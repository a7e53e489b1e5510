"""The names that other programs use: "DPM++ 2M Karras" is the sampler ``dpmpp_2m`` with the
schedule ``karras``.

Who declares a sampler declares its names, as entry points whose value is the sampler's own name:

- group ``keras_sd.sampler_names``: what people read, one a sampler, ``"PLMS" = "pndm"``;
- group ``keras_sd.sampler_aliases``: whatever else it is called, ``"UniPC bh2" = "unipc"``;
- ``keras_sd.schedule_names`` and ``keras_sd.schedule_aliases``: the same for schedules.

So they are known without an import. In all names, own ones too, capitals, spaces, underscores and
hyphens do not matter, ``++`` is ``pp``, and a ``k_`` in front is left out. Ours come first; a name
that two strangers have for different things is nobody's.

keras-sd declares those of A1111's and Forge's menus and of ComfyUI. A name whose method is not
quite one of ours has none, as "DPM++ 2M SDE Heun": that is ``dpmpp_2m_sde:solver=heun``. Two names
stand for what is nearly the same. "UniPC" is ours with ``bh2``, where A1111 takes ``bh1``, here
``unipc:variant=bh1``. "Restart" is ours, which walks one interval again on the run's own levels;
A1111's does so from 20 steps on, on Karras levels of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from keras_sd.installed import Declared, declared, normalized
from keras_sd.plugins import shortest
from keras_sd.specs import split_spec

__all__ = ["display_name", "resolve", "resolve_schedule"]


def resolve(sampler: str) -> tuple[str, str | None]:
    """What we call a sampler, and the schedule that its name ends with.

    Args:
        sampler: The name of an installed sampler, spelled in any way, one of its other names, or
            one of those followed by a schedule's; settings may follow, ``"LMS Karras:order=3"``.

    Returns:
        The names of a sampler, with the settings, and of a schedule, None where no schedule is
        named. A name that is installed, one that is as a whole a schedule's ("DDIM Uniform"), and
        one that nobody declares, comes back as it is.
    """
    try:
        name, settings = split_spec(sampler)
    except ValueError:  # for `get_sampler` to say
        return sampler, None
    samplers, schedules = _names()
    found, schedule = _resolved(name, samplers, schedules)
    return f"{found}:{settings}" if settings else found, schedule


def resolve_schedule(schedule: str) -> str:
    """What we call a schedule, as "SGM Uniform". A name that is installed, and one that nobody
    declares, comes back as it is; settings stay.
    """
    try:
        name, settings = split_spec(schedule)
    except ValueError:
        return schedule
    _, schedules = _names()
    asked = _plain(name)
    found = name if name in schedules.installed else schedules.every.get(asked, name)
    return f"{found}:{settings}" if settings else found


def display_name(name: str) -> str:
    """What people read for a sampler's or a schedule's own name: "DPM++ 2M" for ``dpmpp_2m``. Where
    none is declared, its words with capitals: "Acme Heun" for ``acme_heun``.
    """
    for names in _names():
        if name in names.shown:
            return names.shown[name]
    words = re.split(r"[\s_-]+", name.rpartition(":")[2])
    return " ".join(word[:1].upper() + word[1:] for word in words)


@dataclass(frozen=True)
class _Names:
    """What samplers, or schedules, are called.

    Args:
        installed: Their own names.
        ours: Plain spelling -> the name that the registry takes, of keras-sd's own,
        every: and of all.
        shown: Own name -> what people read.
    """

    installed: frozenset[str]
    ours: dict[str, str]
    every: dict[str, str]
    shown: dict[str, str]


def _resolved(name: str, samplers: _Names, schedules: _Names) -> tuple[str, str | None]:
    asked = _plain(name)
    if name in samplers.installed:
        return name, None
    for walkers, grids in ((samplers.ours, schedules.ours), (samplers.every, schedules.every)):
        if own := walkers.get(asked):
            return own, None
        if asked in grids or name in schedules.installed:
            return name, None
        for words, grid in grids.items():
            if asked.endswith(words) and (own := walkers.get(asked.removesuffix(words))):
                return own, grid
    return name, None


def _names() -> tuple[_Names, _Names]:
    groups = [f"keras_sd.{noun}{s}" for noun in _NOUNS for s in ("s", "_names", "_aliases")]
    return _read(*declared(*groups))


_NOUNS = ("sampler", "schedule")
_Group = tuple[Declared, ...]


@lru_cache(maxsize=2)
def _read(*groups: _Group) -> tuple[_Names, _Names]:
    samplers, schedules = (_collected(*groups[i : i + 3]) for i in (0, 3))
    return samplers, schedules


def _collected(own: _Group, names: _Group, aliases: _Group) -> _Names:
    shown: dict[str, str] = {}
    spelled: dict[bool, dict[str, set[str]]] = {True: {}, False: {}}
    for each in own:
        spelled[each.is_ours].setdefault(_plain(each.name), set()).add(shortest(each, own))
    for alias in _ours_first((*names, *aliases)):
        for target in _targets(alias, own):
            name = shortest(target, own)
            spelled[alias.is_ours].setdefault(_plain(alias.name), set()).add(name)
            if alias in names:
                shown.setdefault(name, alias.name)
    ours, theirs = (
        {plain: min(of) for plain, of in spelled[whose].items() if len(of) == 1}
        for whose in (True, False)
    )
    return _Names(frozenset(each.name for each in own), ours, theirs | ours, shown)


def _targets(alias: Declared, own: _Group) -> Iterable[Declared]:
    """What a name is declared for: of its own distribution, or else of whoever has it."""
    named = [each for each in own if each.name == alias.value]
    whose = normalized(alias.distribution)
    same = [each for each in named if normalized(each.distribution) == whose]
    return (same or _ours_first(named))[:1]


def _ours_first(group: Iterable[Declared]) -> list[Declared]:
    return sorted(group, key=lambda each: (not each.is_ours, each))


def _plain(name: str) -> str:
    name = name.strip().lower().removeprefix("k_").replace("++", "pp")
    return re.sub(r"[\s_-]+", "", name)
