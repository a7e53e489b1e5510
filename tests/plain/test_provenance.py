"""What programs write into their pictures, and what is read of it. The texts are written anew after
the descriptions of the formats; only the names in them are the programs' own."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from keras_sd.config import Defaults
from keras_sd.forms import request_of
from keras_sd.image import save_png
from keras_sd.infotext import infotext
from keras_sd.provenance import Provenance, read_provenance

DEFAULTS = Defaults(64, 48, "ddim", "leading", 20, 7.5)
GREY = np.full((64, 48, 3), 128, np.uint8)


def png(path, **texts: str):
    """A picture with these texts, which Pillow writes as iTXt where they are not Latin-1."""
    chunks = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        chunks.add_text({"sd_metadata": "sd-metadata"}.get(name, name), text)
    Image.fromarray(GREY).save(path, pnginfo=chunks)
    return path


def read(tmp_path, **texts: Any) -> Provenance:
    made = {name: v if isinstance(v, str) else json.dumps(v) for name, v in texts.items()}
    return read_provenance(png(tmp_path / "p.png", **made))


# --- ours -----------------------------------------------------------------------------


def ours(path, *, made=(), **given):
    request = request_of(**{"prompt": "a cat", "seed": 42, **given}).resolved(DEFAULTS)
    all_ = {"request": request.to_dict(), "model": "emoji", "width": 48, "height": 64}
    all_ |= {"backend": "jax", "version": "0.1.0", **dict(made)}
    save_png(path, GREY, all_, infotext(all_))
    return request


def test_of_ours_there_is_the_request(tmp_path):
    path = tmp_path / "p.png"
    request = ours(path, negative_prompt="a dog", sampler="DPM++ 2M Karras", first_image=3)
    found = read_provenance(path)
    assert found.request == request
    assert found.program == "keras_sd"
    assert (found.prompt, found.negative_prompt) == ("a cat", "a dog")
    assert (found.sampler, found.schedule, found.num_steps) == ("dpmpp_2m", "karras", 20)
    assert (found.seed, found.guidance_scale, found.model) == (42, 7.5, "emoji")
    assert (found.width, found.height, found.unread) == (48, 64, ())
    assert found.others == {"image number": 3, "backend": "jax", "version": "0.1.0"}
    assert found.to_dict()["request"] == request.to_dict()
    json.dumps(found.to_dict(), allow_nan=False)


def test_of_ours_there_is_how_the_model_was_loaded(tmp_path):
    path = tmp_path / "p.png"
    weights = {"model": "a" * 64, "unet": "b" * 64}
    more = {"dtype": "float16", "ema": True, "unet": "u.ckpt", "weights": weights}
    ours(path, made={**more, "extended": {"left": 8, "up": 9, "top": -1}})
    found = read_provenance(path)
    assert found.loading == {"ema": True, "unet": "u.ckpt", "dtype": "float16"}
    assert found.model_hash == "a" * 64
    assert found.others["unet SHA-256"] == "b" * 64
    assert found.extended == {"left": 8}


def test_a_request_that_cannot_be_read_leaves_the_text_of_web_uis(tmp_path):
    path = tmp_path / "p.png"
    request = ours(path)
    made = {"request": {**request.to_dict(), "version": 99}, "model": "emoji"}
    parameters = "a cat\nSteps: 3, Sampler: DDIM, Seed: 4, Version: keras_sd 9.0"
    found = read(tmp_path, keras_sd=made, parameters=parameters)
    assert (found.request, found.program) == (None, "keras_sd")
    assert (found.prompt, found.num_steps, found.seed) == ("a cat", 3, 4)
    assert any("version 99" in each for each in found.unread)


# --- A1111 ----------------------------------------------------------------------------

A1111 = """a (red:1.2) fox, snow
in two lines
Negative prompt: blurry,
low quality
Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 3735928559, \
Size: 512x768, Model hash: 6ce0161689, Model: v1-5-pruned, Clip skip: 2, \
Lora hashes: "one: 12ab, two: 34cd", \
Hashes: {"model": "6ce0161689", "vae": "735e4c3a44"}, Version: v1.10.1"""


def test_of_a1111_there_are_prompts_and_settings(tmp_path):
    found = read(tmp_path, parameters=A1111)
    assert found.program == "A1111"
    assert found.prompt == "a (red:1.2) fox, snow\nin two lines"
    assert found.negative_prompt == "blurry,\nlow quality"
    assert (found.num_steps, found.sampler, found.schedule) == (20, "DPM++ 2M", "Karras")
    assert (found.guidance_scale, found.seed) == (7.0, 3735928559)
    assert (found.width, found.height) == (512, 768)
    assert (found.model, found.model_hash) == ("v1-5-pruned", "6ce0161689")
    assert found.others["Lora hashes"] == "one: 12ab, two: 34cd"
    assert json.loads(str(found.others["Hashes"])) == {"model": "6ce0161689", "vae": "735e4c3a44"}
    assert (found.others["Clip skip"], found.others["Version"]) == ("2", "v1.10.1")
    assert (found.starts, found.unread) == (False, ())


@pytest.mark.parametrize("ending", ["jpg", "webp"])
@pytest.mark.parametrize("prompt", ["a fox", "キツネ 🦊", "élan"])
@pytest.mark.parametrize("encoding", ["utf-16-be", "utf-16-le", "ascii"])
def test_of_a1111_jpeg_and_webp_hold_it_in_exif(tmp_path, ending, prompt, encoding):
    text = f"{prompt}\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 48x64"
    head = b"ASCII\0\0\0" if encoding == "ascii" else b"UNICODE\0"
    exif = Image.Exif()
    comment = head + text.encode("utf-8" if encoding == "ascii" else encoding)
    exif.get_ifd(0x8769)[0x9286] = comment
    path = tmp_path / f"p.{ending}"
    Image.fromarray(GREY).save(path, exif=exif)
    found = read_provenance(path)
    assert (found.program, found.prompt, found.sampler) == ("A1111", prompt, "Euler a")


def test_of_a1111_a_second_pass_is_no_picture_that_it_began_at(tmp_path):
    line = "a\nSteps: 9, Sampler: Euler, Seed: 1, Denoising strength: 0.4"
    assert read(tmp_path, parameters=line).starts
    assert read(tmp_path, parameters=line).strength == 0.4
    found = read(tmp_path, parameters=f"{line}, Hires upscale: 2, Hires upscaler: Latent")
    assert not found.starts
    assert found.others["Denoising strength"] == "0.4"
    assert read(tmp_path, parameters=f"{line}, Mask blur: 4").masked


def test_of_a1111_a_prompt_may_look_like_settings(tmp_path):
    prompt = "Steps: 1, Sampler: x, Seed: 2\nNegative prompt: a\nNegative prompt: b"
    found = read(tmp_path, parameters=f"{prompt}\nSteps: 20, Sampler: Euler, Seed: 7")
    assert found.prompt == "Steps: 1, Sampler: x, Seed: 2"
    assert found.negative_prompt == "a\nNegative prompt: b"
    assert (found.num_steps, found.seed) == (20, 7)


def test_of_a1111_without_settings_all_is_prompt(tmp_path):
    found = read(tmp_path, parameters="a fox: red, quick")
    assert (found.prompt, found.num_steps) == ("a fox: red, quick", None)
    assert any("no line of settings" in each for each in found.unread)


def test_of_a1111_what_extensions_write_below_is_said(tmp_path):
    text = "a\nSteps: 20, Sampler: Euler, Seed: 7\nTemplate: a {b|c}"
    found = read(tmp_path, parameters=text)
    assert (found.seed, found.prompt) == (7, "a")
    assert any("Template" in each for each in found.unread)


def test_what_is_no_number_is_said_and_left_out(tmp_path):
    line = "a\nSteps: many, Sampler: Euler, CFG scale: NaN, Seed: 1e400, Size: 9 x, x"
    found = read(tmp_path, parameters=line)
    assert (found.num_steps, found.guidance_scale, found.seed, found.width) == (None,) * 4
    for name in ("Steps", "CFG scale", "Seed", "Size", "'x'"):
        assert any(each.startswith(name) for each in found.unread), name


PROMPTS = [
    "a cat",
    "two\nlines",
    "",
    "Steps: 1, Sampler: x, Seed: 2",
    "猫, (a:1.2) \\(b\\)",
    '"q": 1',
]


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("model", ["emoji", "/a/b, c: d.safetensors", 'say "x", {y}'])
def test_what_we_write_for_web_uis_is_read_back(tmp_path, prompt, model):
    path = tmp_path / "p.png"
    request = ours(path, prompt=prompt, negative_prompt="ugly", made={"model": model})
    with Image.open(path) as image:
        found = read(tmp_path, parameters=image.text["parameters"])
    assert (found.program, found.prompt, found.negative_prompt) == ("keras_sd", prompt, "ugly")
    assert (found.num_steps, found.seed) == (request.num_steps, 42)
    assert (found.sampler, found.schedule) == ("DDIM", "Leading")
    assert found.model == {"/a/b, c: d.safetensors": "b, c: d"}.get(model, model)
    assert found.unread == ()


# --- InvokeAI -------------------------------------------------------------------------


def test_of_invokeai(tmp_path):
    made = {
        "app_version": "4.2.0",
        "generation_mode": "txt2img",
        "positive_prompt": "a fox",
        "negative_prompt": "blurry",
        "width": 512,
        "height": 768,
        "seed": 99,
        "cfg_scale": 7.5,
        "steps": 30,
        "scheduler": "dpmpp_2m_k",
        "clip_skip": 1,
        "model": {"name": "sd-1", "hash": "blake3:abc"},
        "loras": [{"model": {"name": "style"}, "weight": 0.5}],
        "controlnets": [],
    }
    found = read(tmp_path, invokeai_metadata=made)
    assert (found.program, found.prompt, found.negative_prompt) == ("InvokeAI", "a fox", "blurry")
    assert (found.num_steps, found.sampler, found.guidance_scale) == (30, "dpmpp_2m_k", 7.5)
    assert (found.seed, found.width, found.height) == (99, 512, 768)
    assert (found.model, found.model_hash) == ("sd-1", "blake3:abc")
    assert found.others.keys() == {"clip_skip", "loras"}
    assert "style" in str(found.others["loras"])
    found = read(
        tmp_path, invokeai_metadata={**made, "generation_mode": "inpaint", "strength": 0.6}
    )
    assert (found.starts, found.masked, found.strength) == (True, True, 0.6)
    old = {**made, "model": {"model_name": "old"}, "cfg_scale": [7, 8]}
    found = read(tmp_path, invokeai_metadata=old)
    assert (found.model, found.guidance_scale) == ("old", 7)
    assert any("step to step" in each for each in found.unread)


def test_of_invokeai_before(tmp_path):
    image = {
        "prompt": [{"prompt": "a fox [blurry]", "weight": 1.0}, {"prompt": "snow", "weight": 2}],
        "steps": 30,
        "cfg_scale": 7.5,
        "height": 768,
        "width": 512,
        "seed": 99,
        "sampler": "k_lms",
        "type": "txt2img",
        "variations": [],
    }
    made = {"model": "stable diffusion", "model_weights": "sd-1.4", "image": image}
    found = read(tmp_path, sd_metadata=made)
    assert (found.program, found.prompt, found.negative_prompt) == (
        "InvokeAI",
        "a fox snow",
        "blurry",
    )
    assert (found.sampler, found.model, found.seed) == ("k_lms", "sd-1.4", 99)
    assert any("weights" in each for each in found.unread)


@pytest.mark.parametrize(
    "line",
    [
        '"a fox [blurry]" -s 30 -S 99 -W 512 -H 768 -C 7.5 -A k_lms -U 2',
        '"a fox [blurry]" -s30 -S99 -W512 -H768 -C7.5 -Ak_lms -U2',
        "a fox [blurry] --steps=30 --seed=99 --width=512 --height=768 --cfg_scale=7.5 "
        "--sampler=k_lms -U 2",
    ],
)
def test_of_invokeai_at_first(tmp_path, line):
    found = read(tmp_path, Dream=line)
    assert (found.program, found.prompt, found.negative_prompt) == ("InvokeAI", "a fox", "blurry")
    assert (found.num_steps, found.seed, found.guidance_scale) == (30, 99, 7.5)
    assert (found.width, found.height, found.sampler) == (512, 768, "k_lms")
    assert found.others == {"-U": "2"}
    assert read(tmp_path, Dream=f"{line} -I a.png -f 0.4").strength == 0.4


def test_of_invokeai_a_line_that_is_no_command(tmp_path):
    found = read(tmp_path, Dream='"a fox -s 30')
    assert any("no command" in each for each in found.unread)


# --- NovelAI --------------------------------------------------------------------------

NOVELAI = {
    "prompt": "a {fox}",
    "steps": 28,
    "height": 768,
    "width": 512,
    "scale": 5.0,
    "seed": 99,
    "sampler": "k_euler_ancestral",
    "noise_schedule": "native",
    "uc": "blurry",
    "strength": 0.7,
    "sm": True,
    "request_type": "PromptGenerateRequest",
    "signed_hash": "abc=",
}


def test_of_novelai(tmp_path):
    texts = {"Software": "NovelAI", "Source": "Stable Diffusion XL", "Description": "a fox"}
    found = read(tmp_path, **texts, Comment=NOVELAI)
    assert (found.program, found.prompt, found.negative_prompt) == ("NovelAI", "a {fox}", "blurry")
    assert (found.num_steps, found.sampler, found.schedule) == (28, "k_euler_ancestral", "native")
    assert (found.guidance_scale, found.seed, found.model) == (5.0, 99, "Stable Diffusion XL")
    assert (found.starts, found.others) == (False, {"strength": 0.7, "sm": True})
    image = {**NOVELAI, "request_type": "Img2ImgRequest"}
    del image["prompt"]
    found = read(tmp_path, **texts, Comment=image)
    assert (found.prompt, found.starts, found.strength) == ("a fox", True, 0.7)
    caption = {"caption": {"base_caption": "a", "char_captions": [{"char_caption": "b"}]}}
    found = read(tmp_path, **texts, Comment={**NOVELAI, "v4_prompt": caption})
    assert any("single characters" in each for each in found.unread)


def test_a_comment_of_others_is_not_novelais(tmp_path):
    with pytest.raises(ValueError, match="does not say how"):
        read(tmp_path, Comment="made on a rainy day")
    with pytest.raises(ValueError, match="does not say how"):
        read(tmp_path, Comment={"a": 1}, Software="GIMP")


# --- ComfyUI --------------------------------------------------------------------------


def node(kind, **inputs):
    return {"class_type": kind, "inputs": inputs}


def graph(**more):
    """The usual graph; each input of the sampler may be another."""
    sampler = {
        "seed": 99,
        "steps": 30,
        "cfg": 7.5,
        "sampler_name": "dpmpp_2m",
        "scheduler": "karras",
        "denoise": 1,
        "model": ["4", 0],
        "positive": ["6", 0],
        "negative": ["7", 0],
        "latent_image": ["5", 0],
    }
    return {
        "3": node("KSampler", **{**sampler, **more}),
        "4": node("CheckpointLoaderSimple", ckpt_name="sd/v1-5.safetensors"),
        "5": node("EmptyLatentImage", width=512, height=768, batch_size=1),
        "6": node("CLIPTextEncode", text="a fox", clip=["4", 1]),
        "7": node("CLIPTextEncode", text="blurry", clip=["4", 1]),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", images=["8", 0], filename_prefix="x"),
    }


def usual(found):
    assert (found.program, found.prompt, found.negative_prompt) == ("ComfyUI", "a fox", "blurry")
    assert (found.num_steps, found.sampler, found.schedule) == (30, "dpmpp_2m", "karras")
    assert (found.guidance_scale, found.seed) == (7.5, 99)
    assert (found.width, found.height, found.starts) == (512, 768, False)
    assert found.model == "sd/v1-5.safetensors"


def test_of_comfyui_the_links_lead_to_the_texts(tmp_path):
    found = read(tmp_path, prompt=graph())
    usual(found)
    assert (found.others, found.unread) == ({}, ())


def test_of_comfyui_values_may_lie_in_other_nodes(tmp_path):
    made = graph(seed=["20", 0], steps=["21", 0])
    made |= {"20": node("PrimitiveInt", value=["22", 0]), "22": node("Int", int=99)}
    made |= {"21": node("Steps", steps=30), "6": node("CLIPTextEncode", text=["23", 0])}
    made |= {"23": node("String", string="a fox")}
    usual(read(tmp_path, prompt=made))


def test_of_comfyui_adapters_and_layers_are_said(tmp_path):
    made = graph(model=["10", 0])
    made["10"] = node(
        "LoraLoader", lora_name="style.pt", strength_model=0.5, model=["4", 0], clip=["4", 1]
    )
    made["11"] = node("CLIPSetLastLayer", stop_at_clip_layer=-2, clip=["10", 1])
    made["6"]["inputs"]["clip"] = ["11", 0]
    found = read(tmp_path, prompt=made)
    usual(found)
    assert found.others == {"lora style.pt": 0.5, "Clip skip": 2}


def test_of_comfyui_conditions_may_pass_other_nodes(tmp_path):
    made = graph(positive=["12", 0], negative=["12", 1])
    made["12"] = node(
        "ControlNetApplyAdvanced", positive=["13", 0], negative=["7", 0], image=["14", 0]
    )
    made["13"] = node("ConditioningCombine", conditioning_1=["6", 0], conditioning_2=["15", 0])
    made["14"], made["15"] = node("LoadImage", image="p.png"), node("CLIPTextEncode", text="snow")
    found = read(tmp_path, prompt=made)
    assert (found.prompt, found.negative_prompt) == ("a fox, snow", "blurry")
    for name in ("ControlNetApplyAdvanced", "ConditioningCombine", "2 texts"):
        assert any(name in each for each in found.unread), name


def test_of_comfyui_a_second_sampler_comes_after_the_first(tmp_path):
    made = graph()
    made["20"] = node("LatentUpscale", samples=["3", 0], width=1024, height=1536)
    second = {**made["3"]["inputs"], "denoise": 0.5, "steps": 10, "latent_image": ["20", 0]}
    made["21"], made["8"] = node("KSampler", **second), node("VAEDecode", samples=["21", 0])
    found = read(tmp_path, prompt=made)
    usual(found)
    assert any("node 21" in each for each in found.unread)


def test_of_comfyui_a_picture_and_a_mask(tmp_path):
    made = graph(latent_image=["20", 0], denoise=0.6)
    made["20"] = node("VAEEncode", pixels=["21", 0], vae=["4", 2])
    made["21"] = node("LoadImage", image="fox.png")
    found = read(tmp_path, prompt=made)
    assert (found.starts, found.masked, found.strength) == (True, False, 0.6)
    assert found.others == {"image": "fox.png"}
    made["22"] = node("SetLatentNoiseMask", samples=["20", 0], mask=["21", 1])
    made["3"]["inputs"]["latent_image"] = ["22", 0]
    assert read(tmp_path, prompt=made).masked


def test_of_comfyui_the_sampler_in_parts(tmp_path):
    made = graph()
    made["3"] = node(
        "SamplerCustomAdvanced",
        noise=["30", 0],
        guider=["31", 0],
        sampler=["32", 0],
        sigmas=["33", 0],
        latent_image=["5", 0],
    )
    made["30"] = node("RandomNoise", noise_seed=99)
    made["31"] = node("CFGGuider", cfg=7.5, model=["4", 0], positive=["6", 0], negative=["7", 0])
    made["32"] = node("KSamplerSelect", sampler_name="dpmpp_2m")
    made["33"] = node("BasicScheduler", scheduler="karras", steps=30, denoise=1, model=["4", 0])
    usual(read(tmp_path, prompt=made))


def test_of_comfyui_a_node_that_loads_and_encodes_at_once(tmp_path):
    """The nodes of some packages hold model, texts and size together."""
    made = graph(model=["4", 0], positive=["4", 1], negative=["4", 2], latent_image=["4", 3])
    size = {"empty_latent_width": 512, "empty_latent_height": 768}
    texts = {"positive": "a fox", "negative": "blurry"}
    made["4"] = node("Efficient Loader", ckpt_name="sd/v1-5.safetensors", **texts, **size)
    usual(read(tmp_path, prompt=made))


def test_of_comfyui_the_drawn_graph_alone(tmp_path):
    """`workflow` lists values without names, and links by number."""
    drawn = []
    links = []
    values = {
        "3": [99, "fixed", 30, 7.5, "dpmpp_2m", "karras", 1],
        "4": ["sd/v1-5.safetensors"],
        "5": [512, 768, 1],
        "6": ["a fox"],
        "7": ["blurry"],
        "8": [],
        "9": ["x"],
    }
    for number, each in graph().items():
        inputs = []
        for name, value in each["inputs"].items():
            if isinstance(value, list):
                links.append([len(links), int(value[0]), value[1], int(number), 0, "X"])
                inputs.append({"name": name, "link": links[-1][0]})
        drawn.append(
            {
                "id": int(number),
                "type": each["class_type"],
                "inputs": inputs,
                "widgets_values": values[number],
            }
        )
    usual(read(tmp_path, workflow={"nodes": drawn, "links": links}))
    drawn[0]["widgets_values"].remove("fixed")
    usual(read(tmp_path, workflow={"nodes": drawn, "links": links}))
    drawn[0]["mode"] = 4  # bypassed
    found = read(tmp_path, workflow={"nodes": drawn, "links": links})
    assert any("no sampler" in each for each in found.unread)


def test_of_comfyui_webp_holds_the_graph_in_exif(tmp_path):
    exif = Image.Exif()
    exif[0x0110] = "prompt:" + json.dumps(graph())
    Image.fromarray(GREY).save(tmp_path / "p.webp", exif=exif)
    usual(read_provenance(tmp_path / "p.webp"))


@pytest.mark.parametrize("name", ["prompt", "workflow"])
@pytest.mark.parametrize(
    "content", ["a fox", "[]", "{}", "3", '{"1": 2, "nodes": 3}', '{"nodes": [3, {}]}']
)
def test_a_text_of_that_name_may_be_anything(tmp_path, name, content):
    with pytest.raises(ValueError, match="does not say how"):
        read(tmp_path, **{name: content})


def test_of_comfyui_a_graph_that_is_damaged_is_said(tmp_path):
    found = read(tmp_path, prompt=json.dumps(graph())[:-5])
    assert (found.program, found.prompt) == ("ComfyUI", None)
    assert any("prompt is no JSON" in each for each in found.unread)
    usual(read(tmp_path, prompt=json.dumps(graph()).replace('"x"', "NaN")))  # as ComfyUI writes
