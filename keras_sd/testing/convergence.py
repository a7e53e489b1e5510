"""How fast the error of a sampler falls, in mean and spread of normal data."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from keras_sd.noise import Levels
from keras_sd.random import BrownianPath
from keras_sd.sampler import Sampler
from keras_sd.sampling import sample
from keras_sd.testing.problems import (
    MEAN,
    PATHS,
    UnitDraws,
    gaussian_consistency,
    gaussian_denoise,
    grid,
    spread_at,
    started,
)
from keras_sd.testing.running import (
    ContractViolation,
    called,
    fail,
    finished,
    reported,
    resolved,
    with_parts,
)

_TOLERANCE = 0.2
_LARGEST_ERROR = 0.05  # at the finest grid; first-order methods have 0.003 to 0.01
LARGEST_ERROR_OF_A_STEP = 0.5  # of what is yielded on the way, which some methods only look at
_GRIDS = (64, 128)


def check_mean_and_variance(sampler: Sampler | str) -> None:
    """A stochastic sampler's latents have the right mean and variance, the better the more steps
    (clause 3).

    At 20 and 40 steps, each by itself, as too much variance may hide in a mean that is right.
    """
    sampler = resolved(sampler)
    if not getattr(sampler, "stochastic", False) or getattr(sampler, "order", 1) == 0:
        return
    for name, path in PATHS.items():
        with reported(sampler):
            few, more = (gaussian_errors(sampler, grid(path, n))[-1] for n in (20, 40))
        for what, before, after in zip(("mean", "standard deviation"), few, more, strict=True):
            if not (after < _LARGEST_ERROR and after < max(0.8 * before, 1e-3)):
                fail(
                    sampler,
                    3,
                    f"on a {name} path the {what} of its latents is {before:.2g} off at 20 steps "
                    f"and {after:.2g} at 40",
                )


def check_brownian_path(sampler: Sampler | str) -> None:
    """With ``brownian = True``, twice the steps along the same path come nearer to the same latent
    (clause 3).
    """
    sampler = resolved(sampler)
    if not getattr(sampler, "brownian", False):
        return
    if not getattr(sampler, "stochastic", False):
        fail(sampler, 3, "it declares brownian = True, but not stochastic = True")
    shape = (200,)
    for name, path in PATHS.items():
        ends = []
        for num_steps in (32, 64, 128):
            levels, noise = grid(path, num_steps), BrownianPath(1, [0], shape)
            x = started(shape=shape) * spread_at(levels[0]) + levels[0].alpha * MEAN
            draw = lambda now, nxt, noise=noise: noise(now, nxt)[0].astype(np.float64)  # noqa: E731
            ends.append(finished(sampler, levels, x=x, noise=draw)[-1].latent)
        before, after = (float(np.sqrt(np.mean((a - b) ** 2))) for a, b in pairwise(ends))
        if not after < 0.8 * before:
            fail(
                sampler,
                3,
                f"on a {name} path 64 steps are {before:.2g} off 32 steps with the same Brownian "
                f"path, and 128 are {after:.2g} off 64: the weight of its noise is not its "
                "interval's",
            )


def check_order_of_convergence_vp(sampler: Sampler | str) -> None:
    """The error falls with the declared ``order`` on a variance-preserving path."""
    _check_order(resolved(sampler), "VP")


def check_order_of_convergence_ve(sampler: Sampler | str) -> None:
    """The error falls with the declared ``order`` on a variance-exploding path (alpha = 1)."""
    _check_order(resolved(sampler), "VE")


def check_order_of_convergence_flow(sampler: Sampler | str) -> None:
    """The error falls with the declared ``order`` on a flow-matching path (alpha = 1 - sigma)."""
    _check_order(resolved(sampler), "flow")


def measure_order(
    sampler: Sampler | str, path: str = "VP", grids: tuple[int, ...] = _GRIDS
) -> tuple[float, dict[int, float]]:
    """Measure a sampler's order of convergence against the exact solution of a Gaussian problem.

    The data is normal, so the ideal denoiser is affine and so is the sampler's result in its
    starting latent and in every noise it draws. Its mean and spread are read off exactly, with no
    sampling error, and compared with the true ones at the last level. For a sampler that draws no
    noise that is the exact solution of the probability-flow ODE; for one that does it is the weak
    order. One that declares ``consistency`` is given the exact solution itself as its model.

    Args:
        sampler: An instance or a name.
        path: ``"VP"``, ``"VE"`` or ``"flow"``.
        grids: Numbers of steps, rising; at least two, each twice the one before.

    Returns:
        The order between the two finest grids (infinite where the error is rounding only), and the
        error by number of steps.
    """
    runs = _runs(resolved(sampler), path, grids)
    errors = {n: run[-1] for n, run in runs.items()}
    return _order(errors), errors


def _runs(sampler: Sampler, path: str, grids: tuple[int, ...]) -> dict[int, list[float]]:
    """By number of steps, the error of each step: of its mean and its spread together."""
    return {n: list(map(sum, gaussian_errors(sampler, grid(PATHS[path], n)))) for n in grids}


def _order(errors: dict[int, float]) -> float:
    *_, coarse, fine = errors.values()
    if fine < 1e-11:
        return math.inf
    return math.log2(coarse / fine) if coarse > 0 else 0.0


def _check_order(sampler: Sampler, path: str) -> None:
    declared = getattr(sampler, "order", 1)
    with reported(sampler):
        runs = _runs(sampler, path, _GRIDS)
        steps = runs[_GRIDS[-1]]
        errors = {n: run[-1] for n, run in runs.items()}
        order = _order(errors)
        late = order <= declared - _TOLERANCE and steps[-1] < _LARGEST_ERROR
        if late:  # some come to their order with more steps
            order, finer = measure_order(sampler, path, tuple(4 * n for n in _GRIDS))
            errors |= finer
    # A consistency model leaves nothing to converge: every step is exact. A method for other
    # distilled models, of order 0, promises no more of an ordinary one than to be near.
    exact = getattr(sampler, "consistency", False) and max(errors.values()) < 1e-4
    converges = order > declared - _TOLERANCE and steps[-1] < _LARGEST_ERROR
    if not (exact or converges or declared == 0):
        listed = ", ".join(f"{error:.2g} at {n} steps" for n, error in errors.items())
        raise ContractViolation(
            f"{called(sampler)} declares order {declared}, but on a {path} path its error falls "
            f"with order {order:.2f} ({listed}): the update rule is not the one it means to be, or "
            "the order is lower."
        )
    if not max(steps) < LARGEST_ERROR_OF_A_STEP:
        worst = steps.index(max(steps))
        fail(
            sampler,
            4,
            f"on a {path} path of {len(steps)} steps what it yields at step {worst + 1} is "
            f"{steps[worst]:.2g} off in mean and spread: yield the latent of that level",
        )


def gaussian_errors(sampler: Sampler, levels: Levels) -> list[tuple[float, float]]:
    """How far mean and standard deviation of what a run yields are off, at each step."""
    consistency = getattr(sampler, "consistency", False)
    denoise = with_parts(sampler, gaussian_consistency if consistency else gaussian_denoise)
    # Row 0 starts at the mean, row 1 one unit off it; each of the others has one number of what is
    # drawn, 0 elsewhere.
    draws = UnitDraws(brownian=bool(getattr(sampler, "brownian", False)))
    first = levels[0]
    list(sample(sampler, denoise, np.full(2, first.alpha * MEAN), levels, draws.counted))
    x = np.full(2 + draws.count, first.alpha * MEAN)
    x[1] += 1
    errors = []
    for step in sample(sampler, denoise, x, levels, draws):
        gains = step.latent[1:] - step.latent[0]
        spread = gains * np.sqrt([spread_at(first) ** 2] + [1.0] * draws.count)
        # Without draws the sign counts: the ODE never crosses its mean.
        total = float(np.sqrt(np.sum(spread**2))) if draws.count else float(spread[0])
        mean = abs(float(step.latent[0]) - step.level.alpha * MEAN)
        deviation = abs(total - spread_at(step.level))
        known = math.isfinite(mean) and math.isfinite(deviation)
        errors.append((mean, deviation) if known else (math.inf, math.inf))
    return errors
