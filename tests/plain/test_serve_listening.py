"""The server on a port: clients that leave, that are slow, that talk no HTTP; and signals."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from fake_source import FakeSource, app_of, eventually

from keras_sd.cli import main
from keras_sd.serve import listen
from keras_sd.serve.guard import Rules
from keras_sd.serve.jobs import Expired


@contextmanager
def listening(source=None, **more):
    """A server on a free port, in a thread; gives the port."""
    source = source or FakeSource()
    bound = listen.bound("127.0.0.1", 0)
    port = bound.getsockname()[1]
    ready = threading.Event()
    app = app_of(source, rules=Rules(port=port), **more)
    server = listen.server_of(app, ready.set)
    source.app = app
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    assert ready.wait(5)
    try:
        yield port
    finally:
        server.should_exit = True
        thread.join(5)
        bound.close()
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def shared():
    """The port of a server for tests that change nothing of it."""
    with listening() as port:
        yield port


_open = []


@pytest.fixture(autouse=True)
def closed():
    """Every socket of a test is closed after it."""
    yield
    while _open:
        _open.pop().close()


def connected(port):
    client = socket.create_connection(("127.0.0.1", port), timeout=5)
    _open.append(client)
    return client


def head(port, path="/api/requests", method="POST", **headers):
    lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def posted(port, body, path="/api/requests", **headers):
    data = json.dumps(body).encode()
    headers = {"Content_Type": "application/json", "Content_Length": len(data), **headers}
    client = connected(port)
    client.sendall(head(port, path, **headers) + data)
    return client


def status(client):
    return int(client.recv(4096).split(b" ", 2)[1])


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/sdapi/v1/txt2img", {}),
        ("/v1/images/generations", {}),
        ("/api/requests", {"Accept": "text/event-stream"}),
    ],
)
@pytest.mark.parametrize("when", ["waiting", "running"])
def test_who_leaves_cancels(path, headers, when):
    source = FakeSource(hold=when == "waiting")
    source.pace = 0.01
    with listening(source) as port:
        client = posted(
            port,
            {"prompt": "x", "steps": 140} if "v1" in path else {"prompt": "x", "num_steps": 140},
            path,
            **headers,
        )
        eventually(lambda: source.jobs and source.jobs[0].state == when)
        client.close()
        eventually(lambda: source.jobs[0].state == "cancelled", 2)


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
def test_a_client_that_is_gone_at_every_step(accept):
    source = FakeSource()
    path = "/api/requests" if "event" in accept else "/sdapi/v1/txt2img"
    body = {"prompt": "x", "num_steps" if "event" in accept else "steps": 6}
    with listening(source) as port:
        for steps in range(6):
            source.allow = threading.Semaphore(steps)
            client = posted(port, body, path, Accept=accept)
            eventually(lambda n=steps: len(source.jobs) > n and source.jobs[n].step == n)
            client.close()
            eventually(lambda n=steps: source.jobs[n].state == "cancelled")
            assert source.jobs[steps].step == steps
        source.allow = None
        assert status(posted(port, body, path, Accept=accept)) == 200


def test_who_follows_and_leaves_cancels_nothing():
    source = FakeSource(hold=True)
    with listening(source) as port:
        client = posted(port, {"prompt": "x", "num_steps": 2})
        id = json.loads(body_of(client))["id"]
        follower = connected(port)
        follower.sendall(head(port, f"/api/requests/{id}/events?preview=1", "GET"))
        eventually(lambda: source.jobs[0].watched)
        follower.close()
        eventually(lambda: not source.jobs[0].watched)
        source.go.set()
        eventually(lambda: source.jobs[0].state == "done")


def test_many_connections_leave_nothing():
    def held():
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    if not Path("/proc/self/fd").exists():
        pytest.skip("counts open files in /proc, which this system does not have")
    source = FakeSource()
    with listening(source) as port:
        for _ in range(20):
            connected(port).close()
        before = held()
        for i in range(500):
            client = connected(port)
            if i % 2:
                client.sendall(head(port, "/api/info", "GET")[:20])
            client.close()
        for _ in range(50):
            client = posted(port, {"prompt": "x", "num_steps": 3}, Accept="text/event-stream")
            client.close()
        eventually(lambda: all(job.ended for job in source.jobs))
        eventually(lambda: held()[0] <= before[0] + 4 and held()[1] <= before[1] + 8)


def test_slow_clients_are_closed_and_do_not_stop_others(monkeypatch):
    monkeypatch.setattr(listen, "HEAD_SECONDS", 0.2)
    with listening(seconds=0.4) as port:
        silent, partial = connected(port), connected(port)
        partial.sendall(b"GET /api/info HTTP/1.1\r\nHo")
        body = connected(port)
        body.sendall(head(port, Content_Type="application/json", Content_Length=100) + b"{")
        began = time.monotonic()
        quick = connected(port)
        quick.sendall(head(port, "/health", "GET"))
        assert status(quick) == 200
        assert time.monotonic() - began < 2
        assert silent.recv(10) == b""
        assert partial.recv(10) == b""
        assert status(body) == 408


def test_too_many_bodies_at_once():
    source = FakeSource()
    with listening(source, bodies=2**16) as port:
        more = {"Content_Type": "application/json", "Content_Length": 2**16}
        first = connected(port)
        first.sendall(head(port, **more) + b" " * 40_000)
        eventually(lambda: source.app._guard._held == 40_000)
        second = connected(port)
        second.sendall(head(port, **more) + b" " * 40_000)
        assert status(second) == 503
        first.sendall(b" " * (2**16 - 40_000))
        assert status(first) == 400  # it is no JSON, and was received


@pytest.mark.parametrize(
    ("sent", "wanted"),
    [
        (b"GET /api/info HTTP/1.1\r\n\r\n", 400),
        (b"GET /api/info HTTP/1.0\r\n\r\n", 421),
        (b"GET //evil.example/ HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n", 404),
        (b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nX: " + b"x" * 200_000 + b"\r\n\r\n", 400),
        (b"POST /api/requests HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nContent-Length: -1\r\n\r\n", 400),
        (
            b"POST /api/requests HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nContent-Length: 2\r\n"
            b"Transfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\n0\r\n\r\n",
            400,
        ),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    ],
    ids=["no host", "1.0", "slashes", "proxy", "two hosts", "long", "negative", "smuggled", "TLS"],
)
def test_what_is_hardly_http(shared, sent, wanted):
    client = connected(shared)
    client.sendall(sent.replace(b"PORT", str(shared).encode()))
    assert status(client) == wanted


def test_a_port_that_is_taken_is_said():
    with listening() as port:
        with pytest.raises(OSError, match=f"Cannot listen on 127.0.0.1:{port}: .*--port"):
            listen.bound("127.0.0.1", port).listen()
        assert main(["serve", "--port", str(port)]) == 1


# --- faults of the source -------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (FloatingPointError("not finite"), 500),
        (RuntimeError("the sampler broke"), 500),
        (MemoryError(), 500),
        (ValueError("of the run, not of the request"), 500),
        (Expired("it ran too long"), 504),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_request_that_fails_is_answered_and_the_next_one_drawn(error, wanted):
    source = FakeSource(fails=error)
    with listening(source) as port:
        for path, body in (
            ("/sdapi/v1/txt2img", {"steps": 3}),
            ("/v1/images/generations", {"prompt": "x"}),
        ):
            assert status(posted(port, body, path)) == wanted
        source.fails = None
        assert status(posted(port, {"steps": 2}, "/sdapi/v1/txt2img")) == 200


# --- signals --------------------------------------------------------------------------

SCRIPT = """
import sys
from fake_source import FakeSource, app_of
from keras_sd.serve import listen
from keras_sd.serve.guard import Rules
source = FakeSource(hold=sys.argv[1] == "held")
source.pace = float(sys.argv[3])
bound = listen.bound("127.0.0.1", 0)
port = bound.getsockname()[1]
app = app_of(source, rules=Rules(port=port), grace=float(sys.argv[2]))
listen.serve(app, bound, lambda: print(port, flush=True))
"""


@contextmanager
def process(hold="go", grace="5", pace="0.02"):
    run = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SCRIPT, hold, grace, pace],
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield run, int(run.stdout.readline())
    finally:
        run.kill()
        run.communicate()


def ended(run, seconds=5.0):
    _, said = run.communicate(timeout=seconds)
    assert b"Traceback" not in said, said.decode()
    return run.returncode


def body_of(client):
    data = b""
    while b"\r\n\r\n" not in data:
        data += client.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split()[0])
    while len(body) < length:
        body += client.recv(65536)
    return body


def until(client, wanted):
    data = b""
    while wanted not in data:
        data += client.recv(65536)


def rest(client):
    data = b""
    while piece := client.recv(65536):
        data += piece
    return data


def test_an_idle_server_ends_at_once():
    with process() as (run, port):
        quick = connected(port)
        quick.sendall(head(port, "/health", "GET"))
        assert status(quick) == 200
        run.send_signal(signal.SIGINT)
        assert ended(run) == 0


def test_what_runs_is_finished_and_what_waits_is_refused():
    with process() as (run, port):
        running = posted(port, {"steps": 40}, "/sdapi/v1/txt2img")
        stream = posted(port, {"prompt": "x", "num_steps": 40}, Accept="text/event-stream")
        until(stream, b"event: step")
        run.send_signal(signal.SIGTERM)
        assert status(running) == 200
        assert b"event: done" in rest(stream)
        assert ended(run) == 0
        with pytest.raises(OSError, match="refused"):
            connected(port)


def test_what_waits_gets_503_and_a_last_event():
    with process("held") as (run, port):
        waiting = posted(port, {"steps": 40}, "/sdapi/v1/txt2img")
        stream = posted(port, {"prompt": "x"}, Accept="text/event-stream")
        until(stream, b"event: waiting")
        time.sleep(0.2)
        run.send_signal(signal.SIGTERM)
        answer = rest(waiting)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"retry-after" in answer.lower()
        last = rest(stream).decode()
        assert "event: failed" in last
        assert "shutting down" in last
        assert ended(run) == 0


@pytest.mark.parametrize("again", [False, True], ids=["after the grace", "a second signal"])
def test_what_does_not_finish_in_time_is_told_so(again):
    with process(grace="60" if again else "0.3", pace="0.2") as (run, port):
        stream = posted(port, {"prompt": "x", "num_steps": 150}, Accept="text/event-stream")
        until(stream, b"event: step")
        run.send_signal(signal.SIGTERM)
        if again:
            time.sleep(0.3)
            run.send_signal(signal.SIGTERM)
        began = time.monotonic()
        last = rest(stream).decode()
        assert time.monotonic() - began < 10  # all steps would take 30
        assert "event: failed" in last
        assert '"error":"Stopping"' in last
        assert ended(run) == 0
