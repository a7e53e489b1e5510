from keras_sd.testing import parametrize_schedules_with_checks, parametrize_with_checks


@parametrize_with_checks(["acme_heun"])
def test_contract(sampler, check):
    check(sampler)


@parametrize_schedules_with_checks(["acme_shifted"])
def test_schedule(schedule, check):
    check(schedule)
