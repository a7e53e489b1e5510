"""Whole runs with adapters beside diffusers', which reads the same files."""

from __future__ import annotations

import numpy as np
import pytest
import reference_models as reference
from adapter_files import tensors
from safetensors.numpy import save_file
from test_parity import difference, last

from keras_sd.adapters import match, open_adapter
from keras_sd.backend import to_numpy

pytestmark = pytest.mark.references

LAYOUTS = ("kohya", "diffusers", "diffusers, second", "dora")
STRENGTH = 0.8


def dora(config):
    """The layout of diffusers, with lengths of rows that are not those of the weights. Of the UNet
    alone: diffusers 0.42 does not find the lengths of text encoders.
    """
    whole = tensors("diffusers", config)
    found = {name: array for name, array in whole.items() if name.startswith("unet.")}
    for name in [name for name in found if name.endswith(".lora_B.weight")]:
        lengths = np.linspace(0.5, 2, len(found[name]), dtype=np.float32)
        place = name.removesuffix(".lora_B.weight")
        shape = (1, -1, 1, 1) if found[name].ndim == 4 else (-1,)
        found[f"{place}.lora_magnitude_vector"] = lengths.reshape(shape)
    return found


def their_latents(model, path, strength):
    """The end of ten steps of DDIM."""
    import diffusers
    import torch

    script = reference.script()
    parts, models = script.networks(model, "image")
    class_name, options = script.SCHEDULERS["ddim"]
    pipeline = diffusers.StableDiffusionPipeline(
        **parts,
        tokenizer=None,
        scheduler=getattr(diffusers, class_name)(**models.SCHEDULE, steps_offset=1, **options),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(str(path), adapter_name="x")
    pipeline.set_adapters(["x"], strength)
    parts["unet"].double()
    parts["text_encoder"].double()
    noise = torch.from_numpy(reference.pictures()[f"{model}/noise"]).double()
    height, width = reference.given(model, "picture").shape[:2]
    with torch.no_grad():
        tokens = torch.from_numpy(models.inputs(model)["tokens"]).long()
        prompt, negative = parts["text_encoder"](tokens).last_hidden_state.split(1)
        found = pipeline(
            prompt_embeds=prompt,
            negative_prompt_embeds=negative,
            latents=noise,
            height=height,
            width=width,
            num_inference_steps=reference.STEPS,
            guidance_scale=reference.GUIDANCE,
            output_type="latent",
        ).images
    return last(found.numpy())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_run_with_a_lora_is_that_of_diffusers(tmp_path, layout):
    pytest.importorskip("peft")
    model = "sd1"
    ours = reference.pipeline(model)
    arrays = dora(ours.config) if layout == "dora" else tensors(layout, ours.config)
    path = tmp_path / "pytorch_lora_weights.safetensors"
    save_file(arrays, path)
    found = match(open_adapter(path), ours.config)
    assert set(found.parts) == ({"unet"} if layout == "dora" else {"unet", "text_encoder"})
    strength = 1.0 if layout == "dora" else STRENGTH
    sampler, schedule, final_sigma = reference.SCHEDULES["ddim"]
    height, width = reference.given(model, "picture").shape[:2]

    def run():
        *_, step = ours.stream(
            "0",
            "1",
            height=height,
            width=width,
            num_steps=reference.STEPS,
            guidance_scale=reference.GUIDANCE,
            sampler=sampler,
            schedule=lambda table, n: schedule(table, n, final_sigma=final_sigma),
            diffusion_noise=reference.given(model, "noise"),
        )
        return to_numpy(step.latent)

    with ours.with_adapters((path, strength)):
        latents = run()
    assert difference(run(), latents) > 0.05
    assert difference(latents, their_latents(model, path, strength)) < reference.TOLERANCE
