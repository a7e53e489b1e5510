"""For the tests that need Keras: a backend, and the embedded model where it is asked for."""

from __future__ import annotations

import importlib.util
import os

import pytest

# Before anything imports Keras.
if not os.environ.get("KERAS_BACKEND"):
    installed = [n for n in ("jax", "tensorflow", "torch") if importlib.util.find_spec(n)]
    if installed:
        os.environ["KERAS_BACKEND"] = installed[0]


def pytest_report_header() -> str:
    return f"keras backend: {os.environ.get('KERAS_BACKEND', 'none is installed')}"


@pytest.fixture(scope="session")
def emoji():
    """The embedded model, loaded once a run. Nobody changes its weights."""
    from keras_sd import StableDiffusion

    return StableDiffusion.from_preset("emoji")
