"""What jax and TensorFlow compile is kept on disk, and the next process does not compile it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from test_turns import attending

from keras_sd import backend, executables
from keras_sd.cli import main

ON_JAX = pytest.mark.skipif(backend.NAME != "jax", reason="jax's own way")
ON_TENSORFLOW = pytest.mark.skipif(backend.NAME != "tensorflow", reason="TensorFlow's own way")

PROGRAM = """
import warnings; warnings.simplefilter("error")
import jax, jax.monitoring, numpy as np
counts = {}
def count(event, **more): counts[event] = counts.get(event, 0) + 1
from keras import ops
from keras_sd.backend import compile_step, keep_executables
BEFORE
jax.monitoring.register_event_listener(count)
def fn(x):
    for i in range(200):
        x = ops.sin(ops.matmul(x, x) + i)
    return x
compile_step(fn, [])(ops.ones((8, 8)))
hits = counts.get("/jax/compilation_cache/cache_hits", 0)
print(keep_executables(), hits > 0, sep="|")
"""


def compiled(tmp_path, *, before="", **environment):
    """The folder that a process keeps what it compiles in, and whether it found that there."""
    inherited = {name: value for name, value in os.environ.items() if "JAX_" not in name}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("BEFORE", before)],
        env={**inherited, "KERAS_HOME": str(tmp_path), **environment},
        cwd=tmp_path,  # where Keras writes its settings if it has no home
        capture_output=True,
        text=True,
        check=True,
    )
    folder, found = done.stdout.strip().splitlines()[-1].split("|")
    return folder, found == "True"


@ON_JAX
def test_the_next_process_finds_what_was_compiled(tmp_path):
    # That Keras and others compiled something before has not settled that nothing is kept.
    before = "jax.jit(lambda x: x + 1)(np.ones(3))"
    folder, found = compiled(tmp_path, before=before)
    assert Path(folder).is_relative_to(tmp_path / "keras_sd" / "executables")
    assert Path(folder).stat().st_mode & 0o077 == 0
    assert not found
    assert any(Path(folder).glob("*-cache"))
    assert compiled(tmp_path, before=before) == (folder, True)


@ON_JAX
def test_it_can_be_switched_off(tmp_path):
    assert compiled(tmp_path, KERAS_SD_EXECUTABLES="off") == ("None", False)
    assert not (tmp_path / "keras_sd").exists()


@ON_JAX
def test_a_folder_that_was_chosen_stays(tmp_path):
    chosen = str(tmp_path / "chosen")
    folder, _ = compiled(tmp_path, JAX_COMPILATION_CACHE_DIR=chosen)
    assert folder == chosen
    assert not (tmp_path / "keras_sd").exists()


@ON_JAX
def test_a_folder_that_cannot_be_made_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    assert compiled(tmp_path, KERAS_SD_EXECUTABLES=str(tmp_path / "file")) == ("None", False)


@ON_TENSORFLOW
def test_the_next_command_finds_what_tensorflow_compiled(tmp_path):
    environment = {**os.environ, "KERAS_HOME": str(tmp_path)}
    environment.pop("TF_XLA_FLAGS", None)

    def drawn():
        command = [sys.executable, "-m", "keras_sd.cli", "generate", "a cat face", "--size", "32"]
        command += ["--steps", "2", "--seed", "1", "--output", "cat.png"]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert len(done.stderr.splitlines()) < 5  # nothing of the processor's features
        with Image.open(tmp_path / "cat.png") as picture:
            return np.asarray(picture)

    first = drawn()
    (folder,) = (tmp_path / "keras_sd" / "executables").glob("*/tensorflow-*")
    assert folder.stat().st_mode & 0o077 == 0
    written = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert len(written) == 1  # of the UNet alone: the others are called once a picture
    (tmp_path / "cat.png").unlink()
    again = drawn()
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == written
    np.testing.assert_array_equal(again, first)


@ON_TENSORFLOW
def test_what_a_run_calls_often_is_compiled_if_that_is_kept_or_large(monkeypatch):
    monkeypatch.delenv("TF_XLA_FLAGS", raising=False)
    backend.keep_executables.cache_clear()
    small = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    assert not backend.resolve_jit_compile("auto", [small], often=True)
    monkeypatch.setattr(backend, "_LARGE", small.count_params())
    assert backend.resolve_jit_compile("auto", [small], often=True)
    assert not backend.resolve_jit_compile("auto", [small])
    monkeypatch.undo()
    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_persistent_cache_directory=/somewhere")
    backend.keep_executables.cache_clear()
    assert backend.resolve_jit_compile("auto", [small], often=True)
    assert not backend.resolve_jit_compile("auto", [small])
    backend.keep_executables.cache_clear()


@pytest.mark.skipif(backend.NAME in ("jax", "tensorflow"), reason="they do")
def test_others_keep_nothing(monkeypatch, capsys):
    assert backend.keep_executables() is None
    assert main(["warmup"]) == 2
    assert "keeps nothing on disk" in capsys.readouterr().err


@ON_JAX
def test_who_has_no_home_keeps_nothing(tmp_path):
    before = "from pathlib import Path\ndef home(): raise RuntimeError('no home')\nPath.home = home"
    assert compiled(tmp_path, before=before, KERAS_HOME="") == ("None", False)


@ON_JAX
def test_the_command_compiles_for_sizes_and_counts(capsys, monkeypatch):
    monkeypatch.setattr("keras_sd.cli.draw.loaded", lambda *given: (attending(), None))
    assert main(["warmup", "--size", "32x64", "--size", "32", "--count", "2"]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == backend.keep_executables()
    assert "32x64, 2 pictures: " in printed.err
    assert "32x32, 2 pictures: " in printed.err


def test_the_folder_is_of_the_processor(monkeypatch, tmp_path):
    monkeypatch.setenv(executables.VARIABLE, str(tmp_path))
    here = executables.folder()
    assert here.parent == tmp_path
    monkeypatch.setattr(executables.platform, "machine", lambda: "another")
    assert executables.folder() != here
    for off in ("off", "OFF", "0"):
        monkeypatch.setenv(executables.VARIABLE, off)
        assert executables.folder() is None
