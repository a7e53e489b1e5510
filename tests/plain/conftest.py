"""For the tests that need no Keras: they run once per Python, so none may come to need a backend.

A test that imports Keras or a backend fails here, whatever it tests: its place is tests/backend.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

HEAVY = {"keras", "jax", "tensorflow", "torch"}

# In a run of the whole suite tests/backend has imported them first, and nothing can be seen here.
allowed = HEAVY & sys.modules.keys()


@pytest.fixture(autouse=True)
def no_keras(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test here imports Keras, but for those of the session `references`."""
    before = HEAVY & sys.modules.keys()
    yield
    if request.node.get_closest_marker("references") is not None:
        allowed.update(HEAVY & sys.modules.keys())
        return
    found = (HEAVY & sys.modules.keys()) - allowed
    allowed.update(found)  # the first test is blamed, not all that follow
    if found:
        when = "by the imports of a test file" if found & before else "by this test"
        pytest.fail(f"{', '.join(sorted(found))} imported {when}; its place is tests/backend")
