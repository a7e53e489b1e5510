"""What clients of A1111's web UI read: the keys that at least one of them needs, all of them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from keras_sd import __version__
from keras_sd.aliases import display_name
from keras_sd.provenance import webui
from keras_sd.provenance.texts import read_texts
from keras_sd.request import Request
from keras_sd.serve.about import About
from keras_sd.serve.ledger import Kept
from keras_sd.serve.pictures import encoded, small_png
from keras_sd.serve.webui_form import Asked
from keras_sd.specs import parse_spec

__all__ = [
    "IDLE",
    "info",
    "loras",
    "memory",
    "models",
    "options",
    "png_info",
    "progress",
    "samplers",
]


def info(
    asked: Asked, request: Request, about: About, texts: Sequence[str], passes: Sequence[Request]
) -> str:
    """The text of JSON that comes with pictures.

    Args:
        asked: by the client.
        request: that was drawn, resolved.
        about: what is known of the model.
        texts: settings of each picture, as they are in its file.
        passes: the requests of all passes.
    """
    height, width = request.size
    if request.start is not None and request.start.resize is None:
        height, width = request.start.pictures[0].data.shape[:2]
    seeds = [seed for seed, _ in request.images]
    more: dict[str, Any] = {}
    asked_height, asked_width = asked.size
    if passes[0].size != asked.size:
        more["Size asked for"] = f"{asked_width}x{asked_height}"
    if asked.unfollowed:
        more["Not followed"] = ", ".join(asked.unfollowed)
    if len(passes) > 1:
        more["Hires resize"] = f"{width}x{height}"
        more["Hires upscaler"] = "Lanczos"
        more["Hires steps"] = request.num_steps
    schedule = request.schedule
    if isinstance(schedule, str):
        more["Schedule type"] = display_name(parse_spec(schedule)[0])
    count = len(seeds)
    found = {
        "prompt": asked.given["prompt"],
        "all_prompts": [asked.given["prompt"]] * count,
        "negative_prompt": asked.given["negative_prompt"],
        "all_negative_prompts": [asked.given["negative_prompt"]] * count,
        "seed": seeds[0],
        "all_seeds": seeds,
        "subseed": seeds[0],
        "all_subseeds": seeds,
        "subseed_strength": 0,
        "width": width,
        "height": height,
        "sampler_name": display_name(parse_spec(request.sampler)[0]),
        "cfg_scale": request.guidance_scale,
        "steps": passes[0].num_steps,
        "batch_size": asked.given["batch_size"],
        "restore_faces": False,
        "face_restoration_model": None,
        "sd_model_name": about.name,
        "sd_model_hash": (about.digest or "")[:10],
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": request.start.strength if request.start else None,
        "extra_generation_params": more,
        "index_of_first_image": 0,
        "infotexts": list(texts),
        "styles": [],
        "job_timestamp": _stamp(),
        "clip_skip": request.clip_skip,
        "is_using_inpainting_conditioning": about.paints,
        "version": f"keras_sd {__version__}",
    }
    return json.dumps(found, allow_nan=False)


def _stamp() -> str:
    return time.strftime("%Y%m%d%H%M%S")


_STATE = {
    "skipped": False,
    "interrupted": False,
    "stopping_generation": False,
    "job": "",
    "job_count": 0,
    "job_timestamp": "0",
    "job_no": 0,
    "sampling_step": 0,
    "sampling_steps": 0,
}

IDLE = {
    "progress": 0,
    "eta_relative": 0,
    "state": _STATE,
    "current_image": None,
    "textinfo": None,
}
"""`progress` while nothing is drawn: clients wait for exactly this."""


def progress(kept: Kept, *, picture: bool) -> dict[str, Any]:
    """How far a job is.

    Args:
        kept: that is not done.
        picture: whether its preview is wanted.
    """
    job = kept.job
    done, total = job.step, max(job.total, 1)
    share = min(0.01 + done / total, 1.0)
    remaining = 0.0
    if kept.started is not None and done:
        remaining = (time.monotonic() - kept.started) / done * (total - done)
    images = len(kept.request)
    shown = None
    if picture and kept.preview is not None and len(kept.preview):
        shown = encoded(preview(kept))
    return {
        "progress": share,
        "eta_relative": remaining,
        "state": {
            **_STATE,
            "job": f"{kept.id}",
            "job_count": 1,
            "job_timestamp": time.strftime("%Y%m%d%H%M%S", time.localtime(kept.created)),
            "sampling_step": done // images,
            "sampling_steps": total // images,
        },
        "current_image": shown,
        "textinfo": None,
    }


def preview(kept: Kept) -> bytes:
    """The first of a job's previews, as large as the picture will be."""
    height, width = kept.request.size
    small = Image.fromarray(np.ascontiguousarray(kept.preview[0]))
    return small_png(np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)))


# --- lists ----------------------------------------------------------------------------


def loras(about: About) -> list[dict[str, Any]]:
    """`loras`: names that a prompt may have in a tag."""
    return [{"name": name, "alias": name, "path": name, "metadata": {}} for name in about.adapters]


def models(about: About) -> list[dict[str, Any]]:
    """The one that there is."""
    digest = about.digest
    return [
        {
            "title": about.name,
            "model_name": about.name,
            "hash": digest[:10] if digest else None,
            "sha256": digest,
            "filename": f"{about.name}.safetensors",
            "config": None,
        }
    ]


def samplers(about: About) -> list[dict[str, Any]]:
    """All samplers by the names that people read."""
    return [
        {
            "name": each["display_name"],
            "aliases": [each["name"], f"k_{each['name']}"],
            "options": {},
        }
        for each in about.samplers.listed
    ]


def schedulers(about: About) -> list[dict[str, Any]]:
    """All schedules."""
    listed = [
        {"name": "automatic", "display_name": "Automatic"},
        *({**each, "name": each["name"]} for each in about.schedules.listed),
    ]
    return [
        {
            "name": each["name"],
            "label": each["display_name"],
            "aliases": None,
            "default_rho": None,
            "need_inner_model": None,
        }
        for each in listed
    ]


def options(about: About, held: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the server; most of what the web UI has is no option here."""
    return {
        "samples_format": "png",
        "sd_model_checkpoint": about.name,
        "sd_checkpoint_hash": about.digest,
        "sd_vae": "Automatic",
        "CLIP_stop_at_last_layers": 1,
        "show_progress_every_n_steps": 1,
        "live_previews_enable": True,
        **held,
    }


def upscalers() -> list[dict[str, Any]]:
    """What `extra-single-image` enlarges with."""
    empty = {"model_name": None, "model_path": None, "model_url": None, "scale": 4}
    return [{"name": name, **empty} for name in ("None", "Lanczos", "Nearest")]


def memory() -> dict[str, Any]:
    """Of this machine, as far as the system says it."""
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        total = os.sysconf("SC_PHYS_PAGES") * page
        free = os.sysconf("SC_AVPHYS_PAGES") * page
        ram: dict[str, Any] = {"free": free, "used": total - free, "total": total}
    except (AttributeError, OSError, ValueError) as error:
        ram = {"error": type(error).__name__}
    return {"ram": ram, "cuda": {"error": "not known"}}


def png_info(data: bytes, max_pixels: int) -> dict[str, Any]:
    """What the texts of a picture say.

    Args:
        data: of its file.
        max_pixels: see `keras_sd.provenance.read_provenance`.

    Raises:
        ValueError: it is no picture that has texts.
    """
    texts, _ = read_texts(data, max_pixels)
    text = texts.pop("parameters", "")
    found = webui.read({"parameters": text}) if text else None
    parameters: dict[str, Any] = {}
    if found is not None:
        named = {
            "Prompt": found.prompt,
            "Negative prompt": found.negative_prompt,
            "Steps": found.num_steps,
            "Sampler": found.sampler,
            "Schedule type": found.schedule,
            "CFG scale": found.guidance_scale,
            "Seed": found.seed,
            "Size-1": found.width,
            "Size-2": found.height,
            "Model hash": found.model_hash,
            "Model": found.model,
            "Denoising strength": found.strength,
            **found.others,
        }
        parameters = {name: value for name, value in named.items() if value is not None}
    return {"info": text, "items": texts, "parameters": parameters}
