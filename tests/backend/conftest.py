"""For the tests that need Keras: a backend, and the embedded model where it is asked for."""

from __future__ import annotations

import os

import pytest

import keras_sd  # before anything imports Keras: it settles the backend where none is named


def pytest_report_header() -> str:
    return f"keras backend: {os.environ.get('KERAS_BACKEND', 'as Keras is configured')}"


@pytest.fixture(scope="session")
def emoji():
    """The embedded model, loaded once a run. Nobody changes its weights."""
    return keras_sd.StableDiffusion.from_preset("emoji")


@pytest.fixture
def without_tracing(request):
    """For tests that look at what networks compute, not at how they are compiled. One with the mark
    `traced` in a file of such is an exception.
    """
    from eager import eagerly

    if request.node.get_closest_marker("traced"):
        yield
        return
    with eagerly():
        yield
