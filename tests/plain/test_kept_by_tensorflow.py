"""Where TensorFlow is told to keep what it compiles."""

from __future__ import annotations

import os

import pytest

from keras_sd import executables
from keras_sd.executables import keep_for_tensorflow, of_tensorflow


@pytest.fixture(autouse=True)
def somewhere(monkeypatch, tmp_path):
    monkeypatch.setenv(executables.VARIABLE, str(tmp_path / "kept"))
    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_clustering_debug=false")
    monkeypatch.setattr(executables, "_version_of_tensorflow", lambda: "2.21.0")
    monkeypatch.delitem(executables.sys.modules, "tensorflow", raising=False)


def test_it_is_told_of_a_folder_of_its_version():
    assert of_tensorflow() is None
    kept = keep_for_tensorflow()
    assert kept == executables.folder() / "tensorflow-2.21.0"
    assert kept.is_dir()
    for each in (kept, kept.parent):  # which jax has
        assert each.stat().st_mode & 0o077 == 0
    first, *rest = os.environ["TF_XLA_FLAGS"].split()
    assert first == "--tf_xla_clustering_debug=false"
    assert f"--tf_xla_persistent_cache_directory={kept}" in rest
    assert of_tensorflow() == kept
    before = os.environ["TF_XLA_FLAGS"]
    assert keep_for_tensorflow() == kept
    assert os.environ["TF_XLA_FLAGS"] == before


def test_a_folder_that_was_chosen_stays(monkeypatch, tmp_path):
    chosen = f"--tf_xla_persistent_cache_directory={tmp_path}/mine"
    monkeypatch.setenv("TF_XLA_FLAGS", chosen)
    assert keep_for_tensorflow() == tmp_path / "mine"
    assert os.environ["TF_XLA_FLAGS"] == chosen


def raising():
    raise RuntimeError("Could not determine home directory.")


@pytest.mark.parametrize(
    "why", ["off", "a space", "a file", "no home", "imported", "not installed"]
)
def test_where_it_cannot_nothing_is_told(monkeypatch, tmp_path, why):
    if why == "off":
        monkeypatch.setenv(executables.VARIABLE, "off")
    elif why == "a space":
        monkeypatch.setenv(executables.VARIABLE, str(tmp_path / "a space"))
    elif why == "a file":
        (tmp_path / "kept").write_text("")
    elif why == "no home":
        monkeypatch.setattr(executables, "folder", raising)
    elif why == "imported":
        monkeypatch.setitem(executables.sys.modules, "tensorflow", os)
    else:
        monkeypatch.setattr(executables, "_version_of_tensorflow", lambda: None)
    assert keep_for_tensorflow() is None
    assert os.environ["TF_XLA_FLAGS"] == "--tf_xla_clustering_debug=false"


def test_what_was_written_first_makes_room(monkeypatch):
    kept = keep_for_tensorflow()
    (kept / "empty").write_bytes(b"")
    for age, name in enumerate(("newest", "middle", "oldest")):
        (kept / name).write_bytes(bytes(10))
        os.utime(kept / name, (1_000_000 - age, 1_000_000 - age))
    monkeypatch.setenv("TF_XLA_FLAGS", "")
    monkeypatch.setattr(executables, "MAX_BYTES", 25)
    assert keep_for_tensorflow() == kept
    assert {file.name for file in kept.iterdir()} == {"newest", "middle"}
