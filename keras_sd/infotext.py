"""How a picture was made, as web UIs write it into PNG files under `parameters`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from keras_sd.aliases import display_name
from keras_sd.specs import format_spec, parse_spec

__all__ = ["LOADING", "infotext"]

LOADING = (
    "variant",
    "prediction",
    "ema",
    "strict",
    "autoencoder",
    "unet",
    "text_encoder",
    "text_encoder_2",
    "refiner",
    "tiled",
    "vocabulary",
    "compat",
    "dtype",
)
"""The options about loading that a file holds where they were given, by the names that
`Model.from_preset` has for them."""


def infotext(made: Mapping[str, Any]) -> str:
    """Prompt, negative prompt, and the settings in one line, in the format of A1111's web UI.

    Args:
        made: what a file holds: `request`, a `keras_sd.request.Request.to_dict` of one picture, and
            `model`, `width`, `height`, `backend`, `version`; and if they are known, `weights`, the
            SHA-256 of files by what they are, and `autoencoder`, the path of one.
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
    weights = made.get("weights") or {}
    sampler, with_sampler = _named(request["sampler"])
    schedule, with_schedule = _named(request["schedule"])
    only_masked = masking.get("only_masked")
    eta = with_sampler.get("eta")
    found = {
        "Steps": request["num_steps"],
        "Sampler": sampler,
        "Schedule type": schedule,
        "CFG scale": request["guidance_scale"],
        "Seed": seed,
        "Size": f"{made['width']}x{made['height']}",
        "Model hash": _short(weights.get("model")),
        "Model": _stem(made["model"]),
        "VAE hash": _short(weights.get("autoencoder")) if made.get("autoencoder") else None,
        "VAE": _stem(made["autoencoder"]) if made.get("autoencoder") else None,
        "Denoising strength": start.get("strength"),
        "Clip skip": request["clip_skip"] if request["clip_skip"] > 1 else None,
        "Mask blur": masking.get("mask_blur") or None,
        "Inpaint area": "Only masked" if only_masked else None,
        "Masked area padding": masking.get("padding") if only_masked else None,
        "Schedule rho": with_schedule.get("rho"),
        "Eta DDIM" if sampler == "DDIM" else "Eta": eta,
        "Sampler settings": _of_spec(with_sampler),
        "Schedule settings": _of_spec(with_schedule),
        "Guidance rescale": request["guidance_rescale"] or None,
        "Guidance method": request.get("guidance_method"),
        "Prompt style": None if request["prompt_style"] == "plain" else request["prompt_style"],
        "Image number": number or None,
        "Backend": made.get("backend"),
        "Version": f"keras_sd {made['version']}",
    }
    return {name: value for name, value in found.items() if value is not None}


# What web UIs call these, where it is not what people read elsewhere.
_THEIRS = {"trailing": "Turbo"}


def _named(spec: Any) -> tuple[str | None, dict[str, Any]]:
    """The name that web UIs have, and the settings that it does not say."""
    if not isinstance(spec, str):
        return None, {}
    name, settings = parse_spec(spec)
    if (name, settings) == ("dpmpp_2m_sde", {"solver": "heun"}):
        return "DPM++ 2M SDE Heun", {}
    return _THEIRS.get(name) or display_name(name), settings


def _of_spec(settings: Mapping[str, Any]) -> str | None:
    return format_spec("", settings).removeprefix(":") or None


def _short(digest: str | None) -> str | None:
    """As much of a SHA-256 as is written there."""
    return digest[:10] if digest else None


def _stem(model: str) -> str:
    """A model's name: of a path, that of the file."""
    name = re.split(r"[/\\]", str(model).rstrip("/\\"))[-1]
    return re.sub(r"\.(safetensors|ckpt|pt|bin|h5)$", "", name)


def _quoted(value: Any) -> str:
    """As it is, or where it would not be read back so, as a string of JSON."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search("[,:\n]", text) else text
