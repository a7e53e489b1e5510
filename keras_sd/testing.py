"""The conformance kit: what tests keras-sd's samplers tests yours.

In a plugin's tests::

    from keras_sd.testing import parametrize_with_checks

    @parametrize_with_checks(["acme_heun"])
    def test_contract(sampler, check):
        check(sampler)

or, without pytest, ``check_sampler("acme_heun")``. A check that fails raises `ContractViolation`,
an ``AssertionError`` that names the clause of `keras_sd.sampler` that is broken. No sampler is
excused from a
check: what one cannot do it declares, and the check expects exactly that.
"""

from __future__ import annotations

import ast
import inspect
import math
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any, NoReturn

import numpy as np

from keras_sd.noise import CLEAN, Level, Levels
from keras_sd.random import BrownianPath, normal
from keras_sd.registry import get_sampler
from keras_sd.sampler import Sampler
from keras_sd.sampling import SamplerContractError, Step, sample

__all__ = [
    "ContractViolation",
    "all_checks",
    "check_sampler",
    "measure_order",
    "parametrize_with_checks",
]

Check = Callable[[Sampler | str], None]

_CLAUSES = {
    1: "levels",
    2: "denoise",
    3: "noise is the only randomness",
    4: "one yield per interval, shape and dtype kept",
    5: "state lives in locals, settings show in the repr",
    6: "plain arithmetic, out of place",
    7: "no with block around a yield; cancelling passes",
}


class ContractViolation(AssertionError):
    """A sampler broke a clause of the sampler contract, or a promise of its own."""


def all_checks() -> tuple[Check, ...]:
    """Every check, each a function of a sampler (an instance or a name)."""
    return (
        check_settings,
        check_yields_once_per_interval,
        check_one_step,
        check_last_sigma_zero,
        check_last_sigma_above_zero,
        check_first_alpha_zero,
        check_levels_asked,
        check_shape_and_dtype_kept,
        check_inputs_unmodified,
        check_noise_is_the_only_randomness,
        check_two_interleaved_runs,
        check_close,
        check_raise_from_denoise,
        check_plain_arithmetic,
        check_backend_tensors,
        check_no_with_around_yield,
        check_order_of_convergence_vp,
        check_order_of_convergence_ve,
        check_order_of_convergence_flow,
        check_mean_and_variance,
        check_brownian_path,
    )


def check_sampler(sampler: Sampler | str) -> None:
    """Run every check on a sampler.

    Args:
        sampler: An instance, or a name as `keras_sd.get_sampler` takes it.

    Raises:
        ContractViolation: At least one check failed; the message has all of them.
    """
    sampler = _resolve(sampler)
    failures = []
    for check in all_checks():
        try:
            check(sampler)
        except ContractViolation as violation:
            failures.append(violation)
    if failures:
        raise ContractViolation("\n".join(str(f) for f in failures)) from failures[0]


def parametrize_with_checks(samplers: Iterable[Sampler | str]) -> Any:
    """A pytest decorator: one test for every pair of a sampler and a check.

    Args:
        samplers: Instances, or names as `keras_sd.get_sampler` takes them; a name is only loaded
            when its test runs.

    Returns:
        ``pytest.mark.parametrize`` for a test function with the arguments ``sampler`` and
        ``check``.
    """
    import pytest

    cases = [
        pytest.param(sampler, check, id=f"{_label(sampler)}-{check.__name__}")
        for sampler in samplers
        for check in all_checks()
    ]
    return pytest.mark.parametrize(("sampler", "check"), cases)


# ---- clause by clause --------------------------------------------------------------------------


def check_settings(sampler: Sampler | str) -> None:
    """The repr shows every setting, so that a saved picture can say how it was made (clause 5)."""
    sampler = _resolve(sampler)
    if inspect.isroutine(sampler):
        return  # a plain function has no settings and is named by its name
    if " object at 0x" in repr(sampler):
        _fail(sampler, 5, f"its repr is {sampler!r}; make the class a frozen dataclass")
    missing = [s for s in inspect.signature(type(sampler)).parameters if s not in repr(sampler)]
    if missing:
        _fail(sampler, 5, f"the setting {missing[0]!r} is missing from its repr, {sampler!r}")


def check_yields_once_per_interval(sampler: Sampler | str) -> None:
    """n intervals give n latents, for several n (clause 4)."""
    sampler = _resolve(sampler)
    for path in _PATHS.values():
        for num_steps in (2, 3, 7):
            _run(sampler, _grid(path, num_steps))


def check_one_step(sampler: Sampler | str) -> None:
    """A single step works, to sigma 0 and above it (clause 4)."""
    sampler = _resolve(sampler)
    for path in _PATHS.values():
        _run(sampler, _grid(path, 1))
        _run(sampler, _grid(path, 1, to_zero=True))


def check_last_sigma_zero(sampler: Sampler | str) -> None:
    """A run that ends at sigma 0 gives finite latents and ends at the believed x0 (clauses 1 and
    2).

    At sigma 0 nothing is left of the noise, so for a model that knows one picture the last latent
    is it.
    """
    sampler = _resolve(sampler)
    picture = np.full(_SHAPE, 0.7)
    # Of a consistency model, samplers take the boundary condition into account: a trace of x.
    allowed = 1e-4 if getattr(sampler, "consistency", False) else 1e-9
    for path in _PATHS.values():
        last = _run(sampler, _grid(path, 6, to_zero=True), denoise=lambda x, level: picture)[-1]
        if not np.allclose(last.latent, picture, rtol=0, atol=allowed):
            _fail(
                sampler,
                1,
                "a run to sigma 0 with a model that always gives one x0 did not end at it",
            )


def check_last_sigma_above_zero(sampler: Sampler | str) -> None:
    """A run that ends above sigma 0 keeps the noise of that level (clause 1).

    Stable Diffusion's own DDIM and PNDM grids end so.
    """
    sampler = _resolve(sampler)
    picture = np.full(_SHAPE, 0.7)
    for path in _PATHS.values():
        levels = _grid(path, 6)
        last = _run(sampler, levels, denoise=lambda x, level: picture)[-1]
        if np.allclose(last.latent, levels[-1].alpha * picture, rtol=0, atol=1e-9):
            _fail(sampler, 1, f"a run that ends at {levels[-1]} gave a latent without any noise")


def check_first_alpha_zero(sampler: Sampler | str) -> None:
    """A run may start at alpha 0, pure noise; one with ``zero_alpha = False`` raises ValueError
    (clause 1)."""
    sampler = _resolve(sampler)
    noise = Level(1000.0, 0.0, 1.0)
    levels = Levels([noise, *_grid(_PATHS["VP"], 6)], path=_PATHS["VP"][0])
    if getattr(sampler, "zero_alpha", True):
        _run(sampler, levels)
        many = Levels([noise, *_grid(_PATHS["VP"], 64)], path=_PATHS["VP"][0])
        with _reported(sampler, many):
            errors = _gaussian_errors(sampler, many)
        if not max(map(sum, errors)) < _LARGEST_ERROR_OF_A_STEP:
            _fail(sampler, 1, "a run from alpha 0 comes to other latents than it should")
        return
    try:
        with np.errstate(all="ignore"):
            list(_steps(sampler, levels))
    except ValueError:
        return
    except Exception as error:
        _fail(
            sampler, 1, f"it declares zero_alpha = False and there raised {error!r}, not ValueError"
        )
    _fail(sampler, 1, "it declares zero_alpha = False and ran from alpha 0 without a ValueError")


def check_levels_asked(sampler: Sampler | str) -> None:
    """The model is asked at levels of the run or of its path, with the timestep that is theirs
    (clause 1).

    A model believes the timestep that it is told, whatever is in the latent.
    """
    sampler = _resolve(sampler)
    for level_at, ratio in _PATHS.values():
        levels = _grid((level_at, ratio), 7, to_zero=True)
        asked: list[Level] = []

        def denoise(x: Any, level: Level, asked: list[Level] = asked) -> Any:
            asked.append(level)
            return _gaussian_denoise(x, level)

        _run(sampler, levels, denoise=denoise)
        for level in asked:
            own = level_at(level.ratio)
            pairs = ((level.t, own.t), (level.alpha, own.alpha), (level.sigma, own.sigma))
            if level not in levels and not all(
                math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9) for a, b in pairs
            ):
                _fail(
                    sampler,
                    1,
                    f"it asked the model at {level}, which is no level of this path: there it is "
                    f"{own}; make levels with levels.between",
                )


def check_shape_and_dtype_kept(sampler: Sampler | str) -> None:
    """Every yield has the shape and dtype of the latent it was given (clause 4)."""
    sampler = _resolve(sampler)
    for shape, dtype in (
        ((1, 4, 4, 4), np.float32),
        ((3, 2, 5, 4), np.float64),
        ((2, 6), np.float32),
    ):
        _run(
            sampler,
            _grid(_PATHS["VP"], 4),
            x=_start(shape=shape).astype(dtype),
            noise=_Noise(shape, dtype),
        )


def check_inputs_unmodified(sampler: Sampler | str) -> None:
    """What the sampler was given, and what it has yielded, it does not write to (clause 6)."""
    sampler = _resolve(sampler)
    kept: list[tuple[str, Any, Any]] = []

    def keep(what: str, array: Any) -> Any:
        kept.append((what, array, array.copy()))
        return array

    source = _Noise()
    x = keep("the latent it was given", _start())
    steps = _steps(
        sampler,
        _grid(_PATHS["VP"], 5),
        x=x,
        denoise=lambda x, level: keep("the result of denoise", _gaussian_denoise(x, level)),
        noise=lambda now, nxt: keep("the result of noise", source(now, nxt)),
    )
    with _reported(sampler):
        for step in steps:
            for what, array, before in kept:
                if not np.array_equal(array, before):
                    _fail(
                        sampler, 6, f"it changed {what} in place: write x = x + ..., not x += ..."
                    )
            keep("a latent it had yielded", step.latent)


def check_noise_is_the_only_randomness(sampler: Sampler | str) -> None:
    """Two runs with the same noise are equal to the bit, and noise is drawn if and only if declared
    (clauses 3 and 5)."""
    sampler = _resolve(sampler)
    before = repr(getattr(sampler, "__dict__", None))
    levels = _grid(_PATHS["VP"], 5)
    draws = _Noise()
    first = _run(sampler, levels, noise=draws)
    second = _run(sampler, levels)
    if any(not np.array_equal(a.latent, b.latent) for a, b in zip(first, second, strict=True)):
        _fail(
            sampler,
            3,
            "two runs with the same latent, levels and noise differ: it has randomness of its own, "
            "or keeps something from one run to the next",
        )
    # Elements that start alike and draw alike end alike, so that randomness with a fixed seed shows
    # too.
    alike = _run(sampler, levels, x=np.ones(_SHAPE), noise=lambda now, nxt: np.ones(_SHAPE))[-1]
    if not np.all(alike.latent == alike.latent.flat[0]):
        _fail(
            sampler,
            3,
            "equal elements that draw equal noise end differently: it has randomness of its own",
        )
    if repr(getattr(sampler, "__dict__", None)) != before:
        _fail(sampler, 5, "a run changed its attributes: keep what a run needs in local variables")
    stochastic = bool(getattr(sampler, "stochastic", False))
    if stochastic and not draws.count:  # it may need more levels to do so
        _run(sampler, _grid(_PATHS["VP"], 100), noise=draws)
    if draws.count and not stochastic:
        _fail(sampler, 3, "it drew noise, but does not declare stochastic = True")
    if stochastic and not draws.count:
        _fail(sampler, 3, "it declares stochastic = True, but drew no noise")


def check_two_interleaved_runs(sampler: Sampler | str) -> None:
    """Two runs that take turns give what each gives alone (clause 5)."""
    sampler = _resolve(sampler)
    runs = [
        partial(_steps, sampler, _grid(_PATHS["VP"], 6), x=_start(1)),
        partial(_steps, sampler, _grid(_PATHS["VE"], 6), x=_start(2)),
    ]
    with _reported(sampler):
        alone = [[step.latent for step in run()] for run in runs]
        turns = [list(turn) for turn in zip(runs[0](), runs[1](), strict=True)]
    for index, (a, b) in enumerate(turns):
        if not (
            np.array_equal(a.latent, alone[0][index]) and np.array_equal(b.latent, alone[1][index])
        ):
            _fail(
                sampler,
                5,
                "two runs that take turns disturb each other: keep state in local variables",
            )


def check_close(sampler: Sampler | str) -> None:
    """Closing a run ends it at once and quietly (clause 7)."""
    sampler = _resolve(sampler)
    calls = 0

    def counted(x: Any, level: Level) -> Any:
        nonlocal calls
        calls += 1
        return _gaussian_denoise(x, level)

    run: Any = sampler(counted, _start(), _grid(_PATHS["VP"], 4), _Noise())
    with _reported(sampler):
        next(run)
    if not hasattr(run, "close"):
        _fail(
            sampler,
            7,
            f"__call__ gives {type(run).__name__}, which has no close(): make it a generator",
        )
    before = calls
    try:
        run.close()
    except BaseException as error:
        _fail(sampler, 7, f"close() after the first step raised {error!r}: let GeneratorExit pass")
    if calls != before:
        _fail(sampler, 7, "it went on calling denoise when it was closed")


def check_raise_from_denoise(sampler: Sampler | str) -> None:
    """What denoise raises comes out as it is, from whichever call (clause 7)."""
    sampler = _resolve(sampler)
    levels = _grid(_PATHS["VP"], 4)
    total = _run(sampler, levels)[-1].evaluations
    for fatal in range(1, total + 1):
        calls = 0
        raised = RuntimeError("cancelled by the conformance kit")

        def denoise(x: Any, level: Level, fatal: int = fatal, raised: Exception = raised) -> Any:
            nonlocal calls
            calls += 1
            if calls >= fatal:
                raise raised
            return _gaussian_denoise(x, level)

        try:
            list(_steps(sampler, levels, denoise=denoise))
        except Exception as error:
            if error is raised:
                continue
            _fail(sampler, 7, f"denoise raised {raised!r} and {error!r} came out")
        _fail(sampler, 7, f"denoise raised at call {fatal} and the run went on: do not catch it")


def check_plain_arithmetic(sampler: Sampler | str) -> None:
    """It runs on arrays that know ``+ - * / ** abs`` and Python numbers, and nothing else (clause
    6)."""
    sampler = _resolve(sampler)
    reads = bool(getattr(sampler, "reads_tensors", False))
    kind = _Readable if reads else _Plain
    kind.was_read = False
    source = _Noise()
    for path in _PATHS.values():
        _run(
            sampler,
            _grid(path, 4, to_zero=True),
            x=kind(_start()),
            denoise=lambda x, level: kind(_gaussian_denoise(x.value, level)),
            noise=lambda now, nxt: kind(source(now, nxt)),
        )
    if reads and not kind.was_read:
        _fail(sampler, 6, "it declares reads_tensors = True, but never read one")


def check_backend_tensors(sampler: Sampler | str) -> None:
    """Float32 tensors of Keras' backend come to what float64 NumPy arrays come to (clause 6).

    Run under each backend, it compares them all with the same numbers.

    Raises:
        ImportError: Keras has no backend here.
    """
    sampler = _resolve(sampler)
    try:
        from keras import ops
    except ImportError as error:
        raise ImportError(
            f"This check runs the sampler on the tensors of Keras' backend, but {error}: install "
            'one, as in pip install "keras-sd[jax]", and name it in KERAS_BACKEND.'
        ) from error
    source = _Noise()
    for levels in (_grid(_PATHS["VP"], 6, to_zero=True), _grid(_PATHS["VE"], 6)):
        x = _start() * levels[0].sigma
        expected = _run(sampler, levels, x=x)
        source.count = 0
        found = _run(
            sampler,
            levels,
            x=ops.convert_to_tensor(x, "float32"),
            noise=lambda now, nxt: ops.convert_to_tensor(source(now, nxt), "float32"),
        )
        with warnings.catch_warnings():
            # Keras 3.15 copies a torch tensor in a way that NumPy 2 warns about.
            warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
            latents = [ops.convert_to_numpy(step.latent) for step in found]
        for step, latent, reference in zip(found, latents, expected, strict=True):
            off = np.abs(latent - reference.latent).max() / np.abs(reference.latent).max()
            if not off < 1e-4:
                _fail(
                    sampler,
                    6,
                    f"step {step.index} of {step.total} on {type(step.latent).__module__} tensors "
                    f"is {off:.2g} off what NumPy gives",
                )


def check_no_with_around_yield(sampler: Sampler | str) -> None:
    """No ``with`` block is open while the host's code runs (clause 7). Read from the source, if
    there is one."""
    sampler = _resolve(sampler)
    owners: list[Any] = (
        [sampler] if inspect.isroutine(sampler) else list(type(sampler).__mro__[:-1])
    )
    for owner in owners:
        try:
            source = textwrap.dedent(inspect.getsource(owner))
        except (OSError, TypeError):
            continue
        if line := _yield_inside_with(ast.parse(source)):
            _fail(
                sampler,
                7,
                f"{owner.__name__} yields inside a with block (its line {line}): close it before",
            )


def check_mean_and_variance(sampler: Sampler | str) -> None:
    """A stochastic sampler's latents have the right mean and variance, the better the more steps
    (clause 3).

    At 20 and 40 steps, each by itself, as too much variance may hide in a mean that is right.
    """
    sampler = _resolve(sampler)
    if not getattr(sampler, "stochastic", False) or getattr(sampler, "order", 1) == 0:
        return
    for name, path in _PATHS.items():
        with _reported(sampler):
            few, more = (_gaussian_errors(sampler, _grid(path, n))[-1] for n in (20, 40))
        for what, before, after in zip(("mean", "standard deviation"), few, more, strict=True):
            if not (after < _LARGEST_ERROR and after < max(0.8 * before, 1e-3)):
                _fail(
                    sampler,
                    3,
                    f"on a {name} path the {what} of its latents is {before:.2g} off at 20 steps "
                    f"and {after:.2g} at 40",
                )


def check_brownian_path(sampler: Sampler | str) -> None:
    """With ``brownian = True``, twice the steps along the same path come nearer to the same latent
    (clause 3)."""
    sampler = _resolve(sampler)
    if not getattr(sampler, "brownian", False):
        return
    if not getattr(sampler, "stochastic", False):
        _fail(sampler, 3, "it declares brownian = True, but not stochastic = True")
    shape = (200,)
    for name, path in _PATHS.items():
        ends = []
        for num_steps in (32, 64, 128):
            levels, noise = _grid(path, num_steps), BrownianPath(1, [0], shape)
            x = _start(shape=shape) * _spread(levels[0]) + levels[0].alpha * _MEAN
            draw = lambda now, nxt, noise=noise: noise(now, nxt)[0].astype(np.float64)  # noqa: E731
            ends.append(_run(sampler, levels, x=x, noise=draw)[-1].latent)
        before, after = (float(np.sqrt(np.mean((a - b) ** 2))) for a, b in pairwise(ends))
        if not after < 0.8 * before:
            _fail(
                sampler,
                3,
                f"on a {name} path 64 steps are {before:.2g} off 32 steps with the same Brownian "
                f"path, and 128 are {after:.2g} off 64: the weight of its noise is not its "
                "interval's",
            )


def check_order_of_convergence_vp(sampler: Sampler | str) -> None:
    """The error falls with the declared ``order`` on a variance-preserving path."""
    _check_order(_resolve(sampler), "VP")


def check_order_of_convergence_ve(sampler: Sampler | str) -> None:
    """The error falls with the declared ``order`` on a variance-exploding path (alpha = 1)."""
    _check_order(_resolve(sampler), "VE")


def check_order_of_convergence_flow(sampler: Sampler | str) -> None:
    """The error falls with the declared ``order`` on a flow-matching path (alpha = 1 - sigma)."""
    _check_order(_resolve(sampler), "flow")


# ---- the order of convergence -------------------------------------------------------------------

# Data is N(0.7, 0.25): the best denoiser is affine in x, so that the exact solution is known.
_MEAN, _VARIANCE = 0.7, 0.25
_TOLERANCE = 0.2
_LARGEST_ERROR = 0.05  # at the finest grid; first-order methods have 0.003 to 0.01
_LARGEST_ERROR_OF_A_STEP = 0.5  # of what is yielded on the way, which some methods only look at
_GRIDS = (64, 128)


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
    runs = _runs(_resolve(sampler), path, grids)
    errors = {n: run[-1] for n, run in runs.items()}
    return _order(errors), errors


def _runs(sampler: Sampler, path: str, grids: tuple[int, ...]) -> dict[int, list[float]]:
    """By number of steps, the error of each step: of its mean and its spread together."""
    return {n: list(map(sum, _gaussian_errors(sampler, _grid(_PATHS[path], n)))) for n in grids}


def _order(errors: dict[int, float]) -> float:
    *_, coarse, fine = errors.values()
    if fine < 1e-11:
        return math.inf
    return math.log2(coarse / fine) if coarse > 0 else 0.0


def _check_order(sampler: Sampler, path: str) -> None:
    declared = getattr(sampler, "order", 1)
    with _reported(sampler):
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
            f"{_label(sampler)} declares order {declared}, but on a {path} path its error falls "
            f"with order {order:.2f} ({listed}): the update rule is not the one it means to be, or "
            "the order is lower."
        )
    if not max(steps) < _LARGEST_ERROR_OF_A_STEP:
        worst = steps.index(max(steps))
        _fail(
            sampler,
            4,
            f"on a {path} path of {len(steps)} steps what it yields at step {worst + 1} is "
            f"{steps[worst]:.2g} off in mean and spread: yield the latent of that level",
        )


def _gaussian_errors(sampler: Sampler, levels: Levels) -> list[tuple[float, float]]:
    """How far mean and standard deviation of what a run yields are off, at each step."""
    consistency = getattr(sampler, "consistency", False)
    denoise = _gaussian_consistency if consistency else _gaussian_denoise
    # Row 0 starts at the mean, row 1 one unit off it; each of the others has one number of what is
    # drawn, 0 elsewhere.
    draws = _UnitDraws(brownian=bool(getattr(sampler, "brownian", False)))
    first = levels[0]
    list(sample(sampler, denoise, np.full(2, first.alpha * _MEAN), levels, draws.counted))
    x = np.full(2 + draws.count, first.alpha * _MEAN)
    x[1] += 1
    errors = []
    for step in sample(sampler, denoise, x, levels, draws):
        gains = step.latent[1:] - step.latent[0]
        spread = gains * np.sqrt([_spread(first) ** 2] + [1.0] * draws.count)
        # Without draws the sign counts: the ODE never crosses its mean.
        total = float(np.sqrt(np.sum(spread**2))) if draws.count else float(spread[0])
        mean = abs(float(step.latent[0]) - step.level.alpha * _MEAN)
        deviation = abs(total - _spread(step.level))
        known = math.isfinite(mean) and math.isfinite(deviation)
        errors.append((mean, deviation) if known else (math.inf, math.inf))
    return errors


def _spread(level: Level) -> float:
    return math.sqrt(level.alpha**2 * _VARIANCE + level.sigma**2)


def _gaussian_denoise(x: Any, level: Level) -> Any:
    gain = level.alpha * _VARIANCE / _spread(level) ** 2
    return _MEAN + gain * (x - level.alpha * _MEAN)


def _gaussian_consistency(x: Any, level: Level) -> Any:
    """Where the probability-flow ODE takes x: the function that a consistency model is trained to
    be."""
    return _MEAN + math.sqrt(_VARIANCE) / _spread(level) * (x - level.alpha * _MEAN)


class _UnitDraws:
    """Noise one number at a time: row 2 + k has the k-th of the run's independent numbers as 1, the
    others as 0. Each draw is one of them, or with `brownian` each piece of the path between two
    levels at which one was asked for."""

    def __init__(self, brownian: bool) -> None:
        self._brownian = brownian
        self._asked: list[tuple[float, float]] = []
        self._drawn = 0

    def counted(self, now: Level, nxt: Level) -> Any:
        """No noise, but remembered."""
        self._asked.append((_clock(now), _clock(nxt)))
        return np.zeros(2)

    @property
    def _ticks(self) -> list[float]:
        return sorted({tick for interval in self._asked for tick in interval})

    @property
    def count(self) -> int:
        """The run's independent numbers."""
        return max(len(self._ticks) - 1, 0) if self._brownian else len(self._asked)

    def __call__(self, now: Level, nxt: Level) -> Any:
        drawn = np.zeros(2 + self.count)
        if self._brownian:
            start, end = sorted((_clock(now), _clock(nxt)))
            for k, (low, high) in enumerate(pairwise(self._ticks)):
                if start <= low and high <= end:
                    drawn[2 + k] = math.sqrt((high - low) / (end - start))
        else:
            drawn[2 + self._drawn : 3 + self._drawn] = 1
            self._drawn += 1
        return drawn


def _clock(level: Level) -> float:
    return math.atan2(level.sigma, level.alpha)


# ---- paths, noise and arrays to run on ----------------------------------------------------------

_SHAPE = (2, 3, 4)


def _vp(ratio: float) -> Level:
    norm = math.hypot(1, ratio)
    return Level(1000 * math.atan(ratio) / (math.pi / 2), 1 / norm, ratio / norm)


def _ve(ratio: float) -> Level:
    return Level(_vp(ratio).t, 1.0, ratio)


def _flow(ratio: float) -> Level:
    sigma = ratio / (1 + ratio)
    return Level(1000 * sigma, 1 - sigma, sigma)


def _angle(f: float) -> float:
    return math.tan(1.45 + f * (0.15 - 1.45))


def _geometric(f: float) -> float:
    return 10.0 * math.exp(f * math.log(0.01))


def _straight(f: float) -> float:
    sigma = 0.95 + f * (0.1 - 0.95)
    return sigma / (1 - sigma)


# Name -> (the path: ratio -> level, the grid: fraction of the run -> ratio), smooth as orders need.
_PATHS = {"VP": (_vp, _angle), "VE": (_ve, _geometric), "flow": (_flow, _straight)}


def _grid(
    path: tuple[Callable[[float], Level], Callable[[float], float]],
    num_steps: int,
    to_zero: bool = False,
) -> Levels:
    level, ratio = path
    entries = [level(ratio(i / num_steps)) for i in range(num_steps + 1)]
    if to_zero:
        entries[-1] = CLEAN
    return Levels(entries, path=level)


class _Noise:
    """Normal noise by the number of the draw, so that two equal runs draw the same."""

    def __init__(self, shape: tuple[int, ...] = _SHAPE, dtype: Any = np.float64) -> None:
        self.shape, self.dtype, self.count = shape, dtype, 0

    def __call__(self, now: Level, nxt: Level) -> Any:
        self.count += 1
        return normal(0, 0, self.count, self.shape).astype(self.dtype)


def _start(seed: int = 0, shape: tuple[int, ...] = _SHAPE) -> Any:
    return normal(seed, 0, 0, shape).astype(np.float64)


class _Plain:
    """An array that can do what the arrays of every backend can, and nothing else."""

    __array_ufunc__ = None  # a NumPy number times this asks this
    was_read = False

    def __init__(self, value: Any) -> None:
        self.value = value

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    @property
    def dtype(self) -> Any:
        return self.value.dtype

    def _other(self, other: Any) -> Any:
        if isinstance(other, _Plain):
            return other.value
        if type(other) in (int, float):
            return other
        raise TypeError(
            f"a tensor met a {type(other).__module__}.{type(other).__name__}: use Python numbers"
        )

    def __add__(self, other: Any) -> Any:
        return type(self)(self.value + self._other(other))

    def __radd__(self, other: Any) -> Any:
        return type(self)(self._other(other) + self.value)

    def __sub__(self, other: Any) -> Any:
        return type(self)(self.value - self._other(other))

    def __rsub__(self, other: Any) -> Any:
        return type(self)(self._other(other) - self.value)

    def __mul__(self, other: Any) -> Any:
        return type(self)(self.value * self._other(other))

    def __rmul__(self, other: Any) -> Any:
        return type(self)(self._other(other) * self.value)

    def __truediv__(self, other: Any) -> Any:
        return type(self)(self.value / self._other(other))

    def __rtruediv__(self, other: Any) -> Any:
        return type(self)(self._other(other) / self.value)

    def __pow__(self, other: Any) -> Any:
        return type(self)(self.value ** self._other(other))

    def __neg__(self) -> Any:
        return type(self)(-self.value)

    def __abs__(self) -> Any:
        return type(self)(abs(self.value))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        raise TypeError("a tensor was turned into a NumPy array")

    def _compared(self, other: Any) -> Any:
        raise TypeError("a tensor was compared")

    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = _compared
    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise TypeError("a tensor was used as a condition")

    def __float__(self) -> float:
        raise TypeError("a tensor was read as a number")


class _Readable(_Plain):
    """The array for samplers that declare ``reads_tensors``: ``np.asarray`` works too."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        type(self).was_read = True
        return np.array(self.value, dtype=dtype)


# ---- running and reporting ----------------------------------------------------------------------


def _resolve(sampler: Sampler | str) -> Sampler:
    return get_sampler(sampler)


def _label(sampler: Sampler | str) -> str:
    if isinstance(sampler, str):
        return sampler
    return getattr(sampler, "__name__", None) or repr(sampler)


def _fail(sampler: Sampler, clause: int, what: str) -> NoReturn:
    raise ContractViolation(
        f"{_label(sampler)} breaks clause {clause} of the sampler contract ({_CLAUSES[clause]}): "
        f"{what}."
    )


@contextmanager
def _reported(sampler: Sampler, levels: Levels | None = None) -> Iterator[None]:
    try:
        with np.errstate(all="ignore"):  # what is not finite is reported as such
            yield
    except ContractViolation:
        raise
    except SamplerContractError as error:
        raise ContractViolation(f"{_label(sampler)}: {error}") from error
    except Exception as error:
        where = f" on {len(levels) - 1} steps from {levels[0]} to {levels[-1]}" if levels else ""
        raise ContractViolation(
            f"{_label(sampler)} raised {type(error).__name__}{where}: {error}"
        ) from error


def _steps(
    sampler: Sampler,
    levels: Levels,
    *,
    x: Any = None,
    denoise: Any = _gaussian_denoise,
    noise: Any = None,
) -> Iterator[Step]:
    return sample(sampler, denoise, _start() if x is None else x, levels, noise or _Noise())


def _run(sampler: Sampler, levels: Levels, **arguments: Any) -> list[Step]:
    with _reported(sampler, levels):
        steps = list(_steps(sampler, levels, **arguments))
    for step in steps:
        if isinstance(step.latent, np.ndarray) and not np.isfinite(step.latent).all():
            _fail(
                sampler,
                1,
                f"step {step.index} of {step.total} from {levels[0]} to {levels[-1]} is not finite",
            )
    return steps


def _yield_inside_with(tree: ast.AST, inside: bool = False) -> int | None:
    for node in ast.iter_child_nodes(tree):
        if inside and isinstance(node, (ast.Yield, ast.YieldFrom)):
            return node.lineno
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            found = _yield_inside_with(node, False)
        else:
            found = _yield_inside_with(node, inside or isinstance(node, (ast.With, ast.AsyncWith)))
        if found:
            return found
    return None
