"""For every test: a backend, no network, and the embedded model where it is asked for."""

from __future__ import annotations

import importlib.util
import os
import sys

import pytest

# Before anything imports Keras or a backend.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads starve each other on small models
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if not os.environ.get("KERAS_BACKEND"):
    installed = [n for n in ("jax", "tensorflow", "torch") if importlib.util.find_spec(n)]
    if installed:
        os.environ["KERAS_BACKEND"] = installed[0]


class NetworkForbidden(RuntimeError):
    """A test, or the code under it, reached for the network."""


def _forbid_network(event: str, arguments: tuple[object, ...]) -> None:
    if event == "socket.getaddrinfo" or event == "socket.gethostbyname":
        raise NetworkForbidden(f"looked up a host: {arguments[0]!r}")
    if event == "socket.connect" and isinstance(arguments[1], tuple):  # a path is a local socket
        raise NetworkForbidden(f"connected to {arguments[1]!r}")


sys.addaudithook(_forbid_network)


def pytest_report_header() -> str:
    return f"keras backend: {os.environ.get('KERAS_BACKEND', 'none is installed')}"


@pytest.fixture(scope="session")
def emoji():
    """The embedded model, loaded once a run. Nobody changes its weights."""
    from keras_sd import StableDiffusion

    return StableDiffusion.from_preset("emoji")
