"""The ASGI application: routes of every API, and the guard in front of them."""

from __future__ import annotations

import asyncio
import html
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from keras_sd.serve.about import About
from keras_sd.serve.bodies import Door
from keras_sd.serve.drawing import Studio
from keras_sd.serve.guard import Guard, Rules, same
from keras_sd.serve.ledger import Ledger
from keras_sd.serve.metrics import CONTENT_TYPE, exposition
from keras_sd.serve.openai_images import OpenAIImages
from keras_sd.serve.openapi import document, page
from keras_sd.serve.own import Own
from keras_sd.serve.replies import Problem, json_reply, reply_of
from keras_sd.serve.source import Source
from keras_sd.serve.static import login_form, page_files
from keras_sd.serve.webui import WebUI

__all__ = ["App", "make_app"]

logger = logging.getLogger("keras_sd")


def make_app(
    source: Source, about: About, rules: Rules, *, warm_up: bool = True, grace: float = 30.0
) -> App:
    """The application that serves a source of pictures.

    Args:
        source: is warmed up beside the first requests, and closed at the end.
        about: what is known of it.
        rules: who may talk to it.
        warm_up: whether the source draws once first.
        grace: seconds that running requests have when the server ends.
    """
    return App(Studio(source, about, Ledger(source, about.limits)), rules, warm_up, grace)


class App:
    """See `make_app`.

    Args:
        studio: where pictures come from.
        rules: who may talk to it.
        warm_up: whether the source draws once first.
        grace: seconds that running requests have when the server ends.

    Attributes:
        studio: where pictures come from.
        doors: all routes that clients call.
    """

    def __init__(self, studio: Studio, rules: Rules, warm_up: bool, grace: float):
        self.studio, self._rules, self._grace = studio, rules, grace
        self._warms = warm_up
        self._files = page_files()
        self.doors = [*Own(studio).doors(), *WebUI(studio).doors(), *OpenAIImages(studio).doors()]
        own = [
            Door("GET", "/health", self._health),
            Door("GET", "/ready", self._ready),
            Door("GET", "/metrics", self._metrics),
            Door("GET", "/openapi.json", self._openapi),
            Door("GET", "/docs", self._docs),
            Door("GET", "/login", self._login),
            Door("POST", "/login", self._log_in),
            *(Door("GET", path, self._file) for path in self._files),
        ]
        self._document = document(self.doors)
        routes = [door.route() for door in (*own, *self.doors)]
        handlers: Any = {HTTPException: self._no_route, Exception: self._broken}
        starlette = Starlette(routes=routes, lifespan=self._life, exception_handlers=handlers)
        starlette.router.redirect_slashes = False
        self._guard = Guard(starlette, rules, studio.about.limits)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._guard(scope, receive, send)

    @asynccontextmanager
    async def _life(self, app: Any) -> AsyncIterator[None]:
        self.studio.warm = not self._warms
        if self._warms:
            loop = asyncio.get_running_loop()
            # A daemon: compiling cannot be cut short, and nobody waits for it at the end.
            threading.Thread(target=self._warm, args=(loop,), daemon=True).start()
        try:
            yield
        finally:
            await self.close()

    def _warm(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            self.studio.source.warm_up()
        except Exception:
            if not self.studio.stopping:
                logger.exception("The warm-up failed; the server never becomes ready")
            return
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(setattr, self.studio, "warm", True)

    async def close(self) -> None:
        """Takes no more requests, and waits for those that run as long as they may; may be called
        again.
        """
        first, self.studio.stopping = not self.studio.stopping, True
        if first:
            await asyncio.to_thread(self.studio.source.close, self._grace)

    def cancel_all(self) -> None:
        """Cancels all that is not done."""
        for kept in self.studio.jobs:
            if kept.final is None:
                kept.job.cancel()

    # --- what is no API ---------------------------------------------------------------

    async def _health(self, http: Request) -> Response:
        """Whether the process answers."""
        return json_reply({"status": "ok"})

    async def _ready(self, http: Request) -> Response:
        """Whether it draws: after the warm-up, until it is told to stop."""
        studio = self.studio
        ready = studio.warm and not studio.stopping
        state = "stopping" if studio.stopping else "ready" if ready else "warming up"
        return json_reply({"status": state}, 200 if ready else 503)

    async def _metrics(self, http: Request) -> Response:
        """Numbers for Prometheus."""
        stats = self.studio.source.stats()
        text = exposition(stats, self._guard.answers, self.studio.warm)
        return Response(text, media_type=CONTENT_TYPE)

    async def _openapi(self, http: Request) -> Response:
        """The document."""
        return json_reply(self._document)

    async def _docs(self, http: Request) -> Response:
        """The document for people."""
        return HTMLResponse(page(self._document))

    async def _login(self, http: Request) -> Response:
        """The form that asks for the token."""
        return HTMLResponse(login_form())

    async def _log_in(self, http: Request) -> Response:
        """Gives the cookie for the token."""
        form = parse_qs((await http.body()).decode("utf-8", "replace"), max_num_fields=4)
        token = self._rules.token
        if token is None:
            return RedirectResponse("/", 303)
        if not same(form.get("token", [""])[0], token):
            await asyncio.sleep(0.5)
            return HTMLResponse(login_form(wrong=True), 401)
        return RedirectResponse("/", 303, {"Set-Cookie": self._rules.cookie()})

    async def _file(self, http: Request) -> Response:
        """A file of the page."""
        file = self._files[http.url.path]
        headers = {"ETag": file.tag, "Cache-Control": "no-cache"}
        if http.headers.get("if-none-match") == file.tag:
            return Response(status_code=304, headers=headers)
        return Response(file.data, headers=headers, media_type=file.kind)

    async def _no_route(self, http: Request, error: HTTPException) -> Response:
        if error.status_code == 404 and "text/html" in http.headers.get("accept", ""):
            return PlainTextResponse(f"There is no {html.escape(http.url.path[:200])}\n", 404)
        return reply_of(http.url.path, Problem(error.status_code, error.detail))

    async def _broken(self, http: Request, error: Exception) -> Response:
        return reply_of(http.url.path, Problem(500, "The server failed; its log says more"))
