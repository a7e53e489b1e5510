"""The pages: their examples run, and what they say of the project is there.

In a page, ```` ```python ```` blocks are run in order in one namespace, and so are the lines of
```` ```bash ```` blocks that start with `keras-sd`. A block after a comment `<!-- not run: why -->`
is left out.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = Path(sys.executable).with_name("keras-sd")

_FENCE = re.compile(r"^```(\w*)\s*$")
_NOT_RUN = re.compile(r"^<!-- not run: .+ -->$")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its lines, and the number of the first of them in the page."""

    language: str
    lines: list[str]
    start: int
    run: bool


def blocks(text: str) -> Iterator[Block]:
    before, inside, language, start = "", None, "", 0
    for number, line in enumerate(text.splitlines(), 1):
        fence = _FENCE.match(line)
        if inside is not None and line.strip() == "```":
            yield Block(language, inside, start, not _NOT_RUN.match(before))
            inside, before = None, ""
        elif inside is not None:
            inside.append(line)
        elif fence:
            inside, language, start = [], fence[1], number + 1
        elif line.strip():
            before = line.strip()
    assert inside is None, "a block is not closed"


def commands(block: Block) -> list[list[str]]:
    """The lines of a bash block that start with `keras-sd`, as arguments."""
    joined = "\n".join(block.lines).replace("\\\n", " ")
    split = [shlex.split(line, comments=True) for line in joined.splitlines()]
    return [words for words in split if words and words[0] == "keras-sd"]


def examples(page: Path) -> list[Block]:
    found = blocks(page.read_text(encoding="utf-8"))
    return [
        block
        for block in found
        if block.run
        and (block.language == "python" or (block.language == "bash" and commands(block)))
    ]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def test_the_reader_of_pages_finds_its_blocks():
    text = (
        "a\n\n```python\nx = 1\n```\n<!-- not run: it takes hours -->\n\n```bash\nkeras-sd a\n```\n"
        "```bash\n$ ls\nkeras-sd b --c \\\n  'd e'  # f\npip install x\n```\n"
    )
    first, second, third = blocks(text)
    assert first == Block("python", ["x = 1"], 4, True)
    assert (second.run, third.run) == (False, True)
    assert commands(third) == [["keras-sd", "b", "--c", "d e"]]


@pytest.mark.examples
@pytest.mark.parametrize("page", [page for page in PAGES if examples(page)], ids=name)
def test_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # A module in a file whose line numbers are the page's, so that errors and `inspect` find them.
    module = ModuleType("page")
    module.__file__ = str(tmp_path / "page.py")
    monkeypatch.setitem(sys.modules, "page", module)
    source: list[str] = []
    for block in examples(page):
        if block.language == "python":
            source += [""] * (block.start - 1 - len(source)) + block.lines
            Path(module.__file__).write_text("\n".join(source) + "\n", encoding="utf-8")
            padded = "\n" * (block.start - 1) + "\n".join(block.lines)
            exec(compile(padded, module.__file__, "exec"), module.__dict__)
        else:
            for words in commands(block):
                run = subprocess.run([COMMAND, *words[1:]], capture_output=True, text=True)
                assert run.returncode == 0, f"{shlex.join(words)}\n{run.stdout}{run.stderr}"


def test_every_page_is_in_the_navigation():
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in PAGES[1:]:
        assert f": {page.relative_to(ROOT / 'docs').as_posix()}\n" in nav


def test_every_public_module_has_a_page():
    held = {path.stem for path in (ROOT / "docs" / "api").glob("*.md")}
    modules = {path.stem for path in (ROOT / "keras_sd").glob("[a-z]*.py")}
    packages = {path.parent.name for path in (ROOT / "keras_sd").glob("*/__init__.py")}
    assert (modules | packages) - {"cli"} == held - {"index"}  # the command has cli.md


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_to_files_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", text)
    for target in (markdown or html for markdown, html in targets):
        file = target.split("#")[0]
        if file and "://" not in file:
            assert (page.parent / file).exists(), f"{name(page)} links to {target}"


def test_the_page_of_the_command_has_every_command_and_option():
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    run = subprocess.run([COMMAND, "--help"], capture_output=True, text=True, check=True)
    names = re.findall(r"^  ([a-z][a-z-]+)  ", run.stdout.split("Commands:")[1], re.MULTILINE)
    assert "generate" in names
    for each in names:
        assert f"## `keras-sd {each}`" in page
        run = subprocess.run([COMMAND, each, "--help"], capture_output=True, text=True, check=True)
        for option in re.findall(r"^  (--[a-z-]+)", run.stdout, re.MULTILINE):
            assert f"`{option}`" in page or option == "--help", f"{each} {option}"
