"""The pages: what they say of the project is there, and what is made of them is up to date."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pages
import pytest
from pages import DOCS, GUIDES, NOTEBOOKS, PAGES, PICTURES, ROOT, Block, name
from test_imports import RANK

from keras_sd.cli import main


def test_the_reader_of_pages_finds_its_blocks():
    text = (
        "a\n\n```python\nx = 1\n```\n<!-- not run: it takes hours -->\n\n```bash\nkeras-sd a\n```\n"
        "```bash\n$ ls\nkeras-sd b --c \\\n  'd e'  # f\npip install x\n```\n"
    )
    first, second, third = pages.blocks(text)
    assert first == Block("python", ["x = 1"], 4, True)
    assert (second.run, third.run) == (False, True)
    assert pages.commands(third) == [["keras-sd", "b", "--c", "d e"]]


@pytest.mark.parametrize("page", GUIDES, ids=name)
def test_the_lines_that_a_guide_counts_are_counted_right(page):
    text = page.read_text(encoding="utf-8")
    assert text == pages.counted(text), "python tests/pages.py"


def test_a_row_with_a_file_is_counted():
    lines = len(Path(pages.__file__).read_text(encoding="utf-8").splitlines())
    assert (
        pages.counted("| a | `tests/pages.py` | 1 |\n") == f"| a | `tests/pages.py` | {lines} |\n"
    )
    assert "`keras_sd/networks/unet.py` | " in (DOCS / "guides" / "how-it-works.md").read_text()


@pytest.mark.parametrize("page", GUIDES, ids=name)
def test_the_notebook_of_a_guide_is_made_of_it(page):
    file = NOTEBOOKS / f"{page.stem}.ipynb"
    assert file.read_text(encoding="utf-8") == pages.notebook(page), "python tests/pages.py"


def test_a_notebook_has_the_prose_and_the_code_of_its_guide(tmp_path):
    page = tmp_path / "walk.md"
    page.write_text(
        "# Walk\n\n[As a notebook](../notebooks/walk.ipynb)\n\n"
        "A [`Level`][keras_sd.noise.Level].\n\n"
        "```python\nx = 1\n\ny = 2\n```\n\n![x](../images/guides/x.png)\n\nThen:\n\n"
        "<!-- not run: hours -->\n```bash\nkeras-sd train-emoji x\n```\n\n"
        "```bash\nkeras-sd models\n```\n",
        encoding="utf-8",
    )
    cells = json.loads(pages.notebook(page))["cells"]
    assert [(cell["cell_type"], "".join(cell["source"])) for cell in cells] == [
        ("markdown", "# Walk\n\nA `Level`."),
        ("code", "x = 1\n\ny = 2"),
        ("markdown", "Then:\n\n```bash\nkeras-sd train-emoji x\n```"),
        ("code", "!keras-sd models"),
    ]
    assert len({cell["id"] for cell in cells}) == 4


def test_every_picture_of_the_guides_is_small_and_in_one():
    shown = [picture for page in GUIDES for picture in pages.pictures(page)]
    assert sorted(shown) == sorted(file.name for file in PICTURES.iterdir())
    for file in PICTURES.iterdir():
        assert file.stat().st_size < 300_000, file


def test_every_page_is_in_the_navigation():
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in PAGES[1:]:
        assert f": {page.relative_to(DOCS).as_posix()}\n" in nav


def test_every_public_module_has_a_page():
    held = {path.stem for path in (DOCS / "api").glob("*.md")}
    modules = {path.stem for path in (ROOT / "keras_sd").glob("[a-z]*.py")}
    packages = {path.parent.name for path in (ROOT / "keras_sd").glob("*/__init__.py")}
    assert (modules | packages) - {"cli"} == held - {"index"}  # the command has cli.md


def test_the_design_shows_the_run_as_it_is():
    source = (ROOT / "keras_sd" / "run.py").read_text(encoding="utf-8")
    (run,) = [each for each in ast.parse(source).body if getattr(each, "name", "") == "run"]
    docstring, lines = run.body[0], source.splitlines()
    body = lines[docstring.end_lineno : run.end_lineno]
    page = pages.blocks((DOCS / "design.md").read_text(encoding="utf-8"))
    (shown,) = [block.lines for block in page if block.lines[0].startswith("def run(")]
    assert shown == [*lines[run.lineno - 1 : docstring.lineno - 1], *body], "docs/design.md"


def test_the_design_has_each_module_in_its_layer():
    page = (DOCS / "design.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| (`[^|]+`) \|", page, re.MULTILINE)
    layers = {part: int(layer) for layer, parts in rows for part in re.findall(r"`(\w+)", parts)}
    assert layers == RANK


def test_the_design_has_a_reason_for_each_long_file():
    page = (
        (DOCS / "design.md").read_text(encoding="utf-8").split("A file has at most 500 lines.")[1]
    )
    reasons = re.findall(r"^\| `([\w/.]+)` \| .+ \|$", page.split("\n## ")[0], re.MULTILINE)
    files = {path: path.read_text(encoding="utf-8") for path in (ROOT / "keras_sd").rglob("*.py")}
    long = [path for path, text in files.items() if len(text.splitlines()) > 500]
    assert sorted(reasons) == sorted(p.relative_to(ROOT / "keras_sd").as_posix() for p in long)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_to_files_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", text)
    for target in (markdown or html for markdown, html in targets):
        file = target.split("#")[0]
        if file and "://" not in file:
            assert (page.parent / file).exists(), f"{name(page)} links to {target}"


def test_the_page_of_the_command_has_every_command_and_option(capsys):
    def shown(*arguments):
        assert main([*arguments, "--help"]) == 0
        return capsys.readouterr().out

    page = (DOCS / "cli.md").read_text(encoding="utf-8")
    names = re.findall(r"^  ([a-z][a-z-]+)  ", shown().split("Commands:")[1], re.MULTILINE)
    assert "generate" in names
    (row,) = re.findall(r"\[The command\].*", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert sorted(re.findall("`([^`]+)`", row)) == sorted(["keras-sd generate", *names[1:]])
    for each in names:
        assert f"## `keras-sd {each}`" in page
        for option in re.findall(r"^  (--[a-z0-9-]+)", shown(each), re.MULTILINE):
            assert f"`{option}`" in page or option == "--help", f"{each} {option}"
