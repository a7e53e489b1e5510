from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from keras_sd.noise import Level, Levels, NoiseTable, transfer
from keras_sd.sampler import Parts
from keras_sd.sampling import SamplerContractError, Step, sample
from keras_sd.schedules import karras

LEVELS = karras(NoiseTable.scaled_linear(), 4)
X = np.array([[0.5, -1.0, 2.0]], np.float32)


def denoise(x, level):
    return 0.5 * x


def no_noise(now, nxt):
    raise AssertionError("drew noise")


def first_order(denoise, x, levels, noise):
    for now, nxt in pairwise(levels):
        x = transfer(x, denoise(x, now), now, nxt)
        yield x


def run(sampler, **arguments):
    arguments = {
        "denoise": denoise, "x": X, "levels": LEVELS, "noise": no_noise, **arguments
    }  # fmt: skip
    return sample(sampler, **arguments)


def test_one_step_per_interval():
    steps = list(run(first_order))
    assert [(s.index, s.total) for s in steps] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [s.level for s in steps] == list(LEVELS[1:])
    assert [s.evaluations for s in steps] == [1, 2, 3, 4]
    expected = list(first_order(denoise, X, LEVELS, no_noise))
    for step, latent in zip(steps, expected, strict=True):
        np.testing.assert_array_equal(step.latent, latent)
    np.testing.assert_array_equal(steps[-1].latent, steps[-1].x0)  # the last sigma is 0


def test_evaluations_and_x0_are_of_the_last_call():
    def twice(denoise, x, levels, noise):
        for now, nxt in pairwise(levels):
            denoise(x, now)
            x = transfer(x, denoise(x + 1, now), now, nxt)
            yield x

    first, second, *_ = run(twice)
    assert (first.evaluations, second.evaluations) == (2, 4)
    np.testing.assert_array_equal(first.x0, 0.5 * (X + 1))
    np.testing.assert_array_equal(second.x0, 0.5 * (first.latent + 1))


def test_preview():
    step = next(run(first_order, preview=lambda x0: ("picture of", x0)))
    name, x0 = step.preview()
    assert name == "picture of"
    assert x0 is step.x0
    with pytest.raises(ValueError, match="no preview: start it with sample"):
        next(run(first_order)).preview()


def test_step_is_frozen():
    step = next(run(first_order))
    assert isinstance(step, Step)
    with pytest.raises(AttributeError):
        step.index = 3


def test_noise_reaches_the_sampler():
    def noisy(denoise, x, levels, noise):
        for now, nxt in pairwise(levels):
            x = denoise(x, now) + noise(now, nxt)
            yield x

    seen = []
    list(run(noisy, noise=lambda now, nxt: seen.append((now, nxt)) or np.ones_like(X)))
    assert seen == list(pairwise(LEVELS))


def closing_log(log):
    def sampler(denoise, x, levels, noise):
        try:
            for now, nxt in pairwise(levels):
                x = transfer(x, denoise(x, now), now, nxt)
                yield x
        finally:
            log.append("closed")

    return sampler


def test_close_closes_the_sampler():
    log = []
    steps = run(closing_log(log))
    next(steps)
    assert log == []
    steps.close()
    assert log == ["closed"]
    assert list(steps) == []


def test_close_reaches_a_sampler_that_is_referred_to_elsewhere():
    log, kept = [], []

    def sampler(*arguments):
        kept.append(closing_log(log)(*arguments))
        return kept[0]

    steps = run(sampler)
    next(steps)
    steps.close()
    assert log == ["closed"]


def test_leaving_the_loop_closes_the_sampler():
    log = []
    for step in run(closing_log(log)):
        if step.index == 2:
            break
    del step
    assert log == ["closed"]


@pytest.mark.parametrize("call", [1, 2, 4])
def test_what_denoise_raises_passes_and_closes_the_sampler(call):
    log, calls = [], []
    error = KeyboardInterrupt("stop")

    def failing(x, level):
        calls.append(level)
        if len(calls) == call:
            raise error
        return denoise(x, level)

    with pytest.raises(KeyboardInterrupt) as caught:
        list(run(closing_log(log), denoise=failing))
    assert caught.value is error
    assert log == ["closed"]


def broken(*, yields=4, change=lambda x: x):
    def foo(denoise, x, levels, noise):
        for index in range(yields):
            x = denoise(x, levels[min(index, 3)])
            yield change(x)

    return foo


CONTRACT = r"\(docs/sampler-contract.md\)\."


@pytest.mark.parametrize(
    ("yields", "message"),
    [
        (3, "Sampler 'foo' yielded 3 latents for 4 intervals; the contract is one per interval "),
        (1, "Sampler 'foo' yielded 1 latent for 4 intervals; the contract is one per interval "),
        (0, "Sampler 'foo' yielded 0 latents for 4 intervals; the contract is one per interval "),
        (5, "Sampler 'foo' yielded more than 4 latents for 4 intervals; the contract is one per"),
    ],
)
def test_wrong_number_of_yields(yields, message):
    with pytest.raises(SamplerContractError, match=message):
        list(run(broken(yields=yields)))


def test_too_many_yields_are_an_error_before_the_last_step_is_handed_out():
    steps = run(broken(yields=5))
    for _ in range(3):
        next(steps)
    with pytest.raises(SamplerContractError, match="more than 4"):
        next(steps)


def test_one_interval_is_spelled_so():
    with pytest.raises(SamplerContractError, match="yielded 0 latents for 1 interval; "):
        list(run(broken(yields=0), levels=LEVELS[:2]))


def test_changed_shape_and_dtype():
    with pytest.raises(
        SamplerContractError,
        match=rf"'foo' was given .* shape \(1, 3\) and yielded one of shape \(3,\).*{CONTRACT}",
    ):
        list(run(broken(change=lambda x: x[0])))
    with pytest.raises(
        SamplerContractError, match="dtype float32 and yielded one of dtype float64"
    ):
        list(run(broken(change=lambda x: x.astype(np.float64))))
    with pytest.raises(SamplerContractError, match=r"shape \(1, 3\) and yielded one of shape None"):
        list(run(broken(change=lambda x: None)))


def test_denoise_at_sigma_zero():
    def heun(denoise, x, levels, noise):
        for now, nxt in pairwise(levels):
            x = (denoise(x, now) + denoise(x, nxt)) / 2
            yield x

    steps = run(heun)
    for _ in range(3):
        next(steps)
    with pytest.raises(SamplerContractError, match=f"'heun' called denoise at sigma 0.*{CONTRACT}"):
        next(steps)


def test_a_yield_before_denoise():
    def lazy(denoise, x, levels, noise):
        for _ in pairwise(levels):
            yield x

    with pytest.raises(
        SamplerContractError, match="'lazy' yielded before its first call of denoise"
    ):
        next(run(lazy))


def test_a_sampler_that_returns():
    class Returns:
        def __call__(self, denoise, x, levels, noise):
            return x

    with pytest.raises(SamplerContractError, match=r"'Returns' returned ndarray.*is a generator"):
        next(run(Returns()))


def test_arguments_are_checked_at_the_call():
    with pytest.raises(TypeError, match=r"levels must be keras_sd.noise.Levels, got list"):
        run(first_order, levels=list(LEVELS))
    for levels in (LEVELS[:1], Levels()):
        with pytest.raises(ValueError, match=f"at least two levels, got {len(levels)}"):
            run(first_order, levels=levels)
    with pytest.raises(TypeError, match="sampler must be an instance"):
        run(Level)
    with pytest.raises(TypeError, match=r"sampler must be an instance.*got 'ddim'"):
        run("ddim")


# Both halves of guidance


class Both:
    """A denoise that has parts."""

    def __call__(self, x, level):
        return 0 * x + 1

    def parts(self, x, level):
        return Parts(0 * x + 3, 0 * x + 2, 0 * x + 5)


class Guided:
    needs_parts = True

    def __call__(self, denoise, x, levels, noise):
        for now, nxt in pairwise(levels):
            conditional, unconditional, _ = denoise.parts(x, now)
            x = transfer(x, 2 * conditional - unconditional, now, nxt)
            yield x


def test_a_sampler_gets_both_halves_and_each_is_one_evaluation():
    steps = list(run(Guided(), denoise=Both()))
    assert [step.evaluations for step in steps] == [1, 2, 3, 4]
    assert np.array_equal(steps[-1].latent, np.full_like(steps[-1].latent, 4.0))
    assert np.array_equal(steps[-1].x0, np.full_like(steps[-1].latent, 5.0))  # the guided one


def test_parts_reach_a_sampler_inside_a_sampler():
    def outer(denoise, x, levels, noise):
        for step in sample(Guided(), denoise, x, levels, noise):
            yield step.latent

    assert [step.evaluations for step in run(outer, denoise=Both())] == [1, 2, 3, 4]
    with pytest.raises(ValueError, match=r"needs both halves of guidance"):
        list(run(outer))


def test_a_host_without_parts_is_an_error_before_the_run():
    with pytest.raises(ValueError, match=r"Guided.* needs both halves of guidance, denoise\.parts"):
        run(Guided())


def test_parts_at_sigma_zero():
    def asks(denoise, x, levels, noise):
        denoise.parts(x, levels[-1])
        yield x

    with pytest.raises(SamplerContractError, match="at sigma 0"):
        list(run(asks, denoise=Both()))


# The end of the program


def test_a_sampler_does_not_end_the_program():
    def leaves(denoise, x, levels, noise):
        yield denoise(x, levels[0])
        raise SystemExit(0)

    with pytest.raises(SamplerContractError, match=r"'leaves' called sys\.exit"):
        list(run(leaves))


@pytest.mark.parametrize("given", ["denoise", "noise"])
def test_the_host_may_end_the_program(given):
    def asks(denoise, x, levels, noise):
        x = denoise(x, levels[0]) + noise(levels[0], levels[1])
        yield x

    def leaves(*arguments):
        raise SystemExit(3)

    with pytest.raises(SystemExit) as caught:
        list(run(asks, **{given: leaves}))
    assert caught.value.code == 3
