"""The examples of the pages run, and so do the guides' notebooks."""

from __future__ import annotations

import os
import subprocess
import sys
from types import ModuleType

import pages
import pytest
from pages import GUIDES, NOTEBOOKS, PAGES, PICTURES, ROOT, name
from PIL import Image


@pytest.mark.examples
@pytest.mark.parametrize("page", [page for page in PAGES if pages.examples(page)], ids=name)
def test_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    pages.run(page, module)
    for picture in pages.pictures(page):  # what the guide shows, it makes
        with Image.open(tmp_path / picture) as made, Image.open(PICTURES / picture) as kept:
            assert made.size == kept.size
            assert getattr(made, "n_frames", 1) == getattr(kept, "n_frames", 1)


@pytest.mark.examples
def test_a_notebook_runs(tmp_path):
    """The shortest of them: their code is that of the guides, which a test of its own sees."""
    page = next(page for page in GUIDES if page.stem == "how-it-works")
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOKS / f"{page.stem}.ipynb", as_version=4)
    nbformat.validate(notebook)
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=where).execute()
    shown = [out for cell in notebook.cells for out in cell.get("outputs", ()) if "data" in out]
    assert any("image/png" in out["data"] for out in shown)


@pytest.mark.thorough
def test_the_first_example_needs_no_settings(tmp_path):
    """In an empty home, without a variable: with whichever backend is installed."""
    first = next(b for b in pages.examples(ROOT / "README.md") if b.language == "python")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("KERAS_")}
    run = subprocess.run(
        [sys.executable, "-c", "\n".join(first.lines)],
        cwd=tmp_path,
        env={**environment, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
