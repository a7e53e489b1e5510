"""What NovelAI says: the texts `Software`, `Source`, `Description`, and `Comment`, which is JSON.

Where the file has no such texts, they may be hidden in its pixels: `keras_sd.provenance.texts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_sd.provenance.origin import Provenance, parsed, real, settings_of, text, whole

__all__ = ["read"]

# Of no effect on the picture, or said elsewhere.
_NOISE = ("signed_hash", "request_type", "version", "v4_prompt", "v4_negative_prompt", "n_samples")


def read(texts: Mapping[str, str]) -> Provenance | None:
    """How a picture with these texts was made, or None where NovelAI did not make it."""
    if "Comment" not in texts:
        return None
    unread: list[str] = []
    made = parsed("Comment", texts["Comment"], unread)
    if not isinstance(made, dict) or not (
        texts.get("Software") == "NovelAI" or {"uc", "scale"} <= made.keys()
    ):
        if texts.get("Software") != "NovelAI":
            return None
        return Provenance(
            program="NovelAI", prompt=text(texts.get("Description")), unread=tuple(unread)
        )
    prompt = made.get("prompt") or texts.get("Description")
    negative = made.get("uc")
    for name, sentence in (("v4_prompt", "prompts"), ("v4_negative_prompt", "negative prompts")):
        if _characters(made.get(name)):
            unread.append(f"there are {sentence} of single characters: they are left out")
    strength = real("strength", made.get("strength"), unread)
    starts = strength is not None and "Img2Img" in str(made.get("request_type"))
    known = (
        "prompt",
        "uc",
        "steps",
        "sampler",
        "noise_schedule",
        "scale",
        "seed",
        "width",
        "height",
        *(("strength",) if starts else ()),
        *_NOISE,
    )
    return Provenance(
        program="NovelAI",
        prompt=prompt if isinstance(prompt, str) else None,
        negative_prompt=negative if isinstance(negative, str) else None,
        num_steps=whole("steps", made.get("steps"), unread),
        sampler=text(made.get("sampler")),
        schedule=text(made.get("noise_schedule")),
        guidance_scale=real("scale", made.get("scale"), unread),
        seed=whole("seed", made.get("seed"), unread),
        width=whole("width", made.get("width"), unread),
        height=whole("height", made.get("height"), unread),
        model=text(texts.get("Source")),
        strength=strength if starts else None,
        starts=starts,
        others=settings_of(made, *known),
        unread=tuple(unread),
    )


def _characters(prompt: Any) -> bool:
    caption = prompt.get("caption") if isinstance(prompt, dict) else None
    return isinstance(caption, dict) and bool(caption.get("char_captions"))
