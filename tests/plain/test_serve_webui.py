"""`/sdapi/v1`: fields, defaults and answers as the web UI's clients send and read them."""

from __future__ import annotations

import base64
import io
import json
import threading

import numpy as np
import pytest
from fake_source import FakeSource, about, eventually, png, served
from PIL import Image

from keras_sd.provenance import read_provenance
from keras_sd.serve import webui_answers as answers
from keras_sd.serve.webui_answers import IDLE
from keras_sd.serve.webui_form import sampler_of

# What sd-backend-client refuses an answer without.
INFO = [
    "prompt",
    "all_prompts",
    "negative_prompt",
    "all_negative_prompts",
    "seed",
    "all_seeds",
    "subseed",
    "all_subseeds",
    "subseed_strength",
    "width",
    "height",
    "sampler_name",
    "cfg_scale",
    "steps",
    "batch_size",
    "restore_faces",
    "face_restoration_model",
    "sd_model_name",
    "sd_model_hash",
    "sd_vae_name",
    "sd_vae_hash",
    "seed_resize_from_w",
    "seed_resize_from_h",
    "denoising_strength",
    "extra_generation_params",
    "index_of_first_image",
    "infotexts",
    "styles",
    "job_timestamp",
    "clip_skip",
    "is_using_inpainting_conditioning",
    "version",
]
STATE = [
    "skipped",
    "interrupted",
    "stopping_generation",
    "job",
    "job_count",
    "job_timestamp",
    "job_no",
    "sampling_step",
    "sampling_steps",
]


@pytest.fixture
def client():
    with served() as client:
        yield client


def draw(client, path="txt2img", **body):
    answer = client.post(f"/sdapi/v1/{path}", json={"steps": 2, **body})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    return found | {"info": json.loads(found["info"])}


def opened(text):
    return Image.open(io.BytesIO(base64.b64decode(text, validate=True)))


def test_an_answer_has_all_that_clients_read(client):
    found = draw(client, prompt="a (cat:1.2)", seed=40, batch_size=2, n_iter=2, cfg_scale=5)
    info = found["info"]
    assert list(info) == INFO
    assert info["all_seeds"] == [40, 41, 42, 43]
    assert info["all_prompts"] == ["a (cat:1.2)"] * 4
    assert (info["seed"], info["cfg_scale"], info["batch_size"]) == (40, 5, 2)
    assert (info["sd_model_name"], info["sd_model_hash"]) == ("emoji", "0123456789")
    assert (info["sampler_name"], info["index_of_first_image"]) == ("Euler", 0)
    assert len(found["images"]) == len(info["infotexts"]) == 4
    assert found["parameters"]["steps"] == 2
    for i, image in enumerate(found["images"]):
        with opened(image) as picture:
            assert picture.info["parameters"] == info["infotexts"][i]
            # The picture of seed + i is that of the seed alone.
            assert (np.asarray(picture) == 40 + i).all()
        text = read_provenance(base64.b64decode(image))
        assert text.request.images == ((40 + i, 0),)
        assert text.request.prompt_style == "a1111"


def test_every_default_is_the_web_uis(client):
    answer = client.post("/sdapi/v1/txt2img", json={})
    given = answer.json()["parameters"]
    wanted = {"steps": 50, "cfg_scale": 7.0, "width": 512, "height": 512, "batch_size": 1}
    wanted |= {"n_iter": 1, "sampler_index": "Euler", "denoising_strength": 0.75, "hr_scale": 2.0}
    assert wanted.items() <= given.items()
    (job,) = client.source.jobs
    assert (job.request.sampler, job.request.num_steps) == ("euler", 50)
    assert client.post("/sdapi/v1/txt2img", content=b"").status_code == 200


def test_sizes_beyond_the_models_bounds_are_taken_as_shapes(client):
    found = draw(client, width=768, height=512)
    assert (found["info"]["width"], found["info"]["height"]) == (80, 56)
    assert found["info"]["extra_generation_params"]["Size asked for"] == "768x512"
    assert opened(found["images"][0]).size == (80, 56)
    exact = draw(client, width=128, height=100)
    assert (exact["info"]["width"], exact["info"]["height"]) == (128, 96)


@pytest.mark.parametrize("seed", [-1, None, "", "-1"])
def test_no_seed_is_a_new_one(client, seed):
    seeds = [draw(client, seed=seed, n_iter=2)["info"]["all_seeds"] for _ in range(2)]
    assert all(second == first + 1 for first, second in seeds)
    assert seeds[0] != seeds[1]


@pytest.mark.parametrize(
    ("body", "sampler", "schedule"),
    [
        ({"sampler_name": "DPM++ 2M", "scheduler": "Karras"}, "dpmpp_2m", "karras"),
        ({"sampler_name": "DPM++ 2M Karras", "scheduler": "automatic"}, "dpmpp_2m", "karras"),
        ({"sampler_index": "Euler a"}, "euler_ancestral", None),
        (
            {"sampler_name": "k_euler_a", "scheduler": "sgm_uniform"},
            "euler_ancestral",
            "sgm_uniform",
        ),
        ({"sampler_name": "DPM++ 2M SDE Heun"}, "dpmpp_2m_sde:solver=heun", None),
        # Some send an eta of 1 whatever the sampler is.
        ({"sampler_name": "DPM++ 2M", "eta": 1.0}, "dpmpp_2m", None),
        ({"sampler_name": "Euler a", "eta": 0.5}, "euler_ancestral:eta=0.5", None),
    ],
)
def test_samplers_and_schedules_by_the_web_uis_names(client, body, sampler, schedule):
    draw(client, **body)
    request = client.source.jobs[0].request
    assert request.sampler.replace('"', "'") == sampler or request.sampler == sampler.replace(
        "'", ""
    )
    if schedule is not None:
        assert request.schedule == schedule


def test_every_name_that_is_listed_can_be_asked_for():
    model = about()
    for each in answers.samplers(model):
        for name in (each["name"], *each["aliases"]):
            assert sampler_of(name, None, model)[0] == each["aliases"][0]
    for each in answers.schedulers(model):
        for name in (each["name"], each["label"]):
            own = None if each["name"] == "automatic" else each["name"]
            assert sampler_of("Euler", name, model)[1] == own


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("txt2img", {"steps": "many"}, 422, "steps"),
        ("txt2img", {"sampler_name": "nobody"}, 400, "Sampler not found"),
        ("txt2img", {"sampler_name": "os:system"}, 400, "Sampler not found"),
        ("txt2img", {"scheduler": "nobody"}, 400, "Scheduler not found"),
        ("txt2img", {"seed": "x"}, 422, "seed"),
        ("txt2img", {"seed": -7}, 422, "seed"),
        ("txt2img", {"seed": 1.5}, 422, "seed"),
        ("txt2img", {"batch_size": 5, "n_iter": 5}, 422, "at most 16"),
        ("txt2img", {"steps": 5000}, 422, "at most 150"),
        ("txt2img", {"script_name": "xyz"}, 422, "Script"),
        ("txt2img", {"alwayson_scripts": {"ControlNet": {"args": [{}]}}}, 422, "ControlNet"),
        ("txt2img", {"override_settings": {"sd_model_checkpoint": "/etc/passwd"}}, 422, "model"),
        ("txt2img", {"override_settings": {"CLIP_stop_at_last_layers": "x"}}, 422, "CLIP"),
        ("img2img", {}, 404, "Init image not found"),
        ("img2img", {"init_images": ["AAAA"]}, 400, "no picture"),
        ("img2img", {"init_images": ["http://127.0.0.1/x.png"]}, 400, "nothing is fetched"),
        ("img2img", {"init_images": [png()], "denoising_strength": 0}, 422, "above 0"),
    ],
)
def test_what_is_refused(client, path, body, status, said):
    answer = client.post(f"/sdapi/v1/{path}", json=body)
    assert answer.status_code == status
    assert said in answer.json()["detail"]
    assert client.source.jobs == []


def test_what_clients_send_beside_is_ignored(client):
    draw(
        client,
        alwayson_scripts={"ControlNet": {"args": []}},
        override_settings={"sd_vae": "Automatic", "unheard_of": [1]},
        save_images=True,
        hr_upscaler="Latent",
        styles=[],
        url="http://elsewhere",
        clip_skip=2,
        force_task_id="task(txt2img-XXXXXXX)",
        sampler_name=None,
        script_args=[1],
    )


def test_what_is_asked_for_and_not_done_is_said(client):
    found = draw(client, tiling=True, restore_faces=True, subseed_strength=0.5)
    said = found["info"]["extra_generation_params"]["Not followed"]
    assert said == "subseed_strength, restore_faces, tiling"


def test_without_pictures_the_rest_is_there(client):
    found = draw(client, send_images=False)
    assert found["images"] == []
    assert found["info"]["infotexts"]


def test_image_to_image(client):
    image = "data:image/png;base64," + png(96, 64, color=(1, 2, 3))
    found = draw(
        client, "img2img", init_images=[image], width=64, height=128, resize_mode=1, steps=4
    )
    assert found["parameters"]["init_images"] is None
    start = client.source.jobs[0].request.start
    assert (start.resize, start.strength, start.steps_mode) == ("crop", 0.75, "schedule")
    assert found["info"]["denoising_strength"] == 0.75
    assert (found["info"]["width"], found["info"]["height"]) == (64, 128)
    again = draw(client, "img2img", init_images=[image], include_init_images=True)
    assert again["parameters"]["init_images"] == [image]


def mask(mode="L"):
    picture = Image.new("L", (64, 64), 0)
    picture.paste(255, (16, 16, 48, 48))
    if mode == "RGBA":
        alpha, picture = picture, Image.new("RGBA", (64, 64), (9, 9, 9, 0))
        picture.putalpha(alpha)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_masks(client, mode):
    body = {"init_images": [png(64, 64, color=(200, 100, 0))], "mask": mask(mode)}
    found = draw(client, "img2img", **body, mask_blur=0, inpaint_full_res_padding=8)
    start = client.source.jobs[-1].request.start
    masking = start.masking
    assert (masking.only_masked, masking.padding, masking.mask_blur) == (True, 8, 0)
    painted = masking.masks[0].data
    assert painted[32, 32] == 1
    assert painted[0, 0] == 0
    assert painted.mean() == 0.25
    # Filled with what is around it, which has one colour here.
    filled = np.asarray(start.pictures[0].data).astype(int)
    assert np.abs(filled - (200, 100, 0)).max() <= 8
    assert (found["info"]["width"], found["info"]["height"]) == (64, 64)
    draw(client, "img2img", **body, inpainting_mask_invert=1, inpaint_full_res=False)
    start = client.source.jobs[-1].request.start
    assert start.masking.masks[0].data.mean() == 0.75
    assert (start.masking.mask_blur, start.resize) == (4, "stretch")
    draw(client, "img2img", **body, inpainting_fill=2)
    assert client.source.jobs[-1].request.start.strength == 1
    draw(client, "img2img", **body, inpainting_fill=3)
    assert (client.source.jobs[-1].request.start.pictures[0].data[32, 32] == 128).all()


def test_what_is_filled_in_goes_on_from_its_edges(client):
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:, 32:] = 200
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    image = base64.b64encode(buffer.getvalue()).decode()
    draw(client, "img2img", init_images=[image], mask=mask(), mask_blur=0)
    filled = client.source.jobs[0].request.start.pictures[0].data
    assert (filled[32, 17] < 60).all()
    assert (filled[32, 46] > 140).all()
    outside = np.ones((64, 64), bool)
    outside[16:48, 16:48] = False
    assert (filled[outside] == picture[outside]).all()


def test_hires_fix_is_two_passes(client):
    found = draw(
        client,
        width=64,
        height=64,
        seed=9,
        enable_hr=True,
        hr_scale=2,
        hr_second_pass_steps=3,
        hr_prompt="closer",
        denoising_strength=0.5,
    )
    first, second = client.source.jobs
    assert (first.request.size, second.request.size) == ((64, 64), (128, 128))
    assert second.request.prompts == ("closer",)
    assert second.request.images == first.request.images == ((9, 0),)
    assert (second.request.num_steps, second.request.start.strength) == (3, 0.5)
    assert found["info"]["extra_generation_params"]["Hires resize"] == "128x128"
    assert (found["info"]["width"], found["info"]["steps"]) == (128, 2)


def test_progress_and_interrupt():
    source = FakeSource(hold=True)
    with served(source) as client:
        assert client.get("/sdapi/v1/progress").json() == IDLE
        assert client.post("/sdapi/v1/interrupt").json() == {}
        assert client.post("/sdapi/v1/skip", json={}).json() is None
        found = {}
        thread = threading.Thread(target=lambda: found.update(draw(client, steps=100)))
        source.pace = 0.01
        thread.start()
        eventually(lambda: source.jobs)
        waiting = client.get("/sdapi/v1/progress?skip_current_image=true").json()
        assert (waiting["progress"], waiting["state"]["job_count"]) == (0.01, 1)
        # What waits is not stopped: a client that stops what runs has not asked for that.
        assert client.post("/sdapi/v1/interrupt").json() == {}
        source.go.set()
        eventually(lambda: client.get("/sdapi/v1/progress").json()["current_image"])
        busy = client.get("/sdapi/v1/progress").json()
        assert list(busy["state"]) == STATE
        assert 0 < busy["progress"] < 1
        assert busy["eta_relative"] > 0
        assert busy["state"]["sampling_steps"] == 100
        assert opened(busy["current_image"]).size == (64, 64)
        assert client.post("/sdapi/v1/interrupt").json() == {}
        thread.join(5)
        assert source.jobs[0].state == "cancelled"
        # 200 with the picture so far.
        assert len(found["images"]) == 1
        assert list(found["info"]) == INFO
        assert client.get("/sdapi/v1/progress").json() == IDLE


def test_lists_that_clients_ask_for(client):
    def get(name):
        answer = client.get(f"/sdapi/v1/{name}")
        assert answer.status_code == 200
        return answer.json()

    (model,) = get("sd-models")
    assert set(model) == {"title", "model_name", "hash", "sha256", "filename", "config"}
    assert "/" not in model["filename"]
    assert {"name": "DPM++ 2M", "aliases": ["dpmpp_2m", "k_dpmpp_2m"], "options": {}} in get(
        "samplers"
    )
    schedules = {each["name"]: each["label"] for each in get("schedulers")}
    assert (schedules["automatic"], schedules["karras"]) == ("Automatic", "Karras")
    assert get("upscalers")[0]["name"] == "None"
    assert get("latent-upscale-modes") == [{"name": "Latent"}]
    assert get("scripts") == {"txt2img": [], "img2img": []}
    assert get("embeddings") == {"loaded": {}, "skipped": {}}
    assert get("cmd-flags") == {}
    assert "total" in get("memory")["ram"]
    (lora,) = get("loras")
    assert lora == {"name": "style", "alias": "style", "path": "style", "metadata": {}}
    for name in ("sd-vae", "hypernetworks", "face-restorers", "script-info"):
        assert get(name) == []
    for name in ("realesrgan-models", "prompt-styles"):
        assert get(name) == []
    for name in ("refresh-checkpoints", "refresh-vae", "refresh-loras"):
        assert client.post(f"/sdapi/v1/{name}").json() is None
    assert client.get("/internal/ping").json() == {}


@pytest.mark.parametrize(
    "path",
    ["/system_stats", "/sdapi/v1/interrogate", "/controlnet/model_list", "/internal/progress"],
)
def test_what_clients_recognise_others_by_is_not_there(client, path):
    answer = client.get(path)
    assert (answer.status_code, answer.json()["detail"]) == (404, "Not Found")


def test_options(client):
    options = client.get("/sdapi/v1/options").json()
    assert (options["sd_model_checkpoint"], options["samples_format"]) == ("emoji", "png")
    # open-webui posts all of them back.
    assert client.post("/sdapi/v1/options", json=options).json() is None
    assert client.get("/sdapi/v1/options").json() == options
    for name in ("emoji", "emoji.safetensors", "emoji [0123456789]", "0123456789"):
        body = {"sd_model_checkpoint": name}
        assert client.post("/sdapi/v1/options", json=body).status_code == 200
    refused = client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "../../x.ckpt"})
    assert refused.status_code == 422
    body = {"CLIP_stop_at_last_layers": 2, "outdir_samples": "/etc"}
    assert client.post("/sdapi/v1/options", json=body).status_code == 200
    changed = client.get("/sdapi/v1/options").json()
    assert changed == options | {"CLIP_stop_at_last_layers": 2}
    draw(client)
    assert client.source.jobs[0].request.clip_skip == 2


def test_png_info(client):
    found = draw(client, prompt="a fox", seed=3)
    body = {"image": found["images"][0]}
    read = client.post("/sdapi/v1/png-info", json=body).json()
    assert read["info"] == found["info"]["infotexts"][0]
    assert read["parameters"]["Seed"] == 3
    assert "keras_sd" in read["items"]
    empty = client.post("/sdapi/v1/png-info", json={"image": png()}).json()
    assert empty == {"info": "", "items": {}, "parameters": {}}


def test_pictures_in_another_size(client):
    body = {"image": png(32, 16), "upscaling_resize": 2, "upscaler_1": "Lanczos"}
    answer = client.post("/sdapi/v1/extra-single-image", json=body).json()
    assert set(answer) == {"image", "html_info"}
    assert opened(answer["image"]).size == (64, 32)
    body |= {"resize_mode": 1, "upscaling_resize_w": 40, "upscaling_resize_h": 40}
    answer = client.post("/sdapi/v1/extra-single-image", json=body).json()
    assert opened(answer["image"]).size == (40, 40)
    body["upscaling_crop"] = False
    answer = client.post("/sdapi/v1/extra-single-image", json=body).json()
    assert opened(answer["image"]).size == (40, 20)
    batch = {"imageList": [{"data": png(8, 8), "name": "a"}] * 2, "upscaler_1": "Nearest"}
    answer = client.post("/sdapi/v1/extra-batch-images", json=batch).json()
    assert [opened(each).size for each in answer["images"]] == [(16, 16), (16, 16)]
    large = {"image": png(1024, 1024), "upscaling_resize": 16}
    assert client.post("/sdapi/v1/extra-single-image", json=large).status_code == 400
