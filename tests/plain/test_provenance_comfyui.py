"""ComfyUI's graphs, and what is read of them; written anew after descriptions of the format."""

from __future__ import annotations

import json

import pytest
from PIL import Image
from test_provenance import GREY, read

from keras_sd.provenance import read_provenance


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


def test_of_comfyui_a_sampler_of_faces_comes_after_the_first(tmp_path):
    made = graph()
    picture = {"image": ["8", 0], "positive": ["6", 0], "negative": ["7", 0], "cfg": 3, "seed": 1}
    made["20"] = node("FaceDetailer", sampler_name="euler", scheduler="normal", **picture)
    made["9"] = node("SaveImage", images=["20", 0])
    found = read(tmp_path, prompt=made)
    usual(found)
    assert any("FaceDetailer" in each for each in found.unread)


def test_of_comfyui_texts_that_other_nodes_make(tmp_path):
    made = graph()
    made["6"]["inputs"] |= {"text": ["20", 0], "text_g": "", "text_l": ""}
    made["20"] = node("Wildcards", wildcard_text="a {fox|cat}", populated_text="a fox", mode="x")
    usual(read(tmp_path, prompt=made))
    made["20"] = node("Chat", question="what?", model="x")
    found = read(tmp_path, prompt=made)
    assert any("a text is made by node 20 (Chat)" in each for each in found.unread)
    made["6"]["inputs"] = {"text_g": "a fox", "text_l": "fur", "clip": ["4", 1]}
    found = read(tmp_path, prompt=made)
    assert found.prompt == "a fox"
    assert any("text of its own" in each for each in found.unread)


def test_of_comfyui_a_sampler_of_some_of_its_steps(tmp_path):
    made = graph()
    part = {"add_noise": "enable", "start_at_step": 0, "noise_seed": 99}
    part |= {"end_at_step": 10_000, "return_with_leftover_noise": "disable"}
    made["3"] = node("KSamplerAdvanced", **made["3"]["inputs"], **part)
    del made["3"]["inputs"]["seed"], made["3"]["inputs"]["denoise"]
    found = read(tmp_path, prompt=made)
    usual(found)
    assert found.others == {}
    made["3"]["inputs"] |= {"end_at_step": 25, "return_with_leftover_noise": "enable"}
    found = read(tmp_path, prompt=made)
    assert found.others == {"end_at_step": 25, "return_with_leftover_noise": "enable"}


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
