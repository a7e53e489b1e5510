"""`keras-sd new-sampler`: a distribution with a sampler of one's own, to start from.

What is written is in `keras_sd/templates/sampler`, one file each, with names for
`string.Template`.
"""

from __future__ import annotations

import ast
import builtins
import importlib.util
import keyword
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

from keras_sd.registry import list_samplers

__all__ = ["Names", "new_sampler"]

_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_LONGEST = 40  # so that the lines of the templates stay short enough
_SUFFIX = ".template"
_PACKAGE = "package"  # the folder that gets the package's name


@dataclass(frozen=True)
class Names:
    """What one sampler is called in various places, from any spelling of its name.

    Args:
        distribution: As in ``pip install acme-heun``.
        package: Of Python: ``acme_heun``.
        name: Of the sampler: ``acme_heun``.
        cls: The class: ``AcmeHeun``.
    """

    distribution: str
    package: str
    name: str
    cls: str

    @classmethod
    def of(cls, name: str) -> Names:
        """From ``acme-heun`` or ``acme_heun``.

        Raises:
            ValueError: It cannot be the name of a distribution and of a Python package.
        """
        if not _NAME.fullmatch(name) or len(name) > _LONGEST:
            raise ValueError(
                f"{name!r} cannot name a distribution and a Python package: take lower-case "
                f"letters, digits, and - or _ between them, at most {_LONGEST}, as in acme-heun."
            )
        words = re.split("[-_]", name)
        package = "_".join(words)
        if keyword.iskeyword(package):
            raise ValueError(f"{name!r} is a word of Python's: take another, as {name}-sampler.")
        if package.startswith("test"):
            raise ValueError(
                f"{name!r} begins with 'test', so pytest would take the sampler for a test: take "
                f"another name, as in acme-{name}."
            )
        return cls("-".join(words), package, package, "".join(word.title() for word in words))


def new_sampler(name: str, output: str | Path | None = None) -> Path:
    """Writes a distribution that registers a sampler: it installs, passes the kit as it is, and has
    tests for three backends.

    Args:
        name: Of the sampler, and so of the distribution and the package: ``acme-heun``.
        output: The folder, which must not be there; None is one of the distribution's name here.

    Returns:
        The folder. It is there whole or not at all.

    Raises:
        ValueError: The name cannot be one, or is taken: by an installed sampler or module, or its
            class by what the files import.
        FileExistsError: There is something at `output`.
    """
    names = Names.of(name)
    for info in list_samplers():
        if info.name == names.name:
            raise ValueError(
                f"There is a sampler {info.name!r} already: of {info.distribution} {info.version} "
                f"({info.value}). Take another name, with yours in front, as in acme-{name}."
            )
    spec = importlib.util.find_spec(names.package)
    # Without an origin it is a folder that happens to be here.
    if spec is not None and spec.origin is not None:
        raise ValueError(
            f"There is a Python module {names.package!r} already, which the new one would hide or "
            f"be hidden by: take another name, as in acme-{name}."
        )
    if names.cls in _taken() or hasattr(builtins, names.cls):
        raise ValueError(
            f"{name!r} would make a class {names.cls!r}, and the files that are written have "
            f"another {names.cls!r} already: take another name, as in acme-{name}."
        )
    folder = Path(names.distribution if output is None else output)
    if folder.exists() or folder.is_symlink():
        raise FileExistsError(f"{folder} is there already: give --output, a new folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}")
    try:
        for path, text in _files(names):
            file = unfinished / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _taken() -> set[str]:
    """What the templates import or define beside the sampler."""
    names = Names("x", "x", "x", "X_")  # a class that no name makes
    found = set()
    for path, text in _files(names):
        for node in ast.walk(ast.parse(text)) if path.endswith(".py") else ():
            if isinstance(node, ast.Import | ast.ImportFrom):
                found |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ClassDef | ast.FunctionDef):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
    return found - {names.cls}


def _files(names: Names) -> Iterator[tuple[str, str]]:
    """Path and text of every file."""
    root = resources.files("keras_sd") / "templates" / "sampler"
    for path, source in _walk(root):
        parts = [names.package if part == _PACKAGE else part for part in path]
        parts[-1] = {"gitignore": ".gitignore"}.get(parts[-1], parts[-1])
        text = source.read_text(encoding="utf-8")
        yield "/".join(parts), Template(text).substitute(asdict(names))


def _walk(folder: Traversable) -> Iterator[tuple[list[str], Traversable]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            for path, source in _walk(entry):
                yield [entry.name, *path], source
        else:
            yield [entry.name.removesuffix(_SUFFIX)], entry
