"""Requests: what people say made canonical, what is refused, JSON both ways, and names resolved."""

from __future__ import annotations

import inspect
import json
import math
from dataclasses import dataclass, fields, replace

import numpy as np
import pytest

from keras_sd.adaptations import Adaptation
from keras_sd.checks import SettingError, choice, flag, real, whole
from keras_sd.config import Defaults
from keras_sd.controls import Control
from keras_sd.forms import attach_masks, attach_pictures, request_of
from keras_sd.image_prompts import ImagePrompt
from keras_sd.noise import Level, Levels
from keras_sd.request import Request
from keras_sd.settings import Checked, setting, settings, takes
from keras_sd.start import Attachment, Masking, Start

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (16, 24, 3), np.uint8)
MASK = np.zeros((16, 24), np.float32)
MASK[4:] = 1
DEFAULTS = Defaults(64, 32, "ddim", "leading", 20, 3.0)


class Net:
    """What stands for a ControlNet, or an adapter."""

    def __init__(self, digits="ab"):
        self.digits = digits

    def attachment(self):
        return Attachment(self.digits * 32, "canny.safetensors", self)

    def copy(self):
        return self


def full() -> Request:
    """A request with something in every field."""
    rng = np.random.default_rng(1)
    encoding = Attachment.of(rng.standard_normal((5, 4)).astype(np.float32))
    return Request(
        (encoding, encoding),
        ("a dog", "a cat"),
        ((7, 3), (2**64 - 1, 0)),
        height=64,
        width=128,
        num_steps=5,
        sampler="ddim:eta=1",
        schedule="karras:rho=5",
        guidance_scale=2.5,
        guidance_rescale=0.5,
        guidance_interval=(0.25, math.inf),
        guidance_method="apg:norm=7.5",
        feature_caching=3,
        adaptive_guidance=0.95,
        token_merging=0.5,
        prompt_style="compel",
        clip_skip=2,
        original_size=(512, 768),
        crop=(8, 0),
        target_size=(1024, 1024),
        negative_original_size=(256, 256),
        negative_crop=(0, 16),
        negative_target_size=(512, 512),
        aesthetic_score=7.5,
        negative_aesthetic_score=1.0,
        empty_negative="zeros",
        freeu=(1.5, 1.6, 0.9, 0.2),
        refine_at=0.75,
        noise=(Attachment.of(rng.standard_normal((8, 16, 4)).astype(np.float32)),),
        start=Start(
            pictures=(Attachment.of(PICTURE, "photo.png"),),
            strength=0.5,
            steps_mode="schedule",
            masking=Masking(
                masks=(Attachment.of(MASK), Attachment.of(1 - MASK)),
                num_resamples=2,
                mask_convention="keras_cv",
                mask_blur=1.5,
                only_masked=True,
                padding=3,
                keep_unmasked=False,
            ),
        ),
        controls=(
            Control(
                Net().attachment(),
                (Attachment.of(PICTURE), Attachment.of(255 - PICTURE)),
                strength=0.5,
                start=0.25,
                end=0.75,
                guess_mode=True,
                resize="crop",
            ),
        ),
        image_prompts=(
            ImagePrompt(
                Net("ef").attachment(), (Attachment.of(PICTURE[:8]),), strength=0.5, end=0.75
            ),
        ),
        adapters=(
            Adaptation(Net("cd").attachment(), 0.5, -0.25, {"unet/up_1": 2, "unet/down": 0}),
        ),
    )


# JSON


@pytest.mark.parametrize("request_", [Request(("",)), full()], ids=["least", "full"])
def test_json_gives_the_request_back(request_):
    back = Request.from_json(request_.to_json())
    assert back == request_
    assert back.to_json() == request_.to_json()
    assert json.loads(request_.to_json())["version"] == 1


def test_the_full_request_leaves_no_field_at_its_default():
    whole_one, least = full(), Request(("",))
    for part, other in ((whole_one, least), (whole_one.start, Start(pictures=()))):
        for each in fields(part):
            assert getattr(part, each.name) != getattr(other, each.name) or each.name == "resize"
    masking = whole_one.start.masking
    for each in fields(masking):
        assert getattr(masking, each.name) != getattr(Masking(masks=()), each.name)


def test_strengths_of_blocks_are_pairs():
    (one,) = full().adapters
    assert one.blocks == (("unet/down", 0.0), ("unet/up_1", 2.0))
    assert one.strengths["unet/up_1"] == 2
    for wrong in (7, [("unet/up_1", "much")], [(1, 2)], {"unet/up_1": float("nan")}):
        with pytest.raises(ValueError, match=r"blocks are pairs of|strength of unet/up_1"):
            Adaptation(Net("cd").attachment(), blocks=wrong)


def test_arrays_are_given_again_by_their_hash():
    back = Request.from_json(full().to_json())
    assert {each.data is None for each in back.attachments()} == {True}
    assert back.start.pictures[0].name == "photo.png"
    arrays = [each.data for each in full().attachments()]
    whole_again = back.attached(each.copy() for each in arrays)
    assert all(each.data is not None for each in whole_again.attachments())
    np.testing.assert_array_equal(whole_again.start.pictures[0].data, PICTURE)
    with pytest.raises(ValueError, match=r"needs photo\.png of SHA-256"):
        back.attached(each for each in arrays if getattr(each, "dtype", None) != np.uint8)


def test_the_hash_is_of_content_shape_and_type():
    one = np.arange(6, dtype=np.uint8)
    others = [one.reshape(2, 3), one.reshape(3, 2), one.astype(np.uint16), one[::-1]]
    digests = {Attachment.of(np.ascontiguousarray(each)).sha256 for each in (one, *others)}
    assert len(digests) == 5
    assert Attachment.of(one, "a") == Attachment.of(one.copy(), "b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version 2; this keras_sd reads up to 1"),
        ({"version": True}, "version True"),
        ({"version": None}, "version None"),
        ({"colour": 1}, "Request has no colour; there are prompts"),
        ({"prompts": "a"}, "prompts is a list"),
        ({"prompts": []}, "empty list"),
        ({"prompts": [3]}, "a list of strings"),
        ({"prompts": [{"sha256": "ab"}]}, "an array is its sha256"),
        ({"prompts": [{"sha256": "0" * 64, "path": "/etc/passwd"}]}, "an array is its sha256"),
        ({"images": [[1]]}, r"list of \[seed, number\]"),
        ({"images": [[1, 0], [1, 1]]}, None),
        ({"images": [[-2, 0]]}, "seed is a whole number from 0"),
        ({"images": [[1, 0.5]]}, "number of an image"),
        ({"height": 12}, "height 12 is not a multiple of 8; the nearest that work are 8 and 16"),
        ({"num_steps": "5"}, "num_steps is a whole number"),
        ({"guidance_scale": "nan"}, "guidance_scale is a finite number"),
        ({"sampler": ""}, "'' is none"),
        ({"start": []}, "Start is an object with pictures"),
        ({"start": {}}, "Start lacks pictures"),
        ({"start": {"pictures": [], "masking": {"masks": [], "blur": 1}}}, "Masking has no blur"),
    ],
)
def test_what_json_cannot_say(change, message):
    data = {**Request(("a",)).to_dict(), **change}
    if message is None:
        assert len(Request.from_dict(data)) == 2
        return
    with pytest.raises((ValueError, TypeError), match=message):
        Request.from_dict(data)


@pytest.mark.parametrize("text", ["[]", "3", "null", '"a"'])
def test_what_is_no_request(text):
    with pytest.raises(ValueError, match="Request is an object with prompts"):
        Request.from_json(text)


def test_what_has_no_name_stays_out_of_json():
    def own(denoise, x, levels, noise):
        yield x

    with pytest.raises(ValueError, match=r"sampler is .*no installed name"):
        Request(("a",), sampler=own).to_json()
    levels = Levels([Level(1.0, 0.5, 0.8), Level(0.0, 1.0, 0.0)])
    with pytest.raises(ValueError, match=r"schedule is .*no installed name"):
        Request(("a",), schedule=levels).to_json()


def test_samplers_and_schedules_are_said_by_name_and_settings():
    from keras_sd import get_sampler, get_schedule

    for given in ("ddim:eta=1", {"name": "ddim", "eta": 1}, get_sampler("ddim", eta=1)):
        assert Request(("a",), sampler=given).sampler in ("ddim:eta=1", "ddim:eta=1.0")
    assert Request(("a",), schedule=get_schedule("karras", rho=5)).schedule == "karras:rho=5"
    assert Request(("a",), schedule=[900, np.int64(500), 20.5]).schedule == (900.0, 500.0, 20.5)
    assert Request(("a",), schedule=np.array([900, 500])).schedule == (900.0, 500.0)


# What people say


def test_of_makes_one_row_a_picture():
    request = Request.of(["a", "b"], ["x", "y"], 2, 5, first_image=3)
    assert request.prompts == ("a", "a", "b", "b")
    assert request.negative_prompts == ("x", "x", "y", "y")
    assert request.images == ((5, 3), (5, 4), (5, 5), (5, 6))
    assert Request.of("a", "x", 3).negative_prompts == ("x",) * 3


@pytest.mark.parametrize(
    "prompts",
    [
        np.array(["a", "b"]),
        np.array(["a", "b"], dtype=object),
        ("a", "b"),
        [np.str_("a"), "b"],
    ],
    ids=lambda given: type(given).__name__,
)
def test_texts_come_in_lists_arrays_and_columns(prompts):
    assert request_of(prompts).prompts == ("a", "b")
    assert {type(text) for text in request_of(prompts).prompts} == {str}


def test_one_text_in_an_array():
    assert request_of(np.array("a")).prompts == ("a",)


def test_encodings_are_rows():
    numbers = RNG.standard_normal((2, 5, 4))
    request = request_of(numbers, numbers[0])
    assert [each.data.shape for each in request.prompts] == [(5, 4)] * 2
    assert request.negative_prompts[0] == request.prompts[0]
    with pytest.raises(TypeError, match="real numbers, not of complex"):
        request_of(numbers.astype(complex))


def test_only_is_what_makes_a_picture_again():
    request = full()
    second = request.only(1)
    assert second.images == ((2**64 - 1, 0),)
    assert second.prompts == request.prompts[1:]
    assert second.noise == request.noise  # one for all
    assert second.start.pictures == request.start.pictures
    assert second.start.masking.masks == request.start.masking.masks[1:]
    assert request.only(0, 1) == request
    assert request.only(1, 0).images == request.images[::-1]


BAD = [
    ({"batch_size": 0}, "batch_size is a whole number from 1"),
    ({"batch_size": True}, "batch_size is a whole number"),
    ({"first_image": True}, "first_image is a whole number"),
    ({"seed": -1}, "for a new one each time, leave -1 out"),
    ({"seed": 2**64}, r"seed is a whole number from 0 to 2\*\*64 - 1"),
    ({"strength": 0.5}, "is of an image: give one"),
    ({"resize": "crop"}, "is of an image: give one"),
    ({"mask": MASK}, "is of an image: give one"),
    ({"image": PICTURE, "padding": 3}, "give a mask"),
    ({"image": PICTURE, "strength": True}, "strength is above 0 and at most 1, not True"),
    ({"image": PICTURE, "height": 64}, "height is what a picture is brought to by resize"),
    ({"image": PICTURE, "mask": MASK, "only_masked": "no"}, "only_masked is True or False"),
    ({"image": PICTURE, "mask": MASK, "keep_unmasked": 1}, "keep_unmasked is True or False"),
    ({"image": PICTURE, "mask": MASK, "only_masked": True, "resize": "pad"}, "no resize"),
    ({"image": PICTURE, "mask": MASK, "mask_convention": "black"}, "one of 'white_repaints'"),
    ({"num_step": 3}, "no setting 'num_step'. Did you mean 'num_steps'"),
    ({"seed": 1, "diffusion_noise": np.zeros((2, 2, 4))}, "not both"),
    ({"diffusion_noise": [[1], [1, 2]]}, "diffusion_noise is no array of numbers"),
    ({"diffusion_noise": np.ones((2, 2, 4), "c8")}, "real numbers, not of complex64"),
    ({"height": 2**40}, "is too large; at most 16384"),
    ({"height": 64.0}, "height is a whole number"),
    ({"unconditional_guidance_scale": 1e39}, "guidance_scale is a finite number"),
    ({"unconditional_guidance_scale": 10**400}, "guidance_scale is a finite number"),
    ({"unconditional_guidance_scale": 1j}, "guidance_scale is a finite number"),
    ({"guidance_interval": (1, 1)}, "lowest and the highest"),
    ({"prompt_style": "webui"}, "prompt_style is one of 'plain', 'keras_sd', 'a1111'"),
    ({"prompt_style": None}, "prompt_style is one of"),
    ({"clip_skip": 0}, "clip_skip is a whole number from 1 to 1000, not 0"),
    ({"clip_skip": True}, "clip_skip is a whole number"),
    ({"sampler": 0}, "sampler"),
    ({"sampler": []}, "sampler"),
    ({"schedule": {900: 1}}, "name"),
    ({"schedule": []}, "schedule is a name"),
]


@pytest.mark.parametrize(("given", "message"), BAD, ids=lambda case: str(case)[:40])
def test_what_does_not_fit_is_said_at_once(given, message):
    with pytest.raises((ValueError, TypeError), match=message):
        request_of("a", **given)


def test_numbers_of_numpy_are_numbers():
    request = request_of(
        "a",
        batch_size=np.int64(2),
        seed=np.uint64(2**64 - 1),
        num_steps=np.int32(3),
        first_image=np.int8(1),
        image=PICTURE,
        mask=MASK,
        strength=np.float32(0.5),
        padding=np.array(4),
        num_resamples=np.int64(2),
        only_masked=np.bool_(True),
        guidance_rescale=np.float16(0.5),
        height=np.int64(16),
        width=np.int64(16),
    )
    assert Request.from_json(request.to_json()) == request
    assert request.images == ((2**64 - 1, 1), (2**64 - 1, 2))
    kept = [getattr(request, name) for name in ("num_steps", "height", "guidance_rescale")]
    kept += [request.start.strength, request.start.masking.padding, request.images[0][0]]
    assert {type(value) for value in kept} == {int, float}


# Names and defaults


def test_resolved_has_a_value_everywhere():
    resolved = Request(("a", "b"), sampler="DPM++ 2M Karras").resolved(DEFAULTS)
    assert (resolved.sampler, resolved.schedule) == ("dpmpp_2m", "karras")
    assert (resolved.size, resolved.num_steps, resolved.guidance_scale) == ((64, 32), 20, 3.0)
    seeds = {seed for seed, _ in resolved.images}
    assert len(seeds) == 1
    assert None not in seeds
    assert resolved.resolved(DEFAULTS) == resolved
    again = Request(("a", "b")).resolved(DEFAULTS)
    assert again.images != resolved.images
    assert Request(("a",), schedule="Karras").resolved(DEFAULTS).schedule == "karras"
    given = Request(("a",), sampler="DPM++ 2M Karras", schedule="leading").resolved(DEFAULTS)
    assert given.schedule == "leading"


def test_a_list_says_how_many_steps_there_are():
    levels = Levels([Level(999.0, 0.07, 0.9976), Level(500.0, 0.6, 0.8), Level(0.0, 1.0, 0.0)])
    for schedule, steps in ((levels, 2), ([999, 700, 400], 3), ("karras", DEFAULTS.num_steps)):
        assert Request(("a",), schedule=schedule).resolved(DEFAULTS).num_steps == steps
        assert Request(("a",), schedule=schedule, num_steps=7).resolved(DEFAULTS).num_steps == 7


@pytest.mark.parametrize(("mask", "strength"), [(None, 0.8), (MASK, 1.0)])
def test_strength_by_itself(mask, strength):
    assert request_of("a", image=PICTURE, mask=mask).resolved(DEFAULTS).start.strength == strength


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sampler": "dimm"}, "Did you mean 'ddim'"),
        ({"sampler": "ddim:et=1"}, "no setting 'et'"),
        ({"schedule": "karas"}, "Did you mean 'karras'"),
        ({"height": 16384, "width": 16384}, "16384x16384 pixels are too many"),
    ],
)
def test_resolved_finds_what_a_value_alone_cannot_say(given, message):
    request = Request(("a",), **given)
    with pytest.raises((ValueError, TypeError), match=message):
        request.resolved(DEFAULTS)


def test_given_noise_goes_with_seed_0():
    noise = np.zeros((8, 4, 4), np.float32)
    assert request_of("a", diffusion_noise=noise).resolved(DEFAULTS).images == ((0, 0),)


# Pictures


def test_pictures_and_masks_are_attached_with_their_names(tmp_path):
    from PIL import Image

    Image.fromarray(PICTURE).save(tmp_path / "photo.png")
    (from_file,), (from_array,) = attach_pictures(tmp_path / "photo.png"), attach_pictures(PICTURE)
    assert from_file == from_array
    assert (from_file.name, from_array.name) == ("photo.png", None)
    assert len(attach_pictures([PICTURE, PICTURE[:8]])) == 2
    assert attach_masks(MASK[..., None]) == attach_masks(MASK)
    with pytest.raises(ValueError, match="no image in an empty list"):
        attach_pictures([])


# Settings


@dataclass(frozen=True)
class Knobs(Checked):
    height: int | None = setting(None, "Pixels.", lambda name, value: whole(name, value, 1))
    loud: bool = setting(False, "Whether it is.", flag)


def test_a_setting_is_written_once():
    @takes(Knobs)
    def door(prompt, *args, **given):
        return given

    parameters = inspect.signature(door).parameters
    assert list(parameters) == ["prompt", "height", "loud"]
    assert parameters["loud"].default is False
    assert list(settings(Knobs)) == ["height", "loud"]
    assert Knobs.from_dict(Knobs(height=np.int64(3)).to_dict()) == Knobs(3)
    with pytest.raises(SettingError, match="loud is True or False, not None"):
        Knobs(loud=None)
    assert replace(Knobs(3), height=None).height is None


def test_arguments_of_a_function_come_in_its_order():
    def whole_one(prompt, count=1, *, seed=None, **rest): ...

    @takes(whole_one, Knobs, without=("loud",))
    def door(prompt, image, *args, callback=None, **given): ...

    assert str(inspect.signature(door)).startswith(
        "(prompt, image, count=1, *, callback=None, seed"
    )
    assert "loud" not in inspect.signature(door).parameters

    @takes(whole_one)
    def by_name(prompt, image, **given): ...

    kinds = {each.name: each.kind for each in inspect.signature(by_name).parameters.values()}
    assert kinds["count"] is inspect.Parameter.KEYWORD_ONLY


def test_what_is_no_number():
    for value in (True, np.True_, "1", b"1", None, [1], np.ones(2), 1j, np.complex64(1), object()):
        with pytest.raises(TypeError, match="it is a"):
            real("it", value)
        with pytest.raises(TypeError, match="it is a whole number"):
            whole("it", value)
    for value in (math.nan, math.inf, np.float32("nan")):
        with pytest.raises(SettingError, match="it is a finite number"):
            real("it", value)
    with pytest.raises(TypeError, match="it is a whole number"):
        whole("it", 1.0)
    assert type(real("it", np.float32(0.5))) is float
    assert type(whole("it", np.array(3))) is int
    assert choice("it", np.str_("a"), ("a", None)) == "a"
    with pytest.raises(SettingError, match="one of 'a', None, not 3"):
        choice("it", 3, ("a", None))


def test_what_cannot_be_shown_is_still_refused():
    class Broken:
        def __repr__(self):
            raise RuntimeError

    with pytest.raises(SettingError, match="not a Broken"):
        whole("it", Broken())
    with pytest.raises(SettingError, match="not a int"):
        real("it", 10**5000)
