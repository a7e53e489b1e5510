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
    engine = Engine(emoji.model, max_rows=1)
    app = make_app(engine, about, Rules(), warm_up=False, grace=5.0)
    with TestClient(app, base_url="http://127.0.0.1:7860") as client:
        yield client
    with pytest.raises(RuntimeError, match="closed"):
        engine.submit(emoji.request(PROMPT))


def pixels(data):
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture).astype(int)


def test_a_picture_is_that_of_its_seed_alone(client):
    body = {"prompt": PROMPT, "steps": 3, "cfg_scale": 3, "width": 64, "height": 64}
    body |= {"sampler_name": "DPM++ 2M SDE", "scheduler": "Karras"}
    several, alone = (
        client.post("/sdapi/v1/txt2img", json=body | more).json()
        for more in ({"seed": 3, "n_iter": 2}, {"seed": 4})
    )
    assert json.loads(several["info"])["all_seeds"] == [3, 4]
    first, second, same = (
        pixels(base64.b64decode(each)) for each in (*several["images"], *alone["images"])
    )
    assert np.abs(second - same).max() <= 1
    assert np.abs(second - first).max() > 50


def test_a_request_is_followed(client):
    told = client.post("/api/requests", json={"prompt": PROMPT, "seed": 3, "num_steps": 3}).json()
    with client.stream("GET", f"/api/requests/{told['id']}/events?preview=1") as answer:
        events = answer.read().decode()
    last = json.loads(events.strip().split("\n\n")[-1].split("data: ")[1])
    picture = client.get(last["images"][0]["url"])
    assert read_provenance(picture.content).request.to_dict() == told["request"]
    assert pixels(picture.content).shape == (64, 64, 3)


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
