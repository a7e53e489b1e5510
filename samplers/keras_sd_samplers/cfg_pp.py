"""Samplers of CFG++: the guided clean latent, and the noise of the unconditional one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from keras_sd.noise import Level, Levels, transfer
from keras_sd.sampler import Array, Denoise, Noise, Parts
from keras_sd_samplers._split import Stochastic, ancestral


@dataclass(frozen=True)
class EulerAncestralCFGpp(Stochastic):
    """Euler steps to less noise than asked for, then fresh noise, with CFG++ (Chung et al. 2024,
    "CFG++: Manifold-constrained Classifier Free Guidance for Diffusion Models", algorithm 1, which
    is DDIM; with the noise of DDIM's `eta`). One evaluation a step.

    Args:
        eta: Share of the noise that is drawn anew, in [0, 1].
        s_noise: Weight of the fresh noise.

    Raises:
        ValueError: `eta` is outside [0, 1], or `s_noise` negative.
    """

    needs_parts: ClassVar[bool] = True
    unconditional_noise: ClassVar[bool] = True

    def __call__(self, denoise: Denoise, x: Array, levels: Levels, noise: Noise) -> Iterator[Array]:
        for now, nxt in pairwise(levels):
            down, fresh = ancestral(now, nxt, self.eta)
            x0, x = guided(x, denoise.parts(x, now), now)  # type: ignore[attr-defined]
            x = transfer(x, x0, now, down)
            if fresh:
                x = x + self.s_noise * fresh * noise(now, nxt)
            yield x


@dataclass(frozen=True)
class EulerCFGpp(EulerAncestralCFGpp):
    """`EulerAncestralCFGpp` without fresh noise, unless told otherwise: DDIM with CFG++."""

    eta: float = 0.0


@dataclass(frozen=True)
class DPMpp2SAncestralCFGpp(Stochastic):
    """`dpmpp_2s_ancestral` with CFG++: the noise of the unconditional prediction at the beginning
    of a step is kept in its middle and at its end (ComfyUI's; the paper has no 2S). Two evaluations
    a step, one where it ends at sigma 0.

    Args:
        eta: Share of the noise that is drawn anew, in [0, 1].
        s_noise: Weight of the fresh noise.

    Raises:
        ValueError: `eta` is outside [0, 1], or `s_noise` negative.
    """

    order: ClassVar[int] = 2
    needs_parts: ClassVar[bool] = True
    unconditional_noise: ClassVar[bool] = True

    def __call__(self, denoise: Denoise, x: Array, levels: Levels, noise: Noise) -> Iterator[Array]:
        for now, nxt in pairwise(levels):
            down, fresh = ancestral(now, nxt, self.eta)
            x0, x = guided(x, denoise.parts(x, now), now)  # type: ignore[attr-defined]
            if down.sigma:
                middle = levels.between(now, down, 0.5)
                x0 = denoise(transfer(x, x0, now, middle), middle)
            x = transfer(x, x0, now, down)
            if fresh:
                x = x + self.s_noise * fresh * noise(now, nxt)
            yield x


@dataclass(frozen=True)
class DPMpp2MCFGpp:
    """`dpmpp_2m` with CFG++ (Chung et al. 2024, appendix; the weights are ComfyUI's): the guided
    clean latent is continued along its change from the last unconditional one, and the noise is
    that of the unconditional one. One evaluation a step.
    """

    order: ClassVar[int] = 2
    needs_parts: ClassVar[bool] = True
    unconditional_noise: ClassVar[bool] = True

    def __call__(self, denoise: Denoise, x: Array, levels: Levels, noise: Noise) -> Iterator[Array]:
        before, last = levels[0], None
        for now, nxt in pairwise(levels):
            parts = denoise.parts(x, now)  # type: ignore[attr-defined]
            x0, x = guided(x, parts, now)
            if last is not None and before.alpha and nxt.sigma:
                h, h_last = math.log(now.ratio / nxt.ratio), math.log(before.ratio / now.ratio)
                x0 = x0 + h / (2 * h_last) * (x0 - last)
            x = transfer(x, x0, now, nxt)
            before, last = now, parts.unconditional
            yield x


def guided(x: Array, parts: Parts, level: Level) -> tuple[Array, Array]:
    """The guided clean latent, and the latent at this level that it makes with the noise of the
    unconditional one.
    """
    return parts.guided, x + level.alpha * (parts.guided - parts.unconditional)
