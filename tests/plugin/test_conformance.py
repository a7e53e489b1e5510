from keras_sd.testing import parametrize_with_checks


@parametrize_with_checks(["acme_heun"])
def test_contract(sampler, check):
    check(sampler)
