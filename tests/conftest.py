"""For every test: no network, and one thread."""

from __future__ import annotations

import os
import sys

# Before anything imports Keras or a backend.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads starve each other on small models
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


class NetworkForbidden(RuntimeError):
    """A test, or the code under it, reached for the network."""


def _forbid_network(event: str, arguments: tuple[object, ...]) -> None:
    if event == "socket.getaddrinfo" or event == "socket.gethostbyname":
        raise NetworkForbidden(f"looked up a host: {arguments[0]!r}")
    if event == "socket.connect" and isinstance(arguments[1], tuple):  # a path is a local socket
        raise NetworkForbidden(f"connected to {arguments[1]!r}")


sys.addaudithook(_forbid_network)
