"""What somebody who means harm tries, and that it is refused: one test an attack.

From browsers that visit a foreign page, with requests that are too much, with files and names, and
without the token. The headers are those that Chromium sends.
"""

from __future__ import annotations

import base64
import io
import os
import pickle
import struct
import zlib

import pytest
from fake_source import BASE, PORT, FakeSource, app_of, eventually, png, served
from PIL import Image
from starlette.testclient import TestClient

from keras_sd.serve.guard import COOKIE, Rules

DRAW = "/sdapi/v1/txt2img"
CROSS = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "empty"}


@pytest.fixture
def client():
    with served() as client:
        yield client
        assert client.source.jobs == [], "an attack reached the source"


def refused(answer, status, *said):
    assert answer.status_code == status, answer.text
    assert "access-control-allow-origin" not in answer.headers
    for each in said:
        assert each in answer.text


# --- from a foreign page, in somebody's browser ---------------------------------------


def test_01_a_no_cors_post_of_another_site(client):
    headers = {"Origin": "http://evil.example:7831", "Content-Type": "text/plain", **CROSS}
    refused(client.post(DRAW, content='{"steps":1}', headers=headers), 403, "evil.example")


def test_02_the_same_without_an_origin(client):
    refused(client.post(DRAW, content="{}", headers={"Content-Type": "text/plain"}), 415)
    refused(client.post(DRAW, content="{}", headers={"Content-Type": ""}), 415)
    refused(client.post(DRAW, content="{}", headers={"Content-Type": "application/jsonp"}), 415)


def test_03_another_port_of_this_machine_which_is_the_same_site(client):
    headers = {"Origin": "http://127.0.0.1:7831", "Sec-Fetch-Site": "same-site"}
    refused(client.post(DRAW, json={}, headers=headers), 403)
    refused(client.get("/api/info", headers={"Sec-Fetch-Site": "same-site"}), 403)


def test_04_a_page_of_localhost_to_the_address(client):
    headers = {"Origin": f"http://localhost:{PORT}", "Sec-Fetch-Site": "cross-site"}
    refused(client.post(DRAW, json={}, headers=headers), 403)


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
def test_05_a_form_whose_field_is_json(client, kind):
    body, headers = b'{"prompt":"=x"}', {"Content-Type": kind}
    refused(client.post(DRAW, content=body, headers=headers), 415)
    foreign = headers | {"Origin": "http://evil.example", "Sec-Fetch-Mode": "navigate"}
    refused(client.post(DRAW, content=body, headers=foreign), 403)
    refused(client.post("/api/requests", content=body, headers=headers), 415)


def test_06_a_preflight_is_not_granted(client):
    headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    refused(client.options(DRAW, headers=headers), 403)


@pytest.mark.parametrize("path", ["/sdapi/v1/progress", "/api/requests", "/v1/models", "/metrics"])
def test_07_an_image_tag_of_another_site_has_no_origin(client, path):
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image"}
    refused(client.get(path, headers=headers), 403)
    refused(client.post("/sdapi/v1/interrupt", headers=headers), 403)


def test_08_a_name_that_was_bound_anew_to_this_machine_reads(client):
    headers = {"Host": f"evil.example:{PORT}"}
    for path in ("/", "/api/info", "/sdapi/v1/options", "/openapi.json"):
        refused(client.get(path, headers=headers), 421, "--allow-host")


def test_09_and_writes_with_an_origin_that_agrees_with_it(client):
    host = f"evil.example:{PORT}"
    headers = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
    refused(client.post(DRAW, json={}, headers=headers), 421)


@pytest.mark.parametrize("origin", ["null", "file://", f"{BASE}.evil.example", f"{BASE}0", "*", ""])
def test_10_origins_that_are_nearly_ours(client, origin):
    refused(client.post(DRAW, json={}, headers={"Origin": origin}), 403)


@pytest.mark.parametrize(
    "host",
    [
        f"localhost.evil.example:{PORT}",
        f"127.0.0.1.evil.example:{PORT}",
        f"evil.example@127.0.0.1:{PORT}",
        f"0.0.0.0:{PORT}",
        f"localhost.:{PORT}",
        f"127.0.0.1:{PORT + 1}",
        "127.0.0.1",
        f"127.1:{PORT}",
        f"2130706433:{PORT}",
        "",
    ],
)
def test_11_hosts_that_are_nearly_ours(client, host):
    refused(client.get("/api/info", headers={"Host": host}), 421)


@pytest.mark.parametrize("host", [f"localhost:{PORT}", f"LOCALHOST:{PORT}", f"[::1]:{PORT}"])
def test_11b_and_those_that_are(client, host):
    headers = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
    assert client.get("/api/info", headers=headers).status_code == 200


def test_12_two_headers_of_one_name(client):
    for name, values in (
        ("Host", (f"127.0.0.1:{PORT}", "evil.example")),
        ("Origin", (BASE, "http://evil.example")),
        ("Sec-Fetch-Site", ("cross-site", "none")),
    ):
        refused(client.get("/api/info", headers=[(name, value) for value in values]), 400)


def test_13_the_page_in_a_frame(client):
    answer = client.get("/")
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    refused(client.get("/", headers=headers | {"Sec-Fetch-Dest": "iframe"}), 403)
    # A link is followed by whoever clicks it.
    assert client.get("/", headers=headers | {"Sec-Fetch-Dest": "document"}).status_code == 200


def test_14_answers_read_as_something_else(client):
    for path in ("/", "/api/info", "/sdapi/v1/options", "/nothing", "/health"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
    assert client.get("/api/info").headers["cache-control"] == "no-store"


def test_15_a_page_that_was_allowed_and_no_other():
    rules = Rules(port=PORT, origins=["http://friend.example"])
    with served(rules=rules) as client:
        headers = {"Origin": "http://friend.example", "Sec-Fetch-Site": "cross-site"}
        answer = client.post(DRAW, json={"steps": 1}, headers=headers)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "http://friend.example"
        assert "access-control-allow-credentials" not in answer.headers
        assert client.options(DRAW, headers=headers).status_code == 204
        headers["Origin"] = "http://friend.example.evil.example"
        refused(client.post(DRAW, json={}, headers=headers), 403)
    for wrong in ("*", "http://x/path", "null"):
        with pytest.raises(ValueError, match="--cors-allow-origin"):
            Rules(origins=[wrong])


# --- too much -------------------------------------------------------------------------


def test_16_a_body_whose_length_says_too_much(client):
    headers = {"Content-Type": "application/json", "Content-Length": str(150 * 2**20)}
    refused(client.post(DRAW, content=b"{}", headers=headers), 413)


def test_17_a_body_in_pieces_that_say_no_length():
    with served(body=2**16) as client:
        sent = []

        def pieces():
            for _ in range(64):
                sent.append(1)
                yield b" " * 2**12

        headers = {"Content-Type": "application/json"}
        refused(client.post(DRAW, content=pieces(), headers=headers), 413)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"a":' * 500 + b"1" + b"}" * 500,
        b'{"steps": NaN}',
        b'{"steps": 1' + b"0" * 5000 + b"}",
        b'{"cfg_scale": Infinity}',
        b"\xff\xfe",
        b"not json",
    ],
    ids=lambda body: str(body[:12]),
)
def test_18_json_that_nests_or_counts_without_an_end(client, body):
    headers = {"Content-Type": "application/json"}
    refused(client.post(DRAW, content=body, headers=headers), 400)
    refused(client.post("/api/requests", content=body, headers=headers), 400)


@pytest.mark.parametrize(
    "body",
    [
        {"width": 16_384, "height": 16_384, "batch_size": 1024},
        {"steps": 10_000},
        {"steps": 10**18},
        {"batch_size": 10**9},
        {"batch_size": -1},
        {"cfg_scale": 1e308},
        {"prompt": "x" * 10_001},
        {"prompt": "x AND " * 100},
        {"negative_prompt": "x" * 10_001},
        {"width": 1.5},
        {"seed": 2**80},
        {"sampler_name": "(" * 100_000},
    ],
    ids=lambda body: next(iter(body)),
)
def test_19_work_without_an_end(client, body):
    assert client.post(DRAW, json=body).status_code in (400, 422)


def bomb(width, height):
    """A PNG of few bytes that says it has many pixels."""

    def chunk(kind, data):
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return base64.b64encode(png).decode()


def animation():
    buffer = io.BytesIO()
    frames = [Image.new("L", (8, 8), i) for i in range(3)]
    frames[0].save(buffer, format="PNG", save_all=True, append_images=frames[1:])
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize(
    "image",
    [bomb(60_000, 60_000), bomb(3000, 3000), bomb(64, 64), animation()],
    ids=["bomb", "more than four megapixels", "cut off", "frames"],
)
@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/sdapi/v1/img2img", "init_images"),
        ("/sdapi/v1/png-info", "image"),
        ("/sdapi/v1/extra-single-image", "image"),
        ("/api/requests", "image"),
        ("/api/read", "image"),
    ],
)
def test_20_pictures_that_unpack_without_an_end(client, path, field, image):
    body = {field: [image] if field == "init_images" else image}
    refused(client.post(path, json=body), 400)


def test_21_many_pictures_that_are_each_small_enough(client):
    body = {"init_images": [png(1500, 1500)] * 4, "batch_size": 4}
    refused(client.post("/sdapi/v1/img2img", json=body), 400, "pixels are allowed")
    mask = {"init_images": [png(1800, 1800)], "mask": png(1800, 1800, mode="L")}
    refused(client.post("/sdapi/v1/img2img", json=mask), 400, "pixels are allowed")
    files = {f"image{i}": ("a.png", b"x") for i in range(9)}
    answer = client.post("/v1/images/edits", data={"prompt": "x"}, files=files)
    assert answer.status_code == 400


def test_22_a_full_queue_is_refused_at_once():
    source = FakeSource(hold=True, room=3)
    with served(source) as client:
        answers = [client.post("/api/requests", json={"prompt": "x"}) for _ in range(8)]
        assert [each.status_code for each in answers] == [202] * 3 + [503] * 5
        for each in answers[3:]:
            assert each.headers["retry-after"] == "8"
            assert each.json()["error"] == "QueueFull"
        openai = client.post("/v1/images/generations", json={"prompt": "x"})
        assert (openai.status_code, openai.headers["retry-after"]) == (503, "8")
        source.go.set()
        eventually(lambda: all(job.state == "done" for job in source.jobs))
        assert source.counts["done"] == 3
        assert client.post("/api/requests", json={"prompt": "x"}).status_code == 202


def test_23_more_followers_than_there_is_room_for():
    source = FakeSource(hold=True)
    with served(source, streams=1) as client:
        id = client.post("/api/requests", json={"prompt": "x"}).json()["id"]
        client.app.studio.streams = 1
        answer = client.get(f"/api/requests/{id}/events")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        # A request that would be followed is not drawn for nobody.
        headers = {"Accept": "text/event-stream"}
        answer = client.post("/api/requests", json={"prompt": "x"}, headers=headers)
        assert answer.status_code == 503
        assert source.jobs[1].state == "cancelled"


# --- files and names ------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "/etc/passwd",
        "../../etc/passwd",
        "file:///etc/passwd",
        "http://169.254.169.254/latest/meta-data",
        "https://evil.example/x.png",
        "data:text/html;base64,PHNjcmlwdD4=",
        base64.b64encode(pickle.dumps({"a": os.getcwd})).decode(),
        base64.b64encode(b"<svg onload='alert(1)'/>").decode(),
        base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0").decode(),
        "!!!!",
    ],
)
@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/sdapi/v1/img2img", "init_images"),
        ("/sdapi/v1/png-info", "image"),
        ("/api/requests", "image"),
        ("/api/read", "image"),
    ],
)
def test_24_a_string_is_never_a_path_an_address_or_code(client, path, field, text):
    # The hook of the tests raises if anything is looked up or connected to.
    body = {field: [text] if field == "init_images" else text}
    answer = client.post(path, json=body)
    refused(answer, 400)
    assert "root:" not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/file=/etc/passwd",
        "/page/../../../etc/passwd",
        "/page/%2e%2e/%2e%2e/etc/passwd",
        "/page/..%2f..%2fengine.py",
        "/page//etc/passwd",
        "/static/../engine.py",
        "/api/requests/..%2f..%2fx/images/0.png",
        "/api/requests/x/images/..%2f..%2f0.png",
        "/%00",
    ],
)
def test_25_paths_that_lead_elsewhere(client, path):
    answer = client.get(path, follow_redirects=False)
    assert answer.status_code == 404
    assert "location" not in answer.headers


def test_26_options_and_models_name_no_path(client):
    for name in ("/etc/passwd", "../model.ckpt", "hf://evil/model", {"a": 1}, ["x"]):
        body = {"sd_model_checkpoint": name}
        refused(client.post("/sdapi/v1/options", json=body), 422)
        refused(client.post(DRAW, json={"override_settings": body}), 422)
    body = {"outdir_samples": "/etc", "sd_vae": "/etc/passwd", "__class__": 1, "ckpt_dir": "/"}
    assert client.post("/sdapi/v1/options", json=body).status_code == 200
    assert not set(body) - {"sd_vae"} & set(client.get("/sdapi/v1/options").json())
    refused(client.post("/v1/images/generations", json={"prompt": "x", "model": "../x"}), 404)
    assert client.get("/sdapi/v1/cmd-flags").json() == {}


@pytest.mark.parametrize("name", ["os:system", "keras_sd.cli:main", "subprocess:run", "a:b:c=1"])
def test_27_a_sampler_is_an_installed_name_and_no_code(client, name):
    refused(client.post(DRAW, json={"sampler_name": name}), 400)
    refused(client.post(DRAW, json={"scheduler": name}), 400)
    refused(client.post("/api/requests", json={"prompt": "x", "sampler": name}), 422)
    refused(client.post("/api/requests", json={"prompt": "x", "schedule": name}), 422)


def test_27b_settings_of_a_sampler_are_literals_and_short(client):
    for settings in ("eta=__import__('os')", "eta=" + "(" * 400 + ")" * 400, "eta=" + "(" * 10**6):
        for name in ("sampler", "schedule"):
            for prompt in ({"prompt": "x"}, {"prompts": ["x"]}):
                body = {**prompt, name: f"ddim:{settings}"}
                answer = client.post("/api/requests", json=body)
                refused(answer, 422)
                assert len(answer.content) < 4000  # what was sent does not come back


def test_28_nothing_is_written_for_a_client(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with served() as client:
        body = {"steps": 1, "save_images": True, "do_not_save_samples": False, "n_iter": 2}
        answer = client.post(DRAW, json=body).json()
        assert len(answer["images"]) == 2  # and no grid before them
    assert list(tmp_path.iterdir()) == []


def test_29_what_was_sent_does_not_come_back_as_a_page(client):
    script = "<script>alert(1)</script>"
    for answer in (
        client.get(f"/{script}", headers={"Accept": "text/html"}),
        client.post(DRAW, json={"sampler_name": script}),
        client.post("/api/requests", json={script: 1}),
    ):
        assert answer.status_code in (400, 404, 422)
        assert not answer.headers["content-type"].startswith("text/html")


def test_30_errors_name_no_file_of_the_server():
    error = RuntimeError("could not open /home/me/secret/model.safetensors")
    for source in (FakeSource(fails=error), FakeSource(refuses=OSError("/home/me/secret"))):
        with served(source) as client:
            answer = client.post(DRAW, json={"steps": 3})
            assert answer.status_code == 500
            assert "secret" not in answer.text
            assert "Traceback" not in answer.text


def test_31_what_is_no_get_post_or_delete(client):
    for method in ("TRACE", "PUT", "PATCH", "CONNECT"):
        answer = client.request(method, "/api/requests", json={})
        assert answer.status_code in (404, 405, 415), method
    assert client.get(DRAW).status_code == 405
    with pytest.raises(Exception), client.websocket_connect("/api/requests"):  # noqa: B017, PT011
        pass


# --- the token ------------------------------------------------------------------------

TOKEN = "correct horse"


@pytest.fixture
def locked():
    with served(rules=Rules(port=PORT, token=TOKEN)) as client:
        yield client


def basic(text):
    return {"Authorization": "Basic " + base64.b64encode(text.encode()).decode()}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        basic(""),
        basic("undefined"),
        basic("user:wrong"),
        basic(f"{TOKEN}:"),
        {"Authorization": "Basic ????"},
        {"Authorization": "Bearer"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": TOKEN},
        {"Cookie": f"{COOKIE}={TOKEN}"},
        {"Cookie": f"{COOKIE}="},
    ],
    ids=str,
)
def test_32_without_the_token_nothing_is_told(locked, headers, monkeypatch):
    monkeypatch.setattr("keras_sd.serve.guard._DELAY", 0.0)
    for path in ("/api/info", "/metrics", "/openapi.json", "/docs", "/page/x", "/sdapi/v1/options"):
        answer = locked.get(path, headers=headers)
        assert answer.status_code == 401, path
        assert "emoji" not in answer.text
    assert locked.post(DRAW, json={}, headers=headers).status_code == 401
    challenge = locked.get("/sdapi/v1/options").headers["www-authenticate"]
    assert challenge.startswith("Basic")
    assert locked.get("/health").status_code == locked.get("/ready").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [basic(f"me:{TOKEN}"), basic(f":{TOKEN}"), basic(TOKEN), {"Authorization": f"Bearer {TOKEN}"}],
)
def test_33_with_it_clients_pass(locked, headers):
    assert locked.get("/sdapi/v1/options", headers=headers).status_code == 200


def test_33b_a_token_may_be_a_user_and_a_password():
    with served(rules=Rules(port=PORT, token="me:password")) as client:
        assert client.get("/api/info", headers=basic("me:password")).status_code == 200


def test_34_a_wrong_guess_waits(locked, monkeypatch):
    waited = []

    async def sleep(seconds):
        waited.append(seconds)

    monkeypatch.setattr("keras_sd.serve.guard.asyncio.sleep", sleep)
    locked.get("/api/info", headers=basic("x:wrong"))
    locked.get("/?token=wrong")
    assert waited == [0.5, 0.5]


def test_35_browsers_log_in_and_the_token_leaves_the_address(locked):
    page = locked.get("/", headers={"Accept": "text/html"}, follow_redirects=False)
    assert (page.status_code, page.headers["location"]) == (303, "/login")
    assert "password" in locked.get("/login").text
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    wrong = locked.post("/login", content="token=wrong", headers=form)
    assert wrong.status_code == 401
    foreign = form | {"Origin": "http://evil.example"}
    assert locked.post("/login", content=f"token={TOKEN}", headers=foreign).status_code == 403
    for answer in (
        locked.post("/login", content=f"token={TOKEN}", headers=form, follow_redirects=False),
        locked.get("/?token=correct%20horse", follow_redirects=False),
    ):
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert TOKEN not in cookie
    assert locked.get("/api/info").status_code == 200  # with the cookie


def test_36_clients_that_always_send_a_password_pass_where_there_is_none():
    with served() as client:
        for headers in (basic(""), basic("undefined"), {"Authorization": "Bearer sk-none"}):
            assert client.get("/sdapi/v1/options", headers=headers).status_code == 200


def test_37_other_machines_need_a_token():
    for host in ("0.0.0.0", "192.168.1.5", "::", "my.example"):
        with pytest.raises(ValueError, match="--token"):
            Rules(host=host)
        Rules(host=host, token=TOKEN)
    for host in ("127.0.0.1", "localhost", "::1", "127.0.0.2"):
        Rules(host=host)
    with pytest.raises(ValueError, match="8 characters"):
        Rules(token="short")
    for name in ("*", "http://x", "a b", "x/y"):
        with pytest.raises(ValueError, match="--allow-host"):
            Rules(hosts=[name])


def test_38_names_of_a_server_for_other_machines():
    rules = Rules(port=PORT, host="0.0.0.0", token=TOKEN, hosts=["pictures.example"])
    known = [f"192.168.1.5:{PORT}", "pictures.example", f"pictures.example:{PORT}"]
    assert all(map(rules.knows, [*known, f"localhost:{PORT}", f"[fe80::1]:{PORT}"]))
    unknown = [f"evil.example:{PORT}", "192.168.1.5:80", f"0.0.0.0:{PORT}", f"[::]:{PORT}", ""]
    assert not any(map(rules.knows, unknown))


def test_39_ids_cannot_be_guessed():
    with served() as client:
        ids = [
            client.post("/api/requests", json={"prompt": "x", "num_steps": 1}).json()["id"]
            for _ in range(8)
        ]
    assert len({id[:4] for id in ids}) == 8
    assert all(len(id) >= 16 for id in ids)


def test_40_the_guard_stands_before_every_route():
    app = app_of(FakeSource())
    with TestClient(app, base_url="http://evil.example") as client:
        for door in app.doors:
            path = door.path.replace("{", "").replace("}", "")
            assert client.request(door.method, path, json={}).status_code == 421, path
