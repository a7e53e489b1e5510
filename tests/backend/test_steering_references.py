"""IP-Adapters and T2I-Adapters beside diffusers': whole runs, and several at once."""

from __future__ import annotations

from functools import cache, partial

import numpy as np
import pytest
import reference_models as reference
import steering
import test_sdxl
from test_control_references import hint, ours, theirs  # noqa: F401
from test_parity import difference, last

from keras_sd import Control, ImagePrompt, IPAdapter, StableDiffusion, T2IAdapter

pytestmark = pytest.mark.references

TOLERANCE = reference.TOLERANCE
STEPS = reference.STEPS


@pytest.fixture(scope="module", autouse=True)
def _libraries():
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """An IP-Adapter as diffusers takes it, from the file that torch writes: two dictionaries."""

    @cache
    def made(model, kind):
        import torch

        folder = tmp_path_factory.mktemp("prompt")
        encoder = steering.script().encoder().float()
        encoder.save_pretrained(folder / "image_encoder")
        parts, _ = reference.script().networks(model, "image")
        state = steering.script().prompt_state(model, kind, parts["unet"])
        torch.save(state, folder / "ip.bin")
        return IPAdapter.from_file(
            folder / "ip.bin", image_encoder=folder, model=reference.pipeline(model)
        )

    return made


def pictures(count):
    return [steering.script().shown(number) for number in range(count)]


def as_pillow(arrays):
    from PIL import Image

    return [Image.fromarray(each) for each in arrays]


def begun(model, door):
    """What a run begins at, for diffusers and for us."""
    picture, mask = reference.given(model, "picture"), reference.given(model, "mask")
    height, width = picture.shape[:2]
    their = {"height": height, "width": width, "strength": 0.75, "latents": None}
    our = {"image": picture, "strength": 0.75, "steps_mode": "schedule"}
    (seen, painted) = as_pillow([picture, mask])
    if door == "Inpaint":
        their |= {"mask_image": painted}
        our |= {"mask": mask}
    return their | {"image": seen}, our


@pytest.fixture
def same_noise(monkeypatch):
    """Diffusers draws the noise of the fixtures, and means of posteriors."""
    import torch

    def put(module, model):
        noise = torch.from_numpy(reference.pictures()[f"{model}/noise"]).double()
        monkeypatch.setattr(module, "randn_tensor", lambda shape, **_: noise.reshape(shape))
        argmax = partial(module.retrieve_latents, sample_mode="argmax")
        monkeypatch.setattr(module, "retrieve_latents", argmax)

    return put


def module_of(made):
    import sys

    return sys.modules[type(made).__module__]


def test_the_goldens_are_what_the_libraries_make(tmp_path):
    with np.load(steering.script().write(tmp_path)) as file:
        made = dict(file)
    kept = steering.goldens()
    assert made.keys() == kept.keys()
    for name, value in kept.items():
        assert np.abs(made[name] - value.astype(float)).max() <= 1e-5 * np.abs(value).max(), name


RUNS = {
    "base": (["base"], [1], [1.0]),
    "plus, two pictures": (["plus"], [2], [0.6]),
    "both": (["base", "plus"], [2, 1], [0.5, 0.9]),
}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(("model", "scheduler"), [("sd1", "ddim"), ("sd2", "euler")])
def test_a_run_ends_where_diffusers_does(read, model, scheduler, run):
    kinds, counts, strengths = RUNS[run]
    pipe, script = steering.script().with_prompts(
        "StableDiffusionPipeline", model, kinds, scheduler=scheduler
    )
    pipe.set_ip_adapter_scale(list(strengths))
    shown = [as_pillow(pictures(count)) for count in counts]
    wanted = last(steering.script().ends(pipe, script, model, steps=STEPS, ip_adapter_image=shown))
    prompts = [
        ImagePrompt(read(model, kind), pictures(count), strength)
        for kind, count, strength in zip(kinds, counts, strengths, strict=True)
    ]
    found = steering.ends(model, scheduler, STEPS, image_prompt=prompts)
    assert difference(found, wanted) < TOLERANCE
    assert difference(steering.ends(model, scheduler, STEPS), wanted) > 50 * TOLERANCE


@pytest.mark.parametrize("door", ["Img2Img", "Inpaint"])
def test_a_run_from_a_picture_ends_where_diffusers_does(read, same_noise, door):
    model = "sd1"
    pipe, script = steering.script().with_prompts(f"StableDiffusion{door}Pipeline", model, ["base"])
    pipe.set_ip_adapter_scale(0.8)
    same_noise(module_of(pipe), model)
    their, our = begun(model, door)
    if door == "Img2Img":
        their = {name: their[name] for name in ("image", "strength")}
    arguments = {**their, "ip_adapter_image": [as_pillow(pictures(1))]}
    wanted = last(run_of(pipe, script, model, **arguments))
    prompt = ImagePrompt(read(model, "base"), pictures(1), 0.8)
    found = steering.ends(model, "ddim", STEPS, image_prompt=prompt, **our)
    assert difference(found, wanted) < TOLERANCE
    assert difference(steering.ends(model, "ddim", STEPS, **our), wanted) > 50 * TOLERANCE


def run_of(pipe, script, model, **arguments):
    """A run of diffusers with no argument but these."""
    import torch

    with torch.no_grad():
        tokens = torch.from_numpy(script.inputs(model)["tokens"]).long()
        prompt, negative = pipe.text_encoder(tokens).last_hidden_state.split(1)
        result = pipe(
            prompt_embeds=prompt,
            negative_prompt_embeds=negative,
            num_inference_steps=STEPS,
            guidance_scale=steering.script().GUIDANCE,
            output_type="latent",
            **arguments,
        )
    return result.images.numpy().astype(np.float32)


@pytest.mark.parametrize("kind", ["base", "plus"])
def test_with_a_controlnet_a_run_ends_where_diffusers_does(read, ours, kind):  # noqa: F811
    model = "sd1"
    pipe, script = steering.script().with_prompts(
        "StableDiffusionControlNetPipeline", model, [kind], controlnet=theirs(model)
    )
    pipe.set_ip_adapter_scale(0.8)
    (shown,) = as_pillow([hint(model)])
    arguments = {"image": shown, "ip_adapter_image": [as_pillow(pictures(2))]}
    wanted = last(steering.script().ends(pipe, script, model, steps=STEPS, **arguments))
    prompt = ImagePrompt(read(model, kind), pictures(2), 0.8)
    control = Control(ours(model), hint(model))
    found = steering.ends(model, "ddim", STEPS, image_prompt=prompt, control=control)
    assert difference(found, wanted) < TOLERANCE
    for part in ({"image_prompt": prompt}, {"control": control}):
        assert difference(steering.ends(model, "ddim", STEPS, **part), wanted) > 50 * TOLERANCE


@pytest.mark.parametrize("model", ["sd1", "sd2"])
@pytest.mark.parametrize("run", [{"strength": (1.0, 0.5)}, {"strength": (0.6,), "end": (0.5,)}])
def test_a_controlnet_paints_as_that_of_diffusers_does(ours, same_noise, model, run):  # noqa: F811
    count = len(run["strength"])
    nets = [theirs(model, number) for number in range(count)]
    pipe, script = steering.script().pipeline(
        "StableDiffusionControlNetInpaintPipeline",
        model,
        controlnet=nets if count > 1 else nets[0],
    )
    same_noise(module_of(pipe), model)
    their, our = begun(model, "Inpaint")
    del their["latents"]
    hints, ends = as_pillow(hint(model, i) for i in range(count)), run.get("end", (1.0,) * count)
    one = count == 1
    wanted = last(
        run_of(
            *(pipe, script, model),
            **their,
            control_image=hints[0] if one else hints,
            controlnet_conditioning_scale=run["strength"][0] if one else list(run["strength"]),
            control_guidance_end=ends[0] if one else list(ends),
        )
    )
    controls = [
        Control(ours(model, i), hint(model, i), run["strength"][i], end=ends[i])
        for i in range(count)
    ]
    found = steering.ends(model, "ddim", STEPS, control=controls, **our)
    assert difference(found, wanted) < TOLERANCE
    assert difference(steering.ends(model, "ddim", STEPS, **our), wanted) > 50 * TOLERANCE


@pytest.fixture(scope="module")
def t2i(tmp_path_factory):
    """A T2I-Adapter in the folder that diffusers writes."""

    @cache
    def made(model, name):
        folder = tmp_path_factory.mktemp("t2i")
        steering.script().t2i(name).float().save_pretrained(folder)
        return T2IAdapter.from_file(folder, model=reference.pipeline(model))

    return made


ADAPTED = [
    ("sd1", "ddim", ["full"], [0.7]),
    ("sd1", "euler", ["grey"], [1.0]),
    ("sd1", "ddim", ["full", "full"], [0.4, 0.8]),
    ("sd2", "euler", ["full_xl"], [1.0]),
]


@pytest.mark.parametrize(("model", "scheduler", "names", "strengths"), ADAPTED)
def test_a_run_with_t2i_adapters_ends_where_diffusers_does(t2i, model, scheduler, names, strengths):
    from diffusers import MultiAdapter
    from PIL import Image

    adapters = [steering.script().t2i(name) for name in names]
    one = len(names) == 1
    pipe, script = steering.script().pipeline(
        "StableDiffusionAdapterPipeline",
        model,
        scheduler=scheduler,
        adapter=adapters[0] if one else MultiAdapter(adapters),
    )
    hints = [hint(model, number) for number in range(len(names))]
    if names == ["grey"]:
        hints = [np.repeat(each[..., :1], 3, axis=2) for each in hints]
    given = [Image.fromarray(each) for each in hints]
    given = [each.convert("L") for each in given] if names == ["grey"] else given
    arguments = {
        "image": given[0] if one else given,
        "adapter_conditioning_scale": strengths[0] if one else strengths,
    }
    wanted = last(steering.script().ends(pipe, script, model, steps=STEPS, **arguments))
    controls = [
        Control(t2i(model, name), each, strength)
        for name, each, strength in zip(names, hints, strengths, strict=True)
    ]
    found = steering.ends(model, scheduler, STEPS, control=controls)
    assert difference(found, wanted) < TOLERANCE
    assert difference(steering.ends(model, scheduler, STEPS), wanted) > 50 * TOLERANCE


@pytest.mark.parametrize("kind", ["base", "plus"])
def test_an_ip_adapter_of_xl_ends_where_that_of_diffusers_does(tmp_path, monkeypatch, kind):
    import diffusers
    import torch
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    made, xl = steering.script(), test_sdxl.script()
    monkeypatch.setattr(made, "CONTEXT", xl.MODELS["xl"].unet.context_width)
    folder = xl.write("xl", tmp_path)
    size = made.ENCODER["image_size"]
    encoder = made.encoder()
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(
        folder,
        image_encoder=encoder,
        feature_extractor=CLIPImageProcessorPil(size=size, crop_size=size),
    )
    state = made.prompt_state("xl", kind, pipe.unet)
    torch.save(state, tmp_path / "ip.bin")
    pipe.load_ip_adapter(state, subfolder="", weight_name="")
    pipe.set_ip_adapter_scale(0.7)
    pipe.to(torch.float64).set_progress_bar_config(disable=True)
    name, settings = xl.SAMPLERS["euler"]
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, **settings)
    noise, (height, width) = xl.noise()[:1], xl.SIZE
    arguments = {"num_inference_steps": STEPS, "guidance_scale": xl.GUIDANCE}
    with torch.no_grad():
        wanted = pipe(
            prompt=xl.PROMPTS[0],
            negative_prompt=xl.NEGATIVES[0],
            ip_adapter_image=[as_pillow(pictures(2))],
            latents=torch.from_numpy(noise).permute(0, 3, 1, 2).double(),
            height=height,
            width=width,
            output_type="latent",
            **arguments,
        ).images
    encoder.float().save_pretrained(tmp_path / "image_encoder")
    pipeline = StableDiffusion.from_preset(folder)
    adapter = IPAdapter.from_file(tmp_path / "ip.bin", image_encoder=tmp_path, model=pipeline)

    def ends(**more):
        *_, step = pipeline.stream(
            *(xl.PROMPTS[0], xl.NEGATIVES[0], 1, STEPS, xl.GUIDANCE),
            sampler="euler",
            schedule=test_sdxl.SCHEDULES["euler"],
            diffusion_noise=noise,
            height=height,
            width=width,
            **more,
        )
        return step.latent

    wanted = last(wanted.numpy().astype(np.float32))
    assert difference(ends(image_prompt=ImagePrompt(adapter, pictures(2), 0.7)), wanted) < TOLERANCE
    assert difference(ends(), wanted) > 50 * TOLERANCE
