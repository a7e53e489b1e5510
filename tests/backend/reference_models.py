"""The small models of the parity fixtures as pipelines, and what diffusers makes with them."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from functools import cache

import numpy as np
from test_parity import CONFIGS, FIXTURES, PARTS, difference, goldens, last

from keras_sd.config import Defaults, ModelConfig, NoiseConfig
from keras_sd.noise import NoiseTable
from keras_sd.pipeline import StableDiffusion
from keras_sd.schedules import leading, linspace
from keras_sd.weights import names
from keras_sd.weights.load import load_state_dict
from keras_sd.weights.readers import read_file

STEPS, GUIDANCE = 10, 5.0
TOLERANCE = 2e-5
SCHEDULES = {
    "ddim": ("ddim", leading, "first"),
    "pndm": ("pndm", leading, "first"),
    "euler": ("euler", leading, "zero"),
    "euler-linspace": ("euler", linspace, "zero"),
}


class Tokens:
    """Prompt "0" is the fixtures' first text, "1" the second."""

    def __init__(self, model):
        self.tokens = goldens(model)["tokens"]

    def __call__(self, prompts):
        return self.tokens[[int(prompt) for prompt in prompts]]


@cache
def pictures():
    with np.load(FIXTURES / "picture_goldens.npz") as file:
        return dict(file)


def given(model, what):
    """The picture, the mask, or the noise with its channels last."""
    array = pictures()[f"{model}/{what}"]
    return np.ascontiguousarray(last(array)) if what == "noise" else array


@cache
def script():
    path = FIXTURES / "make_picture_goldens.py"
    spec = importlib.util.spec_from_file_location("make_picture_goldens", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def pipeline(model, nine=False):
    """A model, or the one of 9 channels that is like it."""
    configs = dict(CONFIGS[model])
    tensors = read_file(FIXTURES / f"{model}.safetensors").tensors
    if nine:
        configs["unet"] = replace(configs["unet"], in_channels=9)
        tensors = dict(tensors) | {"unet.conv_in.weight": pictures()[f"{model}/conv_in"]}
    networks = {}
    for part, (make, table, prefix) in PARTS.items():
        networks[part] = make(configs[part])
        load_state_dict(
            networks[part],
            {name: value for name, value in tensors.items() if name.startswith(prefix)},
            names.under(prefix, "", table(configs[part])),
        )
    height, width = given(model, "picture").shape[:2]
    config = ModelConfig(
        name=model, **configs, noise=NoiseConfig(), defaults=Defaults(height=height, width=width)
    )
    return StableDiffusion(config, **networks, tokenizer=Tokens(model))


def run_difference(model, kind, scheduler, strength, **changes):
    """How far the latents at the end of a run are from diffusers'."""
    sampler, schedule, final_sigma = SCHEDULES[scheduler]
    arguments = {
        "image": given(model, "picture"),
        "mask": None if kind == "image" else given(model, "mask"),
        "num_steps": STEPS,
        "strength": strength,
        "steps_mode": "schedule",
        "unconditional_guidance_scale": GUIDANCE,
        "sampler": sampler,
        "schedule": lambda table, n: schedule(table, n, final_sigma=final_sigma),
        "diffusion_noise": given(model, "noise"),
    }
    *_, step = pipeline(model, kind == "nine").stream("0", "1", **arguments | changes)
    name = script().name(model, kind, scheduler, strength)
    return difference(step.latent, last(pictures()[name]))


TABLE = NoiseTable.scaled_linear()
