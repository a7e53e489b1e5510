"""The engine: a queue of requests, and a model that draws all that run at once, a step at a time.

Every picture is a run of its own (`keras_sd.run.run`), which stops wherever its sampler asks for a
clean latent. When all runs have asked, their rows are one call of the UNet
(`keras_sd.serve.batching.Batches`), and each goes on with its own. Runs come and go between calls.

Runs are greenlets of the engine's thread: so a sampler's generator, which knows nothing of this,
can stop in the middle of a call, and nothing but this thread computes. There is no HTTP here.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any

import numpy as np
from greenlet import getcurrent, greenlet

from keras_sd.backend import HAS_XLA
from keras_sd.devices import batch_shards
from keras_sd.forms import blank_request
from keras_sd.gallery import Images
from keras_sd.model import Model
from keras_sd.request import Request
from keras_sd.run import run
from keras_sd.sampling import Step
from keras_sd.serve.batching import Batches, Evaluation
from keras_sd.serve.jobs import Cancelled, Event, Expired, Job, QueueFull, Stopping
from keras_sd.serve.previews import Previews

logger = logging.getLogger("keras_sd")

__all__ = [
    "PREVIEW_SECONDS",
    "Cancelled",
    "Engine",
    "Event",
    "Expired",
    "Job",
    "QueueFull",
    "Stats",
    "Stopping",
]

_ENDS = ("done", "failed", "cancelled", "expired")

PREVIEW_SECONDS = 0.25
"""Between two previews of a job, at least."""


@dataclass(frozen=True)
class Stats:
    """What an engine is doing, and has done.

    Attributes:
        waiting: jobs of which nothing has begun.
        running: jobs of which something has.
        rows: pictures that are drawn at this moment.
        done: jobs that gave their pictures.
        failed: jobs that raised.
        cancelled: jobs that were called off.
        expired: jobs that took too long.
        refused: jobs that the queue had no room for.
        calls: of the UNet.
        evaluations: clean latents that these gave.
        seconds_a_job: from the end of one to the end of the next, lately; 0 before the first.
    """

    waiting: int = 0
    running: int = 0
    rows: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0
    refused: int = 0
    calls: int = 0
    evaluations: int = 0
    seconds_a_job: float = 0.0


@dataclass(eq=False)
class _Run:
    """A picture that is being drawn."""

    job: Job
    number: int
    steps: Iterator[Step]
    body: greenlet | None = None
    asks: Evaluation | None = None  # what it waits for
    last: Step | None = None
    stopped: bool = False


@dataclass(eq=False)
class _Work:
    """A job's pictures."""

    left: deque[tuple[int, Iterator[Step]]]  # those that have not begun
    pictures: list[np.ndarray | None]
    began: float = math.inf
    previewed: float = -math.inf

    @property
    def waits(self) -> bool:
        return self.began == math.inf


class Engine:
    """Draws requests, as many pictures at once as a batch has rows.

    Each picture is the one that its part of the request makes alone (`Request.only`), but for what
    another size of a batch does to the last digits: within 1 of 255. A sampler whose pictures
    depend on their batch (`reads_tensors`) draws each as a batch of one. Requests with the same
    adapters are drawn together, and those with others after them.

    Args:
        model: what draws.
        max_waiting: jobs that may wait; with 0, what cannot begin at once is refused.
        max_rows: pictures that are drawn at once.
        max_wait: seconds after which a job that has not begun expires.
        max_run: seconds after its beginning when one expires that is not done.

    Raises:
        ValueError: a limit is out of range.
    """

    def __init__(
        self,
        model: Model,
        *,
        max_waiting: int = 8,
        max_rows: int = 8,
        max_wait: float = 120.0,
        max_run: float = 600.0,
    ):
        if max_waiting < 0 or max_rows < 1 or not max_wait > 0 or not max_run > 0:
            raise ValueError(
                "max_waiting is at least 0, max_rows at least 1, max_wait and max_run are seconds "
                f"above 0, not {max_waiting}, {max_rows}, {max_wait} and {max_run}"
            )
        self.model = model
        self.max_waiting, self.max_rows = max_waiting, max_rows
        self.max_wait, self.max_run = max_wait, max_run
        # Where shapes are compiled: few of them, of which no more than half is filling.
        shards = batch_shards()
        sizes = {
            -(-min(2**i, max_rows) // shards) * shards for i in range(max_rows.bit_length() + 1)
        }
        self._batches = Batches(sorted(sizes) if HAS_XLA else ())
        self._previews: Previews | None = None
        self._shows = True  # until a preview fails
        self._works: dict[Job, _Work] = {}  # of the jobs that have not ended, in their order
        self._runs: list[_Run] = []  # the engine's thread alone changes it
        self._counts = dict.fromkeys((*_ENDS, "refused"), 0)
        self._seconds_a_job, self._last_end = 0.0, -math.inf
        self._until: float | None = None  # when it is closed, the end of what runs
        self._changed = threading.Condition(threading.RLock())
        self._weights = ExitStack()  # what the engine's thread holds as long as jobs want it
        self._adapters: tuple[Any, ...] | None = None
        self._thread = threading.Thread(target=self._live, name="keras_sd engine", daemon=True)
        self._thread.start()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close(grace=0.0)

    def submit(
        self, request: Request, *, watched: bool = False, timeout: float | None = None
    ) -> Job:
        """Puts a request in the queue.

        Args:
            request: what to draw.
            watched: whether previews are made; `Job.watched` changes it.
            timeout: seconds after which it expires, where the engine's limits are later.

        Raises:
            ValueError: the request does not fit, in itself or with the model.
            TypeError: likewise.
            QueueFull: too many are waiting.
            Stopping: the engine is being closed.
        """
        self._require_room()
        job, work = self._prepared(request, watched, timeout)
        with self._changed:
            self._require_room()
            self._works[job] = work
            self._changed.notify_all()
        return job

    def warm_up(self) -> None:
        """Draws in batches of each size that a call is filled up to, so that pictures of the
        model's own size meet nothing that is still to be compiled.

        Raises:
            Exception: what a run raised.
        """
        for size in self._batches.sizes or (1,):
            request = blank_request(self.model, count=min(size, self.max_rows))
            job, work = self._prepared(request, watched=True)
            with self._changed:
                self._require_open()
                self._works[job] = work
                self._changed.notify_all()
            job.result()

    def stats(self) -> Stats:
        """What it is doing, and has done."""
        with self._changed:
            waiting = sum(work.waits for work in self._works.values())
            return Stats(
                waiting=waiting,
                running=len(self._works) - waiting,
                rows=len(self._runs),
                calls=self._batches.calls,
                evaluations=self._batches.rows,
                seconds_a_job=self._seconds_a_job,
                **self._counts,
            )

    def close(self, grace: float = 30.0) -> None:
        """Takes no more jobs, ends those that wait, and returns when none runs any more.

        Args:
            grace: seconds after which those that still run are ended before their next step.
        """
        with self._changed:
            until = time.monotonic() + grace
            self._until = until if self._until is None else min(self._until, until)
            self._changed.notify_all()
        self._thread.join()

    def position(self, job: Job) -> int:
        """How many jobs are before this one in the queue; 0 as soon as it runs."""
        with self._changed:
            queue = [each for each, work in self._works.items() if work.waits]
            return queue.index(job) if job in queue else 0

    def cancel(self, job: Job) -> None:
        """See `Job.cancel`."""
        self._end(job, "cancelled", error=Cancelled("The job was called off"))

    # --- the queue ----------------------------------------------------------------------

    def _prepared(
        self, request: Request, watched: bool, timeout: float | None = None
    ) -> tuple[Job, _Work]:
        """All that can be wrong with it is said here."""
        request = self.model.tagged(request.resolved(self.model.defaults))
        through = partial(self._batches.through, _ask)
        if len(request) > 1:
            run(self.model, request, through=through)  # as it is elsewhere, in one run
        steps = [run(self.model, request.only(i), through=through) for i in range(len(request))]
        job = Job(request, self, watched=watched, timeout=timeout)
        return job, _Work(deque(enumerate(steps)), [None] * len(request))

    def _require_room(self) -> None:
        with self._changed:
            self._require_open()
            works = self._works.values()
            waiting = sum(work.waits for work in works)
            pictures = sum(len(work.left) for work in works) + len(self._runs)
            if waiting < self.max_waiting or pictures < self.max_rows:
                return
            self._counts["refused"] += 1
            raise QueueFull(waiting, max(1.0, self._seconds_a_job))

    def _require_open(self) -> None:
        if self._until is not None:
            raise Stopping("The engine is being closed, and takes no more jobs")

    def _end(self, job: Job, kind: str, **more: Any) -> None:
        """What has ended is told to whoever listens, and stops before its next step."""
        with self._changed:
            if (work := self._works.pop(job, None)) is None:
                return
            for each in self._runs:
                each.stopped |= each.job is job
            self._counts[kind] += 1
            now = time.monotonic()
            if not work.waits:
                took = now - max(self._last_end, work.began)
                self._seconds_a_job = 0.8 * (self._seconds_a_job or took) + 0.2 * took
                self._last_end = now
        # Whoever listens may ask the engine something while a thread of it wants to tell them.
        job.emit(kind, **more)

    # --- what the engine's thread does ----------------------------------------------------

    def _live(self) -> None:
        with self._weights:
            self._serve()

    def _serve(self) -> None:
        while True:
            if not self._works and not self._runs:
                self._weights.close()  # while nothing is drawn, others may
            with self._changed:
                while not self._works and not self._runs and self._until is None:
                    self._changed.wait()
                if self._until is not None and not self._works and not self._runs:
                    return
            try:
                self._end_late()
                self._begin()
                self._round()
            except BaseException as error:  # a fault of ours: whoever waits has to hear of it
                logger.exception("The engine failed at what it was doing, and goes on")
                for job in list(self._works):
                    self._end(job, "failed", error=error)

    def _end_late(self) -> None:
        now = time.monotonic()
        with self._changed:
            works, until = list(self._works.items()), self._until
        for job, work in works:
            limit = job.created + self.max_wait if work.waits else work.began + self.max_run
            if until is not None and (work.waits or now > until):
                self._end(job, "failed", error=Stopping("The engine was closed"))
            elif now > min(limit, job.deadline):
                did = "waited" if work.waits else "ran"
                took = f"{now - job.created:.0f} s"
                why = f"The job {did} longer than it may: it is {took} old, and not done"
                self._end(job, "expired", error=Expired(why))

    def _begin(self) -> None:
        """Takes pictures from the queue; whose job has the fewest running is next."""
        self._adapt()
        with self._changed:
            begun, queue = [], []
            for job in self._next():
                work = self._works[job]
                if work.waits:
                    work.began = time.monotonic()
                    queue = [each for each, work in self._works.items() if work.waits]
                number, steps = work.left.popleft()
                begun.append(_Run(job, number, steps))
                self._runs.append(begun[-1])
        for job in dict.fromkeys(each.job for each in begun):
            job.emit("step")
        for job in queue:
            job.emit("waiting")
        for each in begun:
            each.body = greenlet(partial(_draw, each))
            self._go_on(each, each.body.switch)

    def _adapt(self) -> None:
        """Gives the weights the adapters of the next job, when nothing runs any more."""
        with self._changed:
            job = next((job for job, work in self._works.items() if work.left), None)
        if self._runs or job is None or job.request.adapters == self._adapters:
            return
        self._weights.close()
        try:
            uses = self.model.uses(job.request.adapters)
            self._weights.enter_context(self.model.adapted(job.request.adapters, uses))
        except Exception as error:
            self._end(job, "failed", error=error)
            return self._adapt()
        self._adapters = job.request.adapters
        self._weights.callback(setattr, self, "_adapters", None)

    def _next(self) -> Iterator[Job]:
        """Jobs of which a picture may begin: with other adapters than those that run, when these
        are done; and what comes behind such a job waits too.
        """
        while len(self._runs) < self.max_rows:
            waiting = [job for job, work in self._works.items() if work.left]
            jobs = list(takewhile(lambda job: job.request.adapters == self._adapters, waiting))
            if not jobs:
                return
            running = Counter(each.job for each in self._runs)
            yield min(jobs, key=lambda job: running[job])

    def _round(self) -> None:
        """One evaluation of every run."""
        for each in [each for each in self._runs if each.stopped]:
            self._stop(each)
        runs = list(self._runs)
        before = [each.last for each in runs]
        results = self._batches.evaluate([each.asks for each in runs if each.asks is not None])
        for each, result in zip(runs, results, strict=True):
            assert each.body is not None
            if isinstance(result, Exception):
                self._go_on(each, partial(each.body.throw, result))
            else:
                self._go_on(each, partial(each.body.switch, result))
        moved = [each for each, last in zip(runs, before, strict=True) if each.last is not last]
        for job in dict.fromkeys(each.job for each in moved):
            if not job.ended:
                job.emit("step", preview=self._preview(job))

    def _go_on(self, each: _Run, resume: Callable[[], Any]) -> None:
        """A run goes on until it asks for something, or ends."""
        assert each.body is not None
        try:
            each.asks = resume()
            if not each.body.dead:
                return
            assert each.last is not None
            picture = np.asarray(each.last.image())[0]
        except BaseException as error:  # a sampler of anybody's; it ends its job, not the engine
            self._leave(each)
            self._end(each.job, "failed", error=error)
        else:
            self._leave(each)
            self._finish(each, picture)

    def _finish(self, each: _Run, picture: np.ndarray) -> None:
        work = self._works.get(each.job)
        if work is None:
            return
        work.pictures[each.number] = picture
        pictures = [picture for picture in work.pictures if picture is not None]
        if len(pictures) == len(work.pictures):
            images = Images(np.stack(pictures), request=each.job.request)
            self._end(each.job, "done", images=images)

    def _stop(self, each: _Run) -> None:
        """Ends a run in the middle, which closes its sampler."""
        self._leave(each)
        if each.body is None:
            return
        try:
            each.body.throw()
        except BaseException:
            logger.exception("A run of %r raised while it was ended", each.job)
        if not each.body.dead:
            logger.warning("The sampler of %r asks on after its end; nobody answers", each.job)

    def _leave(self, each: _Run) -> None:
        with self._changed:
            self._runs.remove(each)

    def _preview(self, job: Job) -> np.ndarray | None:
        work = self._works.get(job)
        if work is None or not job.watched or not self._shows:
            return None
        now = time.monotonic()
        if now - work.previewed < PREVIEW_SECONDS:
            return None
        work.previewed = now
        latents = [each.last.x0 for each in self._runs if each.job is job and each.last]
        try:
            if self._previews is None:
                self._previews = Previews(self.model)
            return np.concatenate(list(map(self._previews, latents))) if latents else None
        except Exception:  # no reason to lose a picture
            logger.exception("There are no previews of %s", self.model.config.name)
            self._shows = False
            return None


def _draw(run: _Run) -> None:
    """What a greenlet does."""
    for step in run.steps:
        run.last = step
        run.job.stepped(run.number, step.index, step.total)


def _ask(evaluation: Evaluation) -> Any:
    """Of a run: waits for the result of an evaluation."""
    engine = getcurrent().parent
    assert engine is not None
    return engine.switch(evaluation)
