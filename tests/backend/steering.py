"""Small random IP-Adapters, T2I-Adapters and an image encoder as files, and what diffusers makes
with them.
"""

from __future__ import annotations

import importlib.util
import json
from functools import cache

import numpy as np
import reference_models as reference
from safetensors.numpy import save_file
from test_parity import CONFIGS, FIXTURES

from keras_sd.adapter_configs import FeatureConfig, ImageEncoderConfig, ImagePromptConfig
from keras_sd.weights.names import steering, under


@cache
def script():
    path = FIXTURES / "make_steering_goldens.py"
    spec = importlib.util.spec_from_file_location("make_steering_goldens", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def goldens():
    with np.load(FIXTURES / "steering_goldens.npz") as file:
        return dict(file)


def drawn(label, table):
    """Tensors by the names of a table, each a function of its name."""
    shapes = {entry.name: entry.file_shape for entry in table}
    return {name: script().draw(label + name, shape) for name, shape in shapes.items()}


def encoder_config(**changes):
    numbers = script().ENCODER
    return ImageEncoderConfig(
        image_size=numbers["image_size"],
        patch=numbers["patch_size"],
        width=numbers["hidden_size"],
        depth=numbers["num_hidden_layers"],
        heads=numbers["num_attention_heads"],
        mlp_width=numbers["intermediate_size"],
        activation=numbers["hidden_act"],
        projection_width=numbers["projection_dim"],
        **changes,
    )


def encoder_folder(folder, **changes):
    """The folder that transformers writes."""
    folder.mkdir(exist_ok=True)
    told = {"model_type": "clip_vision_model", **script().ENCODER, **changes}
    (folder / "config.json").write_text(json.dumps(told))
    save_file(
        drawn("encoder.", steering.image_encoder(encoder_config())), folder / "model.safetensors"
    )
    return folder


def prompt_config(model, kind):
    made = script()
    unet = CONFIGS[model]["unet"]
    numbers = {"feature_width": made.ENCODER["projection_dim"]}
    if kind == "plus":
        numbers = {
            "feature_width": made.ENCODER["hidden_size"],
            "width": made.WIDTH,
            "depth": made.DEPTH,
            "heads": made.HEADS,
            "mlp_width": made.MLP_WIDTH,
        }
    widths = tuple(width for _, width in unet.cross_attentions)
    return ImagePromptConfig(kind, widths, made.CONTEXT, made.TOKENS[kind], **numbers)


def prompt_tensors(model, kind):
    """An IP-Adapter by its authors' names."""
    table = steering.image_prompt(prompt_config(model, kind), CONFIGS[model]["unet"])
    return drawn(f"{model}.{kind}.", table)


def prompt_file(path, model, kind):
    save_file(prompt_tensors(model, kind), path)
    return path


KINDS = {"full_adapter": "full", "full_adapter_xl": "full_xl", "light_adapter": "light"}


def t2i_config(name):
    told = script().T2I[name]
    widths = tuple(told["channels"])
    kind = KINDS[told["adapter_type"]]
    if kind == "light":  # whose last level diffusers adds by itself
        widths = (*widths, widths[-1])
    blocks = told.get("num_res_blocks", 2)
    return FeatureConfig(kind, widths, told.get("in_channels", 3), 4, blocks)


def t2i_tensors(name):
    """A T2I-Adapter by diffusers' names."""
    table = under("adapter.", "", steering.features(t2i_config(name), by_diffusers=True))
    return drawn(f"t2i.{name}.", table)


def t2i_folder(folder, name):
    """The folder that diffusers writes."""
    folder.mkdir(exist_ok=True)
    told = {"_class_name": "T2IAdapter", "downscale_factor": 4, **script().T2I[name]}
    (folder / "config.json").write_text(json.dumps(told))
    save_file(t2i_tensors(name), folder / "diffusion_pytorch_model.safetensors")
    return folder


def ends(model, scheduler="ddim", steps=None, **arguments):
    """The latents at the end of a run, as the script has them of diffusers."""
    sampler, schedule, final_sigma = reference.SCHEDULES[scheduler]
    *_, step = reference.pipeline(model).stream(
        "0",
        "1",
        **{
            "num_steps": steps or script().STEPS,
            "unconditional_guidance_scale": script().GUIDANCE,
            "sampler": sampler,
            "schedule": lambda path, n: schedule(path, n, final_sigma=final_sigma),
            "diffusion_noise": reference.given(model, "noise"),
            **arguments,
        },
    )
    return step.latent
