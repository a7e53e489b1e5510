"""What `keras-sd new-sampler` writes passes its own tests."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib

import pytest

from keras_sd.new_sampler import new_sampler


@pytest.mark.thorough
def test_its_own_tests_pass(tmp_path, monkeypatch):
    """In a new process, with its source on the path and metadata as an installer would write."""
    monkeypatch.chdir(tmp_path)
    folder = new_sampler("acme-zorb")
    info = folder / "src" / "acme_zorb-0.1.0.dist-info"
    info.mkdir()
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (info / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    (group, points) = next(iter(project["entry-points"].items()))
    lines = [f"{name} = {value}" for name, value in points.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))
    path = os.pathsep.join([str((folder / "src").resolve()), *sys.path])
    tests = ["tests/test_conformance.py", "tests/test_order.py"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", *tests],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "passed" in run.stdout
    assert "skipped" not in run.stdout
