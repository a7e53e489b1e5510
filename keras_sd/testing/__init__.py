"""The conformance kit: what tests keras-sd's samplers tests yours.

In a plugin's tests::

    from keras_sd.testing import parametrize_with_checks

    @parametrize_with_checks(["acme_heun"])
    def test_contract(sampler, check):
        check(sampler)

or, without pytest, ``check_sampler("acme_heun")``. For schedules there are `check_schedule` and
`parametrize_schedules_with_checks`, for guidance `check_guidance` and
`parametrize_guidance_with_checks`. A check that fails raises `ContractViolation`,
an ``AssertionError`` that names the clause of `keras_sd.sampler` that is broken. No sampler is
excused from a
check: what one cannot do it declares, and the check expects exactly that.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from keras_sd.guidance import Guide
from keras_sd.sampler import Sampler
from keras_sd.schedules import Schedule
from keras_sd.testing.contract import (
    check_backend_tensors,
    check_close,
    check_first_alpha_zero,
    check_inputs_unmodified,
    check_last_sigma_above_zero,
    check_last_sigma_zero,
    check_levels_asked,
    check_no_with_around_yield,
    check_noise_is_the_only_randomness,
    check_one_step,
    check_parts,
    check_plain_arithmetic,
    check_raise_from_denoise,
    check_settings,
    check_shape_and_dtype_kept,
    check_two_interleaved_runs,
    check_yields_once_per_interval,
)
from keras_sd.testing.convergence import (
    check_brownian_path,
    check_mean_and_variance,
    check_order_of_convergence_flow,
    check_order_of_convergence_ve,
    check_order_of_convergence_vp,
    measure_order,
)
from keras_sd.testing.guidance import all_guidance_checks, check_guidance
from keras_sd.testing.running import Check, ContractViolation, called, check_all, resolved
from keras_sd.testing.schedules import all_schedule_checks, check_schedule

__all__ = [
    "ContractViolation",
    "all_checks",
    "all_guidance_checks",
    "all_schedule_checks",
    "check_guidance",
    "check_sampler",
    "check_schedule",
    "measure_order",
    "parametrize_guidance_with_checks",
    "parametrize_schedules_with_checks",
    "parametrize_with_checks",
]


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
        check_parts,
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
    sampler = resolved(sampler)
    check_all(all_checks(), sampler)


def parametrize_with_checks(samplers: Iterable[Sampler | str]) -> Any:
    """A pytest decorator: one test for every pair of a sampler and a check.

    Args:
        samplers: Instances, or names as `keras_sd.get_sampler` takes them; a name is only loaded
            when its test runs.

    Returns:
        ``pytest.mark.parametrize`` for a test function with the arguments ``sampler`` and
        ``check``.
    """
    return _parametrized("sampler", samplers, all_checks())


def parametrize_schedules_with_checks(schedules: Iterable[Schedule | str]) -> Any:
    """A pytest decorator: one test for every pair of a schedule and a check.

    Args:
        schedules: Callables, or names as `keras_sd.get_schedule` takes them; a name is only loaded
            when its test runs.

    Returns:
        ``pytest.mark.parametrize`` for a test function with the arguments ``schedule`` and
        ``check``.
    """
    return _parametrized("schedule", schedules, all_schedule_checks())


def parametrize_guidance_with_checks(guidance: Iterable[Guide | str]) -> Any:
    """A pytest decorator: one test for every pair of a guidance and a check.

    Args:
        guidance: Instances, or names as `keras_sd.get_guidance` takes them; a name is only loaded
            when its test runs.

    Returns:
        ``pytest.mark.parametrize`` for a test function with the arguments ``guidance`` and
        ``check``.
    """
    return _parametrized("guidance", guidance, all_guidance_checks())


def _parametrized(noun: str, given: Iterable[Any], checks: Iterable[Any]) -> Any:
    import pytest

    cases = [
        pytest.param(each, check, id=f"{called(each)}-{check.__name__}")
        for each, check in itertools.product(given, checks)
    ]
    return pytest.mark.parametrize((noun, "check"), cases)
