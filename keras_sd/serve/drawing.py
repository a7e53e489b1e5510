"""From what a client asked for to pictures: what the routes of every API do alike."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request as HTTPRequest

from keras_sd.request import Request
from keras_sd.serve.about import About
from keras_sd.serve.jobs import Event
from keras_sd.serve.ledger import Kept, Ledger, Watch
from keras_sd.serve.pictures import png_of
from keras_sd.serve.replies import Problem, problem_of
from keras_sd.serve.source import Source
from keras_sd.serve.streams import Left, stays

__all__ = ["Studio"]


_MOST_NAME = 500  # characters of a sampler, schedule or guidance with its settings


@dataclass(eq=False)
class Studio:
    """Where pictures come from, with what is known and remembered of it.

    Attributes:
        source: of pictures.
        about: what is known of it.
        jobs: those that came over HTTP.
        warm: whether it is warmed up.
        stopping: whether the server ends.
        streams: clients that follow requests now.
    """

    source: Source
    about: About
    jobs: Ledger
    warm: bool = False
    stopping: bool = False
    streams: int = 0

    async def submit(
        self,
        build: Callable[[], Request],
        door: str,
        http: HTTPRequest,
        *,
        watched: bool = False,
        timeout: float | None = None,
    ) -> Kept:
        """Checks a request and hands it to the source.

        Args:
            build: makes the request of what the client sent; it runs in a thread.
            door: the API it came by.
            http: that brought it.
            watched: whether previews are made.
            timeout: seconds that the client is ready to wait.

        Raises:
            Problem: it is refused.
        """
        try:
            request = await asyncio.to_thread(self._checked, build)
            return await self.jobs.submit(
                request,
                door,
                client=http.client.host if http.client else "",
                watched=watched,
                timeout=timeout,
            )
        except Exception as error:
            raise problem_of(error, submitting=True) from error

    def _checked(self, build: Callable[[], Request]) -> Request:
        request = build()
        for name in ("sampler", "schedule", "guidance_method"):
            spec = getattr(request, name)
            if isinstance(spec, str) and len(spec) > _MOST_NAME:
                raise ValueError(f"{name} has more than {_MOST_NAME} characters")
        settled = request.resolved(self.about.defaults)
        size = settled.size
        start = settled.start
        for each in request.attachments():
            if each.data is None:
                raise ValueError(
                    f"The request needs {each.name or 'an array'} of SHA-256 {each.sha256}, which "
                    "was not sent with it: only `image` and `mask` can be"
                )
        if start is not None:
            heights_widths = [each.data.shape[:2] for each in start.pictures]
            fits = start.resize is not None or (start.masking and start.masking.only_masked)
            size = size if fits else max(heights_widths, key=lambda each: each[0] * each[1])
        for name, spec, names in (
            ("sampler", settled.sampler, self.about.samplers),
            ("schedule", settled.schedule, self.about.schedules),
            ("guidance_method", settled.guidance_method, self.about.guidance),
        ):
            if isinstance(spec, str) and not names.has(spec):
                raise ValueError(f"{name} {spec!r} was not installed when the server started")
        self.about.limits.check(settled, size)
        return request

    async def wait(self, http: HTTPRequest, kept: Kept) -> Event:
        """The last event of a job. It is cancelled when the client leaves.

        Raises:
            Left: the client did.
            Problem: there are no pictures, and why.
        """
        try:
            event = await stays(http, Watch(kept.job).last())
        except (Left, asyncio.CancelledError):
            kept.job.cancel()
            raise
        if event.kind != "done":
            raise self.problem(kept, event)
        return event

    def problem(self, kept: Kept, event: Event) -> Problem:
        """Why a job has no pictures; the log is told once."""
        if kept.problem is None:
            kept.problem = self._problem(kept, event)
        return kept.problem

    def _problem(self, kept: Kept, event: Event) -> Problem:
        error = event.error or RuntimeError(f"the request is {event.kind}")
        if event.kind == "expired" and kept.started is None and not event.step:
            return Problem(
                503, f"{error}", {"Retry-After": "30"}, kind="Expired"
            )  # it only waited: another time it may not
        return problem_of(error)

    async def png(self, kept: Kept, number: int) -> tuple[bytes, str]:
        """The PNG file of one picture of a job that is done, and its settings as a text.

        Raises:
            IndexError: there is no such picture.
        """
        images = kept.last.images if kept.last is not None else None
        if images is None or not 0 <= number < len(images):
            raise IndexError(number)
        return await asyncio.to_thread(png_of, images[number : number + 1], self.made())

    def made(self) -> Mapping[str, Any]:
        """What files say beside their request."""
        return self.about.made()
