"""From what a picture says to a request: all of ours, and of others what has a counterpart here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from keras_sd.checks import SettingError
from keras_sd.config import Defaults
from keras_sd.controls import Control
from keras_sd.forms import request_of
from keras_sd.image import read_mask
from keras_sd.inpainting import extend_canvas
from keras_sd.provenance import Provenance
from keras_sd.provenance.difference import Difference, difference
from keras_sd.provenance.follow import follow
from keras_sd.request import Request
from keras_sd.start import Attachment

DEFAULTS = Defaults(64, 48, "ddim", "leading", 20, 7.5)
PICTURE = np.arange(64 * 48 * 3, dtype=np.uint8).reshape(64, 48, 3)
MASK = read_mask(np.eye(64, 48, dtype=bool))


def ours(**given) -> Provenance:
    request = request_of(**{"prompt": "a cat", "seed": 42, **given}).resolved(DEFAULTS)
    return Provenance(program="keras_sd", request=Request.from_json(request.to_json()))


# --- ours -----------------------------------------------------------------------------


def test_ours_is_followed_in_all():
    found = ours(sampler="dpmpp_2m", num_steps=7)
    followed = follow(found)
    assert (followed.request, followed.left) == (found.request, ())


def test_ours_needs_the_picture_and_the_mask_that_it_was_made_of():
    found = ours(image=PICTURE, mask=MASK, strength=0.5)
    request = follow(found, start=PICTURE, mask=MASK).request
    assert [each.data is not None for each in request.attachments()] == [True, True]
    digest = Attachment.of(PICTURE).sha256
    with pytest.raises(SettingError, match=f"start is needed: .*{digest}"):
        follow(found)
    with pytest.raises(SettingError, match="mask is needed"):
        follow(found, start=PICTURE)
    with pytest.raises(SettingError, match=f"start is another: .* it was made of {digest}"):
        follow(found, start=PICTURE + 1, mask=MASK)
    with pytest.raises(SettingError, match="mask is another"):
        follow(found, start=PICTURE, mask=1 - MASK)
    with pytest.raises(SettingError, match="mask is given, and the picture began at none"):
        follow(ours(image=PICTURE), start=PICTURE, mask=MASK)
    with pytest.raises(SettingError, match="start is given, and the picture began at none"):
        follow(ours(), start=PICTURE)


def test_ours_that_was_extended_needs_the_picture_alone():
    wider, painted = extend_canvas(PICTURE, left=8, right=0, top=16, bottom=0)
    found = replace(ours(image=wider, mask=painted), extended={"left": 8, "top": 16})
    request = follow(found, start=PICTURE).request
    assert all(each.data is not None for each in request.attachments())
    with pytest.raises(SettingError, match="start is needed"):
        follow(found)
    with pytest.raises(SettingError, match="start is another"):
        follow(found, start=PICTURE + 1)
    with pytest.raises(SettingError, match="mask is not needed"):
        follow(found, start=PICTURE, mask=MASK)


def test_ours_that_was_made_of_other_arrays_is_for_python():
    noise = np.zeros((8, 6, 4), np.float32)
    with pytest.raises(ValueError, match=r"Request\.attached"):
        follow(ours(seed=None, diffusion_noise=noise))


def test_ours_whose_request_cannot_be_read_is_no_guess():
    with pytest.raises(ValueError, match="version 99"):
        follow(Provenance(program="keras_sd", unread=("it is of version 99",)))


# --- others' --------------------------------------------------------------------------


def said(program="A1111", **more) -> Provenance:
    made = {
        "prompt": "a fox",
        "negative_prompt": "blurry",
        "num_steps": 30,
        "sampler": "DPM++ 2M",
        "schedule": "Karras",
        "guidance_scale": 6.5,
        "seed": 99,
        "width": 48,
        "height": 64,
    }
    return Provenance(program=program, **{**made, **more})


def left(found, **arrays) -> str:
    return "\n".join(follow(found, **arrays).left)


def test_what_has_a_counterpart_is_followed():
    followed = follow(said())
    assert followed.request == Request(
        ("a fox",),
        ("blurry",),
        ((99, 0),),
        height=64,
        width=48,
        num_steps=30,
        sampler="dpmpp_2m",
        schedule="karras",
        guidance_scale=6.5,
    )
    assert len(followed.left) == 1
    assert "noise: A1111 draws it in another way" in followed.left[0]


METHODS = [
    ("A1111", "DPM++ 2M", "Automatic", "dpmpp_2m", "karras"),
    ("A1111", "DPM++ 2M", None, "dpmpp_2m", "normal"),  # before there was a schedule type
    ("A1111", "DPM++ 2M Karras", None, "dpmpp_2m", "karras"),
    ("A1111", "DPM++ 3M SDE", "Automatic", "dpmpp_3m_sde", "exponential"),
    ("A1111", "DPM++ 2M SDE Heun", "Automatic", "dpmpp_2m_sde:solver=heun", "exponential"),
    ("A1111", "DPM++ 2M SDE Heun Karras", None, "dpmpp_2m_sde:solver=heun", "karras"),
    ("A1111", "Euler a", "Automatic", "euler_ancestral", "normal"),
    ("A1111", "DDIM", "Automatic", "ddim", "leading"),
    ("A1111", "DDIM", None, "ddim", "leading"),
    ("A1111", "UniPC", "Automatic", "unipc:variant=bh1", "leading"),
    ("A1111", "Euler", "Turbo", "euler", "trailing"),
    ("ComfyUI", "dpmpp_2m_sde_gpu", "sgm_uniform", "dpmpp_2m_sde", "sgm_uniform"),
    ("ComfyUI", "dpm_2_ancestral", "normal", "dpm2_ancestral", "normal"),
    ("InvokeAI", "dpmpp_2m_sde_k", None, "dpmpp_2m_sde", "karras"),
    ("InvokeAI", "euler_a", None, "euler_ancestral", "leading"),
    ("InvokeAI", "kdpm_2_a_k", None, "dpm2_ancestral", "karras"),
    ("InvokeAI", "k_lms", None, "lms", None),
    ("NovelAI", "k_euler_ancestral", "native", "euler_ancestral", "normal"),
    ("NovelAI", "k_dpmpp_2s_ancestral", "karras", "dpmpp_2s_ancestral", "karras"),
    ("keras_sd", "UniPC", "Leading", "unipc", "leading"),
]


@pytest.mark.parametrize(("program", "sampler", "schedule", "own", "own_schedule"), METHODS)
def test_samplers_and_schedules_of_all_programs(program, sampler, schedule, own, own_schedule):
    followed = follow(said(program, sampler=sampler, schedule=schedule))
    assert (followed.request.sampler, followed.request.schedule) == (own, own_schedule)
    followed.request.resolved(DEFAULTS)
    assert not any(each.startswith("sampler") for each in followed.left)
    assert any(each.startswith("schedule") for each in followed.left) == (own_schedule is None)


@pytest.mark.parametrize("name", ["Restart++", "ddim:eta=1", "acme:ddim", "x" * 10_000, "=", ":"])
def test_a_method_that_is_none_of_ours_is_said(name):
    followed = follow(said(sampler=name, schedule=name))
    assert (followed.request.sampler, followed.request.schedule) == (None, None)
    for kind in ("sampler: ", "schedule: "):
        (sentence,) = [each for each in followed.left if each.startswith(kind)]
        assert "none of ours" in sentence
        assert len(sentence) < 200


def test_what_is_not_said_or_does_not_fit_is_the_models():
    nothing = dict.fromkeys(("prompt", "sampler", "schedule", "num_steps", "guidance_scale"))
    followed = follow(said(**nothing, negative_prompt=None, seed=None, width=None))
    assert followed.request == Request(("",))
    for name in ("prompt", "sampler", "schedule", "steps", "guidance", "seed"):
        assert name in "\n".join(followed.left), name
    followed = follow(said(num_steps=0, guidance_scale=-1e30, seed=-1, width=50))
    assert (followed.request.num_steps, followed.request.guidance_scale) == (None, None)
    assert followed.request.images == ((None, 0),)
    assert (followed.request.width, followed.request.height) == (None, None)
    for name in ("steps: num_steps", "guidance: guidance", "seed: -1", "width: width 50"):
        assert name in "\n".join(followed.left), name


def test_other_settings_are_said_unless_they_change_nothing():
    others = {"Clip skip": "2", "Hires upscale": "2", "Version": "v1.10.1", "Eta DDIM": "0.5"}
    found = said(others=others)
    assert "Clip skip: 2\nHires upscale: 2\nEta DDIM: 0.5" in left(found)
    assert "v1.10.1" not in left(found)
    followed = follow(said(others=others, sampler="DDIM", schedule="Automatic"))
    assert followed.request.sampler == "ddim:eta=0.5"
    assert "Eta" not in "\n".join(followed.left)
    followed = follow(said(others={"Schedule rho": "5"}))
    assert followed.request.schedule == "karras:rho=5.0"
    followed = follow(said("InvokeAI", others={"cfg_rescale_multiplier": 0.7}))
    assert followed.request.guidance_rescale == 0.7


GRAMMAR = [
    ("A1111", "a (red:1.2) fox"),
    ("A1111", "a [red|blue] fox"),
    ("A1111", "a fox <lora:style:0.5>"),
    ("A1111", "a fox BREAK snow"),
    ("A1111", "a fox AND snow"),
    ("A1111", r"a \(red\) fox"),  # of which the backslashes would be words
    ("A1111", "a (red:1.2.3) fox"),
    ("ComfyUI", "a fox, embedding:snow"),
    ("ComfyUI", "a (red:1.2) fox"),
    ("InvokeAI", "a red++ fox"),
    ("InvokeAI", "a fox, <snow>"),
    ("InvokeAI", '("a fox", "snow").blend(1, 2)'),
    ("NovelAI", "a {red} fox"),
    ("NovelAI", "1.5::red:: fox"),
]


@pytest.mark.parametrize(("program", "prompt"), GRAMMAR)
def test_grammar_of_a_prompt_is_words_here_and_that_is_said(program, prompt):
    for name in ("prompt", "negative_prompt"):
        assert "prompt: " in left(said(program, **{name: prompt}))
        assert follow(said(program, **{name: prompt})).request
    for plain in ("a red fox, snow-white", "a fox\nin  snow", ""):
        assert "prompt: " not in left(said(program, prompt=plain)), plain


def test_a_picture_that_began_at_another_needs_it():
    found = said(starts=True, strength=0.6)
    with pytest.raises(SettingError, match="start is needed"):
        follow(found)
    start = follow(found, start=PICTURE).request.start
    assert (start.strength, start.steps_mode, start.resize) == (0.6, "schedule", None)
    start = follow(replace(found, program="ComfyUI"), start=PICTURE).request.start
    assert start.steps_mode == "run"
    with pytest.raises(SettingError, match="mask is needed"):
        follow(replace(found, masked=True), start=PICTURE)
    with pytest.raises(SettingError, match="mask is given"):
        follow(found, start=PICTURE, mask=MASK)
    with pytest.raises(SettingError, match="start is given"):
        follow(said(), start=PICTURE)
    assert "strength: 0" in left(replace(found, strength=0.0), start=PICTURE)


def test_a_picture_of_another_size_is_stretched_and_that_is_said():
    found = said(starts=True, strength=0.6, width=96)
    followed = follow(found, start=PICTURE)
    assert followed.request.start.resize == "stretch"
    assert (followed.request.width, followed.request.height) == (96, 64)
    assert any(each.startswith("resize") for each in followed.left)


def test_of_a_mask_blur_and_area_are_followed():
    others = {"Mask blur": "4", "Inpaint area": "Only masked", "Masked area padding": "16"}
    found = said(starts=True, strength=0.6, masked=True, others=others, width=96)
    masking = follow(found, start=PICTURE, mask=MASK).request.start.masking
    assert (masking.mask_blur, masking.only_masked, masking.padding) == (4, True, 16)
    assert "Mask blur" not in left(found, start=PICTURE, mask=MASK)
    huge = {**others, "Mask blur": "1e99", "Masked area padding": "-3"}
    masking = follow(replace(found, others=huge), start=PICTURE, mask=MASK).request.start.masking
    assert masking.padding == 0


def test_of_our_text_for_web_uis_the_noise_is_ours():
    others = {"Image number": "3", "Sampler settings": "eta=0.5", "Eta": "0.5"}
    others |= {"Schedule settings": "rho=5", "Schedule rho": "5", "Guidance rescale": "0.7"}
    found = said("keras_sd", sampler="Euler a", others=others)
    followed = follow(found)
    assert followed.left == ()
    assert followed.request.images == ((99, 3),)
    assert followed.request.sampler == "euler_ancestral:eta=0.5"
    assert followed.request.schedule == "karras:rho=5"
    assert followed.request.guidance_rescale == 0.7
    # A stranger may have written it.
    for line in ("__import__('os')", "zorb=1", "eta=", "(" * 5000):
        broken = replace(found, others={"Sampler settings": line})
        assert "sampler: 'Euler a'" in left(broken)


# --- difference -----------------------------------------------------------------------


def test_the_difference_of_two_pictures():
    other = PICTURE.copy()
    assert difference(PICTURE, other) == Difference(0, 0.0, 0.0)
    other[0, 0] = [200, 0, 2]  # it was 0, 1, 2
    other[63, 47, 0] += 1
    found = difference(PICTURE, other)
    assert found == Difference(200, 202 / PICTURE.size, 2 / (64 * 48))
    assert difference(other, PICTURE) == found
    assert found.to_dict()["largest"] == 200
    assert difference(PICTURE, PICTURE[:, :40]) is None


def test_the_difference_of_large_pictures_is_that_of_their_rows():
    tall = np.zeros((700, 8, 3), np.uint8)
    other = tall.copy()
    other[[0, 300, 699], 0, 0] = [10, 255, 5]
    assert difference(tall, other) == Difference(255, 270 / tall.size, 3 / 5600)


def test_a_picture_made_with_controlnets_names_them():
    control = Control(Attachment("ab" * 32, "canny.safetensors"), (Attachment("cd" * 32),))
    request = replace(Request(("a cat",), images=((1, 0),)), controls=(control,))
    with pytest.raises(ValueError, match=r"T2I-Adapters \(canny\.safetensors, SHA-256 abab"):
        follow(Provenance(program="keras_sd", request=request))
