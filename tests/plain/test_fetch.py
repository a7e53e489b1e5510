"""Fetching: from a hub that is run right here, and that cheats, breaks off and vanishes.

What needs a connection runs in a process of its own, since no test may connect to anything. The
others show that what was fetched once is used without network and without huggingface_hub.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import urllib.parse
from collections import Counter
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from keras_sd.config import SD_1
from keras_sd.weights import fetch, hub, notes, presets, sources, vocabulary
from keras_sd.weights.checkpoint import Checkpoint
from keras_sd.weights.fetch import FetchError

COMMIT, LATER = "1" * 40, "2" * 40
REAL_VOCABULARY = Path(__file__).parents[3] / "shared" / "data" / vocabulary.FILE

needs_hub = pytest.mark.skipif(
    importlib.util.find_spec("huggingface_hub") is None, reason="huggingface_hub is not installed"
)
needs_vocabulary = pytest.mark.skipif(
    not REAL_VOCABULARY.is_file(), reason=f"{REAL_VOCABULARY} is not there"
)


# --- A hub -----------------------------------------------------------------------------


@dataclass
class Hub:
    """Repositories, what is wrong with them, and what was asked for."""

    url: str = ""
    # repository -> revision or commit -> path -> content
    repos: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    # (repository, path) -> "flip", "short", "break off", "break off once", "hold", or a status
    faults: dict[tuple[str, str], object] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    holding: threading.Event = field(default_factory=threading.Event)
    let_go: threading.Event = field(default_factory=threading.Event)

    def add(self, repo: str, files: dict[str, bytes], commit: str = COMMIT) -> None:
        self.repos.setdefault(repo, {}).update({"main": files, commit: files})

    def commit(self, repo: str, revision: str) -> str:
        files = self.repos[repo][revision]
        return next(c for c, at in self.repos[repo].items() if c != "main" and at is files)


def is_large(path: str) -> bool:
    return path.endswith((".safetensors", ".bin", ".ckpt"))


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def handler_for(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *arguments):
            pass

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
                hub.asked[match[1]] += 1
                self.listing(*match.groups())
            elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                hub.asked[f"{match[1]}/{match[3]} {self.command}"] += 1
                self.file(*match.groups())
            else:
                self.answer(404)

        def answer(self, status, body=b"", **headers):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def refuse(self, repo, path):
            fault = hub.faults.get((repo, path))
            if fault == "gated":
                self.answer(401, X_Error_Code="GatedRepo")
            elif isinstance(fault, int):
                self.answer(fault)
            return fault == "gated" or isinstance(fault, int)

        def listing(self, repo, revision):
            if self.refuse(repo, ""):
                return
            if repo not in hub.repos:
                return self.answer(404, X_Error_Code="RepoNotFound")
            if revision not in hub.repos[repo]:
                return self.answer(404, X_Error_Code="RevisionNotFound")
            siblings = []
            for path, data in hub.repos[repo][revision].items():
                entry = {"rfilename": path, "size": len(data), "blobId": git_sha1(data)}
                if is_large(path):
                    entry["lfs"] = {"size": len(data), "sha256": sha256(data), "pointerSize": 135}
                siblings.append(entry)
            info = {"id": repo, "sha": hub.commit(repo, revision), "siblings": siblings}
            self.answer(200, json.dumps(info).encode(), Content_Type="application/json")

        def file(self, repo, revision, path):
            if self.refuse(repo, path):
                return
            data = hub.repos[repo][revision][path]
            tag = sha256(data) if is_large(path) else git_sha1(data)
            fault = hub.faults.get((repo, path))
            if fault == "flip":
                data = data[:-1] + bytes([data[-1] ^ 1])
            elif fault == "short":
                data = data[:-1]
            headers = {"ETag": f'"{tag}"', "X_Repo_Commit": hub.commit(repo, revision)}
            if is_large(path):
                headers |= {"X_Linked_Etag": f'"{tag}"', "X_Linked_Size": str(len(data))}
            start = int((self.headers.get("Range") or "bytes=0-")[6:].rstrip("-"))
            if self.command == "HEAD" or fault not in ("break off", "break off once", "hold"):
                return self.answer(206 if start else 200, data[start:], **headers)
            if fault == "break off once":
                del hub.faults[repo, path]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            half = start + (len(data) - start) // 2
            self.wfile.write(data[start:half])
            self.wfile.flush()
            if fault == "hold":
                hub.holding.set()
                hub.let_go.wait(20)
            self.close_connection = True

    return Handler


@pytest.fixture(scope="module")
def server():
    the_hub = Hub()
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler_for(the_hub)) as server:
        server.daemon_threads = True
        the_hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield the_hub
        the_hub.let_go.set()
        server.shutdown()
        thread.join()


# --- A process that may connect to it --------------------------------------------------

WORKER = """
import json, logging, os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell has in its back
time.sleep = lambda seconds: None  # what waits between attempts
from keras_sd.weights import fetch, vocabulary
from keras_sd.weights.sources import SOURCES, Pinned, Place, Source
said = []
handler = logging.Handler()
handler.emit = lambda record: said.append(record.getMessage())
logging.getLogger("keras_sd").addHandler(handler)
for line in sys.stdin:
    job = json.loads(line)
    os.environ.update(job["env"])
    SOURCES.clear()
    for name, (size, digest, places) in job["sources"].items():
        file = Pinned(size, digest, tuple(Place(*place) for place in places))
        SOURCES[name] = Source("a title", "a license", file)
    for name, value in job["vocabulary"].items():
        setattr(vocabulary, name, value)
    said.clear()
    try:
        answer = {"path": str(getattr(fetch, job["call"])(*job["arguments"], **job["settings"]))}
    except Exception as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps(answer | {"said": said}), flush=True)
"""


class Worker:
    """Calls functions of `keras_sd.weights.fetch` in a process that may use the network."""

    def __init__(self, url: str) -> None:
        off = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        env |= off | {"HF_ENDPOINT": url, "NO_PROXY": "*", "HF_HUB_DISABLE_XET": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=env,
            text=True,
        )
        self.env: dict[str, str] = {}
        self.sources: dict[str, list] = {}
        self.vocabulary: dict[str, object] = {}
        self.said: list[str] = []

    def send(self, call: str, *arguments: object, **settings: object) -> None:
        job = {"call": call, "arguments": arguments, "settings": settings, "env": self.env}
        job |= {"sources": self.sources, "vocabulary": self.vocabulary}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()

    def __call__(self, call: str, *arguments: object, **settings: object) -> Path:
        self.send(call, *arguments, **settings)
        answer = json.loads(self.process.stdout.readline())
        self.said = answer["said"]
        if "error" in answer:
            raise {"FetchError": FetchError, "ValueError": ValueError}[answer["error"]](
                answer["message"]
            )
        return Path(answer["path"])

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def connected(server):
    worker = Worker(server.url)
    yield worker
    worker.close()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """This process: a cache of its own, offline, without huggingface_hub, and no socket opens."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)

    real = socket.socket

    def refuse(*arguments, **settings):
        # The hub's own threads may.
        assert threading.current_thread() is not threading.main_thread(), "a socket was opened"
        return real(*arguments, **settings)

    monkeypatch.setattr(socket, "socket", refuse)
    return tmp_path


@pytest.fixture
def online(connected, server, tmp_path):
    """The other process, with the same cache as `home`."""
    server.repos.clear()
    server.faults.clear()
    server.asked.clear()
    connected.env = {
        "HF_HOME": str(tmp_path / "hf"),
        "KERAS_HOME": str(tmp_path / "keras"),
        "HF_HUB_OFFLINE": "",
    }
    connected.sources, connected.vocabulary = {}, {}
    return connected


FOLDER = {
    "model_index.json": b"{}",
    "README.md": b"# a model",
    "scheduler/scheduler_config.json": b'{"a": 1}',
    "text_encoder/config.json": b'{"b": 1}',
    "text_encoder/model.safetensors": b"text" * 100,
    "text_encoder/model.fp16.safetensors": b"half" * 50,
    "text_encoder/pytorch_model.bin": b"pickle",
    "tokenizer/merges.txt": b"a b\n",
    "tokenizer/vocab.json": b"{}\n",
    "unet/config.json": b'{"c": 1}',
    "unet/diffusion_pytorch_model.safetensors": b"unet" * 1000,
    "unet/diffusion_pytorch_model.fp16.safetensors": b"unet" * 500,
    "unet/diffusion_pytorch_model.non_ema.safetensors": b"none" * 1000,
    "vae/config.json": b'{"d": 1}',
    "vae/diffusion_pytorch_model.bin": b"vae" * 100,
    "safety_checker/model.safetensors": b"no" * 100,
    "big.ckpt": b"all in one",
}
PLAIN = {
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.bin",
}
FP16 = {name.replace("model.safe", "model.fp16.safe") for name in PLAIN}
UNET = "unet/diffusion_pytorch_model.safetensors"


def files_of(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def pinned(data: bytes, *places: tuple[str, str, str]) -> list:
    return [len(data), sha256(data), places]


# --- Paths -----------------------------------------------------------------------------


def test_a_path_is_returned_as_it_is(home):
    file = home / "model.safetensors"
    file.write_bytes(b"")
    assert fetch.resolve(file) == file
    assert fetch.resolve(str(file)) == file
    assert fetch.resolve(home) == home


def test_a_path_goes_before_a_name_and_says_so(home, monkeypatch, caplog):
    monkeypatch.chdir(home)
    (home / "sd-1.5").mkdir()
    assert fetch.resolve("sd-1.5") == Path("sd-1.5")
    assert "not the model of that name" in caplog.text
    assert str(home / "sd-1.5") in caplog.text


@pytest.mark.parametrize(
    ("preset", "hint"),
    [
        ("sd-15", "Did you mean 'sd-1.5'?"),
        ("owner/name", "write hf://owner/name."),
        ("https://huggingface.co/owner/name", "Write hf://owner/name."),
        (
            "https://huggingface.co/owner/name/blob/main/unet/a.safetensors?download=true",
            "Write hf://owner/name/unet/a.safetensors@main.",
        ),
        (
            "missing.safetensors",
            "Names: sd-1.4, sd-1.5, sd-2.0-base, sd-2.0, sd-2.1-base, sd-2.1, sdxl-1.0, sdxl-ref",
        ),
        ("", "No file or folder, and no name: ''."),
    ],
)
def test_what_is_neither_path_nor_name_gets_a_hint(home, preset, hint):
    with pytest.raises(FileNotFoundError, match=re.escape(hint)):
        fetch.resolve(preset)


def test_a_path_object_is_never_a_name(home):
    with pytest.raises(FileNotFoundError, match="No file or folder"):
        fetch.resolve(Path("sd-1.5"))


@pytest.mark.parametrize(
    "address",
    [
        "hf://",
        "hf://name",
        "hf://a/b/../c",
        "hf://a/b@",
        "hf://a/b//c",
        "hf://a/b@x@y",
        "hf://a/b c",
    ],
)
def test_an_address_that_is_none_is_refused(home, address):
    with pytest.raises(ValueError, match=r"hf://owner/name"):
        fetch.resolve(address)


def test_a_variant_that_is_not_there_is_refused(home):
    with pytest.raises(ValueError, match=r"sd-1\.5 has no variant 'fp8'; it has: fp16"):
        fetch.resolve("sd-1.5", variant="fp8")
    with pytest.raises(ValueError, match="is one file"):
        fetch.resolve("hf://a/b/c.safetensors", variant="fp16")


# --- The table -------------------------------------------------------------------------


def test_the_table_pins_every_file():
    assert list(sources.SOURCES) == [
        *("sd-1.4", "sd-1.5", "sd-2.0-base", "sd-2.0", "sd-2.1-base", "sd-2.1"),
        *("sdxl-1.0", "sdxl-refiner-1.0", "sdxl-turbo"),
    ]
    digests = set()
    for source in sources.SOURCES.values():
        for file in (source.file, *source.variants.values()):
            assert re.fullmatch(r"[0-9a-f]{64}", file.sha256)
            digests.add(file.sha256)
            assert file.size > 2e9
            for place in file.places:
                assert re.fullmatch(r"[\w.-]+/[\w.-]+", place.repo)
                assert place.revision == "main" or notes.is_commit(place.revision)
                assert place.path.endswith((".safetensors", ".ckpt"))
            # Whatever happens to one owner, another has it; of SDXL no other is known.
            owners = {place.repo.split("/")[0] for place in file.places}
            assert len(owners) > 1 or source.variants or owners == {"stabilityai"}
        assert source.license.startswith(("CreativeML Open RAIL", "Stability AI"))
    assert len(digests) == 10
    assert sources.SOURCES["sdxl-turbo"].defaults.guidance_scale == 1


# --- hf:// -----------------------------------------------------------------------------


@needs_hub
def test_of_a_repository_only_what_is_needed_is_fetched(online, server, home):
    server.add("me/model", FOLDER)
    folder = online("resolve", "hf://me/model")
    assert folder == home / "hf/hub/models--me--model/snapshots" / COMMIT
    assert files_of(folder) == PLAIN
    for name in PLAIN:
        assert (folder / name).read_bytes() == FOLDER[name]
    assert online.said == ["fetching hf://me/model (4741 bytes)"]

    # The second time here: no socket, no huggingface_hub, no file is hashed.
    assert fetch.resolve("hf://me/model") == folder


@needs_hub
def test_a_variant_is_fetched_with_the_parts_that_lack_it(online, server, home):
    server.add("me/model", FOLDER)
    folder = online("resolve", "hf://me/model", variant="fp16")
    assert files_of(folder) == FP16
    assert fetch.resolve("hf://me/model", variant="fp16") == folder
    with pytest.raises(FetchError, match="not in the cache"):
        fetch.resolve("hf://me/model")
    with pytest.raises(FetchError, match=r"no weights of variant 'fp8'; unet/ has .*non_ema"):
        online("resolve", "hf://me/model", variant="fp8")


@needs_hub
def test_one_file_of_a_repository(online, server, home):
    server.add("me/model", FOLDER)
    path = online("resolve", f"hf://me/model/{UNET}@main")
    assert path.read_bytes() == FOLDER[UNET]
    assert fetch.resolve(f"hf://me/model/{UNET}") == path
    assert files_of(home / "hf/hub/models--me--model/snapshots") == {f"{COMMIT}/{UNET}"}
    with pytest.raises(FetchError, match=r"no file unet; there are big.ckpt, .*unet/diffusion"):
        online("resolve", "hf://me/model/unet")


@needs_hub
def test_a_preset_of_ours_and_a_repository_that_is_no_model(online, server, home):
    preset = {"config.json": b"{}", "merges.txt": b"a b", "model.safetensors": b"numbers"}
    server.add("me/preset", {**preset, "README.md": b"x"})
    folder = online("resolve", "hf://me/preset")
    assert files_of(folder) == set(preset)
    server.add("me/files", {"a.ckpt": b"a", "b.safetensors": b"b", "c.txt": b"c"})
    with pytest.raises(FetchError, match=r"hf://me/files/... with a.ckpt, b.safetensors\n"):
        online("resolve", "hf://me/files")


@needs_hub
def test_a_revision_stays_what_it_was_until_it_is_fetched_again(online, server, home):
    server.add("me/model", {"a.ckpt": b"old"})
    address = "hf://me/model/a.ckpt"
    old = online("resolve", address)
    server.add("me/model", {"a.ckpt": b"new"}, LATER)
    assert online("resolve", address) == old
    assert server.asked["me/model"] == 1

    new = online("fetch", address)
    assert (old.read_bytes(), new.read_bytes()) == (b"old", b"new")
    assert fetch.resolve(address) == new
    # A commit is for ever, and is not asked for again.
    assert online("fetch", f"{address}@{COMMIT}") == old
    asked = server.asked["me/model"]
    assert online("fetch", f"{address}@{COMMIT}") == old
    assert server.asked["me/model"] == asked


@needs_hub
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("flip", "its checksum is"),
        ("short", "it has 3999 bytes, not 4000"),
        ("break off", "RemoteProtocolError|ChunkedEncodingError|OSError"),
        (500, "500"),
    ],
)
def test_a_damaged_download_is_never_usable(online, server, home, fault, said):
    server.add("me/model", FOLDER)
    server.faults["me/model", UNET] = fault
    with pytest.raises(FetchError, match=said):
        online("resolve", "hf://me/model")
    snapshot = home / "hf/hub/models--me--model/snapshots" / COMMIT
    assert UNET not in files_of(snapshot)
    with pytest.raises(FetchError):
        fetch.resolve("hf://me/model")
    with pytest.raises(FetchError):
        online("resolve", "hf://me/model")

    server.faults.clear()
    assert (online("resolve", "hf://me/model") / UNET).read_bytes() == FOLDER[UNET]
    # What had come well the first time was not fetched again.
    assert server.asked["me/model/text_encoder/model.safetensors GET"] == 1


@needs_hub
def test_small_files_are_checked_too(online, server, home):
    server.add("me/model", FOLDER)
    server.faults["me/model", "unet/config.json"] = "flip"
    with pytest.raises(FetchError, match=r"unet/config.json was damaged, its checksum is"):
        online("resolve", "hf://me/model")


@needs_hub
def test_a_download_that_breaks_off_goes_on(online, server, home):
    server.add("me/model", FOLDER)
    server.faults["me/model", UNET] = "break off once"
    with contextlib.suppress(FetchError):  # older huggingface_hub goes on in the next call only
        online("resolve", "hf://me/model")
    assert (online("resolve", "hf://me/model") / UNET).read_bytes() == FOLDER[UNET]
    assert server.asked[f"me/model/{UNET} GET"] == 2


@needs_hub
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_was_stopped_leaves_nothing_usable(online, server, home, how):
    server.add("me/model", FOLDER)
    server.faults["me/model", UNET] = "hold"
    server.holding.clear()
    server.let_go.clear()
    victim = Worker(server.url)
    victim.env = online.env
    victim.send("resolve", "hf://me/model")
    assert server.holding.wait(60)
    victim.process.send_signal(how)
    assert victim.process.wait(20) != 0
    victim.close()
    server.let_go.set()

    with pytest.raises(FetchError):
        fetch.resolve("hf://me/model")
    assert [s for s in fetch.list_sources() if s.name.startswith("hf://")] == []
    server.faults.clear()
    folder = online("resolve", "hf://me/model")
    assert files_of(folder) == PLAIN
    assert (folder / UNET).read_bytes() == FOLDER[UNET]


@needs_hub
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("gated", r"wants to know who asks \(401\): accept its license .* `hf auth login`"),
        (403, r"wants to know who asks \(403\)"),
        (401, r"no such repository \(401\), or it is private: then run `hf auth login`"),
        (503, "503"),
    ],
)
def test_a_hub_that_refuses_is_quoted(online, server, fault, said):
    server.add("me/model", FOLDER)
    server.faults["me/model", ""] = fault
    with pytest.raises(FetchError, match=said):
        online("resolve", "hf://me/model")


@needs_hub
def test_what_is_not_there_is_named(online, server):
    with pytest.raises(FetchError, match=r"hf://me/nobody: there is no such repository \(404\)"):
        online("resolve", "hf://me/nobody")
    server.add("me/model", FOLDER)
    with pytest.raises(FetchError, match=r"no such revision \(404\); an address ends with its @"):
        online("resolve", "hf://me/model@v1/unet")
    bare = {name: data for name, data in FOLDER.items() if not name.startswith("vae/")}
    server.add("me/bare", bare)
    with pytest.raises(FetchError, match=r"not complete: vae/config.json missing"):
        online("resolve", "hf://me/bare")


def test_offline_says_what_to_do_by_hand(home):
    with pytest.raises(FetchError) as caught:
        fetch.resolve("sd-1.5")
    message = str(caught.value)
    place = sources.SOURCES["sd-1.5"].file.places[0]
    for said in ("HF_HUB_OFFLINE is set", place.url, "4.27 GB", "6ce0161689b3853acaa0"):
        assert said in message
    assert "give its path instead of 'sd-1.5'" in message
    assert "'emoji' is in the package and needs nothing" in message
    with pytest.raises(FetchError, match=r"folders unet, vae, text_encoder, tokenizer and schedul"):
        fetch.resolve("hf://me/model")


def test_without_huggingface_hub_the_error_says_how_to_get_it(home, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with pytest.raises(FetchError, match=r'pip install "keras-sd\[hub\]"(.|\n)*By hand: download'):
        fetch.resolve("sd-1.5")


# --- What is in the cache --------------------------------------------------------------


@pytest.fixture
def cached(online, server, home):
    """A model that was fetched and checked."""
    server.add("me/model", FOLDER)
    return online("resolve", "hf://me/model")


@needs_hub
def test_a_file_that_was_only_touched_is_checked_again_and_good(cached):
    os.utime(cached / UNET, (1, 1))
    (status,) = (s for s in fetch.list_sources() if s.name == "hf://me/model")
    assert not status.verified
    assert fetch.resolve("hf://me/model") == cached
    (status,) = (s for s in fetch.list_sources() if s.name == "hf://me/model")
    assert status.verified


@needs_hub
def test_a_file_that_was_damaged_later_is_found_deleted_and_named(cached, online, caplog):
    blob = (cached / UNET).resolve()
    blob.write_bytes(b"tenu" * 1000)
    with pytest.raises(FetchError, match=rf"{UNET} was damaged(.|\n)*not in the cache"):
        fetch.resolve("hf://me/model")
    assert f"{UNET} was damaged" in caplog.text
    assert not blob.exists()
    assert not (cached / UNET).is_symlink()
    assert (online("resolve", "hf://me/model") / UNET).read_bytes() == FOLDER[UNET]


@needs_hub
def test_fetching_again_finds_what_times_do_not_show(cached, online, server):
    blob = (cached / UNET).resolve()
    times = blob.stat().st_atime_ns, blob.stat().st_mtime_ns
    blob.write_bytes(b"tenu" * 1000)
    os.utime(blob, ns=times)
    assert fetch.resolve("hf://me/model") == cached
    assert online("fetch", "hf://me/model") == cached
    assert (cached / UNET).read_bytes() == FOLDER[UNET]
    assert server.asked[f"me/model/{UNET} GET"] == 2


@needs_hub
@pytest.mark.parametrize(
    "note", ["", "{}", "[]", '{"format": 1, "commit": "', None, "other files", "no files"]
)
def test_a_damaged_note_counts_for_nothing(cached, note, caplog):
    (path,) = cached.parents[1].glob("keras_sd/*.json")
    if note in ("other files", "no files"):
        content = json.loads(path.read_text())
        first = next(iter(content["files"].values()))
        content["files"] = {"../../../outside": first} if note == "other files" else {}
        path.write_text(json.dumps(content))
    elif note is None:
        path.unlink()
    else:
        path.write_text(note)
    assert notes.read_note(path) is None
    (cached / UNET).resolve().write_bytes(b"tenu" * 1000)
    with pytest.raises(FetchError):
        fetch.resolve("hf://me/model")


@needs_hub
def test_what_another_program_has_left_is_checked_before_it_is_used(cached, online, server):
    shutil.rmtree(cached.parents[1] / "keras_sd")
    refs = cached.parents[1] / "refs"
    refs.mkdir(exist_ok=True)
    (refs / "main").write_text(COMMIT)
    assert fetch.resolve("hf://me/model") == cached  # offline
    assert fetch.resolve(f"hf://me/model@{COMMIT}") == cached

    # So it is when the repository has vanished.
    shutil.rmtree(cached.parents[1] / "keras_sd")
    server.repos.clear()
    assert online("resolve", "hf://me/model") == cached

    shutil.rmtree(cached.parents[1] / "keras_sd")
    (cached / UNET).resolve().write_bytes(b"tenu" * 1000)
    with pytest.raises(FetchError, match=rf"{UNET} was damaged"):
        fetch.resolve("hf://me/model")


@needs_hub
def test_half_a_model_of_another_program_is_not_used(cached):
    shutil.rmtree(cached.parents[1] / "keras_sd")
    (cached / "vae/diffusion_pytorch_model.bin").unlink()
    with pytest.raises(FetchError, match="not in the cache"):
        fetch.resolve(f"hf://me/model@{COMMIT}")


@needs_hub
def test_what_the_cache_only_links_to_is_not_deleted(cached, home):
    mine = home / "mine.safetensors"
    mine.write_bytes(b"tenu" * 1000)
    (cached / UNET).unlink()
    (cached / UNET).symlink_to(mine)
    with pytest.raises(FetchError, match="was damaged"):
        fetch.resolve("hf://me/model")
    assert mine.exists()
    assert not (cached / UNET).is_symlink()


@needs_hub
def test_a_file_that_repositories_share_is_known_by_the_name_of_its_link(cached, home):
    # As huggingface_hub keeps what it gets from Xet: under another checksum, which is Xet's own.
    blob = (cached / UNET).resolve()
    shared = home / "hf/hub/blobs/ab" / ("ab" * 32)
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(shared)
    shutil.rmtree(cached.parents[1] / "keras_sd")
    assert fetch.resolve(f"hf://me/model@{COMMIT}") == cached

    shared.write_bytes(b"tenu" * 1000)
    with pytest.raises(FetchError, match="was damaged"):
        fetch.resolve(f"hf://me/model@{COMMIT}")
    # All of it, or huggingface_hub would link to it again.
    assert not shared.exists()
    assert not blob.is_symlink()


@needs_hub
def test_a_cache_that_cannot_be_written_serves_all_the_same(cached, monkeypatch):
    def refuse(*arguments):
        raise PermissionError("read-only")

    monkeypatch.setattr(notes, "replace_file", refuse)
    os.utime(cached / UNET, (1, 1))
    assert fetch.resolve("hf://me/model") == cached


@pytest.mark.parametrize(
    ("env", "wanted"),
    [
        ({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}, "/a"),
        ({"HUGGINGFACE_HUB_CACHE": "/c", "HF_HOME": "/b"}, "/c"),
        ({"HF_HOME": "/b", "XDG_CACHE_HOME": "/d"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/d"}, "/d/huggingface/hub"),
        ({"HOME": "/home/me"}, "/home/me/.cache/huggingface/hub"),
        ({"HF_HOME": "$HOME/x", "HOME": "/home/me"}, "/home/me/x/hub"),
    ],
)
@needs_hub
def test_the_cache_is_where_huggingface_hub_has_it(monkeypatch, env, wanted):
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert hub.hub_cache() == Path(wanted)
    # A fresh copy of its module that reads the environment.
    spec = importlib.util.find_spec("huggingface_hub.constants")
    constants = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(constants)
    assert wanted == constants.HF_HUB_CACHE


# --- Names -----------------------------------------------------------------------------

MODEL = b"a model in one file" * 100


def use_sources(monkeypatch, table: dict[str, list]) -> None:
    """The same table in this process as in the other."""
    found = {
        name: sources.Source(
            "a title",
            "a license",
            sources.Pinned(size, digest, tuple(sources.Place(*place) for place in places)),
        )
        for name, (size, digest, places) in table.items()
    }
    monkeypatch.setattr(fetch, "SOURCES", found)
    monkeypatch.setattr(hub, "SOURCES", found)


@pytest.fixture
def named(online, server, monkeypatch, home):
    """A model with a name and three places; what is there is up to the test."""
    online.sources["sd-x"] = pinned(
        MODEL,
        ("a/one", COMMIT, "x.ckpt"),
        ("b/two", COMMIT, "sub/x.ckpt"),
        ("c/three", "main", "x.ckpt"),
    )
    use_sources(monkeypatch, online.sources)
    return online


@needs_hub
def test_a_name_is_fetched_once_and_listed(named, server, home):
    (before, _) = fetch.list_sources()
    assert (before.name, before.path, before.bytes, before.verified) == ("sd-x", None, 0, False)
    assert before.size == len(MODEL)
    assert before.where == f"https://huggingface.co/a/one/resolve/{COMMIT}/x.ckpt"
    server.add("a/one", {"x.ckpt": MODEL})
    path = named("resolve", "sd-x")
    assert path.read_bytes() == MODEL
    assert named.said == [
        f"fetching sd-x, license a license, from hf://a/one/x.ckpt@{COMMIT} (1900 bytes)"
    ]
    assert fetch.resolve("sd-x") == fetch.fetch("sd-x") == path
    (after, _) = fetch.list_sources()
    assert (after.path, after.bytes, after.verified) == (path, len(MODEL), True)
    assert after.license == "a license"
    os.utime(path, (1, 1))
    (after, _) = fetch.list_sources()
    assert (after.path, after.verified) == (path, False)
    assert fetch.resolve("sd-x") == path

    # Fetching it again finds what times do not show.
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.resolve().write_bytes(MODEL[::-1])
    os.utime(path, ns=times)
    assert fetch.resolve("sd-x") == path
    with pytest.raises(FetchError, match=r"x\.ckpt was damaged"):
        fetch.fetch("sd-x")


@needs_hub
@pytest.mark.parametrize("fault", [404, "gated", 503, "another file"])
def test_mirrors_are_tried_in_turn(named, server, fault):
    server.add("a/one", {"x.ckpt": b"other" if fault == "another file" else MODEL})
    if fault != "another file":
        server.faults["a/one", ""] = fault
    server.add("c/three", {"x.ckpt": MODEL})
    path = named("resolve", "sd-x")
    assert "models--c--three" in str(path)
    assert path.read_bytes() == MODEL
    # Another file is passed over before it is downloaded.
    assert server.asked["a/one/x.ckpt GET"] == 0
    # From now on the mirror's copy is it.
    assert fetch.resolve("sd-x") == path


@needs_hub
def test_a_mirror_that_damages_the_file_is_passed_over(named, server):
    server.add("a/one", {"x.ckpt": MODEL})
    server.faults["a/one", "x.ckpt"] = "flip"
    server.add("b/two", {"sub/x.ckpt": MODEL})
    path = named("resolve", "sd-x")
    assert path.parts[-2:] == ("sub", "x.ckpt")
    assert server.asked["a/one/x.ckpt GET"] == 1


@needs_hub
def test_every_mirror_that_failed_is_named(named, server):
    server.add("a/one", {"x.ckpt": b"other"})
    server.faults["b/two", ""] = "gated"
    with pytest.raises(FetchError) as caught:
        named("resolve", "sd-x")
    lines = str(caught.value).splitlines()
    assert lines[0] == "sd-x could not be fetched:"
    assert "hf://a/one" in lines[1]
    assert "another file of that name (5 bytes)" in lines[1]
    assert "hf://b/two" in lines[2]
    assert "hf auth login" in lines[2]
    assert "hf://c/three" in lines[3]
    assert "no such repository (404)" in lines[3]
    assert lines[4].startswith("By hand: download https://huggingface.co/a/one/resolve/")


@needs_hub
def test_without_network_every_place_is_tried_and_the_cache_serves(named, server, home):
    server.add("a/one", {"x.ckpt": MODEL})
    path = named("resolve", "sd-x")
    lost = Worker("http://127.0.0.1:9")  # nobody listens there
    try:
        lost.env, lost.sources = named.env, named.sources
        assert lost("resolve", "sd-x") == path
        lost.env = named.env | {"HF_HOME": str(home / "other")}
        with pytest.raises(FetchError, match=r"a/one.*Connect(.|\n)*c/three.*Connect"):
            lost("resolve", "sd-x")
    finally:
        lost.close()


@needs_hub
def test_a_file_of_another_program_is_taken_once_it_was_checked(named, server, home):
    blobs = home / "hf/hub/models--b--two/blobs"
    old, new = (home / f"hf/hub/models--b--two/snapshots/{c}/sub" for c in (LATER, COMMIT))
    for folder in (blobs, old, new):
        folder.mkdir(parents=True)
    (old / "x.ckpt").write_bytes(MODEL[::-1])  # of another commit: nothing says that it is damaged
    (new / "x.ckpt").write_bytes(MODEL[::-1])
    (status, _) = fetch.list_sources()
    assert (status.path, status.verified) == (new / "x.ckpt", False)
    with pytest.raises(FetchError, match=r"sub/x\.ckpt was damaged"):
        fetch.resolve("sd-x")
    assert (old / "x.ckpt").exists()
    assert not (new / "x.ckpt").exists()
    (old / "x.ckpt").write_bytes(MODEL)
    assert fetch.resolve("sd-x") == old / "x.ckpt"
    (status, _) = fetch.list_sources()
    assert (status.path, status.verified) == (old / "x.ckpt", True)


@needs_hub
def test_a_note_of_other_bytes_does_not_count_for_a_pinned_file(named, server, home, monkeypatch):
    server.add("a/one", {"x.ckpt": b"other"})
    named("resolve", f"hf://a/one/x.ckpt@{COMMIT}")
    with pytest.raises(FetchError, match="not in the cache"):
        fetch.resolve("sd-x")


def test_only_names_can_be_fetched(home):
    with pytest.raises(FileNotFoundError, match=r"No name: 'x'.*sdxl-turbo, clip-vocabulary;"):
        fetch.fetch("x")


# --- Which files of a folder -----------------------------------------------------------


def choose(names: set[str], variant: str | None = None) -> set[str]:
    files = {name: notes.File(name, 1, "0" * 40) for name in names}
    return {f.name for f in hub._choose(files, hub.Wanted("a/b", "main", None, variant))}


BASE = PLAIN - {UNET}
STEM = "unet/diffusion_pytorch_model"


@pytest.mark.parametrize(
    ("there", "variant", "taken"),
    [
        ({f"{STEM}.bin", f"{STEM}.safetensors"}, None, {f"{STEM}.safetensors"}),
        ({f"{STEM}.bin", f"{STEM}.fp16.safetensors"}, None, {f"{STEM}.bin"}),
        ({f"{STEM}.fp16.safetensors"}, None, {f"{STEM}.fp16.safetensors"}),
        ({f"{STEM}.fp16.bin", f"{STEM}.safetensors"}, "fp16", {f"{STEM}.fp16.bin"}),
        (
            {f"{STEM}-0000{i}-of-00002.safetensors" for i in (1, 2)}
            | {f"{STEM}.safetensors.index.json", f"{STEM}.fp16.safetensors"},
            None,
            {f"{STEM}-0000{i}-of-00002.safetensors" for i in (1, 2)}
            | {f"{STEM}.safetensors.index.json"},
        ),
        (
            {f"{STEM}.fp16-0000{i}-of-00002.safetensors" for i in (1, 2)}
            | {f"{STEM}-0000{i}-of-00002.safetensors" for i in (1, 2)}
            | {f"{STEM}.safetensors.index.json", f"{STEM}.safetensors.index.fp16.json"},
            "fp16",
            {f"{STEM}.fp16-0000{i}-of-00002.safetensors" for i in (1, 2)}
            | {f"{STEM}.safetensors.index.fp16.json"},
        ),
        (
            {f"{STEM}-0000{i}-of-00002.fp16.safetensors" for i in (1, 2)}
            | {f"{STEM}.safetensors.fp16.index.json", f"{STEM}.safetensors"},
            "fp16",
            {f"{STEM}-0000{i}-of-00002.fp16.safetensors" for i in (1, 2)}
            | {f"{STEM}.safetensors.fp16.index.json"},
        ),
    ],
)
def test_the_files_of_a_part(there, variant, taken):
    assert choose(BASE | there, variant) == BASE | taken


def test_what_makes_a_model_usable_comes_last():
    files = {name: notes.File(name, len(FOLDER[name]), "0" * 40) for name in PLAIN}
    order = [file.name for file in hub._choose(files, hub.Wanted("a/b", "main"))]
    assert order[-1] == UNET
    assert order[-2] == "text_encoder/model.safetensors"


@pytest.mark.parametrize(
    "there",
    [
        set(),
        {f"{STEM}-00001-of-00002.safetensors", f"{STEM}.safetensors.index.json"},
        {f"{STEM}-0000{i}-of-00002.safetensors" for i in (1, 2)},
        {f"{STEM}.fp16.safetensors", f"{STEM}.non_ema.safetensors"},
        {f"{STEM}.msgpack"},
    ],
)
def test_a_part_without_whole_weights_is_refused(there):
    with pytest.raises(hub.Failure, match="unet/ has no weights without a variant; it has"):
        choose(BASE | there)


# --- The vocabulary --------------------------------------------------------------------


def small_vocabulary() -> tuple[bytes, bytes, dict[str, object]]:
    """Like OpenAI's file and Hugging Face's: five times the merges, or those that are used."""
    merges = [f"a{i} b{i}" for i in range(10)]
    text = '"version 0.2#version: 0.2\n' + "\n".join(merges) + "\n"
    data = gzip.compress(text.encode(), mtime=0)
    used = "#version: 0.2\n" + "\n".join(merges[:4]) + "\n"
    facts = {
        "SIZE": len(data),
        "SHA256": sha256(data),
        "_MERGES": 4,
        "_MERGES_SHA256": sha256("\n".join(merges[:4]).encode()),
    }
    return data, used.encode(), facts


@pytest.fixture
def small(home, monkeypatch):
    data, merges, facts = small_vocabulary()
    for name, value in facts.items():
        monkeypatch.setattr(vocabulary, name, value)
    return data, merges


def test_a_vocabulary_that_is_given(small, home):
    data, merges = small
    for name, content in {
        "bpe.txt.gz": data,
        "merges.txt": merges,
        "unpacked.txt": gzip.decompress(data),
    }.items():
        path = home / name
        path.write_bytes(content)
        assert fetch.find_vocabulary(path) == path
        assert fetch.find_vocabulary(str(path)) == path


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(b"#version\na b\n", mtime=0), "its sha256 is"),
        (b"#version: 0.2\na0 b0\na1 b1\na2 b2\n", "first 4 of its 3 merges are not those of CLIP"),
        (b"\xff\xfe", "not a merges file"),
        (b"x" * 16_000_001, "it has 16000001 bytes"),
    ],
)
def test_what_is_not_the_vocabulary_is_refused(small, home, content, said):
    path = home / "other"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"other is not CLIP's vocabulary: .*{said}"):
        fetch.find_vocabulary(path)
    with pytest.raises(FileNotFoundError, match="no vocabulary file"):
        fetch.find_vocabulary(home / "nothing")


def test_the_vocabulary_is_found_where_it_was_fetched_and_where_keras_cv_put_it(
    small, home, caplog
):
    data, _ = small
    ours, theirs = vocabulary.places()
    assert theirs == home / "keras/datasets/bpe_simple_vocab_16e6.txt.gz"
    assert ours == home / "keras/keras_sd/bpe_simple_vocab_16e6.txt.gz"
    with pytest.raises(FileNotFoundError) as caught:
        fetch.find_vocabulary()
    for way in (str(ours), str(theirs), "keras-sd fetch clip-vocabulary", "vocabulary=PATH"):
        assert way in str(caught.value)
    assert "merges.txt beside the weights" in str(caught.value)
    assert [s.path for s in fetch.list_sources() if s.name == "clip-vocabulary"] == [None]

    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(data)
    assert fetch.find_vocabulary() == theirs
    ours.parent.mkdir(parents=True)
    ours.write_bytes(data)
    assert fetch.find_vocabulary() == ours
    ours.write_bytes(data[:-1] + b"!")
    assert fetch.find_vocabulary() == theirs
    assert f"{ours} is damaged and is not used" in caplog.text
    (status,) = (s for s in fetch.list_sources() if s.name == "clip-vocabulary")
    assert (status.path, status.verified) == (theirs, True)


def test_offline_the_vocabulary_is_not_fetched(small, home):
    with pytest.raises(FetchError, match=r"HF_HUB_OFFLINE is set\nBy hand: put https://raw"):
        fetch.fetch("clip-vocabulary")


@needs_hub
@pytest.mark.parametrize("fault", ["flip", "short", "break off", 404, "long"])
def test_the_vocabulary_is_fetched_and_checked(online, server, small, home, fault):
    data, _ = small
    online.vocabulary = small_vocabulary()[2] | {
        "URLS": [f"{server.url}/me/{name}/resolve/main/v.gz" for name in ("one", "two")]
    }
    server.add("me/one", {"v.gz": data + b"!" if fault == "long" else data})
    server.faults["me/one", "v.gz"] = fault
    server.faults["me/two", "v.gz"] = 404
    with pytest.raises(FetchError, match=r"one/resolve/main/v.gz: (.|\n)*two/resolve/main/v.gz: "):
        online("fetch_vocabulary")
    ours = vocabulary.places()[0]
    assert not ours.parent.exists() or list(ours.parent.iterdir()) == []

    del server.faults["me/two", "v.gz"]
    server.add("me/two", {"v.gz": data})
    assert online("fetch", "clip-vocabulary") == ours
    assert ours.read_bytes() == data
    assert list(ours.parent.iterdir()) == [ours]
    assert fetch.find_vocabulary() == fetch.fetch_vocabulary() == ours
    (status,) = (s for s in fetch.list_sources() if s.name == "clip-vocabulary")
    assert (status.path, status.bytes, status.verified) == (ours, len(data), True)


@needs_vocabulary
def test_the_real_vocabulary(home):
    assert REAL_VOCABULARY.stat().st_size == vocabulary.SIZE
    assert fetch.find_vocabulary(REAL_VOCABULARY) == REAL_VOCABULARY
    lines = gzip.decompress(REAL_VOCABULARY.read_bytes()).decode().split("\n")
    merges = home / "merges.txt"
    # What CLIPTokenizer saves, known by its checksum in thousands of repositories.
    text = "#version: 0.2\n" + "\n".join(lines[1 : vocabulary._MERGES + 1]) + "\n"
    assert sha256(text.encode()).startswith("9fd691f7c8039210e0fced15865466c65820d09b63988b01")
    merges.write_text(text, encoding="utf-8")
    assert fetch.find_vocabulary(merges) == merges
    merges.write_text(text.replace("\ni n\n", "\nn i\n", 1), encoding="utf-8")
    with pytest.raises(ValueError, match="not those of CLIP"):
        fetch.find_vocabulary(merges)


def checkpoint_of(tokens: int, merges: Path | None = None, **about) -> Checkpoint:
    text = replace(SD_1.text_encoder, vocab_size=tokens)
    config = replace(SD_1, text_encoder=text)
    return Checkpoint(Path("x"), "original", "", config, {}, merges=merges, **about)


@needs_vocabulary
@pytest.mark.parametrize("size", [49408, 49409, 49500])
@pytest.mark.parametrize("given", [True, False])
def test_tokens_that_were_added_leave_those_of_clip_as_they_are(home, caplog, size, given):
    if not given:
        ours = vocabulary.places()[0]
        ours.parent.mkdir(parents=True)
        shutil.copy(REAL_VOCABULARY, ours)
    path = REAL_VOCABULARY if given else None
    tokenizer = vocabulary.tokenizer_of(checkpoint_of(size), path)
    assert tokenizer.vocab_size == 49408
    assert tokenizer.encode("a cat") == [49406, 320, 2368, 49407]
    assert ("cannot be typed" in caplog.text) == (size > 49408)


def test_a_preset_with_tokens_that_were_added_knows_its_own(home, caplog):
    merges = home / "merges.txt"
    merges.write_text("c a\nca t</w>\n")
    tokenizer = vocabulary.tokenizer_of(checkpoint_of(517, merges))
    assert tokenizer.encode("cat") == [514, 513, 515]
    assert "knows 1 token more than the vocabulary" in caplog.text
    caplog.clear()
    for checkpoint in (checkpoint_of(516, merges), checkpoint_of(516, merges, vocab_size=516)):
        assert vocabulary.tokenizer_of(checkpoint).encode("cat") == [514, 513, 515]
    assert not caplog.text


def test_a_vocabulary_that_is_given_to_a_model_is_checked(small, home):
    path = home / "merges.txt"
    path.write_text("c a\nca t</w>\n")
    with pytest.raises(ValueError, match=r"merges.txt is not CLIP's vocabulary"):
        vocabulary.tokenizer_of(checkpoint_of(49408), path)
    # A smaller model has one of its own, which only its author knows.
    assert vocabulary.tokenizer_of(checkpoint_of(516), path).encode("cat") == [514, 513, 515]
    for size in (516, 49408):
        for missing in (home / "none.txt", home):
            with pytest.raises(FileNotFoundError, match=f"no vocabulary file {missing}$"):
                vocabulary.tokenizer_of(checkpoint_of(size), missing)


# --- The modules -----------------------------------------------------------------------


def test_asking_for_a_path_imports_neither_keras_nor_huggingface_hub(tmp_path):
    code = (
        "import sys\nfrom keras_sd.weights import fetch\n"
        f"fetch.resolve({str(tmp_path)!r})\nfetch.list_sources()\n"
        "print(*{n.split('.')[0] for n in sys.modules})"
    )
    env = os.environ | {"HF_HOME": str(tmp_path), "KERAS_HOME": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=env,
    )
    assert not set(run.stdout.split()) & {"keras", "huggingface_hub", "jax", "torch", "tensorflow"}


@pytest.mark.parametrize(
    ("preset", "error", "message"),
    [
        (None, TypeError, "preset is a name or a path, not None"),
        (3, TypeError, "preset is a name or a path, not 3"),
        (b"emoji", TypeError, "preset is a name or a path, not b'emoji'"),
        ("x" * 5000, ValueError, "preset is no name and no path: File name too long: 'xx"),
    ],
    ids=["None", "number", "bytes", "long"],
)
def test_what_is_no_preset(preset, error, message):
    with pytest.raises(error, match=message) as caught:
        presets.locate(preset)
    assert len(str(caught.value)) < 200


def test_a_vocabulary_is_a_path():
    with pytest.raises(TypeError, match="vocabulary is the path of a file of merges, not 5"):
        vocabulary.find_vocabulary(5)
