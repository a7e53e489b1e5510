"""The names that other programs use."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from keras_sd import aliases
from keras_sd.aliases import resolve, resolve_schedule
from keras_sd.registry import SamplerInfo, SamplerNotFoundError, ScheduleInfo, get_sampler

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
DECLARED = PROJECT["project"]["entry-points"]


def test_all_that_we_declare_has_a_row_and_no_row_has_another_name():
    assert sorted(aliases.SAMPLERS) == sorted(DECLARED["keras_sd.samplers"])
    assert sorted(aliases.SCHEDULES) == sorted(DECLARED["keras_sd.schedules"])


@pytest.mark.parametrize("table", [aliases.SAMPLERS, aliases.SCHEDULES])
def test_no_name_is_that_of_two(table):
    names = [aliases._plain(name) for own, others in table.items() for name in (own, *others)]
    assert len(names) == len(set(names))


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


@pytest.mark.parametrize("own", [*aliases.SAMPLERS])
def test_our_own_names_are_left_as_they_are(own):
    assert resolve(own) == (own, None)


@pytest.mark.parametrize("own", [*aliases.SCHEDULES])
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


def test_what_is_installed_is_never_taken_for_another(monkeypatch):
    assert resolve("heun_beta") == ("heun", "beta")
    installed = [SamplerInfo("heun_beta", "acme", "1.0", "acme:HeunBeta")]
    monkeypatch.setattr(aliases, "list_samplers", lambda: installed)
    assert resolve("heun_beta") == ("heun_beta", None)
    assert resolve("Heun Beta") == ("heun", "beta")
    installed = [ScheduleInfo("euler_beta", "acme", "1.0", "acme:euler_beta")]
    monkeypatch.setattr(aliases, "list_schedules", lambda: installed)
    assert resolve("euler_beta") == ("euler_beta", None)
    installed = [ScheduleInfo("uniform", "acme", "1.0", "acme:uniform")]
    monkeypatch.setattr(aliases, "list_schedules", lambda: installed)
    assert (resolve_schedule("uniform"), resolve_schedule("Uniform")) == ("uniform", "normal")
