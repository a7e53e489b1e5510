"""The clauses of the contract, one check after another."""

from __future__ import annotations

import ast
import inspect
import math
import textwrap
from functools import partial
from typing import Any

import numpy as np

from keras_sd.noise import Level, Levels
from keras_sd.sampler import Parts, Sampler
from keras_sd.sampling import sample
from keras_sd.testing.convergence import LARGEST_ERROR_OF_A_STEP, gaussian_errors
from keras_sd.testing.problems import (
    PATHS,
    SHAPE,
    Draws,
    Plain,
    Readable,
    gaussian_denoise,
    grid,
    started,
)
from keras_sd.testing.running import (
    fail,
    finished,
    reported,
    resolved,
    stepped,
    unshown,
    with_parts,
)


def check_settings(sampler: Sampler | str) -> None:
    """The repr shows every setting, so that a saved picture can say how it was made (clause 5)."""
    sampler = resolved(sampler)
    if problem := unshown(sampler):
        fail(sampler, 5, problem)


def check_yields_once_per_interval(sampler: Sampler | str) -> None:
    """N intervals give n latents, for several n (clause 4)."""
    sampler = resolved(sampler)
    for path in PATHS.values():
        for num_steps in (2, 3, 7):
            finished(sampler, grid(path, num_steps))


def check_one_step(sampler: Sampler | str) -> None:
    """A single step works, to sigma 0 and above it (clause 4)."""
    sampler = resolved(sampler)
    for path in PATHS.values():
        finished(sampler, grid(path, 1))
        finished(sampler, grid(path, 1, to_zero=True))


def check_last_sigma_zero(sampler: Sampler | str) -> None:
    """A run that ends at sigma 0 gives finite latents and ends at the believed x0 (clauses 1 and
    2).

    At sigma 0 nothing is left of the noise, so for a model that knows one picture the last latent
    is it.
    """
    sampler = resolved(sampler)
    picture = np.full(SHAPE, 0.7)
    # Of a consistency model, samplers take the boundary condition into account: a trace of x.
    allowed = 1e-4 if getattr(sampler, "consistency", False) else 1e-9
    for path in PATHS.values():
        last = finished(sampler, grid(path, 6, to_zero=True), denoise=lambda x, level: picture)[-1]
        if not np.allclose(last.latent, picture, rtol=0, atol=allowed):
            fail(
                sampler,
                1,
                "a run to sigma 0 with a model that always gives one x0 did not end at it",
            )


def check_last_sigma_above_zero(sampler: Sampler | str) -> None:
    """A run that ends above sigma 0 keeps the noise of that level (clause 1).

    Stable Diffusion's own DDIM and PNDM grids end so.
    """
    sampler = resolved(sampler)
    picture = np.full(SHAPE, 0.7)
    for path in PATHS.values():
        levels = grid(path, 6)
        last = finished(sampler, levels, denoise=lambda x, level: picture)[-1]
        if np.allclose(last.latent, levels[-1].alpha * picture, rtol=0, atol=1e-9):
            fail(sampler, 1, f"a run that ends at {levels[-1]} gave a latent without any noise")


def check_first_alpha_zero(sampler: Sampler | str) -> None:
    """A run may start at alpha 0, pure noise; one with ``zero_alpha = False`` raises ValueError
    (clause 1).
    """
    sampler = resolved(sampler)
    noise = Level(1000.0, 0.0, 1.0)
    levels = Levels([noise, *grid(PATHS["VP"], 6)], path=PATHS["VP"][0])
    if getattr(sampler, "zero_alpha", True):
        finished(sampler, levels)
        many = Levels([noise, *grid(PATHS["VP"], 64)], path=PATHS["VP"][0])
        with reported(sampler, many):
            errors = gaussian_errors(sampler, many)
        if not max(map(sum, errors)) < LARGEST_ERROR_OF_A_STEP:
            fail(sampler, 1, "a run from alpha 0 comes to other latents than it should")
        return
    try:
        with np.errstate(all="ignore"):
            list(stepped(sampler, levels))
    except ValueError:
        return
    except Exception as error:
        fail(
            sampler, 1, f"it declares zero_alpha = False and there raised {error!r}, not ValueError"
        )
    fail(sampler, 1, "it declares zero_alpha = False and ran from alpha 0 without a ValueError")


def check_levels_asked(sampler: Sampler | str) -> None:
    """The model is asked at levels of the run or of its path, with the timestep that is theirs
    (clause 1).

    A model believes the timestep that it is told, whatever is in the latent.
    """
    sampler = resolved(sampler)
    for level_at, ratio in PATHS.values():
        levels = grid((level_at, ratio), 7, to_zero=True)
        asked: list[Level] = []

        def denoise(x: Any, level: Level, asked: list[Level] = asked) -> Any:
            asked.append(level)
            return gaussian_denoise(x, level)

        finished(sampler, levels, denoise=denoise)
        for level in asked:
            own = level_at(level.ratio)
            pairs = ((level.t, own.t), (level.alpha, own.alpha), (level.sigma, own.sigma))
            if level not in levels and not all(
                math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9) for a, b in pairs
            ):
                fail(
                    sampler,
                    1,
                    f"it asked the model at {level}, which is no level of this path: there it is "
                    f"{own}; make levels with levels.between",
                )


def check_shape_and_dtype_kept(sampler: Sampler | str) -> None:
    """Every yield has the shape and dtype of the latent it was given (clause 4)."""
    sampler = resolved(sampler)
    for shape, dtype in (
        ((1, 4, 4, 4), np.float32),
        ((3, 2, 5, 4), np.float64),
        ((2, 6), np.float32),
    ):
        finished(
            sampler,
            grid(PATHS["VP"], 4),
            x=started(shape=shape).astype(dtype),
            noise=Draws(shape, dtype),
        )


def check_inputs_unmodified(sampler: Sampler | str) -> None:
    """What the sampler was given, and what it has yielded, it does not write to (clause 6)."""
    sampler = resolved(sampler)
    kept: list[tuple[str, Any, Any]] = []

    def keep(what: str, array: Any) -> Any:
        kept.append((what, array, array.copy()))
        return array

    source = Draws()
    x = keep("the latent it was given", started())
    steps = stepped(
        sampler,
        grid(PATHS["VP"], 5),
        x=x,
        denoise=lambda x, level: keep("the result of denoise", gaussian_denoise(x, level)),
        noise=lambda now, nxt: keep("the result of noise", source(now, nxt)),
    )
    with reported(sampler):
        for step in steps:
            for what, array, before in kept:
                if not np.array_equal(array, before):
                    fail(sampler, 6, f"it changed {what} in place: write x = x + ..., not x += ...")
            keep("a latent it had yielded", step.latent)


def check_noise_is_the_only_randomness(sampler: Sampler | str) -> None:
    """Two runs with the same noise are equal to the bit, and noise is drawn if and only if declared
    (clauses 3 and 5).
    """
    sampler = resolved(sampler)
    before = repr(getattr(sampler, "__dict__", None))
    levels = grid(PATHS["VP"], 5)
    draws = Draws()
    first = finished(sampler, levels, noise=draws)
    second = finished(sampler, levels)
    if any(not np.array_equal(a.latent, b.latent) for a, b in zip(first, second, strict=True)):
        fail(
            sampler,
            3,
            "two runs with the same latent, levels and noise differ: it has randomness of its own, "
            "or keeps something from one run to the next",
        )
    # Elements that start alike and draw alike end alike, so that randomness with a fixed seed shows
    # too.
    alike = finished(sampler, levels, x=np.ones(SHAPE), noise=lambda now, nxt: np.ones(SHAPE))[-1]
    if not np.all(alike.latent == alike.latent.flat[0]):
        fail(
            sampler,
            3,
            "equal elements that draw equal noise end differently: it has randomness of its own",
        )
    if repr(getattr(sampler, "__dict__", None)) != before:
        fail(sampler, 5, "a run changed its attributes: keep what a run needs in local variables")
    stochastic = bool(getattr(sampler, "stochastic", False))
    if stochastic and not draws.count:  # it may need more levels to do so
        finished(sampler, grid(PATHS["VP"], 100), noise=draws)
    if draws.count and not stochastic:
        fail(sampler, 3, "it drew noise, but does not declare stochastic = True")
    if stochastic and not draws.count:
        fail(sampler, 3, "it declares stochastic = True, but drew no noise")


def check_two_interleaved_runs(sampler: Sampler | str) -> None:
    """Two runs that take turns give what each gives alone (clause 5)."""
    sampler = resolved(sampler)
    runs = [
        partial(stepped, sampler, grid(PATHS["VP"], 6), x=started(1)),
        partial(stepped, sampler, grid(PATHS["VE"], 6), x=started(2)),
    ]
    with reported(sampler):
        alone = [[step.latent for step in run()] for run in runs]
        turns = [list(turn) for turn in zip(runs[0](), runs[1](), strict=True)]
    for index, (a, b) in enumerate(turns):
        if not (
            np.array_equal(a.latent, alone[0][index]) and np.array_equal(b.latent, alone[1][index])
        ):
            fail(
                sampler,
                5,
                "two runs that take turns disturb each other: keep state in local variables",
            )


def check_close(sampler: Sampler | str) -> None:
    """Closing a run ends it at once and quietly (clause 7)."""
    sampler = resolved(sampler)
    calls = 0

    def counted(x: Any, level: Level) -> Any:
        nonlocal calls
        calls += 1
        return gaussian_denoise(x, level)

    levels = grid(PATHS["VP"], 4)
    run: Any = sampler(with_parts(sampler, counted), started(), levels, Draws())
    with reported(sampler):
        next(run)
    if not hasattr(run, "close"):
        fail(
            sampler,
            7,
            f"__call__ gives {type(run).__name__}, which has no close(): make it a generator",
        )
    before = calls
    try:
        run.close()
    except BaseException as error:
        fail(sampler, 7, f"close() after the first step raised {error!r}: let GeneratorExit pass")
    if calls != before:
        fail(sampler, 7, "it went on calling denoise when it was closed")


def check_raise_from_denoise(sampler: Sampler | str) -> None:
    """What denoise raises comes out as it is, from whichever call (clause 7)."""
    sampler = resolved(sampler)
    levels = grid(PATHS["VP"], 4)
    total = finished(sampler, levels)[-1].evaluations
    for fatal in range(1, total + 1):
        calls = 0
        raised = RuntimeError("cancelled by the conformance kit")

        def denoise(x: Any, level: Level, fatal: int = fatal, raised: Exception = raised) -> Any:
            nonlocal calls
            calls += 1
            if calls >= fatal:
                raise raised
            return gaussian_denoise(x, level)

        try:
            list(stepped(sampler, levels, denoise=denoise))
        except Exception as error:
            if error is raised:
                continue
            fail(sampler, 7, f"denoise raised {raised!r} and {error!r} came out")
        fail(sampler, 7, f"denoise raised at call {fatal} and the run went on: do not catch it")


def check_plain_arithmetic(sampler: Sampler | str) -> None:
    """It runs on arrays that know ``+ - * / ** abs`` and Python numbers, and nothing else (clause
    6).
    """
    sampler = resolved(sampler)
    reads = bool(getattr(sampler, "reads_tensors", False))
    kind = Readable if reads else Plain
    kind.was_read = False
    source = Draws()
    for path in PATHS.values():
        finished(
            sampler,
            grid(path, 4, to_zero=True),
            x=kind(started()),
            denoise=lambda x, level: kind(gaussian_denoise(x.value, level)),
            noise=lambda now, nxt: kind(source(now, nxt)),
        )
    if reads and not kind.was_read:
        fail(sampler, 6, "it declares reads_tensors = True, but never read one")


def check_backend_tensors(sampler: Sampler | str) -> None:
    """Float32 tensors of Keras' backend come to what float64 NumPy arrays come to (clause 6).

    Run under each backend, it compares them all with the same numbers.

    Raises:
        ImportError: Keras has no backend here.
    """
    sampler = resolved(sampler)
    try:
        from keras import ops

        from keras_sd.backend import to_numpy
    except ImportError as error:
        raise ImportError(
            f"This check runs the sampler on the tensors of Keras' backend, but {error}: install "
            'one, as in pip install "keras-sd[jax]", and name it in KERAS_BACKEND.'
        ) from error
    source = Draws()
    for levels in (grid(PATHS["VP"], 6, to_zero=True), grid(PATHS["VE"], 6)):
        x = started() * levels[0].sigma
        expected = finished(sampler, levels, x=x)
        source.count = 0
        found = finished(
            sampler,
            levels,
            x=ops.convert_to_tensor(x, "float32"),
            noise=lambda now, nxt: ops.convert_to_tensor(source(now, nxt), "float32"),
        )
        latents = [to_numpy(step.latent) for step in found]
        for step, latent, reference in zip(found, latents, expected, strict=True):
            off = np.abs(latent - reference.latent).max() / np.abs(reference.latent).max()
            if not off < 1e-4:
                fail(
                    sampler,
                    6,
                    f"step {step.index} of {step.total} on {type(step.latent).__module__} tensors "
                    f"is {off:.2g} off what NumPy gives",
                )


def check_parts(sampler: Sampler | str) -> None:
    """One that declares ``needs_parts = True`` asks for both halves of guidance (clause 2)."""
    sampler = resolved(sampler)
    if not getattr(sampler, "needs_parts", False):
        return
    asked = 0

    class Halves:
        def __call__(self, x: Any, level: Level) -> Any:
            return gaussian_denoise(x, level)

        def parts(self, x: Any, level: Level) -> Parts:
            nonlocal asked
            asked += 1
            return Parts(*[gaussian_denoise(x, level)] * 3)

    levels = grid(PATHS["VP"], 5)
    with reported(sampler, levels):
        list(sample(sampler, Halves(), started(), levels, Draws()))
    if not asked:
        fail(sampler, 2, "it declares needs_parts = True, but never called denoise.parts")


def check_no_with_around_yield(sampler: Sampler | str) -> None:
    """No ``with`` block is open while the host's code runs (clause 7). Read from the source, if
    there is one.
    """
    sampler = resolved(sampler)
    owners: list[Any] = (
        [sampler] if inspect.isroutine(sampler) else list(type(sampler).__mro__[:-1])
    )
    for owner in owners:
        try:
            source = textwrap.dedent(inspect.getsource(owner))
        except (OSError, TypeError):
            continue
        if line := _yield_inside_with(ast.parse(source)):
            fail(
                sampler,
                7,
                f"{owner.__name__} yields inside a with block (its line {line}): close it before",
            )


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
