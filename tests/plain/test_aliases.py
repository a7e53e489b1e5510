"""The names that other programs use."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from keras_sd import aliases
from keras_sd.aliases import display_name, resolve, resolve_schedule
from keras_sd.installed import Declared
from keras_sd.registry import SamplerNotFoundError, get_sampler

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
DECLARED = PROJECT["project"]["entry-points"]
SAMPLERS = list(DECLARED["keras_sd.samplers"])
SCHEDULES = list(DECLARED["keras_sd.schedules"])


@pytest.mark.parametrize("noun", ["sampler", "schedule"])
def test_our_names_are_of_what_we_declare_and_no_name_is_that_of_two(noun):
    own = DECLARED[f"keras_sd.{noun}s"]
    names, others = (DECLARED[f"keras_sd.{noun}_{group}"] for group in ("names", "aliases"))
    assert {*names.values(), *others.values()} <= own.keys()
    assert len(set(names.values())) == len(names)
    spelled: dict[str, set[str]] = {}
    for name, of in [*((name, name) for name in own), *names.items(), *others.items()]:
        spelled.setdefault(aliases._plain(name), set()).add(of)
    assert [name for name, of in spelled.items() if len(of) > 1] == []


# The menus of A1111 and Forge, but for methods that have no place here.
MENU = {
    "DPM++ 2M": "dpmpp_2m",
    "DPM++ SDE": "dpmpp_sde",
    "DPM++ 2M SDE": "dpmpp_2m_sde",
    "DPM++ 2S a": "dpmpp_2s_ancestral",
    "DPM++ 3M SDE": "dpmpp_3m_sde",
    "Euler a": "euler_ancestral",
    "Euler": "euler",
    "LMS": "lms",
    "Heun": "heun",
    "DPM2": "dpm2",
    "DPM2 a": "dpm2_ancestral",
    "DPM fast": "dpm_fast",
    "DPM adaptive": "dpm_adaptive",
    "Restart": "restart",
    "DDIM": "ddim",
    "DDPM": "ddpm",
    "PLMS": "pndm",
    "UniPC": "unipc",
    "LCM": "lcm",
    "TCD": "tcd",
    "IPNDM": "ipndm",
    "DEIS": "deis",
}
# ComfyUI's, where they are not ours.
COMFY = {
    "dpm_2": "dpm2",
    "dpm_2_ancestral": "dpm2_ancestral",
    "dpmpp_sde_gpu": "dpmpp_sde",
    "dpmpp_2m_sde_gpu": "dpmpp_2m_sde",
    "dpmpp_3m_sde_gpu": "dpmpp_3m_sde",
    "uni_pc": "unipc",
    "uni_pc_bh2": "unipc",
}
OLD = {
    "k_euler": "euler",
    "k_euler_a": "euler_ancestral",
    "k_dpm_2_a": "dpm2_ancestral",
    "k_dpmpp_2s_a": "dpmpp_2s_ancestral",
    "k_lms": "lms",
}
SCHEDULE_MENU = {
    "Uniform": "normal",
    "Karras": "karras",
    "Exponential": "exponential",
    "Polyexponential": "polyexponential",
    "SGM Uniform": "sgm_uniform",
    "KL Optimal": "kl_optimal",
    "Align Your Steps": "align_your_steps",
    "Simple": "simple",
    "Normal": "normal",
    "DDIM": "ddim_uniform",
    "Beta": "beta",
    "Turbo": "trailing",
    "ddim_uniform": "ddim_uniform",
}


@pytest.mark.parametrize(("label", "own"), [*MENU.items(), *COMFY.items(), *OLD.items()])
def test_the_samplers_of_the_menus(label, own):
    for spelled in (label, label.upper(), label.lower().replace(" ", ""), f" {label}  "):
        assert resolve(spelled) == (own, None)


@pytest.mark.parametrize(("label", "own"), SCHEDULE_MENU.items())
def test_the_schedules_of_the_menus(label, own):
    assert resolve_schedule(label) == resolve_schedule(label.upper()) == own
    assert resolve(f"DPM++ 2M SDE {label}") == ("dpmpp_2m_sde", own)
    assert resolve(f"Euler a_{label}") == ("euler_ancestral", own)


def test_a_sampler_with_a_schedule():
    assert resolve("DPM++ 2M Karras") == ("dpmpp_2m", "karras")
    assert resolve("dpmpp_2m_karras") == ("dpmpp_2m", "karras")
    assert resolve("DPM++ 3M SDE Exponential") == ("dpmpp_3m_sde", "exponential")
    assert resolve("DPM2 a Karras") == ("dpm2_ancestral", "karras")


@pytest.mark.parametrize("own", SAMPLERS)
def test_our_own_names_are_left_as_they_are(own):
    assert resolve(own) == (own, None)


@pytest.mark.parametrize("own", SCHEDULES)
def test_our_own_schedules_are_left_as_they_are(own):
    assert resolve_schedule(own) == own


@pytest.mark.parametrize("name", ["acme:ddim", "Fast-Heun", "DPM++ 2M SDE Heun", "heunpp2", ""])
def test_what_nobody_here_knows_is_left_as_it_is(name):
    assert resolve(name) == (name, None)


@pytest.mark.parametrize("name", ["karras", "ddim_uniform", "DDIM Uniform", "Align Your Steps"])
def test_the_name_of_a_schedule_is_no_sampler_with_a_schedule(name):
    assert resolve(name) == (name, None)
    with pytest.raises(SamplerNotFoundError):
        get_sampler(resolve(name)[0])


@pytest.fixture
def stranger(monkeypatch):
    """Declares more, in groups named without ``keras_sd.``; one distribution after another."""
    real = aliases.declared
    more: dict[str, list[Declared]] = {}
    monkeypatch.setattr(
        aliases,
        "declared",
        lambda *groups: tuple(
            (*own, *more.get(group.removeprefix("keras_sd."), ()))
            for own, group in zip(real(*groups), groups, strict=True)
        ),
    )

    def declare(distribution="acme", **groups):
        for group, entries in groups.items():
            more.setdefault(group, []).extend(
                Declared(name, distribution, "1.0", value) for name, value in entries.items()
            )

    return declare


def test_what_is_installed_is_never_taken_for_another(stranger):
    assert resolve("heun_beta") == ("heun", "beta")
    stranger(samplers={"heun_beta": "acme:HeunBeta"})
    assert resolve("heun_beta") == ("heun_beta", None)
    assert resolve("Heun Beta") == ("heun", "beta")
    stranger(schedules={"euler_beta": "acme:euler_beta"})
    assert resolve("euler_beta") == ("euler_beta", None)
    stranger(schedules={"uniform": "acme:uniform"})
    assert (resolve_schedule("uniform"), resolve_schedule("Uniform")) == ("uniform", "normal")


def test_a_strangers_names_are_read_like_ours(stranger):
    stranger(
        samplers={"acme_heun": "acme:Heun"},
        sampler_names={"ACME++ Heun": "acme_heun"},
        sampler_aliases={"Zorb": "acme_heun", "Fast Euler": "euler"},
        schedules={"acme_steps": "acme:steps"},
        schedule_aliases={"Stairs": "acme_steps"},
    )
    assert resolve("acme_heun Karras") == resolve("ACME heun karras") == ("acme_heun", "karras")
    assert resolve("k_zorb") == resolve("acmepp heun") == ("acme_heun", None)
    assert resolve("Zorb Stairs") == ("acme_heun", "acme_steps")
    assert resolve("Euler a acme steps") == ("euler_ancestral", "acme_steps")
    assert resolve("Fast Euler Karras") == ("euler", "karras")
    assert resolve("Zorb SGM Uniform:eta=1,s='a:b'") == ("acme_heun:eta=1,s='a:b'", "sgm_uniform")
    assert resolve_schedule("stairs:rho=2") == "acme_steps:rho=2"
    assert display_name("acme_heun") == "ACME++ Heun"
    assert display_name("acme_steps") == "Acme Steps"


def test_a_stranger_takes_no_name_of_ours(stranger):
    stranger(
        samplers={"ddim": "acme:DDIM", "eulerkarras": "acme:E"},
        sampler_names={"Fancy DDIM": "ddim"},
        sampler_aliases={"Euler a": "eulerkarras", "PLMS": "nobody", "Ghost": "nobody"},
    )
    assert resolve("Euler a") == ("euler_ancestral", None)
    assert resolve("DDIM") == ("ddim", None)
    assert resolve("Euler Karras") == ("euler", "karras")
    assert resolve("PLMS") == ("pndm", None)
    assert resolve("Ghost") == ("Ghost", None)
    # Its own of that name is asked for with its distribution.
    assert resolve("Fancy DDIM") == ("acme:ddim", None)
    assert display_name("acme:ddim") == "Fancy DDIM"
    assert display_name("ddim") == "DDIM"


def test_a_name_of_two_strangers_is_nobodys(stranger):
    stranger("acme", samplers={"a": "acme:A"}, sampler_aliases={"Zorb": "a"})
    assert resolve("zorb") == ("a", None)
    stranger("other", samplers={"b": "other:B"}, sampler_aliases={"zorb": "b"})
    assert resolve("zorb") == ("zorb", None)
    assert resolve("Zorb Karras") == ("Zorb Karras", None)


def test_settings_follow_a_name():
    assert resolve("Euler a Karras:eta=0.5") == ("euler_ancestral:eta=0.5", "karras")
    assert resolve("ddim:eta=1") == ("ddim:eta=1", None)
    assert resolve_schedule("Karras:rho=5") == "karras:rho=5"
    for unreadable in ("ddim:", "a:b:c", "=1"):  # whoever gets it says what is wrong
        assert resolve(unreadable) == (unreadable, None)
        assert resolve_schedule(unreadable) == unreadable


@pytest.mark.parametrize(
    ("name", "shown"),
    {
        "dpmpp_2m": "DPM++ 2M",
        "euler_ancestral": "Euler a",
        "heun": "Heun",
        "karras": "Karras",
        "align_your_steps": "Align Your Steps",
        "sgm_uniform": "SGM Uniform",
        "lcm": "LCM",
        "not_here": "Not Here",
        "": "",
    }.items(),
)
def test_what_people_read(name, shown):
    assert display_name(name) == shown


@pytest.mark.parametrize("own", SAMPLERS)
def test_what_people_read_is_one_of_the_names(own):
    assert resolve(display_name(own)) == (own, None)


@pytest.mark.parametrize("own", SCHEDULES)
def test_what_people_read_for_a_schedule_is_one_of_the_names(own):
    assert resolve_schedule(display_name(own)) == own
