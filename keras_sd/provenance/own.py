"""What keras_sd itself says in the text `keras_sd`: the request as JSON, and what it was run on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from keras_sd.infotext import LOADING
from keras_sd.provenance.origin import Provenance, parsed, plain, settings_of, text, used_of
from keras_sd.request import Request

__all__ = ["read"]

_OF_MODEL = "model SHA-256"
_MOST_SIDE = 2**14
_SIDES = ("left", "right", "top", "bottom")


def read(texts: Mapping[str, str]) -> Provenance | None:
    """How a picture with these texts was made, or None where keras_sd did not make it."""
    if "keras_sd" not in texts:
        return None
    unread: list[str] = []
    made = parsed("The text keras_sd", texts["keras_sd"], unread)
    if not isinstance(made, dict):
        unread = unread or ["The text keras_sd is no object of JSON"]
        return Provenance(program="keras_sd", unread=tuple(unread))
    beside = ("weights", "adapters", "embeddings")
    known = ("request", "model", "width", "height", "extended", *beside, *LOADING)
    weights = made.get("weights") if isinstance(made.get("weights"), dict) else {}
    sides = made.get("extended") if isinstance(made.get("extended"), dict) else {}
    found = Provenance(
        program="keras_sd",
        model=text(made.get("model")),
        model_hash=text((weights or {}).get("model")),
        width=_side(made.get("width")),
        height=_side(made.get("height")),
        others={
            **settings_of(made, *known),
            **settings_of({f"{name} SHA-256": v for name, v in (weights or {}).items()}, _OF_MODEL),
        },
        loading={
            name: value
            for name in LOADING
            if (value := plain(made.get(name))) is not None and not isinstance(made[name], float)
        },
        extended={
            side: size for side in _SIDES if sides and (size := _side(sides.get(side))) is not None
        },
        adapters=used_of("An adapter", made.get("adapters"), unread),
        embeddings=used_of("An embedding", made.get("embeddings"), unread),
    )
    try:
        request = Request.from_dict(made.get("request"))
        if len(request) != 1:
            raise ValueError(f"it is of {len(request)} pictures, and a file has one")
    except (ValueError, TypeError, RecursionError) as error:
        unread.append(f"The request cannot be read: {error}")
        return replace(found, unread=tuple(unread))
    (prompt,), (negative,) = request.prompts, request.negative_prompts[:1]
    ((seed, number),) = request.images
    start = request.start
    more = {
        "image number": number or None,
        "guidance rescale": request.guidance_rescale or None,
        "guidance interval": plain(request.guidance_interval),
        "guidance method": request.guidance_method,
        "steps are timesteps": isinstance(request.schedule, tuple) or None,
    }
    return replace(
        found,
        prompt=prompt if isinstance(prompt, str) else None,
        negative_prompt=negative if isinstance(negative, str) else None,
        num_steps=request.num_steps,
        sampler=request.sampler,
        schedule=request.schedule if isinstance(request.schedule, str) else None,
        guidance_scale=request.guidance_scale,
        seed=seed,
        width=found.width or request.width,
        height=found.height or request.height,
        strength=start.strength if start else None,
        starts=start is not None,
        masked=start is not None and start.masking is not None,
        others={**settings_of(more), **found.others},
        unread=tuple(unread),
        request=request,
    )


def _side(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= _MOST_SIDE else None
