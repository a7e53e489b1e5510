"""A request of our own API as a flat object: `Request.of`, with pictures in base64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np

from keras_sd import aliases
from keras_sd.inpainting import extend_canvas
from keras_sd.provenance import Provenance
from keras_sd.request import Request
from keras_sd.serve.fields import Field, Form
from keras_sd.serve.limits import Limits
from keras_sd.serve.pictures import Budget, decoded, mask_of
from keras_sd.settings import settings
from keras_sd.start import Attachment, Masking, Start

__all__ = ["form", "request_of", "settings_of"]

SIDES = ("left", "right", "top", "bottom")
_PARTS = (Request, Start, Masking)
_KINDS = {int: "whole", float: "real", str: "text", bool: "flag"}


def form(limits: Limits) -> Form:
    """The fields; those that are settings are what Python's doors and the command take."""
    fields = {
        "prompt": Field("text", "", "What the picture shows."),
        "negative_prompt": Field("text", "", "What it shall not show."),
        "seed": Field("whole", None, "Same seed, same picture; a new one by itself.", 0, 2**64 - 1),
        "batch_size": Field("whole", 1, "Pictures.", 1, limits.images),
        "first_image": Field("whole", 0, "The number of the first of them.", 0, 2**53),
        "image": Field("picture", None, "A picture to begin with."),
        "mask": Field("picture", None, "Of its size; white is painted, black kept."),
        **{
            f"extend_{side}": Field(
                "whole",
                0,
                f"Pixels to paint on the {side} of the picture.",
                0,
                4096,
            )
            for side in SIDES
        },
    }
    for part in _PARTS:
        hints = get_type_hints(part)
        for name, each in settings(part).items():
            fields[name] = _field(each, hints[name])
    fields["timeout"] = Field("real", None, "Seconds after which nobody waits any more.", 0)
    return Form("Drawing", fields, open=False)


def _field(each: Any, hint: Any) -> Field:
    """A setting; what its value may be is checked when the request is made."""
    options = [part for part in (get_args(hint) or (hint,)) if part is not type(None)]
    literal = [part for part in (hint, *options) if get_origin(part) is Literal]
    choices = [choice for part in literal for choice in get_args(part)] or None
    kind = "text" if choices else _KINDS.get(options[0], "any") if len(options) == 1 else "any"
    if get_origin(hint) is Literal:
        kind = "text"
    default = each.default
    return Field(kind, default, each.metadata["help"], choices=choices)


def request_of(body: Mapping[str, Any], limits: Limits) -> Request:
    """The request of a body: flat, or `Request.to_dict`, alone or under `request`.

    Args:
        body: an object of JSON. Beside `request` it may have `image` and `mask`, the arrays that
            the request knows by their hashes.
        limits: of the server.

    Raises:
        ValueError: something does not fit (`Invalid`, `SettingError`, `PictureError`).
        TypeError: likewise.
    """
    budget = Budget(limits.given)
    if "prompts" in body:
        return Request.from_dict(body)
    if "request" in body:
        if unknown := set(body) - {"request", "image", "mask", "timeout"}:
            raise ValueError(f"Beside request there are image and mask, not {sorted(unknown)}")
        request = Request.from_dict(body["request"])
        arrays = [
            each
            for name in ("image", "mask")
            if body.get(name) is not None
            for each in [_array(name, body[name], budget)]
        ]
        return request.attached(arrays) if arrays else request
    given = form(limits).read(body)
    del given["timeout"]
    sides = {side: given.pop(f"extend_{side}") for side in SIDES}
    image, mask = (
        None if given[name] is None else _array(name, given[name], budget)
        for name in ("image", "mask")
    )
    del given["image"], given["mask"]
    if any(sides.values()):
        if image is None or mask is not None:
            raise ValueError("extend_left, -right, -top and -bottom are of an image without a mask")
        height = image.shape[0] + sides["top"] + sides["bottom"]
        width = image.shape[1] + sides["left"] + sides["right"]
        if height * width > limits.given:
            raise ValueError(f"The picture would be {width}x{height}: too large")
        image, painted = extend_canvas(image, **sides)
        mask = painted.astype(np.float32) / 255
    parts = {name for part in _PARTS for name in settings(part)}
    used = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in given.items()
        if name not in parts or body.get(name) is not None
    }
    return Request.of(
        used.pop("prompt"),
        used.pop("negative_prompt"),
        used.pop("batch_size"),
        used.pop("seed"),
        image=() if image is None else (Attachment.of(image),),
        mask=() if mask is None else (Attachment.of(mask),),
        **used,
    )


def _array(name: str, text: Any, budget: Budget) -> np.ndarray:
    data = decoded(name, text)
    if name == "mask":
        return mask_of(name, budget.opened(name, data))
    return budget.picture(name, data)


def settings_of(found: Provenance) -> dict[str, Any]:
    """What a picture says of itself, as fields of the form; those that it does not say are left
    out.
    """
    request = found.request
    if request is not None:
        seed, number = request.images[0]
        texts = {"prompt": request.prompts[0], "negative_prompt": request.negative_prompts[0]}
        plain = request.to_dict()
        start = plain["start"] or {}
        parts = ((Request, plain), (Start, start), (Masking, start.get("masking") or {}))
        told: dict[str, Any] = {"seed": seed, "first_image": number}
        told |= {name: text for name, text in texts.items() if isinstance(text, str)}
        told |= {name: held.get(name) for part, held in parts for name in settings(part)}
        return {name: value for name, value in told.items() if value is not None}
    sampler, schedule = found.sampler, found.schedule
    if sampler is not None:
        sampler, named = aliases.resolve(sampler)
        schedule = schedule or named
    if schedule is not None:
        schedule = aliases.resolve_schedule(schedule)
    given = {
        "prompt": found.prompt,
        "negative_prompt": found.negative_prompt,
        "seed": found.seed,
        "num_steps": found.num_steps,
        "sampler": sampler,
        "schedule": None if schedule in ("automatic", "Automatic") else schedule,
        "guidance_scale": found.guidance_scale,
        "width": found.width,
        "height": found.height,
        "strength": found.strength,
    }
    return {name: value for name, value in given.items() if value is not None}
