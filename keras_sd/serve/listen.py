"""A server on a port: uvicorn, its signals, and what is said when it listens."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from keras_sd.serve.app import App

__all__ = ["bound", "serve"]

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
        await super().shutdown(sockets)


def serve(app: App, listening: socket.socket, said: Callable[[], None]) -> None:
    """Runs until a signal ends it; running requests may finish first.

    Args:
        app: what is served.
        listening: a socket of `bound`.
        said: is called when it listens.
    """
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
    )
    server = _Server(config, app, said)
    server.run(sockets=[listening])
