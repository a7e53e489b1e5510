"""Guidance by name, the kit that tests it, and the samplers that have a part in it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pytest
from test_samplers import GRIDS, MAKER, PATHS, assert_close

from keras_sd import choices
from keras_sd.checks import SettingError
from keras_sd.config import EMOJI
from keras_sd.guidance import Guidance, Seen
from keras_sd.guides import APG, CFG, PAG, CFGPlusPlus, CFGZero
from keras_sd.infotext import infotext
from keras_sd.noise import Level, Levels
from keras_sd.registry import (
    GuidanceNotFoundError,
    get_guidance,
    get_sampler,
    list_guidance,
    settings_of,
)
from keras_sd.request import Request
from keras_sd.sampler import Parts
from keras_sd.sampling import sample
from keras_sd.testing import (
    ContractViolation,
    all_guidance_checks,
    check_guidance,
    parametrize_guidance_with_checks,
)
from keras_sd.testing.guidance import check_guidance_backend_tensors

OURS = {
    "apg": "APG",
    "cfg": "CFG",
    "cfg_pp": "CFGPlusPlus",
    "cfg_zero": "CFGZero",
    "pag": "PAG",
}


def without_keras(guidance):
    """The kit's checks, but for the one on tensors: tests/backend/test_guided_runs.py."""
    names, cases = parametrize_guidance_with_checks(guidance).mark.args
    plain = [case for case in cases if case.values[1] is not check_guidance_backend_tensors]
    assert len(plain) < len(cases)
    return pytest.mark.parametrize(names, plain)


# --- by name ------------------------------------------------------------------------------------


def test_ours_are_installed_through_their_entry_points():
    found = {i.name: i.value for i in list_guidance() if i.distribution == "keras-sd"}
    assert found == {name: f"keras_sd.guides:{value}" for name, value in OURS.items()}


def test_guidance_is_asked_for_as_samplers_are():
    assert get_guidance("apg:norm=7.5") == get_guidance("apg", norm=7.5) == APG(norm=7.5)
    assert get_guidance({"name": "keras-sd:apg", "norm": 7.5}) == APG(norm=7.5)
    assert settings_of(APG(norm=7.5)) == ("apg", {"norm": 7.5})
    guide = PAG(1.0)
    assert get_guidance(guide) is guide
    with pytest.raises(GuidanceNotFoundError, match=r"No guidance 'cfgpp'. Did you mean 'cfg_pp'"):
        get_guidance("cfgpp")
    with pytest.raises(TypeError, match=r"APG is a class: pass a guidance"):
        get_guidance(APG)
    with pytest.raises(TypeError, match=r"That is no guidance: .*cannot be called with"):
        get_guidance(lambda told, untold: told)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("apg:eta=1.5", r"eta must lie in \[0, 1\], got 1.5"),
        ("apg:norm=-1", "norm must be a finite number from 0 up, got -1"),
        ("apg:momentum=1", "momentum must lie between -1 and 1, got 1"),
        ("cfg_zero:of=x0", "of must be 'noise', 'v' or 'flow', got 'x0'"),
        ("pag:strength=-3", "strength must be a finite number from 0 up, got -3"),
    ],
)
def test_settings_are_checked(spec, message):
    with pytest.raises(ValueError, match=f"^{message}.$"):
        get_guidance(spec)


def test_a_request_keeps_it():
    request = Request(("a cat",), guidance_method={"name": "apg", "norm": 7.5})
    assert request.guidance_method == "apg:norm=7.5"
    assert Request.from_json(request.to_json()) == request
    assert Request(("a",), guidance_method=APG(norm=7.5)).guidance_method == "apg:norm=7.5"
    # Readers of before know nothing of it.
    assert "guidance_method" not in Request(("a cat",)).to_dict()
    with pytest.raises(GuidanceNotFoundError):
        Request(("a",), guidance_method="of_nobody").resolved(EMOJI.defaults)
    own = Request(("a",), guidance_method=lambda seen, scale, memory: seen.conditional)
    with pytest.raises(ValueError, match=r"guidance_method .*no installed name"):
        own.to_json()


def test_web_uis_read_it_in_the_line_of_settings():
    request = Request(("a cat",), guidance_method="apg:norm=7.5").resolved(EMOJI.defaults)
    made = {"request": request.to_dict(), "width": 64, "height": 64, "model": "m", "version": "1"}
    assert 'Guidance method: "apg:norm=7.5"' in infotext(made)


@pytest.mark.parametrize("name", ["euler_cfg_pp", "dpmpp_2m_cfg_pp"])
def test_a_sampler_of_cfg_plus_plus_brings_its_guidance(name):
    sampler = get_sampler(name)
    assert choices.guided(None, None, sampler) == ("cfg_pp", 0.6)
    assert choices.guided(None, 1.2, sampler) == ("cfg_pp", 1.2)
    assert choices.guided(CFGPlusPlus(), None, sampler) == (CFGPlusPlus(), 0.6)
    with pytest.raises(SettingError, match=r"guidance_method is 'cfg'.*leave guidance_method out"):
        choices.guided("cfg", None, sampler)
    assert choices.guided(None, None, get_sampler("ddim")) == (None, None)
    assert choices.guided("apg", None, get_sampler("ddim")) == ("apg", None)
    with pytest.raises(SettingError, match=r"guidance_method is 'cfg_pp'.*euler_cfg_pp") as error:
        choices.guided("cfg_pp", None, get_sampler("ddim"))
    assert name in str(error.value)


def test_a_scale_it_was_not_made_for_is_said():
    assert Guidance(2.0, guide=CFGPlusPlus()).unusual() is None
    said = "The guidance CFGPlusPlus() is made for scales from 0 to 2, and guidance_scale is 7.5."
    assert Guidance(7.5, guide=CFGPlusPlus()).unusual() == said
    assert Guidance(7.5).unusual() is Guidance(99.0, guide=APG()).unusual() is None
    with pytest.raises(SettingError, match="guidance_rescale is for the guidance 'cfg' alone"):
        Guidance(7.5, 0.5, guide=APG())


# --- the kit ------------------------------------------------------------------------------------


@without_keras([info.qualified_name for info in list_guidance()])
def test_every_installed_guidance_keeps_the_contract(guidance, check):
    check(guidance)


@without_keras(
    [
        APG(eta=1, norm=0, momentum=0),
        APG(eta=0.3, norm=0.5, momentum=0.9),
        CFGZero("v"),
        CFGZero("flow"),
        PAG(0.0),
    ]
)
def test_other_settings_keep_the_contract(guidance, check):
    check(guidance)


class OfTheBatch(CFG):
    def __call__(self, seen, scale, memory):
        guided = super().__call__(seen, scale, memory)
        change = seen.conditional - seen.unconditional
        size = (change * change).mean() if hasattr(change, "mean") else 1.0
        return guided + size * change


class Remembers(CFG):
    last = None

    def __call__(self, seen, scale, memory):
        guided = super().__call__(seen, scale, memory)
        change, self.__dict__["last"] = (
            (0.0 if self.last is None else self.last),
            seen.conditional - seen.unconditional,
        )
        return guided + 0.1 * change if np.shape(change) == np.shape(guided) else guided


class InPlace(CFG):
    def __call__(self, seen, scale, memory):
        change = seen.conditional
        change -= seen.unconditional
        return seen.unconditional + scale * change


class Off(CFG):
    def __call__(self, seen, scale, memory):
        return super().__call__(seen, scale, memory) * 1.01


class Narrow(CFG):
    def __call__(self, seen, scale, memory):
        return super().__call__(seen, scale, memory).astype("float32")


class Infinite(CFG):
    def __call__(self, seen, scale, memory):
        return super().__call__(seen, scale, memory) * (1.0 if seen.level.alpha else math.inf)


class OfNumPy(CFG):
    def __call__(self, seen, scale, memory):
        return super().__call__(seen, np.float64(scale), memory)


@dataclass(frozen=True)
class Hidden(CFG):
    how: float = field(default=1.0, repr=False)


class NeedsMore(CFG):
    needs: ClassVar = ("depth",)


class Contradicts(CFG):
    default_scale: ClassVar = 7.5
    scales: ClassVar = (0.0, 1.0)


@pytest.mark.parametrize(
    ("guide", "check", "message"),
    [
        (OfTheBatch(), "check_pictures_apart", "clause 3 .*sum with seen.dot"),
        (Remembers(), "check_memory", "clause 4 .*use memory"),
        (InPlace(), "check_guidance_inputs_unmodified", "clause 5 .*in place"),
        (Off(), "check_no_difference_no_guidance", "clause 1 .*off equal halves"),
        (Narrow(), "check_guidance_result", "clause 2 .*float32"),
        (Infinite(), "check_guidance_result", "clause 2 .*not finite"),
        (OfNumPy(), "check_guidance_plain_arithmetic", "raised TypeError.*float64"),
        (Hidden(), "check_guidance_settings", "clause 6 .*'how' is missing"),
        (NeedsMore(), "check_guidance_declarations", r"needs = \('depth',\)"),
        (Contradicts(), "check_guidance_declarations", "default_scale = 7.5"),
    ],
    ids=lambda each: each if isinstance(each, str) else type(each).__name__,
)
def test_a_defect_is_seen_by_the_check_meant_for_it(guide, check, message):
    (meant,) = [each for each in all_guidance_checks() if each.__name__ == check]
    with pytest.raises(ContractViolation, match=message):
        meant(guide)


def test_all_that_is_broken_is_said_at_once(monkeypatch):
    monkeypatch.setattr(
        "keras_sd.testing.guidance.check_guidance_backend_tensors", lambda guidance: None
    )
    check_guidance("cfg")
    with pytest.raises(ContractViolation, match=r"default_scale = 7.5.*\n.*clause 1") as error:
        check_guidance(type("Both", (Off, Contradicts), {})())
    assert str(error.value).count("\n") == 1


# --- samplers of CFG++ ----------------------------------------------------------------------------


def halves(x, sigma):
    """Two clean latents of a latent over alpha that differ."""
    told = MAKER.toy_clean(x, sigma)
    return told, 0.6 * told + 0.2 * np.sin(2 * x / (1 + sigma))


SCALE = 0.7


def guided(x, sigma):
    told, untold = halves(x, sigma)
    return untold + SCALE * (told - untold), untold


def ancestral(now, nxt, eta):
    up = min(nxt, eta * math.sqrt(nxt**2 * (now**2 - nxt**2) / now**2)) if nxt else 0.0
    return math.sqrt(nxt**2 - up**2), up


def euler_ancestral_cfg_pp(x, sigmas, draw, eta=1.0, s_noise=1.0):
    """Chung et al. 2024, algorithm 1: the clean latent of both, the noise of the unconditional."""
    for now, nxt in pairwise(sigmas):
        x0, untold = guided(x, now)
        down, up = ancestral(now, nxt, eta)
        x = x0 + down * (x - untold) / now
        if up:
            x = x + up * s_noise * draw()
    return x


def euler_cfg_pp(x, sigmas, draw):
    return euler_ancestral_cfg_pp(x, sigmas, draw, eta=0.0)


def dpmpp_2m_cfg_pp(x, sigmas, draw):
    last = None
    for i, (now, nxt) in enumerate(pairwise(sigmas)):
        x0, untold = guided(x, now)
        mix = nxt / now * (x - untold)
        if last is not None and nxt:
            r = math.log(sigmas[i - 1] / now) / math.log(now / nxt)
            mix = mix + (1 - nxt / now) / (2 * r) * (x0 - last)
        x, last = x0 + mix, untold
    return x


def dpmpp_2s_ancestral_cfg_pp(x, sigmas, draw, eta=1.0, s_noise=1.0):
    for now, nxt in pairwise(sigmas):
        x0, untold = guided(x, now)
        down, up = ancestral(now, nxt, eta)
        if not down:
            x = x0
            continue
        moved, middle = x + x0 - untold, math.sqrt(now * down)
        there = middle / now * moved + (1 - middle / now) * x0
        x = down / now * moved + (1 - down / now) * guided(there, middle)[0]
        if up:
            x = x + up * s_noise * draw()
    return x


@dataclass(frozen=True)
class Told:
    """A model with both halves, on a path of (alpha, sigma)."""

    def __call__(self, x, level):
        return guided(x / level.alpha, level.ratio)[0]

    def parts(self, x, level):
        told, untold = halves(x / level.alpha, level.ratio)
        return Parts(told, untold, guided(x / level.alpha, level.ratio)[0])


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(
    ("rule", "settings"),
    [
        (euler_cfg_pp, {}),
        (euler_ancestral_cfg_pp, {}),
        (euler_ancestral_cfg_pp, {"eta": 0.4, "s_noise": 1.1}),
        (dpmpp_2m_cfg_pp, {}),
        (dpmpp_2s_ancestral_cfg_pp, {}),
        (dpmpp_2s_ancestral_cfg_pp, {"eta": 0.0}),
    ],
)
def test_latents_of_cfg_plus_plus_are_those_of_the_published_rule(rule, settings, grid):
    start, noise = MAKER.inputs()
    for num_steps in (1, 2, 3, 20):
        ratios = [level.ratio for level in GRIDS[grid](num_steps)]
        draws = iter(noise)
        expected = rule(start * ratios[0], ratios, lambda it=draws: next(it), **settings)
        for path in PATHS:
            levels, ours = Levels(map(path, ratios), path=path), iter(noise)
            sampler = get_sampler(rule.__name__, **settings)
            x = start * levels[0].sigma
            steps = sample(sampler, Told(), x, levels, lambda now, nxt, it=ours: next(it))
            *_, last = steps
            found = last.latent / levels[-1].alpha
            assert_close(found, expected, 1e-10, (num_steps, path))


@pytest.mark.parametrize("name", ["euler_cfg_pp", "dpmpp_2m_cfg_pp", "dpmpp_2s_ancestral_cfg_pp"])
def test_with_equal_halves_they_are_the_usual_samplers(name):
    start, noise = MAKER.inputs()
    levels = GRIDS["karras"](9)

    class Alike(Told):
        def parts(self, x, level):
            return Parts(*[self(x, level)] * 3)

    runs = []
    for each in (name, name.removesuffix("_cfg_pp")):
        draws = iter(noise)
        steps = sample(get_sampler(each), Alike(), start, levels, lambda *_, it=draws: next(it))
        runs.append([step.latent for step in steps])
    for one, other in zip(*runs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)


def test_apg_takes_away_what_saturates():
    """Along the conditional latent nothing is added, and no more than `norm` elsewhere."""
    told, untold = np.random.default_rng(1).normal(size=(2, 2, 3, 4, 5))
    dot = lambda a, b: np.sum(a * b, axis=(1, 2, 3), keepdims=True)  # noqa: E731
    seen = Seen(told, untold, told, Level(500.0, 0.8, 0.6), dot)
    added = APG(norm=2.0)(seen, 11.0, {}) - told
    assert np.abs(dot(added, told)).max() < 1e-6
    assert (np.sqrt(dot(added, added)) <= 10 * 2.0 + 1e-9).all()
    np.testing.assert_allclose(
        APG(eta=1, norm=0, momentum=0)(seen, 7.5, {}), CFG()(seen, 7.5, {}), rtol=1e-12
    )
