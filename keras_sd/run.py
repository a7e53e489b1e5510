"""The whole way from a request to a picture, on one screen: `run`.

All that can be wrong with a request is found before the first step, and said before `run` returns.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
from keras import ops

from keras_sd import inpainting, precision, random, registry, sampling
from keras_sd.adaptive import Adaptive
from keras_sd.backend import to_numpy
from keras_sd.caching import cached
from keras_sd.checks import SettingError
from keras_sd.conditioning import REFINE_AT
from keras_sd.conditions import PAINTED, Conditions
from keras_sd.controlled import Controls
from keras_sd.denoiser import Denoiser, Turns, joined
from keras_sd.devices import filled
from keras_sd.forms import as_float32
from keras_sd.gallery import Images
from keras_sd.guidance import NEEDS, Guidance
from keras_sd.guides import CFG
from keras_sd.image import from_uint8
from keras_sd.inversion import check_invertible, invert
from keras_sd.levels import make_levels
from keras_sd.low_memory import stranger
from keras_sd.model import Model
from keras_sd.networks import UNet
from keras_sd.networks.autoencoder import NO_ENCODER
from keras_sd.noise import Level, Levels
from keras_sd.refining import Handed, first_of_refiner
from keras_sd.request import Request
from keras_sd.sampler import Denoise, Noise, Sampler, label
from keras_sd.sampling import Step
from keras_sd.settings import settings
from keras_sd.sparing import Sparing
from keras_sd.start import Masking, Start
from keras_sd.texts import Tokenized

logger = logging.getLogger("keras_sd")

__all__ = ["Beginning", "NoiseSource", "Through", "denoiser_of", "inverted", "levels_of", "run"]

Through = Callable[[Mapping[str, Callable[..., Any]]], Mapping[str, Callable[..., Any]]]
"""Makes of the model's compiled steps those that a run calls in their place."""


def run(model: Model, request: Request, *, through: Through | None = None) -> Iterator[Step]:
    """Makes the pictures of a request, a `Step` at a time; `step.image()` of the last is the
    result.

    Args:
        model: what draws.
        request: what to draw.
        through: who stands between this run and the compiled steps, such as an engine in which
            several runs share a call; it sees to adapters, and to several devices, too. None is
            nobody.

    Raises:
        ValueError: the request does not fit, in itself or with the model.
        TypeError: likewise.
        FloatingPointError: while iterating: the model gave a number that is not finite.
    """
    asked = model.tagged(request.resolved(model.defaults))
    begin = Beginning(model, asked, filling=through is None)
    request = begin.request
    levels = levels_of(model, request, (begin.height, begin.width))
    sampler = registry.get_sampler(request.sampler)
    noise = begin.noise_for(sampler)
    guidance = _guidance(model, request)
    size = begin.height, begin.width
    texts = model.texts.read(request, len(levels) - 1, size)
    refined = _refined(model, request, levels, size)
    controls = Controls(model, request, (begin.height, begin.width), len(levels) - 1)
    uses = model.uses(request.adapters)
    steps_of = cached(model, request, through)
    model.note_unknown_words(*texts)
    schedule = request.schedule
    if isinstance(schedule, str) and (why := registry.mismatch(sampler, schedule)):
        logger.warning("%s", why)
    if why := guidance.unusual():
        logger.warning("%s", why)

    def steps() -> Iterator[Step]:
        with model.adapted(request.adapters, uses) if through is None else nullcontext():
            x, shown, blend = begin.placed(levels[0])
            denoise = denoiser_of(model, texts, shown, controls, guidance, levels, steps_of)
            walk = begin.blended(*refined(sampler, denoise, steps_of), blend)
            drawn = sampling.sample(*walk, x, levels, noise, preview=begin.finished)
            yield from precision.finite_steps(drawn, model.parts["unet"].dtype_policy)

    return steps()


def denoiser_of(
    model: Model,
    texts: tuple[Tokenized, Tokenized],
    shown: Conditions,
    controls: Controls,
    guidance: Guidance,
    levels: Levels,
    through: Through | None = None,
) -> Denoiser | Turns:
    """What the run asks for clean latents.

    Args:
        model: of the run.
        texts: prompts and negative prompts.
        shown: what the UNet is told beside them, one row an image.
        controls: of the run.
        guidance: how both count.
        levels: of the run.
        through: see `run`.
    """
    turns = joined(model.texts.turns(*texts), controls.turns)
    memory: dict[str, Any] = {}  # of this run, whoever's turn it is
    adaptive = None
    if guidance.until is not None:
        adaptive = Adaptive(guidance.until, model.config.noise.prediction)
    denoisers = {
        (each, active): Denoiser(
            controls.steps(active) if through is None else through(controls.steps(active)),
            model.looked_at(each.told) | (shown | controls.told(active)).repeated(each.parts),
            model.looked_at(each.untold) | shown | controls.told(active, negative=True),
            guidance,
            each.weights,
            memory,
            adaptive,
        )
        for each, active in dict.fromkeys(turn for _, turn in turns)
    }
    if len(denoisers) == 1:
        return denoisers[turns[0][1]]
    return Turns(levels, [(last, denoisers[turn]) for last, turn in turns])


def levels_of(model: Model, request: Request, size: tuple[int, int] | None = None) -> Levels:
    """The noise levels that a resolved request visits.

    Args:
        model: of the run.
        request: resolved.
        size: height and width of the pictures; None is the request's.

    Raises:
        ValueError: the steps do not fit the schedule, or the schedule the model.
    """
    start = request.start or Start(pictures=(), strength=1.0)
    strength = 1.0 if start.strength is None else start.strength
    schedule, num_steps = request.schedule, request.num_steps
    if schedule is None:  # the rules say the steps of a whole run, and of no other
        assert num_steps is not None
        steps = model.rules.timesteps(num_steps) if strength == 1 else None
        if steps is not None:
            return make_levels(steps, model.path)
        schedule = model.config.defaults.schedule
    # The model's own schedule ends where the model's own runs do; another, where it comes from.
    own = schedule == model.config.defaults.schedule or isinstance(schedule, tuple)
    return make_levels(
        schedule,
        model.path,
        num_steps,
        final_sigma=model.config.noise.final_sigma if own else "zero",
        size=size or request.size,
        strength=strength,
        steps_mode=start.steps_mode,
    )


def inverted(model: Model, request: Request, num_refinements: int) -> np.ndarray:
    """The noise that a run of `ddim` makes the request's picture of.

    Args:
        model: of the run.
        request: that begins at a picture.
        num_refinements: see `keras_sd.inversion.invert`.

    Returns:
        float32 array `(images, height / factor, width / factor, channels)`.

    Raises:
        ValueError: the request does not fit.
        FloatingPointError: the result is not finite.
    """
    count = len(request)
    for name, usual in settings(Sparing).items():
        if getattr(request, name) != usual.default:
            raise SettingError(name, "is for runs of samplers alone, and this is an inversion")
    begin = Beginning(model, model.tagged(request.resolved(model.defaults)))
    request = begin.request
    levels = levels_of(model, request, (begin.height, begin.width))
    if not levels[-1].sigma:  # where no noise can be seen: the nearest level that has some
        first = model.path.level(0)
        ends = [first] if levels[-2].ratio > first.ratio else []
        levels = Levels([*levels[:-1], *ends], path=levels.path)
    check_invertible(levels, num_refinements)
    request.check_told(model.config.unet.numbers)
    texts = model.texts.read(request, len(levels) - 1, (begin.height, begin.width))
    controls = Controls(model, request, (begin.height, begin.width), len(levels) - 1)
    guidance = _guidance(model, request)
    if getattr(guidance.guide, "unconditional_noise", False):
        raise SettingError(
            "guidance_method",
            "is for runs of samplers alone; an inversion is done with plain 'cfg'",
        )
    with model.adapted(request.adapters, model.uses(request.adapters)):
        denoise = denoiser_of(model, texts, Conditions({}), controls, guidance, levels)
        x = _repeated(model.latents(begin.pixels), len(request))
        noise = np.asarray(to_numpy(invert(denoise, x, levels, num_refinements)), np.float32)
    if not np.isfinite(noise).all():
        raise FloatingPointError("The inversion is not finite: try another dtype or prompt")
    return noise[:count]


def _refined(
    model: Model, request: Request, levels: Levels, size: tuple[int, int]
) -> Callable[[Sampler, Denoise, Through | None], tuple[Sampler, Denoise]]:
    """What makes of a run's sampler and denoiser those of a run that the model's refiner ends."""
    refiner = model.refiner
    models = (model,) if refiner is None else (model, refiner)
    request.check_told(*(each.config.unet.numbers for each in models))
    if refiner is None:
        if request.refine_at is not None:
            raise SettingError("refine_at", "is for a pipeline with a refiner; see with_refiner")
        return lambda sampler, denoise, through: (sampler, denoise)
    refine_at = REFINE_AT if request.refine_at is None else request.refine_at
    last = len(levels) - 1
    at = first_of_refiner(levels, refine_at, model.config.noise.num_train_timesteps)
    empty = refiner.config.defaults.empty_negative
    own = replace(request, empty_negative=empty, controls=(), image_prompts=(), freeu=None)
    texts = refiner.texts.read(own, last, size)
    controls = Controls(refiner, own, size, last)
    guidance = _guidance(refiner, request)

    def refined(
        sampler: Sampler, denoise: Denoise, through: Through | None
    ) -> tuple[Sampler, Denoise]:
        ended = denoiser_of(refiner, texts, Conditions({}), controls, guidance, levels, through)
        turns: list[Any] = [(at, denoise), (last, ended)]
        return Handed(sampler, at), Turns(levels, turns)

    return refined


def _guidance(model: Model, request: Request) -> Guidance:
    scale: Any = request.guidance_scale  # a number, since it is resolved
    method, sampler = request.guidance_method, registry.get_sampler(request.sampler)
    guide = None if method is None else registry.get_guidance(method)
    if model.config.unet.guidance_width:  # it is told the scale, and needs no second evaluation
        if guide is not None:
            raise SettingError(
                "guidance_method",
                f"is {label(method)}, and {model.config.name} is told the scale and gives what is "
                "guided already: leave it out, with a sampler that does without it",
            )
        if request.adaptive_guidance is not None:
            raise SettingError(
                "adaptive_guidance",
                f"spares a second evaluation, and {model.config.name} needs none: leave it out",
            )
        return Guidance(1.0)
    if request.guidance_rescale and getattr(sampler, "needs_parts", False):
        raise SettingError(
            "guidance_rescale",
            f"is for guidance that is done for the sampler, and {label(sampler)} has its own part "
            "in it: leave it out",
        )
    needs = tuple(getattr(guide, "needs", ()))
    if unknown := sorted(set(needs) - set(NEEDS)):
        raise SettingError(
            "guidance_method",
            f"is {label(method)}, which needs {', '.join(unknown)}; there is {', '.join(NEEDS)}",
        )
    if "perturbed" in needs:
        _check_perturbed(model, method)
    if type(guide) is CFG:  # which is compiled with the model
        guide = None
    interval, until = request.guidance_interval, request.adaptive_guidance
    return Guidance(scale, request.guidance_rescale, interval, guide, until)


def _check_perturbed(model: Model, method: Any) -> None:
    if (other := stranger(model.parts, "unet", UNet)) is not None:
        problem = f"and its UNet is another network than ours: {other!r}"
    elif not model.config.unet.depth_of_middle:
        problem = "and there is none"
    else:
        return
    raise SettingError(
        "guidance_method",
        f"is {label(method)}, which changes the self-attention in the middle of a UNet, here that "
        f"of {model.config.name}, {problem}",
    )


class Beginning:
    """What a run begins with, and the way back from its latents to pictures.

    Args:
        model: of the run.
        asked: the request, resolved.
        filling: whether a number of pictures that several devices cannot divide is filled up.

    Attributes:
        request: what is drawn: over several devices, the last picture is drawn again and again up
            to a number that they can divide.
        height: of the run, in pixels.
        width: likewise.

    Raises:
        ValueError: the model has no place for what the request begins at.
        TypeError: the model is `tiled`, and its autoencoder is of somebody else.
    """

    def __init__(self, model: Model, asked: Request, *, filling: bool = True):
        rows = filled(len(asked)) if filling else range(len(asked))
        self.request = request = asked if len(rows) == len(asked) else asked.only(*rows)
        self._model, self._asked = model, asked
        model.check_tiled()
        self._canvas = _canvas(model, request)
        self.height, self.width = (self._canvas or request).size
        self._shape = model.latent_shape(self.height, self.width)
        self._noise = NoiseSource(request.images, self._shape)
        self._first = self._first_noise()

    @property
    def pixels(self) -> np.ndarray:
        """The picture in [-1, 1]."""
        assert self._canvas is not None  # the request begins at one
        return from_uint8(self._canvas.pixels)

    @property
    def _strength(self) -> float:
        start = self.request.start
        return 1.0 if start is None or start.strength is None else start.strength

    @property
    def _masking(self) -> Masking | None:
        return None if self.request.start is None else self.request.start.masking

    def noise_for(self, sampler: Sampler) -> Noise:
        """What a sampler draws from: a Brownian path, or new noise at each draw."""
        # Walked again and again, a path would give an interval the same noise each time.
        again = self._masking is not None and self._masking.num_resamples > 1
        brownian = getattr(sampler, "brownian", False) and not again
        return self._noise.path if brownian else self._noise

    def placed(self, level: Level) -> tuple[Any, Conditions, inpainting.Blend | None]:
        """The latent at the run's first level, what the UNet is told of the picture, and how a
        model that was not made for painting keeps the rest of it.
        """
        drawn, canvas = ops.convert_to_tensor(self._first), self._canvas
        if canvas is None:
            return drawn, Conditions({}), None
        pixels, shown = self.pixels, Conditions({})
        if self._model.paints and canvas.hidden is not None:
            seen = self._model.latents(np.where(canvas.hidden, np.float32(0), pixels))
            parts = [_repeated(part, drawn.shape[0]) for part in (canvas.cells, seen)]
            shown = Conditions({PAINTED: ops.concatenate(parts, axis=-1)})
        known: Any = None
        if not shown or self._strength < 1:
            known = self._model.latents(pixels)
        x = drawn
        if self._masking is None or self._strength < 1:
            x = level.alpha * known + level.sigma * drawn
        if canvas.cells is None or shown:
            return x, shown, None
        cells = ops.convert_to_tensor(canvas.cells)
        return x, shown, inpainting.Blend(cells, known, drawn, level)

    def blended(
        self, sampler: Sampler, denoise: Denoise, blend: inpainting.Blend | None
    ) -> tuple[Sampler, Denoise]:
        """The sampler and the denoiser that are run."""
        if blend is None or self._masking is None:
            return sampler, denoise
        return blend.sampler(sampler, self._masking.num_resamples), blend.denoiser(denoise)

    def finished(self, latent: Any) -> Images:
        """The pictures of a latent, which know their request."""
        pixels = self._model.decode(latent)
        pixels = pixels if self._canvas is None else self._canvas.paste(pixels)
        return Images(pixels[: len(self._asked)], request=self._asked)

    def _first_noise(self) -> np.ndarray:
        """What was given, or the first draw of each image."""
        count = len(self.request)
        first = self._noise.first(self._model.rules)
        given = self.request.noise
        if not given:
            return first
        rows = [as_float32("diffusion_noise", each.data) for each in given]
        if len(rows) not in (1, count) or any(row.shape != self._shape for row in rows):
            shape = (len(rows), *rows[0].shape) if len(rows) > 1 else rows[0].shape
            height, width, _ = self._shape
            raise ValueError(
                f"diffusion_noise is of shape {shape}; for {count} image(s) with latents of "
                f"{width}x{height} it is {self._shape} or {(count, *self._shape)}"
            )
        return np.ascontiguousarray(np.broadcast_to(np.stack(rows), first.shape))


def _canvas(model: Model, request: Request) -> inpainting.Canvas | None:
    """What the run starts from beside noise, if the model can."""
    start = request.start
    masking = None if start is None else start.masking
    if masking is None and model.paints:
        raise ValueError(
            f"{model.config.name} is an inpainting model: it needs an image and a mask, so "
            "call inpaint"
        )
    if start is None:
        return None
    if masking is not None and model.paints and masking.num_resamples > 1:
        raise ValueError(
            "num_resamples is for models whose latents are blended; an inpainting model is "
            "shown the image itself"
        )
    if not model.config.autoencoder.encoder:
        raise ValueError(NO_ENCODER)
    factor = model.config.autoencoder.factor
    return inpainting.canvas_of(start, len(request), *request.size, factor)


class NoiseSource:
    """The randomness of one run: each draw is a function of (seed, image, number of the draw), or
    on a Brownian path of (seed, image, levels).

    Args:
        images: seed and number of each.
        shape: of the latent of one.
    """

    def __init__(self, images: tuple[tuple[Any, int], ...], shape: tuple[int, int, int]):
        self._seeds, self._numbers = [seed for seed, _ in images], [number for _, number in images]
        self._shape = shape
        self._draws = itertools.count(1)  # 0 is what the run starts with, given or not
        self._path = random.BrownianPath(self._seeds, self._numbers, shape)

    def first(self, rules: Any) -> np.ndarray:
        """Draw 0, which the run starts with: `(images, *shape)`, as the model's rules draw it."""
        rows: dict[int, Any] = {}
        for seed in dict.fromkeys(self._seeds):
            places = [i for i, each in enumerate(self._seeds) if each == seed]
            drawn = rules.first_noise(seed, [self._numbers[i] for i in places], self._shape)
            rows.update(zip(places, drawn, strict=True))
        return np.stack([rows[i] for i in range(len(rows))])

    def __call__(self, now: Level, nxt: Level) -> Any:
        drawn = random.batch_normal(self._seeds, self._numbers, next(self._draws), self._shape)
        return ops.convert_to_tensor(drawn)

    def path(self, now: Level, nxt: Level) -> Any:
        return ops.convert_to_tensor(self._path(now, nxt))


def _repeated(rows: Any, count: int) -> Any:
    """One row an image, of what may be one for all."""
    return ops.repeat(ops.convert_to_tensor(rows), count // rows.shape[0], axis=0)
