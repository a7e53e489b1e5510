"""Samplers whose authors' code no package of a registry holds, each beside its published formulas,
written down here a second time: in the variables of the papers, latents over alpha and `sigma` for
`sigma / alpha`, as Karras et al. 2022 have them.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from test_samplers import GRIDS, MAKER, PATHS, SD, assert_close, clean, last_over_alpha

from keras_sd.noise import Levels
from keras_sd.registry import get_sampler
from keras_sd.sampling import sample
from keras_sd.schedules import karras


def slope(x, x0, sigma):
    return (x - x0) / sigma


def res_multistep(model, x, sigmas, draw):
    """Zhang, Song & Chen 2023, with c2 below 0: the second node lies behind."""
    x0s = []
    for i, (now, nxt) in enumerate(pairwise(sigmas)):
        x0s.append(model(x, now))
        if i == 0 or nxt == 0:
            x = x + (nxt - now) * slope(x, x0s[-1], now)
            continue
        h, c2 = np.log(now / nxt), np.log(now / sigmas[i - 1]) / np.log(now / nxt)
        phi1 = np.expm1(-h) / -h
        phi2 = (phi1 - 1) / -h
        x = np.exp(-h) * x + h * ((phi1 - phi2 / c2) * x0s[-1] + phi2 / c2 * x0s[-2])
    return x


def gradient_estimation(model, x, sigmas, draw, gamma=2.0):
    """Permenter & Yuan 2023, algorithm 2."""
    last = None
    for now, nxt in pairwise(sigmas):
        eps = slope(x, model(x, now), now)
        mean = eps if last is None or nxt == 0 else gamma * eps + (1 - gamma) * last
        x, last = x + (nxt - now) * mean, eps
    return x


def heunpp2(model, x, sigmas, draw):
    """Heun++ as Carzit published it: weights by the noise, of that at the start."""
    end = len(sigmas) - 1
    for i, (now, nxt) in enumerate(pairwise(sigmas)):
        slopes = [slope(x, model(x, now), now)]
        ahead = x
        for j in range(i + 1, min(i + 3, end)):
            ahead = ahead + (sigmas[j] - sigmas[j - 1]) * slopes[-1]
            slopes.append(slope(ahead, model(ahead, sigmas[j]), sigmas[j]))
        shares = [sigmas[i + j] / (len(slopes) * sigmas[0]) for j in range(1, len(slopes))]
        shares = [1 - sum(shares), *shares]
        x = x + (nxt - now) * sum(w * d for w, d in zip(shares, slopes, strict=True))
    return x


def ipndm_v(model, x, sigmas, draw, solver_order=4):
    """Adams-Bashforth: the weights that integrate 1, s, s**2 ... from step to step."""
    slopes = []
    for i, (now, nxt) in enumerate(pairwise(sigmas)):
        slopes.append(slope(x, model(x, now), now))
        used = 1 if nxt == 0 else min(solver_order, i + 1)
        nodes = np.array([sigmas[i - j] for j in range(used)]) - now
        powers = np.arange(used)
        moments = (nxt - now) ** (powers + 1) / (powers + 1)
        shares = np.linalg.solve(nodes[None] ** powers[:, None], moments)
        if used == 2:  # as it stands in the authors' code
            ratio = (nxt - now) / (now - sigmas[i - 1])
            np.testing.assert_allclose(shares / (nxt - now), [1 + ratio / 2, -ratio / 2])
        x = x + sum(w * d for w, d in zip(shares, reversed(slopes), strict=False))
    return x


def er_sde(model, x, sigmas, draw, solver_order=3, s_noise=1.0):
    """Cui et al. 2023, algorithms 1 to 3; the integrals with thousands of points."""

    def phi(s):
        return s * (np.exp(s**0.3) + 10)

    def integral(of, low, high):
        s = np.geomspace(low, high, 20001)
        values = of(s) / phi(s)
        return float(np.sum((values[1:] + values[:-1]) / 2 * np.diff(s)))

    x0s, slopes = [], []
    for i, (now, nxt) in enumerate(pairwise(sigmas)):
        x0s.append(model(x, now))
        slopes.append((x0s[-1] - x0s[-2]) / (now - sigmas[i - 1]) if i else None)
        if nxt == 0:
            return x0s[-1]
        r, step = phi(nxt) / phi(now), nxt - now
        x = r * x + (1 - r) * x0s[-1]
        if i >= 1 and solver_order > 1:
            x = x + (step + phi(nxt) * integral(lambda s: 1 + 0 * s, nxt, now)) * slopes[-1]
        if i >= 2 and solver_order > 2:
            bend = (slopes[-1] - slopes[-2]) / ((now - sigmas[i - 2]) / 2)
            whole = integral(lambda s, now=now: s - now, nxt, now)
            x = x + (step**2 / 2 + phi(nxt) * whole) * bend
        x = x + s_noise * np.sqrt(nxt**2 - (now * r) ** 2) * draw()
    return x


def sa_solver(model, x, sigmas, draw, tau=1.0, predictor_order=2, corrector_order=2):
    """Xue et al. 2023, equations 14 and 17; the integrals by Gauss and Legendre."""
    points, lengths = np.polynomial.legendre.leggauss(40)
    lambdas, x0s = [-np.log(s) if s else np.inf for s in sigmas], []

    def stepped(x, i, nodes, values, noise):
        start, end, scale = lambdas[i], lambdas[i + 1], 1 + tau**2
        at = (start + end) / 2 + (end - start) / 2 * points
        weight = scale * np.exp(-(tau**2) * (end - at) + at - end) * (end - start) / 2 * lengths
        polynomial = 0
        for j, value in enumerate(values):
            others = [(at - n) / (nodes[j] - n) for k, n in enumerate(nodes) if k != j]
            polynomial = polynomial + np.sum(weight * np.prod(others, axis=0)) * value
        keep = np.exp(-scale * (end - start))
        return keep * x + polynomial + sigmas[i + 1] * noise

    before = None
    for i, (now, nxt) in enumerate(pairwise(sigmas)):
        x0s.append(model(x, now))
        if before is not None and corrector_order > 1:
            nodes = [lambdas[i - j] for j in range(min(corrector_order, i + 1))]
            x = stepped(before[0], i - 1, nodes, x0s[::-1][: len(nodes)], before[1])
        if nxt == 0:
            return x0s[-1]
        noise = 0.0
        if tau:
            noise = np.sqrt(-np.expm1(-2 * tau**2 * (lambdas[i + 1] - lambdas[i]))) * draw()
        before = x, noise
        nodes = [lambdas[i - j] for j in range(min(predictor_order, i + 1))]
        x = stepped(x, i, nodes, x0s[::-1][: len(nodes)], noise)
    return x


def phi1(h):
    return np.expm1(h)


def phi2(h):
    return (np.expm1(h) - h) / h


class Segments:
    """Noise over alpha along a step, of the stretches it has come so far."""

    def __init__(self, draw, eta, start):
        self.draw, self.eta, self.at, self.value = draw, eta, -np.log(start), 0.0

    def to(self, sigma):
        if self.eta:
            h = (-np.log(sigma) - self.at) * self.eta
            fresh = np.sqrt(-np.expm1(-2 * h)) * self.draw()
            self.value, self.at = np.exp(-h) * self.value + fresh, -np.log(sigma)
        return sigma * self.value


def seeds_2(model, x, sigmas, draw, eta=1.0, s_noise=1.0, r=0.5):
    """Gonzalez et al. 2023, two stages on the clean latent."""
    for now, nxt in pairwise(sigmas):
        first = model(x, now)
        if nxt == 0:
            return first
        h = np.log(now / nxt) * (1 + eta)
        middle, noise = now ** (1 - r) * nxt**r, Segments(draw, eta, now)
        there = np.exp(-r * h) * x - phi1(-r * h) * first + s_noise * noise.to(middle)
        mean = (1 - 1 / (2 * r)) * first + model(there, middle) / (2 * r)
        x = np.exp(-h) * x - phi1(-h) * mean + s_noise * noise.to(nxt)
    return x


def seeds_3(model, x, sigmas, draw, eta=1.0, s_noise=1.0, r1=1 / 3, r2=2 / 3):
    """Gonzalez et al. 2023, three stages on the clean latent."""
    for now, nxt in pairwise(sigmas):
        first = model(x, now)
        if nxt == 0:
            return first
        h, noise = np.log(now / nxt) * (1 + eta), Segments(draw, eta, now)
        one, two = (now ** (1 - r) * nxt**r for r in (r1, r2))
        there = np.exp(-r1 * h) * x - phi1(-r1 * h) * first + s_noise * noise.to(one)
        second = model(there, one)
        a32 = r2 / r1 * phi2(-r2 * h)
        ahead = (phi1(-r2 * h) - a32) * first + a32 * second
        third = model(np.exp(-r2 * h) * x - ahead + s_noise * noise.to(two), two)
        b3 = phi2(-h) / r2
        mean = (phi1(-h) - b3) * first + b3 * third
        x = np.exp(-h) * x - mean + s_noise * noise.to(nxt)
    return x


PUBLISHED = [
    (res_multistep, {}),
    (gradient_estimation, {}),
    (gradient_estimation, {"gamma": 1.3}),
    (heunpp2, {}),
    *((ipndm_v, {"solver_order": k}) for k in (1, 2, 3, 4)),
    *((er_sde, {"solver_order": k, "s_noise": s}) for k, s in ((1, 1.0), (2, 0.9), (3, 1.0))),
    (sa_solver, {}),
    (sa_solver, {"predictor_order": 3, "corrector_order": 4}),
    (sa_solver, {"tau": 0.0, "predictor_order": 4, "corrector_order": 3}),
    (sa_solver, {"tau": 0.7, "predictor_order": 2, "corrector_order": 1}),
    (seeds_2, {}),
    (seeds_2, {"eta": 0.4, "s_noise": 1.1, "r": 0.3}),
    (seeds_3, {}),
    (seeds_3, {"eta": 0.0, "r1": 0.25, "r2": 0.7}),
    (seeds_3, {"eta": 0.6, "s_noise": 0.9}),
]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(
    ("rule", "settings"), PUBLISHED, ids=[f"{rule.__name__}-{given}" for rule, given in PUBLISHED]
)
def test_latents_are_those_of_the_published_rule(rule, settings, grid):
    start, noise = MAKER.inputs()
    for num_steps in (1, 2, 3, 20):
        ratios = np.array([level.ratio for level in GRIDS[grid](num_steps)])
        draws = iter([*noise, *-noise])  # seeds_3 draws three times a step
        expected = rule(
            MAKER.toy_clean, start * ratios[0], ratios, lambda draws=draws: next(draws), **settings
        )
        for path in PATHS:
            levels = Levels(map(path, ratios), path=path)
            ours = iter([*noise, *-noise])
            x = start * levels[0].sigma
            sampler = get_sampler(rule.__name__, **settings)
            *_, last = sample(sampler, clean, x, levels, lambda now, nxt, it=ours: next(it))
            # The integrals of er_sde have 9 digits there.
            tolerance = 1e-7 if rule is er_sde else 1e-10
            found = last.latent / levels[-1].alpha
            assert_close(found, expected, tolerance, (grid, num_steps, path))


def test_sa_solver_draws_noise_where_it_is_told_to():
    drawn = []

    def noise(now, nxt):
        drawn.append(now.ratio)
        return np.zeros(MAKER.SHAPE)

    levels = karras(SD, 20)
    sampler = get_sampler("sa_solver", low=0.3, high=3.0)
    list(sample(sampler, clean, MAKER.inputs()[0] * levels[0].sigma, levels, noise))
    assert drawn == [level.ratio for level in levels[:-2] if 0.3 <= level.ratio <= 3.0]


def test_er_sde_starts_where_sigma_over_alpha_is_huge():
    path = PATHS[1]
    levels = Levels(map(path, (1e13, 1e4, 1.0, 0.0)), path=path)
    found, _ = last_over_alpha(get_sampler("er_sde"), levels)
    assert np.isfinite(found).all()
