"""What programs write into their pictures, and what is read of it. The texts are written anew after
the descriptions of the formats; only the names in them are the programs' own.
"""

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


def test_of_programs_that_write_nearly_as_a1111(tmp_path):
    line = "a\nSteps: 9, Sampler: euler_karras, CFG Scale: 5, Seed: 1, Model hash: ab,Model: m"
    found = read(tmp_path, parameters=f"{line}, Denoising strength: 1.0, Version: ComfyUI")
    assert (found.guidance_scale, found.model_hash, found.model) == (5, "ab", "m")
    assert (found.starts, found.unread) == (False, ())
    assert read(tmp_path, parameters=f"{line}, Denoising strength: 1.0, Mask blur: 4").starts


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
