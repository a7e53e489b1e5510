"""A source of pictures without a model: its jobs do what a test says, when it says so."""

from __future__ import annotations

import base64
import io
import threading
import time
from contextlib import contextmanager
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
from PIL import Image
from starlette.testclient import TestClient

from keras_sd.config import EMOJI
from keras_sd.gallery import Images
from keras_sd.serve.about import About
from keras_sd.serve.app import make_app
from keras_sd.serve.guard import Rules
from keras_sd.serve.jobs import Cancelled, Expired, Job, QueueFull, Stopping
from keras_sd.serve.limits import Limits

PORT = 7860
BASE = f"http://127.0.0.1:{PORT}"
FINAL = ("done", "failed", "cancelled", "expired")


class FakeSource:
    """Draws each request in a thread of its own, in its seeds' colours, when `go` is set.

    Args:
        room: jobs at a time; one more is refused.
        hold: whether `go` is not set yet.
        fails: what a run raises after its first step.
        refuses: what `submit` raises.
    """

    def __init__(self, *, room=8, hold=False, fails=None, refuses=None):
        self.room, self.fails, self.refuses = room, fails, refuses
        self.go = threading.Event()
        if not hold:
            self.go.set()
        self.jobs, self.closed = [], False
        self.counts = dict.fromkeys((*FINAL, "refused"), 0)

    def submit(self, request, *, watched=False, timeout=None):
        if self.closed:
            raise Stopping("closing")
        if self.refuses is not None:
            raise self.refuses
        if sum(not job.ended for job in self.jobs) >= self.room:
            self.counts["refused"] += 1
            raise QueueFull(self.room, 7.2)
        job = Job(request.resolved(EMOJI.defaults), self, watched=watched, timeout=timeout)
        job.timeout = timeout
        self.jobs.append(job)
        threading.Thread(target=self._live, args=(job,), daemon=True).start()
        return job

    def _live(self, job):
        try:
            self._run(job)
        except Exception as error:
            self.end(job, "failed", error=error)

    def _run(self, job):
        request = job.request
        while not self.go.wait(0.002):
            if job.ended:
                return
        for number in range(1, request.num_steps + 1):
            while self.allow is not None and not self.allow.acquire(timeout=0.01):
                if job.ended:
                    return
            if self.fails is not None and number > 1:
                kind = "expired" if isinstance(self.fails, Expired) else "failed"
                self.end(job, kind, error=self.fails)
                return
            for i in range(len(request)):
                job.stepped(i, number, request.num_steps)
            height, width = request.size
            small = (len(request), height // 8, width // 8, 3)
            preview = np.full(small, number % 256, np.uint8) if job.watched else None
            if not job.emit("step", preview=preview):
                return
            time.sleep(self.pace)
        self.end(job, "done", images=self.pictures(request))

    pace = 0.0
    allow = None
    """A semaphore that each step takes, where there is one."""

    def end(self, job, kind, **more):
        if job.emit(kind, **more):
            self.counts[kind] += 1

    @staticmethod
    def pictures(request):
        height, width = request.size
        start = request.start
        if start is not None and not start.resize:
            height, width = start.pictures[0].data.shape[:2]
        colours = np.array([seed % 256 for seed, _ in request.images], np.uint8)
        pixels = np.broadcast_to(colours[:, None, None, None], (len(request), height, width, 3))
        return Images(pixels.copy(), request=request)

    def position(self, job):
        waiting = [each for each in self.jobs if each.state == "waiting"]
        return waiting.index(job) if job in waiting else 0

    def cancel(self, job):
        self.end(job, "cancelled", error=Cancelled("called off"))

    def stats(self):
        waiting = sum(job.state == "waiting" for job in self.jobs)
        return SimpleNamespace(**self.counts, waiting=waiting, running=0, calls=30, evaluations=31)

    def warm_up(self):
        """There is nothing to compile."""

    def close(self, grace=30.0):
        self.closed = True
        end = time.monotonic() + grace
        for job in list(self.jobs):
            if job.state == "waiting":
                self.end(job, "failed", error=Stopping("closing"))
        while any(not job.ended for job in self.jobs) and time.monotonic() < end:
            time.sleep(0.002)
        for job in list(self.jobs):
            self.end(job, "failed", error=Stopping("closing"))


@lru_cache(maxsize=1)
def tokenizer():
    from keras_sd.weights.presets import open_preset
    from keras_sd.weights.vocabulary import tokenizer_of

    checkpoint = open_preset("emoji", needs_vocabulary=True)
    return tokenizer_of(checkpoint, None), frozenset(checkpoint.words)


def about(**limits):
    made, words = tokenizer()
    return About(
        name="emoji",
        defaults=EMOJI.defaults,
        limits=Limits.of(EMOJI.defaults, **limits),
        tokenizer=made,
        unknown_words=lambda text: made.unknown_words(text, words),
        words=tuple(sorted(words)),
        license="Apache-2.0",
        backend="none",
        adapters=("style",),
        weights=lambda: {"model": "0123456789" + "0" * 54},
    )


def app_of(source, *, rules=None, warm_up=True, grace=0.2, **limits):
    return make_app(
        source, about(**limits), rules or Rules(port=PORT), warm_up=warm_up, grace=grace
    )


@contextmanager
def served(source=None, **more):
    source = source or FakeSource()
    with TestClient(app_of(source, **more), base_url=BASE) as client:
        client.source = source
        yield client


def png(width=64, height=64, mode="RGB", color=0):
    buffer = io.BytesIO()
    Image.new(mode, (width, height), color).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def eventually(true, seconds=5.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it never came to that")
