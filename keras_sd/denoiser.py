"""The UNet as a denoiser: `denoise(x, level) -> x0`, with classifier-free guidance, of one
prompt an image or of its parts; and several that take turns over the steps.

The functions of tensors are compiled by the model (`keras_sd.model.Model`), once a shape. All that
belongs to a run, its conditions and its guidance, comes in as arguments.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from keras import ops

from keras_sd.adaptive import Adaptive
from keras_sd.backend import JitCompile, compile_step
from keras_sd.conditions import (
    BESIDE,
    CONTEXT,
    DEEP,
    FEATURES,
    FREEU,
    HINT,
    KEYS,
    PAINTED,
    STRENGTH,
    TOKENS,
    VALUES,
    Conditions,
)
from keras_sd.guidance import Guidance, Seen
from keras_sd.guides import CFG
from keras_sd.noise import Level, Levels
from keras_sd.sampler import Parts

__all__ = [
    "KEEPING",
    "STEPS",
    "WEIGHTS",
    "Denoiser",
    "Turns",
    "compiled_steps",
    "joined",
    "looking",
    "predict",
    "to_x0",
]

KEEPING = "{}, keeping"
"""The name of the step that also gives the UNet's deep features, behind its other results."""

WEIGHTS = "weights"
"""Of the parts of prompts, `(parts, images, 1, 1, 1)`, beside what the UNet is told."""


class Denoiser:
    """The model of one run as samplers call it.

    Args:
        steps: the functions of `STEPS` with their first two arguments filled in, as
            `keras_sd.model.Model.steps` gives them.
        told: conditions of the prompts; with `weights`, a row an image and part: first the first
            part of every image.
        untold: conditions of the negative prompts.
        guidance: how both count.
        weights: of the parts of prompts, `(parts, images)`. The conditional prediction is then
            `unconditional + sum of weight * (that of the part - unconditional)` (Liu et al. 2022,
            "Composable Diffusion", the conjunction of concepts), whatever the guidance. None is one
            part of weight 1.
        memory: of the run, for what its guide remembers; None is one of its own.
        adaptive: of the run, which pictures are past guidance; None is none ever.
    """

    def __init__(
        self,
        steps: Mapping[str, Callable[..., Any]],
        told: Conditions,
        untold: Conditions,
        guidance: Guidance,
        weights: np.ndarray | None = None,
        memory: dict[str, Any] | None = None,
        adaptive: Adaptive | None = None,
    ):
        self._guidance, self._adaptive = guidance, adaptive
        self._memory = {} if memory is None else memory
        self._told = told.tree()
        self._both = untold.above(told).tree()  # both halves of guidance are one batch
        self._has_parts = weights is not None
        if weights is not None:
            self._both[WEIGHTS] = ops.convert_to_tensor(weights[:, :, None, None, None])
        self._plain, self._parts = steps["plain"], steps["parts"]
        self._perturbed = steps["perturbed"]
        self._guided = steps["rescaled" if guidance.rescale else "guided"]
        strength = (guidance.scale, guidance.rescale) if guidance.rescale else (guidance.scale,)
        self._strength = _scalars(*strength)

    def __call__(self, x: Any, level: Level) -> Any:
        """The clean latent, guidance included.

        Args:
            x: the latent, `(images, height, width, channels)` float32.
            level: its noise level.

        Returns:
            float32 tensor like `x`.
        """
        scalars = _scalars(level.t, level.alpha, level.sigma)
        if not self._guidance.guides(level) or self._is_past:
            return self._told_alone(x, scalars)
        if self._guidance.guide is None and self._adaptive is None:
            return self._guided(x, *scalars, self._both, *self._strength)
        return self._with_both(x, level, scalars).guided

    def parts(self, x: Any, level: Level) -> Parts:
        """The two clean latents that guidance combines, and what it makes of them, in one
        evaluation. Outside of the interval of guidance, and of pictures that are past it, all three
        are the one with the prompt.

        Args:
            x: the latent, as for a call.
            level: its noise level.

        Returns:
            Float32 tensors like `x`. The guided one is without `Guidance.rescale`.
        """
        scalars = _scalars(level.t, level.alpha, level.sigma)
        if not self._guidance.includes(level) or self._is_past:
            alone = self._told_alone(x, scalars)
            return Parts(alone, alone, alone)
        return self._with_both(x, level, scalars)

    @property
    def _is_past(self) -> bool:
        return self._adaptive is not None and self._adaptive.over

    def _told_alone(self, x: Any, scalars: list[Any]) -> Any:
        if self._has_parts:  # they are differences from the unconditional prediction
            return self._parts(x, *scalars, self._both)[0]
        return self._plain(x, *scalars, self._told)

    def _with_both(self, x: Any, level: Level, scalars: list[Any]) -> Parts:
        told, untold = self._parts(x, *scalars, self._both)
        guide = self._guidance.guide or CFG()
        perturbed = None
        if "perturbed" in getattr(guide, "needs", ()):
            conditions = self._both if self._has_parts else self._told
            perturbed = self._perturbed(x, *scalars, conditions)
        seen = Seen(told, untold, x, level, _dot, perturbed)
        found = Parts(told, untold, guide(seen, self._guidance.scale, self._memory))
        return found if self._adaptive is None else self._adaptive.settled(found, x, level)


class Turns:
    """Denoisers of one run that take turns.

    An evaluation belongs to the step whose interval it is in. The end of an interval is the
    beginning of the next one, so that what is asked depends on the level alone, not on the sampler
    and how often it asked before. A level with the timestep of one of the run's is that one.

    Args:
        levels: of the run.
        turns: each with the last step that it is for, counted from 1, in their order.
    """

    def __init__(self, levels: Levels, turns: Sequence[tuple[int, Denoiser]]):
        self._turns = turns
        self._times = [level.t for level in levels[:-1]]
        self._noise = [-level.ratio for level in levels[:-1]]

    def __call__(self, x: Any, level: Level) -> Any:
        """The clean latent, see `Denoiser`."""
        return self._whose(level)(x, level)

    def parts(self, x: Any, level: Level) -> Parts:
        """The two that guidance combines, see `Denoiser.parts`."""
        return self._whose(level).parts(x, level)

    def _whose(self, level: Level) -> Denoiser:
        if self._times.count(level.t) == 1:
            step = self._times.index(level.t) + 1
        else:
            step = bisect.bisect_right(self._noise, -level.ratio)
        return _turn_at(self._turns, step)


def _turn_at(turns: Iterable[tuple[int, Any]], step: int) -> Any:
    """The first of the choices whose last step does not lie before this one."""
    return next(each for last, each in turns if last >= step)


def joined(
    first: Sequence[tuple[int, Any]], second: Sequence[tuple[int, Any]]
) -> list[tuple[int, tuple[Any, Any]]]:
    """Two choices over the same steps as one.

    Args:
        first: each choice with the last step that it is for, counted from 1, in their order.
        second: likewise.

    Returns:
        Both choices with the last step that they are for.
    """
    lasts = sorted({last for last, _ in (*first, *second)})
    return [(last, (_turn_at(first, last), _turn_at(second, last))) for last in lasts]


def looking(unet: Any, jit_compile: JitCompile = "auto") -> Callable[[Conditions], Conditions]:
    """What a UNet's attentions make of a text is the same in each step, and so computed once a run.

    Args:
        unet: the network; one of others need not have `pairs`, and is told of the text alone.
        jit_compile: see `keras_sd.backend.compile_step`.

    Returns:
        A function of conditions with a text that adds keys and values to them.
    """
    if not hasattr(unet, "pairs"):
        return lambda told: told
    step = compile_step(unet.pairs, [unet], jit_compile)

    def look(told: Conditions) -> Conditions:
        found = {}
        for number, pair in enumerate(step(told[CONTEXT])):
            found[KEYS.format(number)], found[VALUES.format(number)] = pair
        return told | found

    return look


def predict(
    unet: Any,
    x: Any,
    t: Any,
    conditions: Mapping[str, Any],
    controls: Sequence[Any] = (),
    **options: Any,
) -> Any:
    """What the UNet gives: epsilon or v, float32 like `x`; and its deep features with `keeps`.

    Args:
        unet: the network.
        x: the latent.
        t: the timestep, a scalar, or one a row.
        conditions: what it is told.
        controls: the networks of the run beside the UNet, a `keras_sd.networks.ControlNetwork` or
            `ImagePromptNetwork` each; those count whose hints or tokens are among the conditions.
        **options: of the UNet, `perturbed`, `keeps` and `merging`; a network of others need not
            know them.
    """
    times, context = ops.broadcast_to(t, (ops.shape(x)[0],)), conditions[CONTEXT]
    beside = {name: conditions[name] for name in BESIDE if name in conditions}
    told: dict[str, Any] = {**beside, **options}
    if deep := _numbered(conditions, DEEP):
        told["deep"] = deep
    added: list[Any] = []
    images: list[Any] = []
    for number, control in enumerate(controls):
        if (tokens := conditions.get(TOKENS.format(number))) is not None:
            strength = conditions[STRENGTH.format(number)]
            images.append([(*pair, strength) for pair in control.pairs(tokens)])
        if (hint := conditions.get(HINT.format(number))) is None or deep:
            continue
        strengths = conditions[STRENGTH.format(number)]
        found = [
            each * ops.cast(strengths[:, i, None, None, None], each.dtype)
            for i, each in enumerate(control.residuals(x, times, context, hint, **beside))
        ]
        added = [a + b for a, b in zip(added, found, strict=True)] if added else found
    if images:  # what each attention sees of all of them
        told["images"] = list(zip(*images, strict=True))
    if keys := _numbered(conditions, KEYS):
        told["pairs"] = list(zip(keys, _numbered(conditions, VALUES), strict=True))
    if features := _numbered(conditions, FEATURES):
        told["features"] = features
    if FREEU in conditions:
        told["freeu"] = conditions[FREEU]
    if PAINTED in conditions:
        x = ops.concatenate([x, conditions[PAINTED]], axis=-1)
    return unet(x, times, context, *([added] if added else ()), **told)


def _numbered(conditions: Mapping[str, Any], name: str) -> list[Any]:
    """The conditions of this name, by their number from 0."""
    names = itertools.takewhile(conditions.__contains__, map(name.format, itertools.count()))
    return [conditions[each] for each in names]


def to_x0(kind: str, x: Any, alpha: Any, sigma: Any, prediction: Any) -> Any:
    """The clean latent that a prediction implies: `(x - sigma * epsilon) / alpha`, `alpha * x -
    sigma * v`, or itself.

    Args:
        kind: `"epsilon"`, `"v"` (Salimans & Ho 2022, appendix D), or `"x0"`.
        x: the latent.
        alpha: of its level.
        sigma: likewise.
        prediction: what the UNet gave.
    """
    if kind == "x0":
        return prediction
    if kind == "v":
        return alpha * x - sigma * prediction
    return (x - sigma * prediction) / alpha


def _plain(predicted, kind, x, t, alpha, sigma, conditions):
    return to_x0(kind, x, alpha, sigma, predicted(x, t, conditions))


def _halves(predicted, x, t, both):
    """The prediction for the negative prompts, and for the prompts; their parts make one."""
    weights = both.get(WEIGHTS)
    count = 2 if weights is None else 1 + weights.shape[0]
    t = ops.tile(t, count) if len(t.shape) else t
    rows = ops.split(predicted(ops.concatenate([x] * count), t, both), count)
    if weights is None:
        return rows
    unconditional, *parts = rows
    whole = unconditional
    for index, part in enumerate(parts):
        whole = whole + weights[index] * (part - unconditional)
    return unconditional, whole


def _parts(predicted, kind, x, t, alpha, sigma, both):
    unconditional, conditional = _halves(predicted, x, t, both)
    return tuple(to_x0(kind, x, alpha, sigma, each) for each in (conditional, unconditional))


def _perturbed(predicted, kind, x, t, alpha, sigma, conditions):
    predicted = partial(predicted, perturbed=True)
    if WEIGHTS in conditions:
        return _parts(predicted, kind, x, t, alpha, sigma, conditions)[0]
    return _plain(predicted, kind, x, t, alpha, sigma, conditions)


def _guided(predicted, kind, x, t, alpha, sigma, both, scale):
    unconditional, conditional = _halves(predicted, x, t, both)
    guided = unconditional + scale * (conditional - unconditional)
    return to_x0(kind, x, alpha, sigma, guided)


def _rescaled(predicted, kind, x, t, alpha, sigma, both, scale, rescale):
    unconditional, conditional = _halves(predicted, x, t, both)
    guided = unconditional + scale * (conditional - unconditional)
    spread, meant = (ops.std(part, axis=(1, 2, 3), keepdims=True) for part in (guided, conditional))
    guided = guided * (rescale * meant / spread + (1 - rescale))
    return to_x0(kind, x, alpha, sigma, guided)


def _keeping(step, predicted, *args):
    deep = []

    def kept(x, t, conditions, **options):
        found, features = predicted(x, t, conditions, keeps=True, **options)
        deep.extend(features)
        return found

    found = step(kept, *args)
    return (*found, *deep) if isinstance(found, tuple) else (found, *deep)


STEPS: dict[str, Callable[..., Any]] = {
    "plain": _plain,
    "parts": _parts,
    "guided": _guided,
    "rescaled": _rescaled,
    "perturbed": _perturbed,
}
STEPS |= {KEEPING.format(name): partial(_keeping, step) for name, step in STEPS.items()}
"""Functions of `(predicted, kind, x, t, alpha, sigma, conditions, ...)`, where `predicted(x, t,
conditions)` is what the UNet gives, that give clean latents: of one half, of both, guided (with the
scale), rescaled (with scale and rescale), and of the half with the prompt, perturbed. All numbers
are scalars, or `t` is one a row and the others are `(rows, 1, 1, 1)`, where rows of several runs
share a call. Those named as in `KEEPING` give a tuple, the deep features last."""


def compiled_steps(
    unet: Any,
    kind: str,
    jit_compile: JitCompile = "auto",
    controls: Sequence[Any] = (),
    merging: float = 0.0,
) -> dict[str, Callable[..., Any]]:
    """`STEPS` of one UNet, compiled.

    Args:
        unet: the network.
        kind: what it predicts, see `to_x0`.
        jit_compile: see `keras_sd.backend.compile_step`.
        controls: see `predict`.
        merging: the part of the tokens that is merged, see `keras_sd.networks.UNet`.
    """
    options: dict[str, Any] = {"merging": merging} if merging else {}
    predicted = partial(predict, unet, controls=controls, **options)
    return {
        name: compile_step(
            partial(step, predicted, kind), [unet, *controls], jit_compile, often=True
        )
        for name, step in STEPS.items()
    }


def _dot(a: Any, b: Any) -> Any:
    """The sum of products over each picture, `(pictures, 1, 1, 1)`."""
    return ops.sum(a * b, axis=tuple(range(1, len(a.shape))), keepdims=True)


def _scalars(*values: float) -> list[Any]:
    """Float32 tensors: a Python number would be compiled in, one trace a value."""
    return [ops.convert_to_tensor(np.float32(value)) for value in values]
