"""The names that other programs use: "DPM++ 2M Karras" is the sampler ``dpmpp_2m`` with the
schedule ``karras``.

Those are the names of A1111's and Forge's menus, of ComfyUI, and of what came before with a ``k_``
in front. Capitals, spaces, underscores and hyphens do not matter, and ``++`` is ``pp``. A name
whose method is not quite one of ours has no alias, as "DPM++ 2M SDE Heun": that is
``dpmpp_2m_sde`` with ``solver="heun"``.

Two names stand for what is nearly the same. "UniPC" is ours with ``bh2``, where A1111 takes
``bh1`` (here ``variant="bh1"``). "Restart" is ours, which walks one interval again on the run's own
levels; A1111's does so from 20 steps on, on Karras levels of its own.
"""

from __future__ import annotations

import re

from keras_sd.registry import list_samplers, list_schedules

__all__ = ["SAMPLERS", "SCHEDULES", "resolve", "resolve_schedule"]

SAMPLERS: dict[str, tuple[str, ...]] = {
    "ddim": (),
    "ddpm": (),
    "deis": (),
    "dpm2": (),
    "dpm2_ancestral": ("DPM2 a",),
    "dpm_adaptive": (),
    "dpm_fast": (),
    "dpmpp_2m": (),
    "dpmpp_2m_sde": ("DPM++ 2M SDE GPU",),
    "dpmpp_2s_ancestral": ("DPM++ 2S a",),
    "dpmpp_3m": (),
    "dpmpp_3m_sde": ("DPM++ 3M SDE GPU",),
    "dpmpp_sde": ("DPM++ SDE GPU",),
    "euler": (),
    "euler_ancestral": ("Euler a",),
    "heun": (),
    "ipndm": (),
    "lcm": (),
    "lms": (),
    "pndm": ("PLMS",),
    "restart": (),
    "tcd": (),
    "unipc": ("UniPC bh2",),
}
"""Each sampler of keras_sd, and what else it is called. Its own name, spelled in any way, is one of
its names."""

SCHEDULES: dict[str, tuple[str, ...]] = {
    "align_your_steps": ("AYS",),
    "beta": (),
    "ddim_uniform": ("DDIM",),
    "exponential": (),
    "karras": (),
    "kl_optimal": (),
    "lcm": (),
    "leading": (),
    "linspace": (),
    "normal": ("Uniform",),
    "polyexponential": (),
    "sgm_uniform": (),
    "simple": (),
    "trailing": ("Turbo",),
}
"""The same for the schedules."""


def resolve(sampler: str) -> tuple[str, str | None]:
    """What we call a sampler, and the schedule that its name ends with.

    Args:
        sampler: The name of an installed sampler, one of `SAMPLERS`, or one of those followed by
            one of `SCHEDULES`.

    Returns:
        The names of a sampler and of a schedule, None where no schedule is named. A name that is
        installed, one that is as a whole a schedule's ("DDIM Uniform"), and one that nothing here
        knows, comes back as it is.
    """
    # What is installed is read from disk, which takes as long as several steps of a small model.
    if sampler in SAMPLERS or any(info.name == sampler for info in list_samplers()):
        return sampler, None
    asked = _plain(sampler)
    if own := _BY_SAMPLER.get(asked):
        return own, None
    if asked in _BY_SCHEDULE or any(info.name == sampler for info in list_schedules()):
        return sampler, None
    for words, schedule in _BY_SCHEDULE.items():
        if asked.endswith(words) and (own := _BY_SAMPLER.get(asked.removesuffix(words))):
            return own, schedule
    return sampler, None


def resolve_schedule(schedule: str) -> str:
    """What we call a schedule, as "SGM Uniform". A name that is installed, and one that nothing
    here knows, comes back as it is."""
    if schedule in SCHEDULES or any(info.name == schedule for info in list_schedules()):
        return schedule
    return _BY_SCHEDULE.get(_plain(schedule), schedule)


def _plain(name: str) -> str:
    name = name.strip().lower().removeprefix("k_").replace("++", "pp")
    return re.sub(r"[\s_-]+", "", name)


def _by_name(table: dict[str, tuple[str, ...]]) -> dict[str, str]:
    return {_plain(name): own for own, names in table.items() for name in (own, *names)}


_BY_SAMPLER = _by_name(SAMPLERS)
_BY_SCHEDULE = _by_name(SCHEDULES)
