"""The kit is tested on samplers that each have one defect: the check meant for it must see it."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, replace
from itertools import cycle, pairwise
from pathlib import Path

import numpy as np
import pytest

from keras_sd import testing
from keras_sd.noise import Level, denoised, epsilon, transfer
from keras_sd.registry import get_sampler
from keras_sd.testing import (
    ContractViolation,
    all_checks,
    check_sampler,
    measure_order,
    parametrize_with_checks,
)


@dataclass(frozen=True)
class Good:
    """Euler. The samplers with a defect differ from it in the defect."""

    def __call__(self, denoise, x, levels, noise):
        for now, nxt in pairwise(levels):
            x = transfer(x, denoise(x, now), now, nxt)
            yield x


@dataclass(frozen=True)
class Midpoint:
    order = 2

    def __call__(self, denoise, x, levels, noise):
        for now, nxt in pairwise(levels):
            middle = levels.between(now, nxt, 0.5)
            ahead = transfer(x, denoise(x, now), now, middle)
            x = transfer(x, denoise(ahead, middle), now, nxt)
            yield x


@dataclass(frozen=True)
class Ancestral:
    stochastic = True

    def __call__(self, denoise, x, levels, noise):
        for now, nxt in pairwise(levels):
            x0 = denoise(x, now)
            if nxt.sigma:
                spread = now.sigma**2 - (now.alpha * nxt.sigma / nxt.alpha) ** 2
                fresh = nxt.sigma / now.sigma * spread**0.5
                kept = replace(nxt, sigma=max(nxt.sigma**2 - fresh**2, 0.0) ** 0.5)
                x = transfer(x, x0, now, kept) + fresh * noise(now, nxt)
            else:
                x = transfer(x, x0, now, nxt)
            yield x


@dataclass(frozen=True)
class AncestralAlongAPath(Ancestral):
    brownian = True


@dataclass(frozen=True)
class OverlappingNoise(Ancestral):
    """The noise of each interval put together of its halves', and of the whole."""

    brownian = True

    def __call__(self, denoise, x, levels, noise):
        def draw(now, nxt):
            middle = levels.between(now, nxt, 0.5)
            clock = [math.atan2(level.sigma, level.alpha) for level in (now, middle, nxt)]
            first, second = (((a - b) / (clock[0] - clock[2])) ** 0.5 for a, b in pairwise(clock))
            halves = first * noise(now, middle) + second * noise(middle, nxt)
            return (halves + noise(now, nxt)) / 2

        yield from super().__call__(denoise, x, levels, draw)


@dataclass(frozen=True)
class Consistency:
    """To the end, and back with new noise: for consistency models."""

    stochastic = True
    consistency = True

    def __call__(self, denoise, x, levels, noise):
        for now, nxt in pairwise(levels):
            x0 = denoise(x, now)
            x = nxt.alpha * x0 + nxt.sigma * noise(now, nxt)
            yield x


@dataclass(frozen=True)
class ReadsOneNumber:
    reads_tensors = True

    def __call__(self, denoise, x, levels, noise):
        for now, nxt in pairwise(levels):
            x0 = denoise(x, now)
            assert float(np.max(np.asarray(x0))) < 1e6
            x = transfer(x, x0, now, nxt)
            yield x


@dataclass(frozen=True)
class NeedsAlpha:
    zero_alpha = False

    def __call__(self, denoise, x, levels, noise):
        if levels[0].alpha == 0:
            raise ValueError("this method divides by alpha")
        yield from Good()(denoise, x, levels, noise)


def plain_function(denoise, x, levels, noise):
    yield from Good()(denoise, x, levels, noise)


GOOD = pytest.mark.parametrize(
    "sampler",
    [
        *(Good(), Midpoint(), Ancestral(), AncestralAlongAPath(), OverlappingNoise()),
        *(Consistency(), ReadsOneNumber(), NeedsAlpha(), plain_function),
    ],
    ids=lambda sampler: getattr(sampler, "__name__", repr(sampler)),
)


@pytest.fixture
def no_tensors(monkeypatch):
    """All checks but the one that needs Keras: tests/backend/test_samplers_on_tensors.py."""
    monkeypatch.setattr(testing, "check_backend_tensors", lambda sampler: None)


@GOOD
@pytest.mark.usefixtures("no_tensors")
def test_samplers_that_keep_the_contract_pass(sampler):
    check_sampler(sampler)


# ---- defects -------------------------------------------------------------------------------------

DEFECTS = []


def defect(check, message):
    def register(cls):
        DEFECTS.append(pytest.param(cls, check, message, id=cls.__name__))
        return cls

    return register


@defect("check_yields_once_per_interval", "yielded more than 2 latents.*one per interval")
@dataclass(frozen=True)
class YieldsTwice(Good):
    def __call__(self, denoise, x, levels, noise):
        for latent in super().__call__(denoise, x, levels, noise):
            yield latent
            yield latent


@defect("check_yields_once_per_interval", "yielded 0 latents for 2 intervals")
@dataclass(frozen=True)
class YieldsNothing(Good):
    def __call__(self, denoise, x, levels, noise):
        for _ in super().__call__(denoise, x, levels, noise):
            pass
        yield from ()


@defect("check_yields_once_per_interval", "yielded 1 latent for 2 intervals")
@dataclass(frozen=True)
class KeepsTheLastToItself(Good):
    def __call__(self, denoise, x, levels, noise):
        run = super().__call__(denoise, x, levels, noise)
        yield from (latent for latent, _ in zip(run, levels[2:], strict=False))


@defect("check_yields_once_per_interval", "returned ndarray.*is a generator")
@dataclass(frozen=True)
class ReturnsTheResult(Good):
    def __call__(self, denoise, x, levels, noise):
        *_, last = super().__call__(denoise, x, levels, noise)
        return last


@defect("check_one_step", "raised IndexError on 1 steps.*: tuple index out of range")
@dataclass(frozen=True)
class LooksTwoAhead(Good):
    def __call__(self, denoise, x, levels, noise):
        assert levels[2]
        yield from super().__call__(denoise, x, levels, noise)


@defect("check_last_sigma_zero", "called denoise at sigma 0")
@dataclass(frozen=True)
class DenoisesAtSigmaZero(Good):
    def __call__(self, denoise, x, levels, noise):
        for latent, level in zip(
            super().__call__(denoise, x, levels, noise), levels[1:], strict=True
        ):
            denoise(latent, level)
            yield latent


@defect("check_last_sigma_zero", "raised ZeroDivisionError on 6 steps")
@dataclass(frozen=True)
class DividesByTheLastSigma(Good):
    def __call__(self, denoise, x, levels, noise):
        for latent, nxt in zip(
            super().__call__(denoise, x, levels, noise), levels[1:], strict=True
        ):
            yield latent * (nxt.sigma / nxt.sigma)


@defect("check_last_sigma_zero", "did not end at it")
@dataclass(frozen=True)
class LeavesNoise(Good):
    def __call__(self, denoise, x, levels, noise):
        for latent in super().__call__(denoise, x, levels, noise):
            yield latent + 0.01 * x


@defect("check_last_sigma_above_zero", "without any noise")
@dataclass(frozen=True)
class AlwaysEndsClean(Good):
    def __call__(self, denoise, x, levels, noise):
        for now, nxt in pairwise(levels):
            x0 = denoise(x, now)
            x = transfer(x, x0, now, nxt) if nxt is not levels[-1] else nxt.alpha * x0
            yield x


@defect("check_first_alpha_zero", "raised ZeroDivisionError on 7 steps")
@dataclass(frozen=True)
class DividesByAlpha(Good):
    def __call__(self, denoise, x, levels, noise):
        for now, nxt in pairwise(levels):
            eps = epsilon(x, denoise(x, now), now)
            ratio = nxt.alpha / now.alpha
            x = ratio * x + (nxt.sigma - ratio * now.sigma) * eps
            yield x


@defect("check_first_alpha_zero", "step 1 of 7 from .*alpha=0.0.* is not finite")
@dataclass(frozen=True)
class DividesTheLatentByAlpha(Good):
    def __call__(self, denoise, x, levels, noise):
        for now, nxt in pairwise(levels):
            eps = epsilon(x, denoise(x, now), now)
            x = transfer(x, denoised(x, eps, now), now, nxt)
            yield x


@defect("check_first_alpha_zero", "declares zero_alpha = False and ran from alpha 0")
@dataclass(frozen=True)
class DeclaresTooLittle(Good):
    zero_alpha = False


@defect("check_first_alpha_zero", r"there raised ZeroDivisionError.*, not ValueError")
@dataclass(frozen=True)
class RaisesTheWrongError(DividesByAlpha):
    zero_alpha = False


@defect("check_shape_and_dtype_kept", r"shape \(1, 4, 4, 4\) and yielded one of shape \(64,\)")
@dataclass(frozen=True)
class Flattens(Good):
    def __call__(self, denoise, x, levels, noise):
        for latent in super().__call__(denoise, x, levels, noise):
            yield latent.reshape(-1)


@defect("check_shape_and_dtype_kept", "dtype float32 and yielded one of dtype float64")
@dataclass(frozen=True)
class NumpyCoefficient(Good):
    def __call__(self, denoise, x, levels, noise):
        for latent in super().__call__(denoise, x, levels, noise):
            yield np.float64(1.0) * latent


@defect("check_plain_arithmetic", r"a tensor met a numpy\.float64: use Python numbers")
@dataclass(frozen=True)
class NumpyCoefficientAgain(NumpyCoefficient):
    pass


@defect("check_inputs_unmodified", "changed the latent it was given in place")
@dataclass(frozen=True)
class InPlace(Good):
    def __call__(self, denoise, x, levels, noise):
        for now, nxt in pairwise(levels):
            x -= x - transfer(x, denoise(x, now), now, nxt)
            yield x.copy()


@defect("check_inputs_unmodified", "changed a latent it had yielded in place")
@dataclass(frozen=True)
class OneBuffer(Good):
    def __call__(self, denoise, x, levels, noise):
        buffer = x.copy()
        for latent in super().__call__(denoise, x, levels, noise):
            buffer[...] = latent
            yield buffer


@defect("check_inputs_unmodified", "changed the result of denoise in place")
@dataclass(frozen=True)
class InPlaceX0(Good):
    def __call__(self, denoise, x, levels, noise):
        for now, nxt in pairwise(levels):
            x0 = denoise(x, now)
            x = transfer(x, x0, now, nxt)
            x0 *= 2.0
            yield x


@defect("check_inputs_unmodified", "changed the result of noise in place")
@dataclass(frozen=True)
class InPlaceNoise(Ancestral):
    def __call__(self, denoise, x, levels, noise):
        def doubled(now, nxt):
            drawn = noise(now, nxt)
            drawn += 1.0
            return drawn

        yield from super().__call__(denoise, x, levels, doubled)


@defect("check_noise_is_the_only_randomness", "randomness of its own")
@dataclass(frozen=True)
class HiddenRandomness(Good):
    def __call__(self, denoise, x, levels, noise):
        generator = np.random.default_rng()
        for latent in super().__call__(denoise, x, levels, noise):
            yield latent + 1e-9 * generator.standard_normal(x.shape)


@defect("check_noise_is_the_only_randomness", "equal elements that draw equal noise end differ")
@dataclass(frozen=True)
class HiddenSeededRandomness(Good):
    def __call__(self, denoise, x, levels, noise):
        generator = np.random.default_rng(0)
        for latent in super().__call__(denoise, x, levels, noise):
            yield latent + 1e-9 * generator.standard_normal(x.shape)


@defect("check_noise_is_the_only_randomness", "drew noise, but does not declare stochastic")
@dataclass(frozen=True)
class UndeclaredNoise(Ancestral):
    stochastic = False


@defect("check_noise_is_the_only_randomness", "declares stochastic = True, but drew no noise")
@dataclass(frozen=True)
class DeclaredNoise(Good):
    stochastic = True


class Stateful:
    """Two-step Adams-Bashforth that keeps its past on self."""

    def __init__(self, forget):
        self.forget = forget
        self.past = None

    def __repr__(self):
        return f"Stateful(forget={self.forget})"

    def __call__(self, denoise, x, levels, noise):
        if self.forget:
            self.past = None
        for now, nxt in pairwise(levels):
            x0 = denoise(x, now)
            believed = x0 if self.past is None else 1.1 * x0 - 0.1 * self.past
            self.past = x0
            x = transfer(x, believed if nxt.sigma else x0, now, nxt)
            yield x


@defect("check_noise_is_the_only_randomness", "keeps something from one run to the next")
def RemembersTheLastRun():
    return Stateful(forget=False)


@defect("check_noise_is_the_only_randomness", "a run changed its attributes")
def ChangesItsAttributes():
    return Stateful(forget=True)


@defect("check_two_interleaved_runs", "two runs that take turns disturb each other")
def ResetsAtTheStartOfARun():
    return Stateful(forget=True)


@defect("check_settings", "the setting 'strength' is missing from its repr")
class HiddenSetting(Good):
    def __init__(self, strength=1.0):
        pass

    def __repr__(self):
        return "HiddenSetting()"


@defect("check_settings", "make the class a frozen dataclass")
class NoRepr:
    def __init__(self, strength=1.0):
        self.strength = strength

    __call__ = Good.__call__


@defect("check_close", r"close\(\) after the first step raised RuntimeError")
@dataclass(frozen=True)
class IgnoresClose(Good):
    def __call__(self, denoise, x, levels, noise):
        for latent in super().__call__(denoise, x, levels, noise):
            with contextlib.suppress(GeneratorExit):
                yield latent


@defect("check_close", "went on calling denoise when it was closed")
@dataclass(frozen=True)
class FinishesWhenClosed(Good):
    def __call__(self, denoise, x, levels, noise):
        try:
            yield from super().__call__(denoise, x, levels, noise)
        finally:
            denoise(x, levels[0])


@defect("check_close", r"which has no close\(\): make it a generator")
@dataclass(frozen=True)
class AnIterator(Good):
    def __call__(self, denoise, x, levels, noise):
        return iter(list(super().__call__(denoise, x, levels, noise)))


@defect("check_raise_from_denoise", "denoise raised at call 2 and the run went on")
@dataclass(frozen=True)
class SwallowsErrors(Good):
    def __call__(self, denoise, x, levels, noise):
        last = denoise(x, levels[0])

        def careful(x, level):
            nonlocal last
            with contextlib.suppress(Exception):
                last = denoise(x, level)
            return last

        yield from super().__call__(careful, x, levels, noise)


@defect("check_raise_from_denoise", r"denoise raised RuntimeError.*and ValueError\('wrapped'\)")
@dataclass(frozen=True)
class WrapsErrors(Good):
    def __call__(self, denoise, x, levels, noise):
        try:
            yield from super().__call__(denoise, x, levels, noise)
        except Exception as error:
            raise ValueError("wrapped") from error


@defect("check_plain_arithmetic", "a tensor was turned into a NumPy array")
@dataclass(frozen=True)
class UsesNumpy(Good):
    def __call__(self, denoise, x, levels, noise):
        for latent in super().__call__(denoise, x, levels, noise):
            yield latent * float(np.sum(np.asarray(latent)) ** 0)


@defect("check_plain_arithmetic", "a tensor was read as a number")
@dataclass(frozen=True)
class ReadsANumber(Good):
    def __call__(self, denoise, x, levels, noise):
        for latent in super().__call__(denoise, x, levels, noise):
            yield float(latent) * latent


@defect("check_plain_arithmetic", "a tensor was compared")
@dataclass(frozen=True)
class BranchesOnATensor(Good):
    def __call__(self, denoise, x, levels, noise):
        for latent in super().__call__(denoise, x, levels, noise):
            yield latent if (latent > 0).all() else 1.0 * latent


@defect("check_plain_arithmetic", "declares reads_tensors = True, but never read one")
@dataclass(frozen=True)
class DeclaresToRead(Good):
    reads_tensors = True


@defect("check_no_with_around_yield", "With yields inside a with block")
@dataclass(frozen=True)
class With(Good):
    def __call__(self, denoise, x, levels, noise):
        with np.errstate(all="ignore"):
            yield from super().__call__(denoise, x, levels, noise)


# ---- wrong rules ---------------------------------------------------------------------------------


@defect("check_order_of_convergence_vp", "declares order 2, but on a VP path.*order 1.00")
@dataclass(frozen=True)
class BoastfulEuler(Good):
    order = 2


@defect("check_order_of_convergence_ve", "declares order 2, but on a VE path.*order (0.9|1.0)")
@dataclass(frozen=True)
class HeunAtTheWrongLevel(Good):
    """Denoises the latent ahead as if it were still at the level it has left."""

    order = 2

    def __call__(self, denoise, x, levels, noise):
        for now, nxt in pairwise(levels):
            x0 = denoise(x, now)
            if nxt.sigma and now.alpha:
                ahead = transfer(x, x0, now, nxt)
                eps = epsilon(x, x0, now) + epsilon(ahead, denoise(ahead, now), nxt)
                x0 = denoised(x, eps / 2, now)
            x = transfer(x, x0, now, nxt)
            yield x


@defect("check_order_of_convergence_flow", "declares order 1, but on a flow path.*order -?0.0")
@dataclass(frozen=True)
class AssumesVariancePreserving(Good):
    """DDIM as the paper writes it, with sqrt(1 - alpha**2) for sigma."""

    def __call__(self, denoise, x, levels, noise):
        for now, nxt in pairwise(levels):
            x0 = denoise(x, now)
            eps = (x - now.alpha * x0) / (1 - now.alpha**2) ** 0.5
            x = nxt.alpha * x0 + (1 - nxt.alpha**2) ** 0.5 * eps
            yield x


@defect("check_order_of_convergence_vp", "declares order 1, but on a VP path.*order -?0.0")
@dataclass(frozen=True)
class ForgetsAlpha(Good):
    """Euler in sigma, right where alpha is 1 or 1 - sigma."""

    def __call__(self, denoise, x, levels, noise):
        for now, nxt in pairwise(levels):
            x0 = denoise(x, now)
            x = x0 + nxt.sigma / now.sigma * (x - x0)
            yield x


@defect("check_order_of_convergence_vp", "declares order 1, but on a VP.*order -0.1.*512 steps")
@dataclass(frozen=True)
class AncestralWithTooMuchNoise(Ancestral):
    def __call__(self, denoise, x, levels, noise):
        yield from super().__call__(
            denoise, x, levels, lambda now, nxt: 1.05 * noise(now, nxt)
        )  # fmt: skip


@defect("check_levels_asked", r"clause 1 .*asked the model at Level\(t=.*levels.between")
@dataclass(frozen=True)
class TellsTheWrongTimestep(Midpoint):
    """The level between by hand, with the timestep of the one before."""

    def __call__(self, denoise, x, levels, noise):
        told = lambda x, level: denoise(x, level if level in levels else mistaken(level))  # noqa: E731
        mistaken = lambda level: replace(level, t=level.t + 7)  # noqa: E731
        yield from super().__call__(told, x, levels, noise)


@defect("check_first_alpha_zero", "clause 1 .*from alpha 0 comes to other latents")
@dataclass(frozen=True)
class ForgetsWhereItBegan(Good):
    def __call__(self, denoise, x, levels, noise):
        for latent in super().__call__(denoise, x, levels, noise):
            yield latent + 30 if levels[0].alpha == 0 else latent


@defect("check_order_of_convergence_vp", "clause 4 .*at step .* off in mean and spread")
@dataclass(frozen=True)
class YieldsAnythingOnTheWay(Good):
    def __call__(self, denoise, x, levels, noise):
        steps = super().__call__(denoise, x, levels, noise)
        for latent, level in zip(steps, levels[1:], strict=True):
            yield latent if level is levels[-1] else 0 * latent + 123


@defect("check_order_of_convergence_vp", "clause 4 .*off in mean and spread")
@dataclass(frozen=True)
class PromisesNothingAndDrawsTooMuch(Ancestral):
    order = 0

    def __call__(self, denoise, x, levels, noise):
        yield from super().__call__(denoise, x, levels, lambda now, nxt: 5.0 * noise(now, nxt))


@defect("check_backend_tensors", r"clause 6 .*tensors is [0-9.]+ off what NumPy gives")
@dataclass(frozen=True)
class LosesDigits(Good):
    """Right in float64, and in float32 not."""

    def __call__(self, denoise, x, levels, noise):
        for latent in super().__call__(denoise, x, levels, noise):
            yield (latent + 1e6) - 1e6


@defect("check_mean_and_variance", "clause 3 .*on a VP path the standard deviation .* at 40")
@dataclass(frozen=True)
class AncestralWithTooLittleNoise(Ancestral):
    def __call__(self, denoise, x, levels, noise):
        yield from super().__call__(denoise, x, levels, lambda now, nxt: 0.5 * noise(now, nxt))


@defect("check_brownian_path", "128 are .* off 64")
@dataclass(frozen=True)
class TurnsThePathAround(Ancestral):
    """Every other increment is taken with the other sign: right in mean and variance."""

    brownian = True

    def __call__(self, denoise, x, levels, noise):
        signs = cycle([1.0, -1.0])
        draw = lambda now, nxt: next(signs) * noise(now, nxt)  # noqa: E731
        yield from super().__call__(denoise, x, levels, draw)


@defect("check_parts", r"never called denoise\.parts")
class NeedsNoParts(Good):
    needs_parts = True


# One defect is not to end when closed, which Python reports once more when it is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("make", "check", "message"),
    [defect for defect in DEFECTS if defect.values[1] != "check_backend_tensors"],
)
def test_a_defect_is_seen_by_the_check_meant_for_it(make, check, message):
    (meant,) = [c for c in all_checks() if c.__name__ == check]
    with pytest.raises(ContractViolation, match=message):
        meant(make())


def test_right_on_one_path_is_not_enough():
    (ve,) = [c for c in all_checks() if c.__name__ == "check_order_of_convergence_ve"]
    ve(ForgetsAlpha())  # so that only the VP path tells


def test_every_check_has_a_defect_that_it_sees():
    assert {parameter.values[1] for parameter in DEFECTS} == {c.__name__ for c in all_checks()}


def test_an_exact_method_has_infinite_order():
    def exact(denoise, x, levels, noise):
        for now, nxt in pairwise(levels):
            denoise(x, now)
            spread = [(0.25 * level.alpha**2 + level.sigma**2) ** 0.5 for level in (now, nxt)]
            x = 0.7 * nxt.alpha + spread[1] / spread[0] * (x - 0.7 * now.alpha)
            yield x

    assert measure_order(exact)[0] == float("inf")


def test_an_order_that_comes_late_is_seen():
    # Between 64 and 128 steps its order is 1.5.
    late = get_sampler("unipc", variant="bh1")
    assert measure_order(late, "VE")[0] < 1.8 < measure_order(late, "VE", (256, 512))[0]
    (check,) = [c for c in all_checks() if c.__name__ == "check_order_of_convergence_ve"]
    check(late)


@pytest.mark.usefixtures("no_tensors")
def test_averaging_x0_is_a_second_order_method_of_another_kind():
    # A trapezium rule in alpha / sigma. It converges, so no check of an order can tell it from
    # Heun's method, from which it differs at every finite number of steps: parity tests do.
    @dataclass(frozen=True)
    class AveragedX0(Good):
        order = 2

        def __call__(self, denoise, x, levels, noise):
            for now, nxt in pairwise(levels):
                x0 = denoise(x, now)
                if nxt.sigma:
                    x0 = (x0 + denoise(transfer(x, x0, now, nxt), nxt)) / 2
                x = transfer(x, x0, now, nxt)
                yield x

    check_sampler(AveragedX0())


# ---- the kit's own interface ---------------------------------------------------------------------


@pytest.mark.usefixtures("no_tensors")
def test_check_sampler_lists_every_violation():
    @dataclass(frozen=True)
    class Several(Good):
        order = 2
        stochastic = True

    with pytest.raises(ContractViolation) as caught:
        check_sampler(Several())
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert "Several() breaks clause 3 of the sampler contract" in lines[0]
    assert all("declares order 2" in line for line in lines[1:])


@pytest.mark.usefixtures("no_tensors")
def test_check_sampler_takes_a_name():
    check_sampler("ddim")
    with pytest.raises(LookupError, match="No sampler 'no-such-sampler'"):
        check_sampler("no-such-sampler")


def test_parametrize_with_checks_does_not_load_names_early():
    mark = parametrize_with_checks(["no-such-sampler", Good()]).mark
    names, cases = mark.args
    assert names == ("sampler", "check")
    assert len(cases) == 2 * len(all_checks())
    assert cases[0].values[0] == "no-such-sampler"
    assert cases[-1].id == f"Good()-{all_checks()[-1].__name__}"


@pytest.mark.usefixtures("no_tensors")
def test_levels_are_named_in_an_unforeseen_error():
    def fails(denoise, x, levels, noise):
        raise ArithmeticError("boom")
        yield

    with pytest.raises(ContractViolation, match=r"fails raised ArithmeticError on 2 steps.*boom"):
        check_sampler(fails)
    assert Level(0, 1, 1)


def test_the_contract_page_names_every_check_and_declaration():
    page = (Path(__file__).parents[2] / "docs" / "sampler-contract.md").read_text("utf-8")
    for name in [c.__name__ for c in all_checks()]:
        assert f"`{name}`" in page
    declared = ("order", "stochastic", "zero_alpha", "reads_tensors", "brownian", "consistency")
    for name in (*declared, "unsuited", "needs_parts"):
        assert f"| `{name}` |" in page


# Both halves of guidance


@dataclass(frozen=True)
class Halves:
    """Euler that guides by itself."""

    needs_parts = True

    def __call__(self, denoise, x, levels, noise):
        for now, nxt in pairwise(levels):
            conditional, unconditional, _ = denoise.parts(x, now)
            x = transfer(x, unconditional + 3 * (conditional - unconditional), now, nxt)
            yield x


class Undeclared(Halves):
    needs_parts = False


@pytest.mark.usefixtures("no_tensors")
def test_a_sampler_that_needs_parts_is_given_them():
    check_sampler(Halves())
    with pytest.raises(ContractViolation, match="has no attribute 'parts'"):
        check_sampler(Undeclared())
