from keras_sd.aliases import display_name, resolve
from keras_sd.levels import make_levels
from keras_sd.noise import FlowPath
from keras_sd.registry import get_guidance, get_sampler, list_guidance, settings_of
from keras_sd.request import Request


def test_the_names_are_read_like_keras_sds_own():
    assert resolve("acme_heun Karras") == ("acme_heun", "karras")
    assert resolve("ACME++ Heun Flow") == ("acme_heun", "acme_shifted")
    assert resolve("Euler a Flow") == ("euler_ancestral", "acme_shifted")
    assert display_name("acme_heun") == "ACME++ Heun"
    assert settings_of(get_sampler("acme_heun")) == ("acme_heun", {})


def test_the_schedule_shifts_with_the_size():
    sigmas = {}
    for size in (256, 1024):
        levels = make_levels("acme_shifted", FlowPath(), 4, size=(size, size))
        sigmas[size] = [round(level.sigma, 3) for level in levels]
    assert sigmas[256] == [1.0, 0.832, 0.622, 0.355, 0.0]
    assert sigmas[1024] == [1.0, 0.905, 0.76, 0.513, 0.0]
    less = make_levels("acme_shifted:high=0.5", FlowPath(), 4, size=(1024, 1024))
    assert [round(level.sigma, 3) for level in less] == sigmas[256]


def test_the_guidance_is_one_of_the_installed():
    assert ("acme_gentle", "acme-heun") in [(i.name, i.distribution) for i in list_guidance()]
    guide = get_guidance({"name": "acme-heun:acme_gentle", "half": 0.3})
    assert settings_of(guide) == ("acme_gentle", {"half": 0.3})
    request = Request(("a cat",), guidance_method=guide)
    assert Request.from_json(request.to_json()).guidance_method == "acme_gentle:half=0.3"
