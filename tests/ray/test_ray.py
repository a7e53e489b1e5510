"""With a real Ray on this machine, and processes that are killed: `nox -s ray`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ray = pytest.importorskip("ray")

ROWS, KILLS = 200, 10
GONE = r"died|dead|unavailable"
WORDS = ("a cat face", "a rocket", "a red apple", "a frog face", "a tomato")
GROUNDS = ("on blue", "on a white background", "on green", "")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "prompts.jsonl"
    cells = [
        {"prompt": f"{WORDS[i % 5]} {GROUNDS[i % 4]}", "id": f"p{i}", "steps": 2 + i % 2, "seed": i}
        for i in range(ROWS)
    ]
    path.write_text("\n".join(map(json.dumps, cells)))
    return path


def command(table, folder, *more):
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "keras_sd.cli", "draw-file", str(table)),
            *("--output", str(folder), "--batch", "5", *more),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def drawn(table, folder, *more):
    """The files by name, of a command that runs to its end."""
    process = command(table, folder, *more)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    return files(folder)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def done(folder):
    return len(list((folder / ".record").glob("[0-9]*.jsonl")))


def until(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def whole(table, tmp_path_factory):
    """What an unbroken run gives."""
    found = drawn(table, tmp_path_factory.mktemp("whole") / "out")
    assert len(found) == ROWS + 1
    return found


def test_killed_at_ten_points_it_ends_the_same(table, whole, tmp_path):
    folder = tmp_path / "out"
    chunks = ROWS // 5
    for kill in range(KILLS):
        process = command(table, folder)
        target = (kill + 1) * chunks // (KILLS + 1)
        until(lambda target=target, process=process: done(folder) >= target or process.poll())
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert done(folder) < chunks
    assert drawn(table, folder) == whole


def workers():
    """Processes of Ray that have a model."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes()
        except OSError:
            continue  # it has ended
        if words.startswith(b"ray::") and b"_Actor" in words:
            found.append(int(place.name))
    return found


def test_on_ray_it_is_the_same_though_workers_and_all_are_killed(table, whole, tmp_path):
    folder = tmp_path / "out"
    process = command(table, folder, "--ray", "--actors", "2")
    for target in (4, 10, 16):
        until(lambda target=target: done(folder) >= target or process.poll() is not None)
        until(lambda: workers() or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        os.kill(workers()[0], signal.SIGKILL)
    until(lambda: done(folder) >= 22 or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert done(folder) < ROWS // 5
    found = drawn(table, folder, "--ray")
    manifest = [json.loads(line) for line in found["manifest.jsonl"].decode().splitlines()]
    assert [line["row"] for line in manifest] == list(range(ROWS))
    assert found == whole


@pytest.fixture(scope="module")
def model():
    from keras_sd.model import Model

    return Model.from_preset("emoji")


@pytest.fixture(scope="module")
def source(model):
    from keras_sd.serve.on_ray import RaySource

    made = RaySource(model, "emoji", {}, max_rows=2, max_waiting=2)
    yield made
    made.close(5.0)
    assert not ray.is_initialized()


def asked(prompt="a cat face on blue", **more):
    from keras_sd.forms import request_of

    return request_of(prompt, **{"seed": 1, "num_steps": 3, **more})


def test_a_replica_draws_what_is_drawn_here(model, source):
    from keras_sd.run import run

    events = []
    job = source.submit(asked(), watched=True)
    job.listen(events.append)
    images = job.result(120)
    *_, last = run(model, asked())
    assert np.abs(np.asarray(images).astype(int) - np.asarray(last.image())).max() <= 1
    assert images.request.prompts == ("a cat face on blue",)
    assert [event.kind for event in events][-1] == "done"
    assert events[-1].step == events[-1].total == 3
    assert any(event.preview is not None for event in events)


def test_wrong_requests_do_not_travel_and_a_full_queue_refuses(source):
    from keras_sd.serve.jobs import Cancelled, QueueFull

    with pytest.raises(ValueError, match="tokens"):
        source.submit(asked("cat " * 100))
    jobs = [source.submit(asked(num_steps=300)) for _ in range(4)]
    with pytest.raises(QueueFull) as caught:
        source.submit(asked())
    assert caught.value.retry_after >= 1
    until(lambda: jobs[0].step > 0)
    for job in jobs:
        job.cancel()
        with pytest.raises(Cancelled):
            job.result(10)
    began = time.monotonic()
    source.submit(asked()).result(60)  # a replica that went on would take longer
    assert time.monotonic() - began < 10
    assert source.stats().cancelled == 4


def test_a_replica_that_is_killed_fails_its_job_and_another_takes_over(source):
    job = source.submit(asked(num_steps=300))
    until(lambda: job.step > 0)
    _, process = source._handle.where.remote().result()
    os.kill(process, signal.SIGKILL)
    with pytest.raises(Exception, match=GONE):
        job.result(60)
    assert job.state == "failed"

    # Until another is up, requests fail in the same way.
    until(lambda: succeeded(source.submit(asked())))


def succeeded(job):
    try:
        job.result(120)
    except Exception as error:
        if not re.search(GONE, str(error)):
            raise
        time.sleep(1)
    return job.state == "done"


def test_the_server_draws_in_a_replica():
    httpx = pytest.importorskip("httpx")
    command = [sys.executable, "-m", "keras_sd.cli", "serve", "--ray", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            address = server.stdout.readline().strip()
            fields = {"prompt": "a rocket on blue", "steps": 2, "seed": 7}
            answer = httpx.post(f"{address}sdapi/v1/txt2img", json=fields, timeout=120)
            assert answer.status_code == 200, answer.text
            assert json.loads(answer.json()["info"])["seed"] == 7
            assert len(answer.json()["images"]) == 1
        finally:
            server.terminate()
        assert server.wait(60) == 0


def test_adapters_are_of_one_process(capsys):
    from keras_sd.cli import main

    assert main(["serve", "--ray", "--adapter", "no.safetensors"]) == 2
    assert "--adapter" in capsys.readouterr().err
