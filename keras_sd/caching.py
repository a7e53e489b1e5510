"""Feature caching: evaluations that compute the finest part of a UNet alone, with the deep features
of an earlier one (Ma et al. 2023, "DeepCache: Accelerating Diffusion Models for Free").

Features lie between a run and its compiled steps, so that neither samplers nor guidance know of
them, and another run has its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

from keras_sd.checks import SettingError
from keras_sd.conditions import DEEP
from keras_sd.denoiser import KEEPING
from keras_sd.low_memory import stranger
from keras_sd.model import Model
from keras_sd.networks import UNet
from keras_sd.request import Request

__all__ = ["cached"]

Steps: TypeAlias = Mapping[str, Callable[..., Any]]


def cached(
    model: Model, request: Request, through: Callable[[Steps], Steps] | None
) -> Callable[[Steps], Steps] | None:
    """Who stands between a run and its compiled steps, with the run's features where it has some.

    Every `request.feature_caching`-th evaluation is whole, and so is the first of another prompt,
    of other controls, of another number of predictions, and of a refiner.

    Args:
        model: of the run.
        request: resolved.
        through: who stood there before, see `keras_sd.run.run`.

    Raises:
        SettingError: a UNet of the run is another network than ours.
    """
    if request.feature_caching == 1:
        return through
    for each in (model, model.refiner):
        if each is not None and (other := stranger(each.parts, "unet", UNet)) is not None:
            raise SettingError(
                "feature_caching",
                f"is for a keras_sd.networks.UNet, and the UNet is another network: {other!r}",
            )
    features = _Features(request.feature_caching)
    return lambda steps: features.steps(steps if through is None else through(steps))


class _Features:
    """Those of one run.

    Args:
        every: how many evaluations there are for a whole one.
    """

    def __init__(self, every: int):
        self._every = every
        self._whose: Any = None
        # By the name of the step: evaluations since the whole one, and what the next is told.
        self._kept: dict[str, tuple[int, Mapping[str, Any]]] = {}

    def steps(self, steps: Steps) -> Steps:
        """The steps of one `keras_sd.denoiser.Denoiser`.

        Args:
            steps: that compute.
        """
        whose = object()  # equal prompts and controls are a Denoiser, and are these steps
        return {name: partial(self._evaluated, whose, steps, name) for name in steps}

    def _evaluated(
        self,
        whose: object,
        steps: Steps,
        name: str,
        x: Any,
        t: Any,
        alpha: Any,
        sigma: Any,
        conditions: Mapping[str, Any],
        *strength: Any,
    ) -> Any:
        if whose is not self._whose:
            self._whose = whose
            self._kept.clear()
        since, told = self._kept.get(name, (self._every, {}))
        if since < self._every - 1:
            self._kept[name] = since + 1, told
            return steps[name](x, t, alpha, sigma, told, *strength)
        found = steps[KEEPING.format(name)](x, t, alpha, sigma, conditions, *strength)
        count = 2 if name == "parts" else 1
        deep = {DEEP.format(number): each for number, each in enumerate(found[count:])}
        self._kept[name] = 0, {**conditions, **deep}
        return found[:count] if count > 1 else found[0]
