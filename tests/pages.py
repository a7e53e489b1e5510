"""The pages' examples: what they are, running them, and the notebooks and pictures made of guides.

    python tests/pages.py             # counts the lines of files that a guide counts, and makes
                                      # docs/notebooks of docs/guides
    python tests/pages.py --pictures  # also runs the guides, and keeps the pictures that they make

In a page, ```` ```python ```` blocks are run in order in one namespace, and so are the lines of
```` ```bash ```` blocks that start with `keras-sd`. A block after a comment `<!-- not run: why -->`
is left out.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
GUIDES = sorted((DOCS / "guides").glob("*.md"))
NOTEBOOKS = DOCS / "notebooks"
PICTURES = DOCS / "images" / "guides"

_FENCE = re.compile(r"^```(\w*)\s*$")
_NOT_RUN = re.compile(r"^<!-- not run: .+ -->$")
_LINES = re.compile(r"^(\|.*`([\w/]+\.py)` \| )\d+( \|)$", re.MULTILINE)
_PICTURE = re.compile(r"^!\[[^\]]*\]\(\.\./images/guides/([^)]+)\)(?:\{[^}]*\})?$")


def name(page: Path) -> str:
    """What a page is called in a message."""
    return page.relative_to(ROOT).as_posix()


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
    return [
        block
        for block in blocks(page.read_text(encoding="utf-8"))
        if block.run
        and (block.language == "python" or (block.language == "bash" and commands(block)))
    ]


def run(page: Path, module: ModuleType) -> None:
    """Runs the examples in this process and in the working directory.

    Args:
        page: a Markdown file.
        module: their namespace, which is in `sys.modules`: `page.py` in the working directory
            becomes its file, with the line numbers of the page, so that errors and `inspect` find
            them.
    """
    module.__file__ = os.path.abspath("page.py")
    from keras_sd.cli import main  # a process each would import a backend each

    source: list[str] = []
    for block in examples(page):
        if block.language == "python":
            source += [""] * (block.start - 1 - len(source)) + block.lines
            Path(module.__file__).write_text("\n".join(source) + "\n", encoding="utf-8")
            padded = "\n" * (block.start - 1) + "\n".join(block.lines)
            exec(compile(padded, module.__file__, "exec"), module.__dict__)
        else:
            for words in commands(block):
                said = io.StringIO()
                with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                    status = main(words[1:])
                assert status == 0, f"{shlex.join(words)}\n{said.getvalue()}"


def pictures(page: Path) -> list[str]:
    """The files that a guide shows, and therefore makes."""
    lines = page.read_text(encoding="utf-8").splitlines()
    return [found[1] for line in lines if (found := _PICTURE.match(line))]


def counted(text: str) -> str:
    """A page with the right numbers in the rows that end with a file and its number of lines."""

    def row(found: re.Match[str]) -> str:
        lines = (ROOT / found[2]).read_text(encoding="utf-8").splitlines()
        return f"{found[1]}{len(lines)}{found[3]}"

    return _LINES.sub(row, text)


def notebook(page: Path) -> str:
    """A guide as a notebook: prose and code in the order of the page, nothing run yet.

    Its pictures and the link to itself are left out: the notebook makes the ones and is the other.
    """
    text = page.read_text(encoding="utf-8")
    lines = text.splitlines()
    cells: list[dict[str, Any]] = []
    end = 0

    def prose(part: list[str]) -> None:
        kept = [
            line
            for line in part
            if not (_PICTURE.match(line) or _NOT_RUN.match(line) or f"{page.stem}.ipynb" in line)
        ]
        body = re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()
        # Links to the API are mkdocstrings'; elsewhere they would be brackets.
        body = re.sub(r"\[(`[^`]+`)\]\[[\w.]+\]", r"\1", body)
        if body:
            cells.append({"cell_type": "markdown", "metadata": {}, "source": body})

    for block in blocks(text):
        code = "\n".join(block.lines)
        if not (block.run and block.language in ("python", "bash")):
            continue  # It stays where it is, in the prose.
        if block.language == "bash":
            code = re.sub(r"^(?=keras-sd )", "!", code, flags=re.MULTILINE)
        prose(lines[end : block.start - 2])
        cells.append(
            {
                "cell_type": "code",
                "execution_count": None,
                "metadata": {},
                "outputs": [],
                "source": code,
            }
        )
        end = block.start + len(block.lines)
    prose(lines[end:])
    for number, cell in enumerate(cells):
        cell["id"] = f"{page.stem}-{number}"
        cell["source"] = cell["source"].splitlines(keepends=True)
    return (
        json.dumps(
            {
                "cells": cells,
                "metadata": {
                    "kernelspec": {
                        "display_name": "Python 3",
                        "language": "python",
                        "name": "python3",
                    },
                    "language_info": {"name": "python"},
                },
                "nbformat": 4,
                "nbformat_minor": 5,
            },
            indent=1,
            ensure_ascii=False,
        )
        + "\n"
    )


def keep_pictures(page: Path) -> None:
    """Runs a guide in a folder of its own and takes its pictures from there."""
    module = ModuleType("page")
    sys.modules["page"] = module
    PICTURES.mkdir(parents=True, exist_ok=True)
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            run(page, module)
            for picture in pictures(page):
                shutil.copyfile(picture, PICTURES / picture)
        finally:
            os.chdir(before)


def main() -> None:
    names = [name for name in sys.argv[1:] if name != "--pictures"]
    NOTEBOOKS.mkdir(exist_ok=True)
    for page in GUIDES:
        if names and page.stem not in names:
            continue
        page.write_text(counted(page.read_text(encoding="utf-8")), encoding="utf-8")
        if "--pictures" in sys.argv:
            os.environ["MPLBACKEND"] = "Agg"
            keep_pictures(page)
        (NOTEBOOKS / f"{page.stem}.ipynb").write_text(notebook(page), encoding="utf-8")


if __name__ == "__main__":
    main()
