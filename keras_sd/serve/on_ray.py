"""Engines in the processes and machines of a Ray cluster, as one source of pictures: `RaySource`.

Each replica of the deployment has a model and an engine of its own, and says that it is there when
it is warm. Ray Serve gives a request to the replica with the fewest, starts more of them under load
and ends them after it. HTTP stays in this process: the cluster opens no port for it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import threading
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from keras_sd.request import Request
from keras_sd.run import run
from keras_sd.serve.engine import Engine, Stats
from keras_sd.serve.jobs import Cancelled, Event, Expired, Job, QueueFull, Stopping

logger = logging.getLogger("keras_sd")

__all__ = ["RaySource", "Replica"]


class Replica:
    """One engine of the deployment.

    Args:
        source: what `Model.from_preset` takes.
        options: likewise.
        limits: of `keras_sd.serve.engine.Engine`.
    """

    def __init__(self, source: Any, options: Mapping[str, Any], limits: Mapping[str, Any]):
        from keras_sd.model import Model

        self._engine = Engine(Model.from_preset(source, **options), **limits)
        self._engine.warm_up()

    async def draw(
        self, request: Request, watched: bool, timeout: float | None
    ) -> AsyncIterator[dict[str, Any]]:
        """Events of a request, as their attributes. Who stops listening cancels it.

        Args:
            request: resolved.
            watched: see `Engine.submit`.
            timeout: likewise.
        """
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event]()
        job = self._engine.submit(request, watched=watched, timeout=timeout)
        try:
            job.listen(partial(_hand_on, loop, events))
            while True:
                event = await events.get()
                told = {name: value for name, value in vars(event).items() if name != "job"}
                yield told
                if event.kind not in ("waiting", "step"):
                    return
        finally:
            job.cancel()

    def where(self) -> tuple[str, int]:
        """Its machine and process."""
        import ray

        return ray.util.get_node_ip_address(), os.getpid()


def _hand_on(loop: asyncio.AbstractEventLoop, events: asyncio.Queue[Event], event: Event) -> None:
    loop.call_soon_threadsafe(events.put_nowait, event)


@dataclass(eq=False)
class _Sent:
    """A job that a replica has."""

    job: Job
    stopped: threading.Event
    answer: Any = None


class RaySource:
    """A source (`keras_sd.serve.source.Source`) whose pictures are drawn by replicas.

    Args:
        model: by which requests are checked here, before they travel.
        source: what `Model.from_preset` takes; every machine has to find it under that name.
        options: likewise.
        replicas: the most of them. One is there from the beginning; where the cluster has GPUs,
            each takes one.
        address: of a cluster; None starts one on this machine, which ends with the source.
        max_waiting: jobs that may wait, a replica.
        max_rows: see `Engine`.
        max_wait: likewise.
        max_run: likewise.

    Raises:
        ModuleNotFoundError: ray is not installed.
        RuntimeError: no replica came up.
    """

    def __init__(
        self,
        model: Any,
        source: Any,
        options: Mapping[str, Any],
        *,
        replicas: int = 1,
        address: str | None = None,
        max_waiting: int = 8,
        max_rows: int = 8,
        max_wait: float = 120.0,
        max_run: float = 600.0,
    ):
        os.environ.setdefault(
            "RAY_USAGE_STATS_ENABLED", "0"
        )  # it asks nobody, and tells its makers
        import ray
        from ray import serve

        self.model = model
        self._room = replicas * (max_waiting + max_rows)
        self._sent: dict[Job, _Sent] = {}
        self._counts = dict.fromkeys(("done", "failed", "cancelled", "expired", "refused"), 0)
        self._ends: list[float] = []
        self._stopping = False
        self._changed = threading.Condition()
        passed = ("KERAS_BACKEND", "KERAS_HOME", "OMP_NUM_THREADS", "PYTHONPATH", "XLA_FLAGS")
        environment = {name: os.environ[name] for name in passed if name in os.environ}
        # Of a cluster that was there before, others have a part too.
        self._owns = address is None and not ray.is_initialized()
        self._name = f"keras_sd {uuid.uuid4().hex[:8]}"
        if not ray.is_initialized():
            ray.init(
                address=address,
                include_dashboard=False,
                log_to_driver=False,
                runtime_env={"env_vars": environment},
            )
        # What Serve gives a replica has been let in; it does not ask twice.
        limits = {"max_waiting": max_waiting + max_rows, "max_rows": max_rows}
        limits |= {"max_wait": max_wait, "max_run": max_run}  # type: ignore[dict-item]
        gpus = ray.cluster_resources().get("GPU", 0)
        serve.start(proxy_location="Disabled")
        deployment = serve.deployment(
            Replica,
            name="engine",
            max_ongoing_requests=max_rows + max_waiting,
            autoscaling_config={
                "min_replicas": 1,
                "max_replicas": replicas,
                "target_ongoing_requests": max_rows,
            },
            graceful_shutdown_timeout_s=30,
            ray_actor_options={"num_gpus": 1 if gpus else 0},
        )
        application = deployment.bind(source, dict(options), limits)
        self._handle = serve.run(application, name=self._name, route_prefix=None)

    def submit(
        self, request: Request, *, watched: bool = False, timeout: float | None = None
    ) -> Job:
        """See `Engine.submit`; a full queue is that of all replicas there may be."""
        self._require_room()
        request = request.resolved(self.model.defaults)
        for number in range(len(request)):
            run(self.model, request.only(number))
        job = Job(request, self, watched=watched, timeout=timeout)
        with self._changed:
            self._require_room()
            sent = self._sent[job] = _Sent(job, threading.Event())
        threading.Thread(target=self._follow, args=(sent, timeout), daemon=True).start()
        return job

    def stats(self) -> Stats:
        """What it is doing, and has done; calls of the UNet are not known here."""
        with self._changed:
            running = sum(job.state == "running" for job in self._sent)
            spans = [after - before for before, after in itertools.pairwise(self._ends)]
            return Stats(
                waiting=len(self._sent) - running,
                running=running,
                rows=sum(len(job.request) for job in self._sent if job.state == "running"),
                seconds_a_job=sum(spans) / len(spans) if spans else 0.0,
                **self._counts,
            )

    def warm_up(self) -> None:
        """Nothing is left to do: a replica is there when it is warm."""

    def close(self, grace: float = 30.0) -> None:
        """See `Engine.close`. A cluster that was started here ends."""
        with self._changed:
            first, self._stopping = not self._stopping, True
            for sent in [each for each in self._sent.values() if each.job.state == "waiting"]:
                self._stop(sent, "failed", Stopping("The server was closed"))
            self._changed.wait_for(lambda: not self._sent, grace)
            for sent in list(self._sent.values()):
                self._stop(sent, "failed", Stopping("The server was closed"))
        if not first:
            return
        import ray
        from ray import serve

        serve.delete(self._name)
        if self._owns:
            serve.shutdown()
            ray.shutdown()

    def position(self, job: Job) -> int:
        """How many jobs are before this one; 0 as soon as it runs."""
        with self._changed:
            queue = [each for each in self._sent if each.state == "waiting"]
            return queue.index(job) if job in queue else 0

    def cancel(self, job: Job) -> None:
        """See `Job.cancel`."""
        with self._changed:
            if (sent := self._sent.get(job)) is not None:
                self._stop(sent, "cancelled", Cancelled("The job was called off"))

    # --- a job --------------------------------------------------------------------------

    def _require_room(self) -> None:
        with self._changed:
            if self._stopping:
                raise Stopping("The server is being closed, and takes no more jobs")
            if len(self._sent) < self._room:
                return
            self._counts["refused"] += 1
            raise QueueFull(len(self._sent), max(1.0, self.stats().seconds_a_job))

    def _follow(self, sent: _Sent, timeout: float | None) -> None:
        """Hands the events of a replica on; of the thread of a job."""
        job = sent.job
        try:
            asked = self._handle.options(stream=True).draw
            sent.answer = asked.remote(job.request, job.watched, timeout)
            for told in sent.answer:
                if sent.stopped.is_set():
                    sent.answer.cancel()
                    return
                job.came(told.pop("step"), told.pop("total"))
                kind = told.pop("kind")
                more = {name: value for name, value in told.items() if value is not None}
                if kind in ("waiting", "step"):
                    job.emit(kind, **more)
                else:
                    self._end(sent, kind, **more)
                    return
            raise RuntimeError("The replica stopped in the middle of the job")
        except Exception as error:
            known = getattr(error, "cause", error)  # what the replica raised
            kind = "expired" if isinstance(known, Expired) else "failed"
            self._end(sent, kind, error=known if isinstance(known, Exception) else error)

    def _stop(self, sent: _Sent, kind: str, why: Exception) -> None:
        sent.stopped.set()
        if sent.answer is not None:
            sent.answer.cancel()
        threading.Thread(target=self._end, args=(sent, kind), kwargs={"error": why}).start()

    def _end(self, sent: _Sent, kind: str, **more: Any) -> None:
        with self._changed:
            if self._sent.pop(sent.job, None) is None:
                return
            self._counts[kind] += 1
            self._ends = [*self._ends[-20:], time.monotonic()]
            self._changed.notify_all()
        # Whoever listens may ask the source something while another thread wants to tell them.
        sent.job.emit(kind, **more)
