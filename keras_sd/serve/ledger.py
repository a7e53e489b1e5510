"""The jobs that came over HTTP: found by an id that nobody can guess, followed without a thread
each, and kept for a while when they are done.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from keras_sd.serve.jobs import Event, Job
from keras_sd.serve.limits import Limits
from keras_sd.serve.replies import Problem
from keras_sd.serve.source import Source

if TYPE_CHECKING:
    from keras_sd.request import Request

__all__ = ["FINAL", "Kept", "Ledger", "Watch"]

FINAL = ("done", "failed", "cancelled", "expired")
"""The kinds of events that are the last of a job."""


@dataclass(eq=False)
class Kept:
    """A job and what is known of it.

    Attributes:
        id: that clients know it by.
        job: of the source.
        door: the API that it came by.
        client: the address that it came from.
        last: the last event.
        preview: the last preview.
        watchers: clients that want previews; see `watch`.
        started: `time.monotonic()` when its first step was done; None before.
        stop: ends the listening that keeps this up to date.
        problem: what was answered when it failed.
    """

    id: str
    job: Job
    door: str
    client: str = ""
    last: Event | None = None
    preview: Any = None
    watchers: int = 0
    created: float = field(default_factory=time.time)
    started: float | None = None
    stop: Callable[[], None] = lambda: None
    problem: Problem | None = None

    @property
    def request(self) -> Request:
        """Resolved."""
        return self.job.request

    @property
    def final(self) -> Event | None:
        """The last event of all, once it has come."""
        return self.last if self.last is not None and self.last.kind in FINAL else None

    @property
    def bytes(self) -> int:
        """Of the pictures that are kept, those that it began at among them."""
        images = self.last.images if self.last is not None else None
        given = {each.sha256: each.data for each in self.request.attachments()}
        arrays = [each for each in (images, *given.values()) if each is not None]
        # An adapter is a file, which is not held.
        return sum(int(getattr(each, "nbytes", 0)) for each in arrays)

    def watch(self, more: int) -> None:
        """One client more, or with -1 one less, wants previews."""
        self.watchers += more
        self.job.watched = self.watchers > 0

    def note(self, event: Event) -> None:
        """Keeps what an event says; a preview and pictures are of one job at a time."""
        if event.kind == "step":
            self.started = self.started or time.monotonic()
        if event.preview is not None:
            self.preview = event.preview
        if event.kind in FINAL:
            self.preview = None if event.kind == "done" else self.preview
        self.last = replace(event, preview=None)


class Ledger:
    """All jobs that were submitted over HTTP. Used from the event loop alone, but for `submit`.

    Args:
        source: where pictures come from.
        limits: how much is kept.
    """

    def __init__(self, source: Source, limits: Limits):
        self._source, self._limits = source, limits
        self._kept: dict[str, Kept] = {}

    def __iter__(self) -> Iterator[Kept]:
        """Oldest first."""
        return iter(list(self._kept.values()))

    def get(self, id: str) -> Kept | None:
        """The job of an id; None where there is none, or it was forgotten."""
        return self._kept.get(id)

    async def submit(
        self,
        request: Request,
        door: str,
        *,
        client: str = "",
        watched: bool = False,
        timeout: float | None = None,
    ) -> Kept:
        """Hands a request to the source.

        Raises:
            ValueError: it does not fit.
            TypeError: likewise.
            QueueFull: as many wait as may.
            Stopping: no more are taken.
        """
        loop = asyncio.get_running_loop()
        job = await asyncio.to_thread(
            self._source.submit, request, watched=watched, timeout=timeout
        )
        kept = Kept(secrets.token_urlsafe(12), job, door, client, watchers=int(watched))
        self._kept[kept.id] = kept
        self._forget()

        def tell(event: Event) -> None:
            try:
                loop.call_soon_threadsafe(self._note, kept, event)
            except RuntimeError:  # the loop is closed: the server has ended
                return

        kept.stop = job.listen(tell)
        return kept

    def _note(self, kept: Kept, event: Event) -> None:
        kept.note(event)
        if kept.final is not None:
            kept.stop()
            self._forget()

    def _forget(self) -> None:
        """The oldest results, beyond what is kept; never a job that is not done."""
        done = [each for each in self._kept.values() if each.final is not None]
        held = sum(each.bytes for each in done)
        for each in done:
            if len(done) <= self._limits.kept and held <= self._limits.kept_bytes:
                return
            if each is done[-1]:  # what has just been made is there for whoever asked for it
                return
            done = done[1:]
            held -= each.bytes
            del self._kept[each.id]


class Watch:
    """The events of one job, for one reader. A slow reader misses steps between, never the end.

    Args:
        job: that is listened to.
    """

    def __init__(self, job: Job):
        self._loop = asyncio.get_running_loop()
        self._waiting: Event | None = None
        self._there = asyncio.Event()
        self._stop = job.listen(self._tell)

    def _tell(self, event: Event) -> None:
        try:
            self._loop.call_soon_threadsafe(self._put, event)
        except RuntimeError:  # the loop is closed: nobody reads
            return

    def _put(self, event: Event) -> None:
        if self._waiting is not None:
            if self._waiting.kind in FINAL:
                return
            if event.preview is None and event.kind not in FINAL:
                event = replace(event, preview=self._waiting.preview)
        self._waiting = event
        self._there.set()

    async def __aiter__(self) -> AsyncIterator[Event]:
        try:
            while True:
                await self._there.wait()
                event, self._waiting = self._waiting, None
                self._there.clear()
                assert event is not None
                yield event
                if event.kind in FINAL:
                    return
        finally:
            self._stop()

    async def last(self) -> Event:
        """Waits for the last event."""
        try:
            while self._waiting is None or self._waiting.kind not in FINAL:
                self._there.clear()
                await self._there.wait()
            return self._waiting
        finally:
            self._stop()
