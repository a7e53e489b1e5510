"""`keras-sd new-sampler` writes a distribution that works."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tomllib
from importlib import resources
from pathlib import Path

import pytest

from keras_sd import cli
from keras_sd.new_sampler import Names, new_sampler

FILES = [
    ".gitignore",
    "README.md",
    "noxfile.py",
    "pyproject.toml",
    "src/acme_zorb/__init__.py",
    "tests/test_backend.py",
    "tests/test_conformance.py",
    "tests/test_order.py",
]


@pytest.fixture(autouse=True)
def in_an_empty_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def written(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_every_file_is_written_and_every_name_filled_in():
    folder = new_sampler("acme-zorb")
    assert folder == Path("acme-zorb")
    assert written(folder) == FILES
    for file in FILES:
        text = (folder / file).read_text(encoding="utf-8")
        assert "$" not in text
        assert "package" not in file
        if file.endswith(".py"):
            compile(text, file, "exec")
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["name"] == "acme-zorb"
    assert project["project"]["entry-points"]["keras_sd.samplers"] == {
        "acme_zorb": "acme_zorb:AcmeZorb"
    }
    assert written(Path()) == [f"acme-zorb/{file}" for file in FILES]


def test_every_template_is_written():
    root = resources.files("keras_sd") / "templates" / "sampler"
    with resources.as_file(root) as folder:
        templates = [path for path in Path(folder).rglob("*") if path.is_file()]
    assert len(templates) == len(FILES)
    assert all(path.suffix == ".template" for path in templates)


@pytest.mark.skipif(importlib.util.find_spec("ruff") is None, reason="ruff is not installed")
@pytest.mark.parametrize("name", ["zorb", "acme-levels", "a" * 40])
def test_it_is_in_good_style(name):
    folder = new_sampler(name)
    for command in (["check"], ["format", "--check", "--diff"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", "."]
        run = subprocess.run(ruff, cwd=folder, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("zorb", Names("zorb", "zorb", "zorb", "Zorb")),
        ("acme-zorb_2m", Names("acme-zorb-2m", "acme_zorb_2m", "acme_zorb_2m", "AcmeZorb2M")),
    ],
)
def test_the_names(name, names):
    assert Names.of(name) == names


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Acme", "lower-case"),
        ("2m", "lower-case"),
        ("a--b", "lower-case"),
        ("a-", "lower-case"),
        ("a b", "lower-case"),
        ("../a", "lower-case"),
        ("zorb\n", "lower-case"),
        ("a" * 41, "at most 40"),
        ("lambda", "a word of Python's"),
        ("json", "Python module 'json'"),
        ("keras-sd", "Python module 'keras_sd'"),
        ("test", "begins with 'test'"),
        ("tests", "begins with 'test'"),
        ("test-order", "begins with 'test'"),
        ("levels", "a class 'Levels'"),
        ("noise", "a class 'Noise'"),
        ("denoise", "a class 'Denoise'"),
        ("iterator", "a class 'Iterator'"),
        ("array", "module 'array'"),
        ("class-var", "a class 'ClassVar'"),
        ("value-error", "a class 'ValueError'"),
        ("none", "a class 'None'"),
        ("ddim", r"sampler 'ddim' already: of keras-sd .* \(keras_sd_samplers.ddim:DDIM\)"),
    ],
)
def test_a_name_that_does_not_work_is_an_error_and_writes_nothing(name, said):
    with pytest.raises(ValueError, match=said):
        new_sampler(name, "made")
    assert not os.listdir()


def test_what_is_there_is_left_alone():
    Path("acme-zorb").mkdir()
    Path("file").write_text("mine")
    Path("link").symlink_to("nowhere")
    for output in (None, "file", "link"):
        with pytest.raises(FileExistsError, match="is there already"):
            new_sampler("acme-zorb", output)
    assert sorted(os.listdir()) == ["acme-zorb", "file", "link"]
    assert Path("file").read_text() == "mine"


def test_nothing_is_left_half_written(monkeypatch):
    write = Path.write_text
    count = 0

    def fails(self, *arguments, **settings):
        nonlocal count
        count += 1
        if count == 4:
            raise OSError("the disk is full")
        return write(self, *arguments, **settings)

    monkeypatch.setattr(Path, "write_text", fails)
    with pytest.raises(OSError, match="full"):
        new_sampler("acme-zorb", "made")
    assert not os.listdir()


def test_the_command(capsys):
    assert cli.main(["new-sampler", "acme-zorb", "--output", "made/here"]) == 0
    out, err = capsys.readouterr()
    assert out == "made/here\n"
    assert "made/here/src/acme_zorb/__init__.py" in err
    assert written(Path("made/here")) == FILES
    assert cli.main(["new-sampler", "acme-zorb", "--output", "made/here"]) == 2
    assert cli.main(["new-sampler", "Zorb!"]) == 2
