"""For every test: no network, and one thread."""

from __future__ import annotations

import os
import sys

# Before anything imports Keras or a backend.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads starve each other on small models
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# A command that a test calls in this process does not change how it gets memory (`keep_memory`).
os.environ.setdefault("GLIBC_TUNABLES", "")


class NetworkForbidden(RuntimeError):
    """A test, or the code under it, reached for the network."""


LOOPBACK = "127.0.0.1"  # where a test's own server listens; nothing is looked up for it


def _forbid_network(event: str, arguments: tuple[object, ...]) -> None:
    if event in ("socket.getaddrinfo", "socket.gethostbyname") and arguments[0] != LOOPBACK:
        raise NetworkForbidden(f"looked up a host: {arguments[0]!r}")
    address = arguments[1] if event == "socket.connect" else None
    if isinstance(address, tuple) and address[0] != LOOPBACK:  # a path is a local socket
        raise NetworkForbidden(f"connected to {address!r}")


sys.addaudithook(_forbid_network)
