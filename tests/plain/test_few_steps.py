"""Distilled models by name: settings where none are given, and errors where they contradict."""

from __future__ import annotations

import pytest

from keras_sd import get_sampler, get_schedule
from keras_sd.checks import SettingError
from keras_sd.config import Defaults
from keras_sd.few_steps import KINDS, with_few_steps
from keras_sd.forms import request_of
from keras_sd.levels import make_levels
from keras_sd.noise import NoiseTable


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_has_what_is_installed_and_holds_together(name):
    kind = KINDS[name]
    get_sampler(kind.sampler)
    get_schedule(kind.schedule)
    assert kind.num_steps in kind.steps
    assert kind.guidance[0] <= kind.guidance_scale <= kind.guidance[1]
    for steps in kind.steps:
        levels = make_levels(kind.schedule, NoiseTable.scaled_linear(), steps)
        assert len(levels) == steps + 1


def test_settings_are_taken_where_none_are_given():
    request = request_of("a cat", few_steps="lcm", seed=1).resolved(Defaults())
    assert (request.sampler, request.schedule) == ("lcm", "lcm")
    assert (request.num_steps, request.guidance_scale) == (4, 1.0)
    request = request_of("a cat", few_steps="lcm", num_steps=8, guidance_scale=1.5, sampler="euler")
    assert (request.sampler, request.schedule) == ("euler", "lcm")
    assert (request.num_steps, request.guidance_scale) == (8, 1.5)
    request = request_of("a cat", few_steps="lightning", sampler="Euler Karras")
    assert request.resolved(Defaults()).schedule == "karras"
    given = {"num_steps": None, "sampler": None}
    assert with_few_steps(None, given) == given


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("lcm", {"unconditional_guidance_scale": 7.5}, "guidance_scale is 7.5, and lcm .* 1 to 2"),
        ("turbo", {"guidance_scale": 2.0}, "1, which is none"),
        ("lightning", {"num_steps": 5}, "num_steps is 5, and lightning is made for 2, 4, 8"),
        ("lcm", {"num_steps": 30}, r"1, 2, 3, 4 \.\.\."),
        ("hyper_cfg", {"guidance_scale": 1.0}, "5 to 8"),
        ("lcn", {}, "few_steps is one of 'lcm'"),
    ],
)
def test_what_contradicts_is_an_error(name, settings, says):
    with pytest.raises(SettingError, match=says):
        request_of("a cat", few_steps=name, **settings)
