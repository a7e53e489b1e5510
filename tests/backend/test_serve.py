"""The server with the real engine and the embedded model: a few requests of each API."""

from __future__ import annotations

import base64
import io
import json
import time

import keras
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from keras_sd.provenance import read_provenance
from keras_sd.serve.about import About
from keras_sd.serve.app import make_app
from keras_sd.serve.engine import Engine
from keras_sd.serve.guard import Rules

PROMPT = "a cat face on a blue background"


@pytest.fixture(scope="module")
def client(emoji):
    about = About.of(emoji.model, backend=keras.backend.backend())
    engine = Engine(emoji.model, max_rows=2)
    app = make_app(engine, about, Rules(), warm_up=False, grace=5.0)
    with TestClient(app, base_url="http://127.0.0.1:7860") as client:
        yield client
    with pytest.raises(RuntimeError, match="closed"):
        engine.submit(emoji.request(PROMPT))


def pixels(data):
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture).astype(int)


def test_a_request_gives_the_picture_that_python_gives(client, emoji):
    body = {"prompt": PROMPT, "seed": 3, "num_steps": 3, "batch_size": 2}
    told = client.post("/api/requests", json=body).json()
    with client.stream("GET", f"/api/requests/{told['id']}/events?preview=1") as answer:
        events = answer.read().decode()
    last = json.loads(events.strip().split("\n\n")[-1].split("data: ")[1])
    data = [client.get(each["url"]).content for each in last["images"]]
    wanted = emoji.text_to_image(PROMPT, batch_size=2, seed=3, num_steps=3)
    for picture, want in zip(data, wanted, strict=True):
        assert np.abs(pixels(picture) - want).max() <= 1
    assert read_provenance(data[1]).request == wanted[1].request


def test_a_picture_of_the_web_uis_api_is_that_of_its_seed(client, emoji):
    body = {"prompt": PROMPT, "seed": 3, "steps": 3, "n_iter": 2, "cfg_scale": 3}
    body |= {"width": 64, "height": 64, "sampler_name": "DPM++ 2M", "scheduler": "Karras"}
    found = client.post("/sdapi/v1/txt2img", json=body).json()
    alone = emoji.text_to_image(
        *(PROMPT, None, 1, 3, 3),
        seed=4,
        sampler="DPM++ 2M Karras",
        prompt_style="a1111",
    )[0]
    picture = pixels(base64.b64decode(found["images"][1]))
    assert np.abs(picture - alone).max() <= 1
    assert json.loads(found["info"])["all_seeds"] == [3, 4]


def test_painting(client):
    image = Image.new("RGB", (64, 64), (250, 220, 0))
    hole = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    hole.paste((0, 0, 0, 0), (0, 0, 64, 32))
    files = []
    for each in (image, hole):
        buffer = io.BytesIO()
        each.save(buffer, format="PNG")
        files.append(buffer.getvalue())
    answer = client.post(
        "/v1/images/edits",
        data={"prompt": PROMPT, "steps": "2", "seed": "1"},
        files={"image": ("a.png", files[0]), "mask": ("m.png", files[1])},
    )
    assert answer.status_code == 200, answer.text
    picture = pixels(base64.b64decode(answer.json()["data"][0]["b64_json"]))
    assert (picture[32:] == (250, 220, 0)).all()
    assert (picture[:32] != (250, 220, 0)).any()


def test_what_only_the_model_can_refuse_is_refused_at_once(client):
    long = client.post("/api/requests", json={"prompt": "cat " * 60})
    assert (long.status_code, long.json()["error"]) == (422, "PromptTooLongError")
    deep = client.post("/api/requests", json={"prompt": "x", "clip_skip": 9})
    assert deep.json()["errors"][0]["loc"] == ["body", "clip_skip"]


def test_cancelled_within_a_step(client):
    told = client.post("/api/requests", json={"prompt": PROMPT, "num_steps": 150}).json()
    client.delete(f"/api/requests/{told['id']}")
    began = time.monotonic()
    with client.stream("GET", f"/api/requests/{told['id']}/events") as answer:
        assert "event: cancelled" in answer.read().decode()
    assert time.monotonic() - began < 2
    text = client.get("/metrics").text
    assert 'keras_sd_requests_total{outcome="cancelled"} 1' in text
