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
from functools import partial
from typing import Any

from keras_sd.cluster import connect
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
        import ray
        from ray import serve

        self.model = model
        self._room = replicas * (max_waiting + max_rows)
        # What replicas answer, of jobs that have not ended; None before one is asked.
        self._sent: dict[Job, Any] = {}
        self._counts = dict.fromkeys(("done", "failed", "cancelled", "expired", "refused"), 0)
        self._ends: list[float] = []
        self._stopping = False
        self._changed = threading.Condition()
        # Of a cluster that was there before, others have a part too.
        self._owns = address is None and not ray.is_initialized()
        self._name = f"keras_sd {uuid.uuid4().hex[:8]}"
        gpus = connect(address)
        # What Serve gives a replica has been let in; it does not ask twice.
        limits: dict[str, Any] = {
            "max_waiting": max_waiting + max_rows,
            "max_rows": max_rows,
            "max_wait": max_wait,
            "max_run": max_run,
        }
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
            ray_actor_options={"num_gpus": gpus},
        )
        application = deployment.bind(source, dict(options), limits)
        self._handle = serve.run(application, name=self._name, route_prefix=None)

    def submit(
        self, request: Request, *, watched: bool = False, timeout: float | None = None
    ) -> Job:
        """See `Engine.submit`; a full queue is that of all replicas there may be."""
        self._require_room()
        request = request.resolved(self.model.defaults)
        run(self.model, request)  # which says all that is wrong with it
        job = Job(request, self, watched=watched, timeout=timeout)
        with self._changed:
            self._require_room()
            self._sent[job] = None
        threading.Thread(target=self._follow, args=(job, timeout), daemon=True).start()
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
            waiting = [job for job in self._sent if job.state == "waiting"]
        for job in waiting:
            self._stop(job, "failed", Stopping("The server was closed"))
        with self._changed:
            self._changed.wait_for(lambda: not self._sent, grace)
            running = list(self._sent)
        for job in running:
            self._stop(job, "failed", Stopping("The server was closed"))
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
        self._stop(job, "cancelled", Cancelled("The job was called off"))

    # --- a job --------------------------------------------------------------------------

    def _require_room(self) -> None:
        with self._changed:
            if self._stopping:
                raise Stopping("The server is being closed, and takes no more jobs")
            if len(self._sent) < self._room:
                return
            self._counts["refused"] += 1
            raise QueueFull(len(self._sent), max(1.0, self.stats().seconds_a_job))

    def _follow(self, job: Job, timeout: float | None) -> None:
        """Hands the events of a replica on; of the thread of a job."""
        try:
            asked = self._handle.options(stream=True).draw
            answer = asked.remote(job.request, job.watched, timeout)
            with self._changed:
                if job in self._sent:
                    self._sent[job] = answer
            for told in answer:
                if job.ended:
                    answer.cancel()
                    return
                job.came(told.pop("step"), told.pop("total"))
                kind = told.pop("kind")
                more = {name: value for name, value in told.items() if value is not None}
                if kind in ("waiting", "step"):
                    job.emit(kind, **more)
                else:
                    self._end(job, kind, **more)
                    return
            raise RuntimeError("The replica stopped in the middle of the job")
        except Exception as error:
            known = getattr(error, "cause", error)  # what the replica raised
            kind = "expired" if isinstance(known, Expired) else "failed"
            self._end(job, kind, error=known if isinstance(known, Exception) else error)

    def _stop(self, job: Job, kind: str, why: Exception) -> None:
        answer = self._end(job, kind, error=why)
        if answer is not None:
            answer.cancel()

    def _end(self, job: Job, kind: str, **more: Any) -> Any:
        """Gives what a replica answers, if one was asked."""
        with self._changed:
            if job not in self._sent:
                return None
            answer = self._sent.pop(job)
            self._counts[kind] += 1
            self._ends = [*self._ends[-20:], time.monotonic()]
            self._changed.notify_all()
        # Whoever listens may ask the source something while another thread wants to tell them.
        job.emit(kind, **more)
        return answer
