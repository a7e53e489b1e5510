"""Everything the distribution declares can be loaded, and everything it holds is declared."""

from __future__ import annotations

import importlib.util
import inspect
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from keras_sd import schedules

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
DISTRIBUTION = metadata.distribution("keras-sd")
DECLARED = sorted((e.group, e.name, e.value) for e in DISTRIBUTION.entry_points)


def test_the_installed_metadata_is_that_of_the_source():
    # Otherwise every test here is of an old installation: `pip install` again.
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    groups = {"console_scripts": project["scripts"]} | project["entry-points"]
    assert sorted((g, n, v) for g, each in groups.items() for n, v in each.items()) == DECLARED
    assert DISTRIBUTION.version == project["version"]


@pytest.mark.parametrize(
    "declared", [d for d in DECLARED if not d[0].endswith(("_names", "_aliases"))], ids=":".join
)
def test_every_entry_point_loads(declared):
    group, name, value = declared
    assert callable(metadata.EntryPoint(name, value, group).load())


def test_every_sampler_file_is_declared():
    spec = importlib.util.find_spec("keras_sd_samplers")
    assert spec is not None
    assert spec.origin is not None
    held = {path.stem for path in Path(spec.origin).parent.glob("[a-z]*.py")}
    declared = {
        value.split(":")[0].removeprefix("keras_sd_samplers.")
        for group, _, value in DECLARED
        if group == "keras_sd.samplers"
    }
    assert held == declared


def test_every_schedule_is_declared():
    declared = {value for group, _, value in DECLARED if group == "keras_sd.schedules"}
    own = {
        name
        for name, function in vars(schedules).items()
        if inspect.isfunction(function) and "num_steps" in inspect.signature(function).parameters
        if name in schedules.__all__
    } - {"checked_steps"}
    assert {f"keras_sd.schedules:{name}" for name in own} == declared


def test_the_command_is_installed_and_runs():
    command = Path(sys.executable).with_name("keras-sd")
    run = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert run.stdout == f"keras-sd {DISTRIBUTION.version}\n"


def test_no_backend_comes_without_being_asked_for():
    plain = [line for line in DISTRIBUTION.requires or [] if "extra ==" not in line]
    assert plain
    for backend in ("jax", "tensorflow", "torch"):
        assert not any(line.startswith(backend) for line in plain)
        assert backend in DISTRIBUTION.metadata.get_all("Provides-Extra", [])
