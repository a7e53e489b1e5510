"""How a picture was made, as web UIs write it into PNG files under `parameters`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from keras_sd.aliases import display_name
from keras_sd.specs import parse_spec

__all__ = ["infotext"]


def infotext(made: Mapping[str, Any]) -> str:
    """Prompt, negative prompt, and the settings in one line, in the format of A1111's web UI.

    Args:
        made: what a file holds: `request`, a `keras_sd.request.Request.to_dict` of one picture, and
            `model`, `width`, `height`, `backend`, `version`.
    """
    request = made["request"]
    (prompt,), (negative,) = request["prompts"], request["negative_prompts"]
    lines = [prompt] if isinstance(prompt, str) else []
    if negative and isinstance(negative, str):
        lines.append(f"Negative prompt: {negative}")
    lines.append(", ".join(f"{name}: {_quoted(value)}" for name, value in _settings(made).items()))
    return "\n".join(lines)


def _settings(made: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are known, by their names there, in the order there; ours come after."""
    request = made["request"]
    ((seed, number),) = request["images"]
    start = request.get("start") or {}
    masking = start.get("masking") or {}
    found = {
        "Steps": request["num_steps"],
        "Sampler": _display(request["sampler"]),
        "Schedule type": _display(request["schedule"]),
        "CFG scale": request["guidance_scale"],
        "Seed": seed,
        "Size": f"{made['width']}x{made['height']}",
        "Model": _stem(made["model"]),
        "Denoising strength": start.get("strength"),
        "Mask blur": masking.get("mask_blur") or None,
        "Guidance rescale": request["guidance_rescale"] or None,
        "Image number": number or None,
        "Backend": made.get("backend"),
        "Version": f"keras_sd {made['version']}",
    }
    return {name: value for name, value in found.items() if value is not None}


def _display(spec: Any) -> str | None:
    if not isinstance(spec, str):
        return None
    name, settings = parse_spec(spec)
    return spec if settings else display_name(name)


def _stem(model: str) -> str:
    """A model's name: of a path, that of the file."""
    name = re.split(r"[/\\]", str(model).rstrip("/\\"))[-1]
    return re.sub(r"\.(safetensors|ckpt|pt|bin|h5)$", "", name)


def _quoted(value: Any) -> str:
    """As it is, or where it would not be read back so, as a string of JSON."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search("[,:\n]", text) else text
