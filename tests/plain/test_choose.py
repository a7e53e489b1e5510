"""Which backend is picked where Keras would take one that is not installed."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys

import pytest

from keras_sd import choose
from keras_sd.cli import backends


@pytest.fixture
def home(monkeypatch, tmp_path):
    """An empty folder of Keras', no variable, and nothing that was found before."""
    # Set, then deleted: so that what is set in a test is taken back after it.
    monkeypatch.setenv("KERAS_BACKEND", "")
    monkeypatch.delenv("KERAS_BACKEND")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.setattr(choose, "picked", None)
    monkeypatch.setattr(choose, "broken", None)
    return tmp_path


def installed(monkeypatch, *names):
    monkeypatch.setattr(choose, "_is_installed", lambda name: name in names)


@pytest.mark.parametrize(
    ("there", "variable", "configured", "expected"),
    [
        # What Keras takes by itself is there: it is left to Keras.
        (("jax", "torch"), "torch", "jax", "torch"),
        (("jax", "torch"), None, "torch", None),
        (("jax", "tensorflow"), None, None, None),
        (("tensorflow",), None, "broken json", None),
        (("jax",), None, "openvino", None),
        (("jax",), "openvino", None, "openvino"),
        # What somebody asked for by the variable is not replaced, there or not.
        (("jax",), "torch", None, "torch"),
        # Keras would take one that is not there: the first that is.
        (("jax", "torch"), None, "tensorflow", "jax"),
        (("jax", "torch"), "", None, "jax"),
        (("torch",), None, None, "torch"),
        (("torch",), None, "broken json", "torch"),
        (("torch",), None, "jax", "torch"),
        ((), None, None, None),
        ((), None, "jax", None),
    ],
)
def test_what_is_picked(home, monkeypatch, caplog, there, variable, configured, expected):
    installed(monkeypatch, *there)
    if variable is not None:
        monkeypatch.setenv("KERAS_BACKEND", variable)
    if configured:
        text = "{" if configured == "broken json" else json.dumps({"backend": configured})
        (home / "keras.json").write_text(text)
    caplog.set_level(logging.INFO, "keras_sd")
    choose.settle()
    assert (os.environ.get("KERAS_BACKEND") or None) == expected
    if variable or expected is None:
        assert not caplog.records
        assert choose.picked is None
        return
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    named = f"{home / 'keras.json'} names {configured}, which is not installed"
    default = "Keras' default is tensorflow, which is not installed"
    reason = default if configured in (None, "broken json") else named
    assert record.getMessage() == f"running on {expected}: {reason}"
    assert choose.picked == (expected, reason)


def test_keras_that_is_imported_is_left_alone(home, monkeypatch, caplog):
    installed(monkeypatch, "jax")
    monkeypatch.setitem(sys.modules, "keras", sys)
    (home / "keras.json").write_text("[]")
    choose.settle()
    assert "KERAS_BACKEND" not in os.environ
    assert (choose.picked, choose.broken, caplog.records) == (None, None, [])


@pytest.mark.parametrize("content", ["[1]", '"jax"', "null", "3"])
@pytest.mark.parametrize("variable", [None, "jax"])
def test_a_configuration_with_which_keras_cannot_be_imported(
    home, monkeypatch, caplog, content, variable
):
    installed(monkeypatch, "jax")
    if variable:
        monkeypatch.setenv("KERAS_BACKEND", variable)
    (home / "keras.json").write_text(content)
    choose.settle()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert str(home / "keras.json") in record.getMessage()
    with pytest.raises(ValueError, match=r"keras.json holds .*Keras cannot be imported: delete"):
        backends.select(None)


def test_the_command_says_what_was_picked(home, monkeypatch, capsys):
    installed(monkeypatch, "jax", "torch")
    choose.settle()
    backends.select(None)
    err = capsys.readouterr().err
    assert "note: running on jax (Keras' default is tensorflow, which is not installed)" in err
    assert os.environ["KERAS_BACKEND"] == "jax"
    backends.select("torch")
    assert os.environ["KERAS_BACKEND"] == "torch"
    assert capsys.readouterr().err == ""


def test_is_installed(tmp_path, monkeypatch):
    (tmp_path / "left_behind").mkdir()
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    names = ("whole", "left_behind", "not_there")
    assert [choose._is_installed(name) for name in names] == [True, False, False]


@pytest.mark.parametrize("first", ["keras_sd", "keras_sd.noise", "keras_sd.cli"])
def test_any_import_of_ours_settles_it(tmp_path, first):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('it was imported')")
    code = (
        "import os, sys\n"
        "sys.modules['jax'] = sys.modules['tensorflow'] = None\n"  # as if not installed
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        f"import {first}\n"
        "assert os.environ['KERAS_BACKEND'] == 'torch'\n"
        "assert not {'keras', 'torch', 'numpy'} & sys.modules.keys()\n"
    )
    environment = {**os.environ, "KERAS_HOME": str(tmp_path)}
    environment.pop("KERAS_BACKEND", None)
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, env=environment)
