"""ControlNets beside diffusers': what one adds to a UNet, its files, and whole runs."""

from __future__ import annotations

from functools import cache, partial

import numpy as np
import pytest
import reference_models as reference
from keras import ops
from test_parity import difference, last

from keras_sd import Control, ControlNet
from keras_sd.backend import to_numpy

pytestmark = pytest.mark.references

TOLERANCE = reference.TOLERANCE
WIDTHS = (16, 32, 96)
HINT = {"sd1": WIDTHS, "sd2": WIDTHS[:2]}


@cache
def networks(model):
    """The small models, in double precision, and the script that makes them."""
    pytest.importorskip("diffusers")
    return reference.script().networks(model, "image")


@cache
def theirs(model, number=0, **settings):
    """A ControlNet of diffusers' with random weights everywhere, in double precision."""
    import torch
    from diffusers import ControlNetModel

    parts, script = networks(model)
    net = ControlNetModel.from_unet(parts["unet"], conditioning_embedding_out_channels=HINT[model])
    net.register_to_config(**settings)
    state = {}
    for name, value in net.state_dict().items():
        drawn = script.draw(f"{model}.control{number}.{name}", tuple(value.shape))
        loud = 6 if name.startswith("controlnet_") else 1
        state[name] = torch.from_numpy(loud * drawn)
    net.load_state_dict(state)
    return net.eval().double()


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """The same one as a file of diffusers', read."""

    @cache
    def read(model, number=0, **settings):
        folder = tmp_path_factory.mktemp("control")
        net = theirs(model, number, **settings)
        net.float().save_pretrained(folder)
        net.double()
        return ControlNet.from_file(folder, model=reference.pipeline(model))

    return read


def hint(model, number=0):
    """A picture of the size of the run's."""
    shape = reference.given(model, "picture").shape
    return np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("model", HINT)
@pytest.mark.parametrize("pooled", [False, True])
def test_what_it_adds_is_what_diffusers_adds(ours, model, pooled):
    import torch

    net = theirs(model, global_pool_conditions=pooled)
    rng = np.random.default_rng(3)
    height, width = np.array(hint(model).shape[:2]) // 2 ** (len(HINT[model]) - 1)
    latent = rng.normal(size=(2, height, width, 4)).astype("float32")
    context = rng.normal(size=(2, 10, 16)).astype("float32")
    pixels = np.stack([hint(model, 0), hint(model, 1)]).astype("float32") / np.float32(255)
    times = np.array([3, 801.5], "float32")
    with torch.no_grad():
        down, middle = net(
            torch.from_numpy(latent).permute(0, 3, 1, 2).double(),
            torch.from_numpy(times),
            torch.from_numpy(context).double(),
            torch.from_numpy(pixels).permute(0, 3, 1, 2).double(),
            return_dict=False,
        )
    network = ours(model, global_pool_conditions=pooled).network
    found = network(*map(ops.convert_to_tensor, (latent, times, context, pixels)))
    assert len(found) == len(down) + 1
    for our, their in zip(found, (*down, middle), strict=True):
        assert np.abs(their.numpy()).max() > 0.05
        assert difference(our, last(their.numpy())) < TOLERANCE


RUNS = {
    "one": {"strength": (1.0,)},
    "weak": {"strength": (0.35,)},
    "two": {"strength": (1.0, 0.5)},
    "early": {"strength": (1.0,), "end": (0.45,)},
    "late": {"strength": (1.0,), "start": (0.3,)},
    "in turns": {"strength": (1.0, 0.7), "start": (0.0, 0.25), "end": (0.6, 0.75)},
    "guess mode": {"strength": (1.0,), "guess_mode": True},
    "two in guess mode": {"strength": (0.5, 1.0), "guess_mode": True},
}


def their_latents(model, scheduler, run, image, settings):
    import diffusers
    import torch
    from diffusers.pipelines.controlnet import pipeline_controlnet, pipeline_controlnet_img2img
    from PIL import Image

    parts, script = networks(model)
    module = pipeline_controlnet_img2img if image else pipeline_controlnet
    name = f"StableDiffusionControlNet{'Img2Img' if image else ''}Pipeline"
    class_name, options = reference.script().SCHEDULERS[scheduler]
    count = len(run["strength"])
    one = count == 1
    nets = [theirs(model, number, **settings) for number in range(count)]
    pipeline = getattr(module, name)(
        **parts,
        tokenizer=None,
        controlnet=nets[0] if one else nets,
        scheduler=getattr(diffusers, class_name)(**script.SCHEDULE, steps_offset=1, **options),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.from_numpy(reference.pictures()[f"{model}/noise"]).double()
    hints = [Image.fromarray(hint(model, number)) for number in range(count)]
    hints = hints[0] if one else hints
    height, width = reference.given(model, "picture").shape[:2]
    arguments = {"image": hints, "latents": noise, "height": height, "width": width}
    if image:
        picture = Image.fromarray(reference.given(model, "picture"))
        arguments = {"image": picture, "control_image": hints, "strength": 0.75}
        arguments |= {"height": height, "width": width}
    with pytest.MonkeyPatch.context() as patch:
        if image:
            patch.setattr(module, "randn_tensor", lambda shape, **_: noise.reshape(shape))
            argmax = partial(module.retrieve_latents, sample_mode="argmax")
            patch.setattr(module, "retrieve_latents", argmax)
        with torch.no_grad():
            tokens = torch.from_numpy(script.inputs(model)["tokens"]).long()
            prompt, negative = parts["text_encoder"](tokens).last_hidden_state.split(1)
            strengths, starts, ends = (
                list(run.get(name, (default,) * count))
                for name, default in (("strength", 1.0), ("start", 0.0), ("end", 1.0))
            )
            result = pipeline(
                prompt_embeds=prompt,
                negative_prompt_embeds=negative,
                num_inference_steps=reference.STEPS,
                guidance_scale=reference.GUIDANCE,
                controlnet_conditioning_scale=strengths[0] if one else strengths,
                control_guidance_start=starts,
                control_guidance_end=ends,
                guess_mode=run.get("guess_mode", False),
                output_type="latent",
                **arguments,
            )
    return last(result.images.numpy().astype(np.float32))


def our_latents(ours, model, scheduler, run, image, settings, **changes):
    sampler, schedule, final_sigma = reference.SCHEDULES[scheduler]
    controls = [
        Control(
            ours(model, number, **settings),
            hint(model, number),
            strength,
            run.get("start", (0, 0))[number],
            run.get("end", (1, 1))[number],
            guess_mode=run.get("guess_mode", False),
            **changes,
        )
        for number, strength in enumerate(run["strength"])
    ]
    begun = {"image": reference.given(model, "picture"), "strength": 0.75}
    *_, step = reference.pipeline(model).stream(
        "0",
        "1",
        num_steps=reference.STEPS,
        unconditional_guidance_scale=reference.GUIDANCE,
        sampler=sampler,
        schedule=lambda path, n: schedule(path, n, final_sigma=final_sigma),
        diffusion_noise=reference.given(model, "noise"),
        control=controls,
        **(begun | {"steps_mode": "schedule"} if image else {}),
    )
    return step.latent


CASES = [
    *(("sd1", "ddim", run, False, {}) for run in RUNS),
    *(("sd1", "euler", run, False, {}) for run in ("two", "in turns")),
    *(("sd2", "ddim", run, False, {}) for run in ("two", "guess mode")),
    ("sd1", "ddim", "one", True, {}),
    ("sd2", "euler", "in turns", True, {}),
    ("sd1", "ddim", "one", False, {"global_pool_conditions": True}),
]


@pytest.mark.parametrize(("model", "scheduler", "run", "image", "settings"), CASES)
def test_a_run_ends_where_diffusers_does(ours, model, scheduler, run, image, settings):
    wanted = their_latents(model, scheduler, RUNS[run], image, settings)
    found = our_latents(ours, model, scheduler, RUNS[run], image, settings)
    assert difference(found, wanted) < TOLERANCE
    without = our_latents(ours, model, scheduler, {"strength": (0.0,)}, image, settings)
    assert difference(without, wanted) > 50 * TOLERANCE


@pytest.mark.parametrize(
    "change",
    [
        {"strength": (0.99,)},
        {"strength": (1.0,), "start": (0.1,)},
        {"strength": (1.0,), "end": (0.9,)},
        {"strength": (1.0,), "guess_mode": True},
    ],
)
def test_another_control_shows(ours, change):
    wanted = to_numpy(our_latents(ours, "sd1", "ddim", RUNS["one"], False, {}))
    assert difference(our_latents(ours, "sd1", "ddim", change, False, {}), wanted) > 4 * TOLERANCE
