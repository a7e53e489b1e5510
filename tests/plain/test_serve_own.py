"""Our own API, with a source of pictures that needs no model."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from fake_source import FakeSource, eventually, png, served
from PIL import Image

from keras_sd.provenance import read_provenance
from keras_sd.request import Request
from keras_sd.start import Attachment


@pytest.fixture
def client():
    with served() as client:
        yield client


def events(response):
    """Names and objects of an answer of server-sent events."""
    found = []
    for block in response.read().decode().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "event" in lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


def followed(client, id, query=""):
    with client.stream("GET", f"/api/requests/{id}/events{query}") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        return events(response)


def test_info_has_what_a_page_needs(client):
    info = client.get("/api/info").json()
    assert info["model"]["name"] == "emoji"
    assert (info["height"], info["width"]) == (64, 64)
    assert info["limits"]["pixels"] == 256 * 256
    samplers = {each["name"]: each for each in info["samplers"]}
    assert samplers["dpmpp_2m"]["display_name"] == "DPM++ 2M"
    assert {"name": "eta", "type": "float", "default": 0.0} in samplers["ddim"]["settings"]
    assert {"name": "high", "type": "float", "default": "inf"} in samplers["sa_solver"]["settings"]
    assert {each["name"] for each in info["schedules"]} >= {"karras", "leading"}
    guidance = {each["name"]: each["settings"] for each in info["guidance"]}
    assert {"name": "norm", "type": "float", "default": 15.0} in guidance["apg"]
    assert info["defaults"]["num_steps"] == 20
    assert info["defaults"]["sampler"] in samplers
    assert "a1111" in info["prompt_styles"]
    assert info["adapters"] == ["style"]
    assert json.dumps(info)
    eventually(lambda: client.get("/api/info").json()["ready"])


def test_ready_comes_after_the_warm_up():
    source = FakeSource()
    gate = source.go
    gate.clear()
    source.warm_up = lambda: gate.wait(5)
    with served(source) as client:
        assert client.get("/health").json() == {"status": "ok"}
        assert client.get("/ready").status_code == 503
        gate.set()
        eventually(lambda: client.get("/ready").status_code == 200)


def test_a_request_is_made_followed_fetched(client):
    body = {"prompt": "a cat face", "seed": 7, "batch_size": 2, "num_steps": 3}
    body["sampler"] = "Euler a"
    answer = client.post("/api/requests", json=body)
    assert answer.status_code == 202
    told = answer.json()
    assert told["request"]["images"] == [[7, 0], [7, 1]]
    assert told["request"]["sampler"] == "euler_ancestral"
    assert answer.headers["location"] == f"/api/requests/{told['id']}"
    names = followed(client, told["id"])
    kind, last = names[-1]
    assert kind == "done"
    assert [each["url"] for each in last["images"]] == [
        f"/api/requests/{told['id']}/images/{i}.png" for i in (0, 1)
    ]
    picture = client.get(last["images"][1]["url"])
    assert picture.headers["content-type"] == "image/png"
    found = read_provenance(picture.content)
    assert (found.program, found.prompt, found.seed) == ("keras_sd", "a cat face", 7)
    assert found.request == Request.from_dict(told["request"]).only(1)
    assert found.model == "emoji"
    with Image.open(io.BytesIO(picture.content)) as image:
        assert "Sampler: Euler a" in image.info["parameters"]
        assert "Model hash: 0123456789" in image.info["parameters"]
    # A client that comes late is told the end.
    assert followed(client, told["id"])[-1] == (kind, last)
    assert client.get(f"/api/requests/{told['id']}").json()["state"] == "done"
    assert [each["id"] for each in client.get("/api/requests").json()["requests"]] == [told["id"]]


def test_a_request_as_python_has_it(client):
    request = Request.of("a fox", seed=3, batch_size=2, num_steps=2)
    for body in (request.to_dict(), {"request": request.to_dict()}):
        told = client.post("/api/requests", json=body).json()
        assert Request.from_dict(told["request"]).only(1).images == ((3, 1),)


def test_pictures_and_masks_come_in_base64(client):
    body = {"prompt": "x", "image": png(color=(9, 8, 7)), "mask": png(color=255, mode="L")}
    body |= {"strength": 0.5, "mask_blur": 1, "num_steps": 2, "only_masked": True}
    told = client.post("/api/requests", json=body).json()
    start = told["request"]["start"]
    assert start["strength"] == 0.5
    assert start["masking"]["mask_blur"] == 1
    (job,) = client.source.jobs
    assert (np.asarray(job.request.start.pictures[0].data) == (9, 8, 7)).all()
    # The JSON form knows them by their hashes.
    again = {"request": told["request"], "image": body["image"], "mask": body["mask"]}
    assert client.post("/api/requests", json=again).status_code == 202
    del again["mask"]
    assert client.post("/api/requests", json=again).status_code == 422


def test_a_picture_is_extended(client):
    body = {"prompt": "x", "image": png(64, 64), "extend_left": 16, "extend_top": 8}
    assert client.post("/api/requests", json=body).status_code == 202
    start = client.source.jobs[0].request.start
    assert start.pictures[0].data.shape == (72, 80, 3)
    assert start.masking.masks[0].data.sum() == 72 * 80 - 64 * 64
    body |= {"mask": png(mode="L")}
    assert client.post("/api/requests", json=body).status_code == 422


def test_previews_are_made_only_while_somebody_watches():
    source = FakeSource(hold=True)
    with served(source) as client:
        id = client.post("/api/requests", json={"prompt": "x", "num_steps": 4}).json()["id"]
        assert not source.jobs[0].watched
        original = source.jobs[0].listen

        def listen(callback):
            stop = original(callback)
            assert source.jobs[0].watched
            source.go.set()
            return stop

        source.jobs[0].listen = listen
        found = followed(client, id, "?preview=1")
        previews = [each["preview"] for name, each in found if name == "step" and each["preview"]]
        assert all(base64.b64decode(each[0]).startswith(b"\x89PNG") for each in previews)
        assert found[-1][0] == "done"
        assert not source.jobs[0].watched
        source.jobs[0].listen = original
        assert all("preview" not in each for _, each in followed(client, id))


def test_cancelling():
    source = FakeSource(hold=True)
    with served(source) as client:
        told = client.post("/api/requests", json={"prompt": "x"}).json()
        assert client.delete(f"/api/requests/{told['id']}").status_code == 200
        assert followed(client, told["id"])[-1][0] == "cancelled"
        assert client.get(f"/api/requests/{told['id']}").json()["state"] == "cancelled"
        assert client.get(f"/api/requests/{told['id']}/images/0.png").status_code == 404
        assert client.delete("/api/requests/nobody").status_code == 404


def test_a_post_that_follows(client):
    headers = {"Accept": "text/event-stream"}
    with client.stream(
        "POST", "/api/requests", json={"prompt": "x", "num_steps": 2}, headers=headers
    ) as response:
        found = events(response)
    assert (found[0][0], found[-1][0]) == ("accepted", "done")


@pytest.mark.parametrize(
    ("body", "field", "said"),
    [
        ({"prompt": 3}, "prompt", "string"),
        ({"prompt": "x", "steps": 3}, "steps", "is no field"),
        ({"prompt": "x", "num_steps": 151}, "num_steps", "at most 150"),
        ({"prompt": "x", "num_steps": "3"}, "num_steps", "number"),
        ({"prompt": "x", "height": 65}, "height", "multiple of 8"),
        ({"prompt": "x", "height": 512, "width": 512}, "height", "65536 pixels"),
        ({"prompt": "x", "batch_size": 17}, "batch_size", "from 1 to 16"),
        ({"prompt": "x", "seed": -1}, "seed", "from 0"),
        ({"prompt": "x", "prompt_style": "latin"}, "prompt_style", "one of"),
        ({"prompt": "x" * 10_001}, "prompt", "10000"),
        ({"prompt": "x AND " * 9 + "x", "prompt_style": "a1111"}, "prompt", "parts"),
        ({"prompt": "x", "sampler": "nobody's"}, None, "nobody's"),
        ({"prompt": "x", "sampler": "euler:eta=1"}, None, "eta"),
        ({"prompt": "x", "strength": 0.5}, None, "image"),
        ({"prompt": "x", "height": 256, "width": 256, "num_steps": 150}, None, None),
    ],
)
def test_what_does_not_fit_is_refused_by_its_field(client, body, field, said):
    answer = client.post("/api/requests", json=body)
    if said is None:
        assert answer.status_code == 202
        body = body | {"batch_size": 16}
        answer = client.post("/api/requests", json=body)
        said = "pixels; at most"
    assert answer.status_code == 422
    assert said in answer.json()["detail"]
    if field is not None:
        assert answer.json()["errors"][0]["loc"] == ["body", field]


def test_prompts_are_counted(client):
    found = client.post("/api/prompt", json={"prompt": "a cat face and a zyzzyva"}).json()
    assert found["tokens"] > 5
    assert (found["limit"], found["chunks"], found["too_long"]) == (38, 1, False)
    assert found["unknown_words"] == ["zyzzyva"]
    long = {"prompt": "cat " * 60}
    assert client.post("/api/prompt", json=long).json()["too_long"] is True
    styled = client.post("/api/prompt", json=long | {"prompt_style": "keras_sd"}).json()
    assert (styled["too_long"], styled["chunks"]) == (False, 2)
    wrong = {"prompt": "(a:1.2.3)", "prompt_style": "a1111"}
    assert client.post("/api/prompt", json=wrong).status_code == 422


def test_a_picture_says_how_it_was_made(client):
    told = client.post("/api/requests", json={"prompt": "a fox", "seed": 5, "num_steps": 2}).json()
    url = followed(client, told["id"])[-1][1]["images"][0]["url"]
    data = base64.b64encode(client.get(url).content).decode()
    found = client.post("/api/read", json={"image": data}).json()
    assert found["found"]["program"] == "keras_sd"
    settings = found["settings"]
    assert (settings["prompt"], settings["seed"], settings["num_steps"]) == ("a fox", 5, 2)
    again = client.post("/api/requests", json=settings).json()
    assert again["request"] == told["request"]
    nothing = client.post("/api/read", json={"image": png()}).json()
    assert nothing["found"] is None
    assert "does not say" in nothing["detail"]


def test_what_another_program_wrote_becomes_fields(client):
    from PIL import PngImagePlugin

    texts = PngImagePlugin.PngInfo()
    texts.add_text(
        "parameters",
        "a fox\nNegative prompt: rain\nSteps: 20, Sampler: DPM++ 2M, Schedule type: Karras, "
        "CFG scale: 7, Seed: 42, Size: 64x128, Model: x",
    )
    buffer = io.BytesIO()
    Image.new("RGB", (64, 128)).save(buffer, format="PNG", pnginfo=texts)
    data = base64.b64encode(buffer.getvalue()).decode()
    assert client.post("/api/read", json={"image": data}).json()["settings"] == {
        "prompt": "a fox",
        "negative_prompt": "rain",
        "seed": 42,
        "num_steps": 20,
        "sampler": "dpmpp_2m",
        "schedule": "karras",
        "guidance_scale": 7.0,
        "width": 64,
        "height": 128,
    }


def test_only_so_many_results_are_kept():
    with served(kept=2) as client:
        ids = []
        for seed in range(4):
            body = {"prompt": "x", "seed": seed, "num_steps": 1}
            ids.append(client.post("/api/requests", json=body).json()["id"])
            assert followed(client, ids[-1])[-1][0] == "done"
        kept = [each["id"] for each in client.get("/api/requests").json()["requests"]]
        assert kept == ids[-2:]
        assert client.get(f"/api/requests/{ids[0]}/events").status_code == 404
    with served(kept_bytes=64 * 64 * 3) as client:
        for seed in range(3):
            body = {"prompt": "x", "seed": seed, "num_steps": 1}
            id = client.post("/api/requests", json=body).json()["id"]
            followed(client, id)
        kept = [each["id"] for each in client.get("/api/requests").json()["requests"]]
        assert kept == [id]
        # Pictures that were sent are held as well.
        body = {"prompt": "x", "image": png(64, 64), "num_steps": 1}
        body["mask"] = png(mode="L", color=255)
        followed(client, client.post("/api/requests", json=body).json()["id"])
        (kept,) = client.app.studio.jobs
        assert kept.bytes == 64 * 64 * (3 + 3 + 4)
        # An adapter is a file, of which nothing is held.
        given = [*kept.request.attachments(), Attachment("0" * 64, "style", object())]
        job = SimpleNamespace(request=SimpleNamespace(attachments=lambda: given))
        assert replace(kept, job=job).bytes == kept.bytes


def test_the_document_is_made_of_the_tables(client):
    found = client.get("/openapi.json").json()
    drawing = found["components"]["schemas"]["Drawing"]
    assert drawing["properties"]["batch_size"]["maximum"] == 16
    assert drawing["properties"]["resize"]["enum"] == ["stretch", "crop", "pad", None]
    assert set(found["paths"]["/api/requests"]) == {"get", "post"}
    page = client.get("/docs").text
    assert "guidance_scale" in page
    assert "http" not in page.replace("http-equiv", "")


def test_metrics_are_prometheus_text(client):
    client.get("/api/info")
    text = client.get("/metrics").text
    assert 'keras_sd_http_answers_total{api="api",status="200"} 1' in text
    assert "# TYPE keras_sd_requests_total counter" in text
    for line in text.splitlines():
        assert line.startswith("#") or len(line.split(" ")) == 2
