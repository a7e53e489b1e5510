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


@pytest.fixture(scope="session")
def shaped_preset(tmp_path_factory):
    """The folder of the small model that KerasCV's guides on training are run with."""
    import shaped

    return shaped.save(tmp_path_factory.mktemp("shaped"))


@pytest.fixture
def shaped_world(monkeypatch, shaped_preset, tmp_path):
    """That model is what KerasCV's classes fetch; files and policies end with the test."""
    import keras
    import shaped

    shaped.stand_in(shaped_preset, monkeypatch)
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("matplotlib").use("Agg")
    keras.utils.set_random_seed(5)
    yield
    keras.mixed_precision.set_global_policy("float32")


@pytest.fixture
def pictures(tmp_path):
    """The files of four small pictures."""
    import numpy as np
    from PIL import Image

    drawn = np.random.default_rng(0).integers(0, 256, (4, 20, 24, 3), dtype=np.uint8)
    for number, pixels in enumerate(drawn):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    return sorted(str(path) for path in tmp_path.glob("*.png"))
