"""What InvokeAI says: `invokeai_metadata`, before that `sd-metadata`, and at first `Dream`, a line
of its command.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from keras_sd.provenance.origin import Provenance, parsed, real, settings_of, text, whole

__all__ = ["read"]

_MOST_DREAM = 2**14  # characters
_NEGATIVE = re.compile(r"\[([^\[\]]*)\]")  # in a prompt of the older two

# Options of the command, and what they are here.
_OPTIONS = {
    "-s": "steps",
    "--steps": "steps",
    "-S": "seed",
    "--seed": "seed",
    "-W": "width",
    "--width": "width",
    "-H": "height",
    "--height": "height",
    "-C": "cfg_scale",
    "--cfg_scale": "cfg_scale",
    "-A": "sampler",
    "-m": "sampler",
    "--sampler": "sampler",
    "-f": "strength",
    "--strength": "strength",
    "-I": "init_img",
    "--init_img": "init_img",
    "-M": "init_mask",
    "--init_mask": "init_mask",
}


def read(texts: Mapping[str, str]) -> Provenance | None:
    """How a picture with these texts was made, or None where InvokeAI did not make it."""
    if "invokeai_metadata" in texts:
        return _newest(texts["invokeai_metadata"])
    if "sd-metadata" in texts:
        return _older(texts["sd-metadata"])
    return _first(texts["Dream"]) if "Dream" in texts else None


def _newest(source: str) -> Provenance:
    unread: list[str] = []
    made = _object("invokeai_metadata", source, unread)
    model = made.get("model")
    model = model if isinstance(model, dict) else {}
    mode = str(made.get("generation_mode") or "")
    starts = "img2img" in mode or "inpaint" in mode or "outpaint" in mode
    starts = starts or bool(made.get("init_image"))
    known = (
        "positive_prompt",
        "negative_prompt",
        "width",
        "height",
        "seed",
        "cfg_scale",
        "steps",
        "scheduler",
        "model",
        "strength",
        "app_version",
        "generation_mode",
        "rand_device",
    )
    others = settings_of(made, *known)
    return _checked(
        unread,
        {
            "steps": made.get("steps"),
            "seed": made.get("seed"),
            "width": made.get("width"),
            "height": made.get("height"),
            "cfg_scale": made.get("cfg_scale"),
            "strength": made.get("strength") if starts else None,
        },
        prompt=made.get("positive_prompt"),
        negative=made.get("negative_prompt"),
        sampler=made.get("scheduler"),
        model=model.get("name") or model.get("model_name"),
        model_hash=model.get("hash"),
        starts=starts,
        masked="paint" in mode,
        others=others,
    )


def _older(source: str) -> Provenance:
    unread: list[str] = []
    made = _object("sd-metadata", source, unread)
    image = made.get("image")
    if not isinstance(image, dict):
        unread.append("sd-metadata has no object image")
        image = {}
    prompt, negative = _without_negative(_joined(image.get("prompt"), unread))
    kind = image.get("type")
    known = (
        "prompt",
        "steps",
        "seed",
        "width",
        "height",
        "cfg_scale",
        "sampler",
        "strength",
        "type",
    )
    return _checked(
        unread,
        {**image, "strength": image.get("strength") if kind == "img2img" else None},
        prompt=prompt,
        negative=negative,
        sampler=image.get("sampler"),
        model=made.get("model_weights") or made.get("model"),
        model_hash=made.get("model_hash"),
        starts=kind == "img2img",
        masked=bool(image.get("mask_image_path")),
        others=settings_of(image, *known),
    )


def _first(source: str) -> Provenance:
    unread: list[str] = []
    words: list[str] = []
    if len(source) > _MOST_DREAM:
        unread.append(f"Dream has more than {_MOST_DREAM} characters: it is not taken apart")
    else:
        try:
            words = shlex.split(source)
        except ValueError as error:
            unread.append(f"Dream is no command: {error}")
    found: dict[str, Any] = {}
    others: dict[str, Any] = {}
    prompt: list[str] = []
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if not re.fullmatch(r"--?[A-Za-z].*", word):
            prompt.append(word)
            continue
        name, equals, value = word.partition("=")
        if not equals and len(name) > 2 and name[1] != "-":  # -s50
            name, value = name[:2], name[2:]
        elif not equals and at < len(words) and not re.match(r"--?[A-Za-z]", words[at]):
            value, at = words[at], at + 1
        if name in _OPTIONS:
            found[_OPTIONS[name]] = value
        else:
            others[name] = value or True
    text_, negative = _without_negative(" ".join(prompt))
    starts = "init_img" in found
    return _checked(
        unread,
        {**found, "strength": found.get("strength") if starts else None},
        prompt=text_,
        negative=negative,
        sampler=found.get("sampler"),
        starts=starts,
        masked="init_mask" in found,
        others=settings_of(others),
    )


def _checked(unread: list[str], numbers: Mapping[str, Any], **given: Any) -> Provenance:
    prompt, negative = given["prompt"], given["negative"]
    scale = numbers.get("cfg_scale")
    if isinstance(scale, list) and scale:
        unread.append("cfg_scale differs from step to step: the first is taken")
        scale = scale[0]
    return Provenance(
        program="InvokeAI",
        prompt=prompt if isinstance(prompt, str) else None,
        negative_prompt=negative if isinstance(negative, str) else None,
        num_steps=whole("steps", numbers.get("steps"), unread),
        sampler=text(given["sampler"]),
        guidance_scale=real("cfg_scale", scale, unread),
        seed=whole("seed", numbers.get("seed"), unread),
        width=whole("width", numbers.get("width"), unread),
        height=whole("height", numbers.get("height"), unread),
        model=text(given.get("model")),
        model_hash=text(given.get("model_hash")),
        strength=real("strength", numbers.get("strength"), unread),
        starts=given["starts"],
        masked=given["masked"],
        others=given["others"],
        unread=tuple(unread),
    )


def _object(what: str, source: str, unread: list[str]) -> dict[str, Any]:
    made = parsed(what, source, unread)
    if isinstance(made, dict):
        return made
    if not unread:
        unread.append(f"{what} is no object of JSON")
    return {}


def _joined(prompt: Any, unread: list[str]) -> str:
    """A prompt, or several with weights."""
    if isinstance(prompt, str):
        return prompt
    parts = [each for each in prompt if isinstance(each, dict)] if isinstance(prompt, list) else []
    if any(each.get("weight", 1) != 1 for each in parts):
        unread.append("the prompt has parts with weights: they are joined without")
    return " ".join(str(each.get("prompt", "")) for each in parts)


def _without_negative(prompt: str) -> tuple[str, str]:
    negative = ", ".join(each.strip() for each in _NEGATIVE.findall(prompt))
    return re.sub(r"  +", " ", _NEGATIVE.sub("", prompt)).strip(), negative
