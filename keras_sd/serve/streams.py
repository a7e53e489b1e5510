"""Answers that take a while: one that ends when its client leaves, and server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

__all__ = ["Events", "Left", "stays"]

_T = TypeVar("_T")

_BEAT = 15.0  # seconds between signs of life
_PATIENCE = 30.0  # seconds that a client may take to read one event


class Left(Exception):
    """The client has closed the connection."""


async def stays(request: Request, awaited: Awaitable[_T]) -> _T:
    """What is awaited, while the client stays.

    Args:
        request: whose body has been read.
        awaited: is cancelled when the client leaves.

    Raises:
        Left: it did.
    """
    work = asyncio.ensure_future(awaited)
    leaving = asyncio.ensure_future(_left(request.receive))
    try:
        await asyncio.wait((work, leaving), return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        raise Left
    finally:
        for task in (work, leaving):
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task


async def _left(receive: Callable[[], Awaitable[Message]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Events:
    """An answer of server-sent events, as an ASGI application.

    Args:
        events: names and objects of JSON; an empty name is left out.
        leave: is called when the client leaves before the last event.
        done: is called at the end, whatever it was.
        last: is sent behind the last event.
    """

    def __init__(
        self,
        events: AsyncIterator[tuple[str, Any]],
        *,
        leave: Callable[[], None] = lambda: None,
        done: Callable[[], None] = lambda: None,
        last: bytes = b"",
    ):
        self._events, self._leave, self._done, self._last = events, leave, done, last

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        # Behind a proxy that collects answers, events would come all at once.
        headers += [(b"cache-control", b"no-store"), (b"x-accel-buffering", b"no")]
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await self._send_all(send, leaving)
        except (Left, OSError, TimeoutError):
            self._leave()
        except asyncio.CancelledError:  # the server gives up waiting for this answer
            self._leave()
            raise
        finally:
            leaving.cancel()
            self._done()
            close = getattr(self._events, "aclose", None)
            if close is not None:
                await close()

    async def _send_all(self, send: Send, leaving: asyncio.Future[None]) -> None:
        async def put(data: bytes, more: bool = True) -> None:
            message = {"type": "http.response.body", "body": data, "more_body": more}
            await asyncio.wait_for(send(message), _PATIENCE)

        upcoming: asyncio.Future[Any] | None = None
        try:
            while True:
                upcoming = upcoming or asyncio.ensure_future(anext(self._events, None))
                await asyncio.wait(
                    (upcoming, leaving), timeout=_BEAT, return_when=asyncio.FIRST_COMPLETED
                )
                if leaving.done():
                    raise Left
                if not upcoming.done():
                    await put(b": still here\n\n")
                    continue
                event, upcoming = upcoming.result(), None
                if event is None:
                    break
                await put(_written(*event))
            await put(self._last, more=False)
        finally:
            if upcoming is not None and not upcoming.done():
                upcoming.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await upcoming


def _written(name: str, content: Any) -> bytes:
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {text}\n\n".encode()
