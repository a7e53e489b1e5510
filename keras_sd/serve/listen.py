"""A server on a port: uvicorn, its signals, and what is said when it listens."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from keras_sd.serve.app import App

__all__ = ["HEAD_SECONDS", "bound", "serve", "server_of"]

HEAD_SECONDS = 10.0
"""For the head of a request; at most twice as long."""

_CONNECTIONS = 128
"""At a time; beyond, uvicorn answers 503 itself."""


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens there, so that a port that is taken is said before a model is loaded.

    Args:
        host: a name or an address.
        port: 0 is one that is free.

    Raises:
        OSError: it cannot listen there.
        ValueError: the name is none.
    """
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    except ValueError:
        family = socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.set_inheritable(True)
    except OSError as error:
        made.close()
        reason = "there is no such host" if isinstance(error, socket.gaierror) else error.strerror
        raise OSError(f"Cannot listen on {host}:{port}: {reason}. --port is another one") from error
    return made


class _Protocol(H11Protocol):
    """uvicorn's, which itself would wait for ever for the rest of a request's head."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._seen: Any = ()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        done = self.cycle is None or self.cycle.response_complete
        if done and self._seen is self.cycle:  # nothing has come of it since the last look
            self.transport.close()
            return
        self._seen = self.cycle if done else ()
        self._timer = self.loop.call_later(HEAD_SECONDS, self._look)


class _Server(uvicorn.Server):
    """uvicorn, which on the first signal lets the application finish before connections are cut."""

    def __init__(self, config: uvicorn.Config, app: App, listening: Callable[[], None]):
        super().__init__(config)
        self._app, self._listening = app, listening

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self._listening()

    def handle_exit(self, sig: int, frame: Any) -> None:
        # uvicorn would raise the signal again at the end; a server that was told to stop, and did,
        # has ended well.
        self.force_exit = self.should_exit  # a second signal ends it at once
        self.should_exit = True

    async def shutdown(self, sockets: Any = None) -> None:
        # New requests on open connections are refused from here on, those in the queue are
        # answered, and those that run may finish; then uvicorn closes what is idle.
        for server in self.servers:
            server.close()
        closing = asyncio.ensure_future(self._app.close())
        while not closing.done():
            if self.force_exit:
                self._app.cancel_all()
            await asyncio.sleep(0.05)
        await closing
        if self.force_exit:  # last events are sent, and nobody is waited for
            self.config.timeout_graceful_shutdown, self.force_exit = 1, False
        await super().shutdown(sockets)


def serve(app: App, listening: socket.socket, said: Callable[[], None]) -> None:
    """Runs until a signal ends it; running requests may finish first.

    Args:
        app: what is served.
        listening: a socket of `bound`.
        said: is called when it listens.
    """
    server_of(app, said).run(sockets=[listening])


def server_of(app: App, said: Callable[[], None]) -> uvicorn.Server:
    """The server that `serve` runs; `should_exit` ends it as a signal does."""
    config = uvicorn.Config(
        app,
        access_log=False,
        log_level="warning",
        server_header=False,
        # A client of this machine could claim another address.
        proxy_headers=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=5,
        lifespan="on",
        ws="none",
        http=_Protocol,
    )
    return _Server(config, app, said)
