"""Runs of few steps for models, or LoRA files, that were distilled for them: `FewSteps` by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keras_sd import aliases
from keras_sd.checks import SettingError, choice

__all__ = ["KINDS", "FewSteps", "with_few_steps"]


@dataclass(frozen=True)
class FewSteps:
    """How such a model is run.

    Attributes:
        sampler: by name, with settings.
        schedule: likewise.
        num_steps: where the request does not say it.
        steps: the numbers that the model was made for.
        guidance_scale: where the request does not say it; 1 is none, which distillation left over.
        guidance: the lowest and the highest that it was made for.
        source: where that is from.
    """

    sampler: str
    schedule: str
    num_steps: int
    steps: tuple[int, ...]
    guidance_scale: float
    guidance: tuple[float, float]
    source: str


KINDS = {
    "lcm": FewSteps(
        *("lcm", "lcm", 4, tuple(range(1, 9)), 1.0, (1, 2)),
        "Luo et al. 2023, LCM-LoRA (arXiv 2311.05556), and the cards of its files",
    ),
    "tcd": FewSteps(
        *("tcd:eta=0.3", "lcm", 4, tuple(range(1, 51)), 1.0, (1, 1)),
        "Zheng et al. 2024, Trajectory Consistency Distillation (arXiv 2402.19159), and its card",
    ),
    "turbo": FewSteps(
        *("euler_ancestral", "trailing", 1, (1, 2, 3, 4), 1.0, (1, 1)),
        "Sauer et al. 2023, Adversarial Diffusion Distillation (arXiv 2311.17042), and its card",
    ),
    "lightning": FewSteps(
        *("euler", "trailing", 4, (2, 4, 8), 1.0, (1, 1)),
        "Lin et al. 2024, SDXL-Lightning (arXiv 2402.13929); a file is of one number of steps",
    ),
    "lightning_1": FewSteps(
        *("euler", "trailing", 1, (1,), 1.0, (1, 1)),
        "The card of SDXL-Lightning's UNet of one step, whose prediction is x0",
    ),
    "hyper": FewSteps(
        *("ddim", "trailing", 4, (2, 4, 8), 1.0, (1, 1)),
        "Ren et al. 2024, Hyper-SD (arXiv 2404.13686); a file is of one number of steps",
    ),
    "hyper_cfg": FewSteps(
        *("ddim", "trailing", 8, (8, 12), 5.0, (5, 8)),
        "The card of Hyper-SD's files that keep guidance",
    ),
}
"""By name."""


def with_few_steps(name: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a request with those of a kind of model where they are not given.

    Args:
        name: one of `KINDS`; None changes nothing.
        given: settings by name; None is not given.

    Raises:
        SettingError: there is no such kind; or steps or guidance that it was not made for.
    """
    settings = dict(given)
    if name is None:
        return settings
    kind = KINDS[choice("few_steps", name, tuple(KINDS))]
    sampler = settings.get("sampler")
    names_both = isinstance(sampler, str) and aliases.resolve(sampler)[1] is not None
    for setting in ("sampler", "schedule", "num_steps", "guidance_scale"):
        if settings.get(setting) is None and not (setting == "schedule" and names_both):
            settings[setting] = getattr(kind, setting)
    steps, scale = settings["num_steps"], settings["guidance_scale"]
    if steps not in kind.steps:
        told = ", ".join(map(str, kind.steps[:4])) + (" ..." if len(kind.steps) > 4 else "")
        raise SettingError("num_steps", f"is {steps}, and {name} is made for {told}")
    low, high = kind.guidance
    if not low <= scale <= high:
        said = "1, which is none" if low == high == 1 else f"{low:g} to {high:g}"
        raise SettingError("guidance_scale", f"is {scale:g}, and {name} is made for {said}")
    return settings
