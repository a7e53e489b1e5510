"""What clients of A1111's web UI ask for, as requests of ours.

The fields and their defaults are those of its `/sdapi/v1`. What has no counterpart here is taken
and ignored where it asks for nothing, and named in the answer where it asks for something.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from keras_sd import aliases
from keras_sd.image import resize_mask
from keras_sd.request import Request
from keras_sd.serve.about import About
from keras_sd.serve.fields import Field, Form
from keras_sd.serve.pictures import Budget, decoded, mask_of
from keras_sd.serve.replies import Problem
from keras_sd.specs import format_spec, parse_spec, split_spec
from keras_sd.start import Attachment, Masking, Resize, Start

__all__ = ["IMG2IMG", "RESIZE", "TXT2IMG", "Asked", "asked_of", "second_pass"]

STYLE = "a1111"
"""Whose grammar the prompts are read in."""

RESIZE: tuple[Resize, ...] = ("stretch", "crop", "pad", "stretch")
"""By `resize_mode`; the last one is of latents there, and stretches as well."""

_IGNORED = Field("any", used=False)

_COMMON = {
    "prompt": Field("text", "", "What the pictures show, in the web UI's grammar."),
    "negative_prompt": Field("text", "", "What they shall not show."),
    "seed": Field("any", -1, "Picture i has seed + i; -1 is a new one."),
    "sampler_name": Field("text", None, "As `samplers` lists them."),
    "sampler_index": Field("text", "Euler", "Its old name, where sampler_name is missing."),
    "scheduler": Field("text", None, "As `schedulers` lists them; Automatic is the sampler's."),
    "batch_size": Field("whole", 1, "Pictures.", 1, 1024),
    "n_iter": Field("whole", 1, "Times as many pictures.", 1, 1024),
    "steps": Field("whole", 50, "Sampler steps.", 1, 10_000),
    "cfg_scale": Field("real", 7.0, "How closely to follow the prompt.", 0, 1000),
    "width": Field("whole", 512, "Pixels; see the size policy.", 1, 16_384),
    "height": Field("whole", 512, "Likewise.", 1, 16_384),
    "denoising_strength": Field("real", 0.75, "How much is made anew.", 0, 1),
    "eta": Field("real", None, "Of samplers that add noise by themselves.", 0, 10),
    "s_noise": Field("real", None, "Likewise.", 0, 10),
    "override_settings": Field("object", {}, "Options for this request alone."),
    "send_images": Field("flag", True, "Whether the answer has the pictures."),
    "save_images": Field("any", None, "Never: nothing is written for a client.", used=False),
    "script_name": Field("text", None, "There is none; another is refused."),
    "alwayson_scripts": Field("object", {}, "There are none; arguments of one are refused."),
    "force_task_id": Field("any", used=False),
    "timeout": Field("real", None, "Seconds that the client waits.", 0, 1e6),
}

# Where these ask for something, the answer says that it was not followed.
_UNFOLLOWED: dict[str, tuple[Any, ...]] = {
    "styles": ([],),
    "subseed_strength": (0,),
    "seed_resize_from_h": (-1, 0),
    "seed_resize_from_w": (-1, 0),
    "restore_faces": (False,),
    "tiling": (False,),
    "s_churn": (0,),
    "s_min_uncond": (0,),
    "refiner_checkpoint": ("", "None"),
}
_SILENT = (
    *("subseed", "s_tmin", "s_tmax", "do_not_save_samples", "do_not_save_grid", "comments"),
    *("override_settings_restore_afterwards", "refiner_switch_at", "disable_extra_networks"),
    *("script_args", "infotext", "sampler"),
)
_SHARED = _COMMON | dict.fromkeys((*_UNFOLLOWED, *_SILENT), _IGNORED)

TXT2IMG = Form(
    "Txt2Img",
    {
        **_SHARED,
        "enable_hr": Field("flag", False, "A second pass, over the first one's enlarged picture."),
        "hr_scale": Field("real", 2.0, "How much larger.", 1, 16),
        "hr_resize_x": Field("whole", 0, "Or so wide.", 0, 16_384),
        "hr_resize_y": Field("whole", 0, "And so high.", 0, 16_384),
        "hr_second_pass_steps": Field("whole", 0, "Its steps; 0 is as many.", 0, 10_000),
        "hr_sampler_name": Field("text", None, "Its sampler."),
        "hr_scheduler": Field("text", None, "Its schedule."),
        "hr_prompt": Field("text", "", "Its prompt, where it is another."),
        "hr_negative_prompt": Field("text", "", "Likewise."),
        "hr_upscaler": Field("text", None, "Pictures are enlarged with Lanczos, whatever it is."),
        "hr_checkpoint_name": _IGNORED,
        "firstphase_width": _IGNORED,
        "firstphase_height": _IGNORED,
    },
)

IMG2IMG = Form(
    "Img2Img",
    {
        **_SHARED,
        "init_images": Field("list", None, "Pictures in base64.", most=64),
        "resize_mode": Field("whole", 0, "0 stretches, 1 cuts, 2 adds edges.", 0, 3),
        "mask": Field("any", None, "White is painted; or of one with alpha, what is opaque."),
        "mask_blur": Field("real", None, "Pixels.", 0, 1024),
        "mask_blur_x": Field("real", 4, "Pixels, where mask_blur is missing.", 0, 1024),
        "mask_blur_y": Field("real", 4, "Likewise; the larger one counts.", 0, 1024),
        "inpainting_fill": Field("whole", 0, "0 fills in, 1 keeps, 2 is noise, 3 is grey.", 0, 3),
        "inpaint_full_res": Field("any", True, "Draw the mask's surroundings alone."),
        "inpaint_full_res_padding": Field("whole", 0, "Pixels of them.", 0, 16_384),
        "inpainting_mask_invert": Field("any", 0, "1 paints what is black."),
        "include_init_images": Field("flag", False, "Whether the answer repeats them."),
        "image_cfg_scale": _IGNORED,
        "mask_round": _IGNORED,
        "initial_noise_multiplier": _IGNORED,
        "latent_mask": _IGNORED,
    },
)


@dataclass(frozen=True)
class Asked:
    """A body that was understood.

    Attributes:
        given: every field.
        request: of the first pass.
        size: height and width that the client named.
        unfollowed: the fields that ask for what is not done here.
    """

    given: Mapping[str, Any]
    request: Request
    size: tuple[int, int]
    unfollowed: tuple[str, ...]


def asked_of(body: Any, about: About, options: Mapping[str, Any], *, starts: bool) -> Asked:
    """A request of the web UI's API.

    Args:
        body: of JSON.
        about: what is known of the model.
        options: of the server.
        starts: whether it begins at a picture.

    Raises:
        Problem: it does not fit.
        ValueError: likewise.
    """
    given = (IMG2IMG if starts else TXT2IMG).read(body)
    if given["script_name"]:
        raise Problem(422, f"Script {given['script_name'][:100]!r} is not found: there is none")
    for name, script in given["alwayson_scripts"].items():
        args = script.get("args") if isinstance(script, Mapping) else script
        if args not in (None, [], {}):
            raise Problem(422, f"Always on script {str(name)[:100]!r} is not found: there is none")
    unfollowed = [
        name
        for name, idle in _UNFOLLOWED.items()
        if body.get(name) is not None and body[name] not in idle
    ]
    options = {**options, **given["override_settings"]}
    check_model(options.get("sd_model_checkpoint"), about)
    if options.get("sd_vae") not in (None, "", "Automatic", "None"):
        unfollowed.append("sd_vae")
    if str(options.get("samples_format") or "png").lower() != "png":
        unfollowed.append("samples_format")
    count = given["batch_size"] * given["n_iter"]
    if count > about.limits.images:
        most = about.limits.images
        raise Problem(422, f"batch_size times n_iter is at most {most} here, not {count}")
    seed = seed_of(given["seed"])
    asked_size = given["height"], given["width"]
    height, width = about.limits.fitted(*asked_size)
    sampler, schedule = sampler_of(
        given["sampler_name"] or given["sampler_index"], given["scheduler"], about
    )
    request = Request(
        (given["prompt"],),
        (given["negative_prompt"],),
        tuple((seed + i, 0) for i in range(count)),
        height,
        width,
        given["steps"],
        _with_noise(sampler, given, about),
        schedule,
        float(given["cfg_scale"]),
        prompt_style=STYLE,
        clip_skip=clip_skip_of(options.get("CLIP_stop_at_last_layers")),
    )
    if starts:
        request = replace(request, start=_start(given, count, about))
    return Asked(given, request, asked_size, tuple(unfollowed))


def second_pass(asked: Asked, pictures: np.ndarray, about: About) -> Request:
    """The request that draws over enlarged pictures: hires fix.

    Args:
        asked: for the first pass.
        pictures: of that, uint8 `(images, height, width, 3)`.
        about: what is known of the model.

    Raises:
        ValueError: it does not fit.
    """
    given, first = asked.given, asked.request
    height, width = first.size
    size = (given["hr_resize_y"], given["hr_resize_x"])
    if not any(size):
        size = (round(height * given["hr_scale"]), round(width * given["hr_scale"]))
    elif not all(size):  # the other one as the shape has it
        size = (size[0] or size[1] * height // width, size[1] or size[0] * width // height)
    height, width = about.limits.fitted(*size)
    sampler, schedule = first.sampler, first.schedule
    if given["hr_sampler_name"] not in (None, "", "Use same sampler"):
        sampler, schedule = sampler_of(given["hr_sampler_name"], None, about)
    if given["hr_scheduler"] not in (None, "", "Use same scheduler"):
        schedule = sampler_of("Euler", given["hr_scheduler"], about)[1]
    start = Start(
        pictures=tuple(Attachment.of(np.ascontiguousarray(each)) for each in pictures),
        strength=given["denoising_strength"],
        steps_mode="schedule",
        resize="stretch",
    )
    return replace(
        first,
        prompts=(given["hr_prompt"] or given["prompt"],) * len(first),
        negative_prompts=(given["hr_negative_prompt"] or given["negative_prompt"],) * len(first),
        height=height,
        width=width,
        num_steps=given["hr_second_pass_steps"] or given["steps"],
        sampler=sampler,
        schedule=schedule,
        start=start,
    )


def seed_of(given: Any) -> int:
    """A seed; -1, null and "" are a new one.

    Raises:
        Problem: it is none.
    """
    if given in (None, "", -1, "-1"):
        return secrets.randbits(32)
    try:
        if isinstance(given, bool) or (isinstance(given, float) and given != int(given)):
            raise ValueError
        seed = int(given)
    except (TypeError, ValueError, OverflowError):
        raise Problem(422, "seed is a whole number, or -1") from None
    if not 0 <= seed < 2**64 - 1024:
        raise Problem(422, "seed is from 0 to 2**64 - 1025, or -1")
    return seed


def sampler_of(name: str, scheduler: str | None, about: About) -> tuple[str, str | None]:
    """The names that we have for a sampler and a schedule; None is the sampler's own.

    Raises:
        Problem: there is no such one.
    """
    # A client's name is never more than a name: settings come as fields.
    plain = _plain(name)
    if plain.lower() in ("dpm++ 2m sde heun", "dpmpp_2m_sde_heun"):
        sampler: str = format_spec("dpmpp_2m_sde", {"solver": "heun"})
        schedule = None
    else:
        sampler, schedule = aliases.resolve(plain)
    if not about.samplers.has(sampler):
        known = ", ".join(each["display_name"] for each in about.samplers.listed)
        raise Problem(400, f"Sampler not found: {name[:100]!r}. There are {known}")
    if scheduler not in (None, "") and scheduler.lower() != "automatic":
        schedule = aliases.resolve_schedule(_plain(scheduler))
        if not about.schedules.has(schedule):
            known = ", ".join(each["display_name"] for each in about.schedules.listed)
            raise Problem(400, f"Scheduler not found: {scheduler[:100]!r}. There are {known}")
    return sampler, schedule


def _plain(name: str) -> str:
    try:
        return split_spec(name)[0]
    except ValueError:
        return name


def _with_noise(sampler: str, given: Mapping[str, Any], about: About) -> str:
    """The sampler with `eta` and `s_noise`, where it adds noise by itself: some clients send 1 for
    every sampler, of which others would become stochastic.
    """
    name, settings = parse_spec(sampler)
    listed = [each["settings"] for each in about.samplers.listed if each["name"] == name]
    own = {each["name"]: each["default"] for each in (listed[0] if listed else ())}
    if own.get("eta"):
        more = {
            each: float(given[each])
            for each in ("eta", "s_noise")
            if each in own and given[each] is not None and given[each] != own[each]
        }
        return format_spec(name, {**settings, **more})
    return sampler


def check_model(name: Any, about: About) -> None:
    """Refuses another model than the one that is there; no name is looked for.

    Raises:
        Problem: it is another.
    """
    if name in (None, ""):
        return
    digest = about.digest or ""
    names = {about.name, f"{about.name}.safetensors"}
    if digest:
        names |= {digest, digest[:10], f"{about.name} [{digest[:10]}]"}
    if not isinstance(name, str) or name not in names:
        raise Problem(422, f"There is no model {str(name)[:100]!r} here, but {about.name!r} alone")


def clip_skip_of(given: Any) -> int:
    """The web UI's option, as it counts.

    Raises:
        Problem: it is no such number.
    """
    if given is None:
        return 1
    if isinstance(given, bool) or not isinstance(given, int | float) or not 1 <= given <= 12:
        raise Problem(422, "CLIP_stop_at_last_layers is from 1 to 12")
    return int(given)


# --- pictures to begin with -----------------------------------------------------------


def _start(given: Mapping[str, Any], count: int, about: About) -> Start:
    images: Sequence[Any] = given["init_images"] or ()
    if not images:
        raise Problem(404, "Init image not found")
    budget = Budget(about.limits.given)
    used = images if len(images) == count else images[:1]
    pictures = [budget.picture("init_images", decoded("init_images", each)) for each in used]
    strength, masking, how = given["denoising_strength"], None, RESIZE[given["resize_mode"]]
    resize: Resize | None = how
    if given["mask"] is not None:
        mask = mask_of("mask", budget.opened("mask", decoded("mask", given["mask"])))
        if given["inpainting_mask_invert"] in (1, True):
            mask = 1 - mask
        height, width = pictures[0].shape[:2]
        mask = resize_mask(mask, height, width, "stretch")
        blur = given["mask_blur"]
        blur = max(given["mask_blur_x"], given["mask_blur_y"]) if blur is None else blur
        masking = Masking(
            masks=(Attachment.of(np.ascontiguousarray(mask)),),
            mask_blur=float(blur),
            only_masked=bool(given["inpaint_full_res"]),
            padding=given["inpaint_full_res_padding"],
        )
        fill = given["inpainting_fill"]
        if fill in (0, 3):
            pictures = [_filled(each, mask, grey=fill == 3) for each in pictures]
        elif fill == 2:
            strength = 1.0
        resize = None if masking.only_masked else how
    if strength == 0:
        raise Problem(422, "denoising_strength is above 0: with 0 the picture stays as it is")
    return Start(
        pictures=tuple(map(Attachment.of, pictures)),
        strength=strength,
        steps_mode="schedule",
        resize=resize,
        masking=masking,
    )


def _filled(picture: np.ndarray, mask: np.ndarray, *, grey: bool) -> np.ndarray:
    """The picture whose masked part has the colours around it, smoothly, or is grey."""
    painted = mask >= 0.5
    if painted.shape != picture.shape[:2] or not painted.any():
        return picture
    if grey or painted.all():
        around = np.full(picture.shape, 127.5, np.float32)
    else:
        around = np.zeros(picture.shape, np.float32)
        known = np.zeros(painted.shape, np.float32)
        kept = Image.fromarray(np.where(painted, 0, 255).astype(np.uint8))
        masked = Image.fromarray(np.where(painted[..., None], 0, picture).astype(np.uint8))
        # From near to far: what a narrow blur does not reach, a wider one does.
        radius = 2.0
        while (known < 1).any() and radius < 4 * max(painted.shape):
            weight = np.asarray(kept.filter(ImageFilter.GaussianBlur(radius)), np.float32) / 255
            colour = np.asarray(masked.filter(ImageFilter.GaussianBlur(radius)), np.float32)
            new = (known < 1) & (weight > 0.25)
            around[new] = colour[new] / weight[new, None]
            known[new] = 1
            radius *= 2
        around[known < 1] = picture[~painted].mean(axis=0)
    made = np.where(painted[..., None], np.clip(np.rint(around), 0, 255), picture)
    return np.ascontiguousarray(made.astype(np.uint8))
