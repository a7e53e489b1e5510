"""`/v1/images` and `/v1/models`, as OpenAI's client sends and reads them."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from fake_source import FakeSource, served
from PIL import Image

from keras_sd.provenance import read_provenance

ACCEPTED = {"model": "gpt-image-1", "response_format": "b64_json", "user": "me", "quality": "high"}


@pytest.fixture
def client():
    with served() as client:
        yield client


def generate(client, **body):
    answer = client.post("/v1/images/generations", json={"prompt": "a fox", "steps": 2, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def file(width=64, height=64, mode="RGB", color=0):
    buffer = io.BytesIO()
    Image.new(mode, (width, height), color).save(buffer, format="PNG")
    return buffer.getvalue()


def test_generations(client):
    found = generate(client, n=2, size="64x128", seed=7, **ACCEPTED)
    assert (found["size"], found["output_format"]) == ("64x128", "png")
    assert isinstance(found["created"], int)
    pictures = [base64.b64decode(each["b64_json"]) for each in found["data"]]
    assert [each["seed"] for each in found["data"]] == [7, 7]
    with Image.open(io.BytesIO(pictures[1])) as picture:
        assert picture.size == (64, 128)
    assert read_provenance(pictures[1]).request.images == ((7, 1),)
    assert generate(client, size="auto")["size"] == "64x64"
    assert generate(client, size="1024x1024")["size"] == "64x64"
    assert generate(client, size=None)["size"] == "64x64"


@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_other_formats_have_their_settings(client, form):
    found = generate(client, output_format=form, output_compression=95, seed=3)
    data = base64.b64decode(found["data"][0]["b64_json"])
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.format == form.upper()
    read = read_provenance(data)
    assert (read.prompt, read.seed) == ("a fox", 3)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({}, 422, "prompt is missing"),
        ({"prompt": "x", "n": 11}, 422, "n is from 1 to 10"),
        ({"prompt": "x", "size": "64*64"}, 400, "WIDTHxHEIGHT"),
        ({"prompt": "x", "size": "0x64"}, 400, "WIDTHxHEIGHT"),
        ({"prompt": "x", "output_format": "svg"}, 422, "output_format"),
        ({"prompt": "x", "background": "transparent"}, 422, "background"),
        ({"prompt": "x", "model": "sd-9"}, 404, "no model 'sd-9'"),
        ({"prompt": "x", "steps": 999}, 422, "at most 150"),
        ({"prompt": "x", "sampler": "nobody"}, 422, "nobody"),
    ],
)
def test_errors_have_openais_shape(client, body, status, said):
    answer = client.post("/v1/images/generations", json=body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert said in error["message"]
    assert error["type"] == "invalid_request_error"


def test_a_long_prompt_is_broken_into_chunks_where_that_means_the_same(client):
    prompt = "a cat face, (really: a cat) on [a] blue background, " * 4
    generate(client, prompt=prompt)
    request = client.source.jobs[0].request
    assert request.prompt_style == "keras_sd"
    from keras_sd.prompts import parse

    (part,) = parse(request.prompts[0], "keras_sd").parts
    (shown,) = part.ranges(1)
    ((segment,),) = shown.sections
    assert (segment.text.split(), segment.weight) == (prompt.split(), 1)
    generate(client, prompt="a cat AND a dog " * 20)
    assert client.source.jobs[1].request.prompt_style == "plain"  # the engine says it is too long


def edit(client, files, **fields):
    data = {"prompt": "a fox", "steps": "2", **fields}
    return client.post("/v1/images/edits", data=data, files=files)


def test_edits_paint_what_is_transparent(client):
    hole = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    hole.paste((0, 0, 0, 0), (0, 0, 32, 64))
    buffer = io.BytesIO()
    hole.save(buffer, format="PNG")
    files = {"image": ("a.png", file(color=(5, 6, 7))), "mask": ("m.png", buffer.getvalue())}
    answer = edit(client, files, n="2", seed="9", guidance_scale="2.5")
    assert answer.status_code == 200, answer.text
    request = client.source.jobs[0].request
    assert len(answer.json()["data"]) == len(request) == 2
    assert (request.images[0][0], request.guidance_scale) == (9, 2.5)
    mask = request.start.masking.masks[0].data
    assert (mask[:, :32] == 1).all()
    assert (mask[:, 32:] == 0).all()
    assert (np.asarray(request.start.pictures[0].data) == (5, 6, 7)).all()
    # The picture's own transparent part, where there is no mask; else all of it is begun at.
    assert edit(client, {"image[]": ("a.png", buffer.getvalue())}).status_code == 200
    assert client.source.jobs[1].request.start.masking.masks[0].data.mean() == 0.5
    assert edit(client, {"image": ("a.png", file())}, strength="0.4").status_code == 200
    start = client.source.jobs[2].request.start
    assert (start.masking, start.strength) == (None, 0.4)


@pytest.mark.parametrize(
    ("files", "status", "said"),
    [
        ({"mask": ("m.png", file(mode="RGBA"))}, 400, "image and mask"),
        ({"image": ("a.png", b"no picture")}, 400, "no picture"),
        ({"image": ("a.png", file()), "mask": ("m.png", file())}, 400, "no transparent part"),
        ({"image": ("a.png", file()), "mask": ("m.png", file(8, 8, "RGBA"))}, 400, "size"),
        ([("image[]", ("a.png", file())), ("image[]", ("b.png", file()))], 400, "One picture"),
    ],
)
def test_files_that_do_not_fit(client, files, status, said):
    answer = edit(client, files)
    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]


def test_streaming_has_partial_images():
    source = FakeSource()
    source.pace = 0.02
    body = {"prompt": "x", "steps": 8, "stream": True, "partial_images": 2}
    with served(source) as client, client.stream("POST", "/v1/images/generations", json=body) as it:
        blocks = it.read().decode().strip().split("\n\n")
    names = [block.splitlines()[0].removeprefix("event: ") for block in blocks]
    assert names == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    partial, _, last = (json.loads(block.splitlines()[1][6:]) for block in blocks)
    assert (partial["type"], partial["partial_image_index"]) == (names[0], 0)
    for each in (partial, last):
        with Image.open(io.BytesIO(base64.b64decode(each["b64_json"]))) as picture:
            assert picture.size == (64, 64)
    assert last["usage"]["total_tokens"] == 0


def test_a_failure_in_a_stream_is_its_last_event():
    source = FakeSource(fails=FloatingPointError("not finite"))
    body = {"prompt": "x", "stream": True}
    with served(source) as client, client.stream("POST", "/v1/images/generations", json=body) as it:
        name, data = it.read().decode().strip().splitlines()
    assert name == "event: error"
    assert json.loads(data[6:])["error"]["message"] == "not finite"


def test_models(client):
    (model,) = client.get("/v1/models").json()["data"]
    assert (model["id"], model["object"]) == ("emoji", "model")
    assert client.get("/v1/models/emoji").json() == model
    assert client.get("/v1/models/none").status_code == 404
