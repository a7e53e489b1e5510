from keras_sd.testing import (
    parametrize_guidance_with_checks,
    parametrize_schedules_with_checks,
    parametrize_with_checks,
)


@parametrize_with_checks(["acme_heun"])
def test_contract(sampler, check):
    check(sampler)


@parametrize_schedules_with_checks(["acme_shifted"])
def test_schedule(schedule, check):
    check(schedule)


@parametrize_guidance_with_checks(["acme_gentle", "acme_gentle:half=0.3"])
def test_guidance(guidance, check):
    check(guidance)
