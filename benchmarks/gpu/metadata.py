"""Metadata of keras_sd where it runs from its folder and nothing can be installed.

    python benchmarks/gpu/metadata.py FOLDER

Samplers and schedules are found by entry points, which are read from the metadata of installed
distributions. This writes what an installation would have written, from pyproject.toml, so that
FOLDER on `sys.path` is enough. Python's standard library is all that it needs.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def write(folder: str | Path, root: Path = ROOT) -> Path:
    """Writes the metadata of the project in `root`.

    Args:
        folder: which will be on `sys.path`; is made where there is none.
        root: where pyproject.toml is.

    Returns:
        The folder that ends in `.dist-info`.
    """
    with open(root / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    name, version = project["name"], project["version"]
    info = Path(folder) / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    told = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    (info / "METADATA").write_text(told, encoding="utf-8")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{key} = {value}" for key, value in points.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    return info


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(write(sys.argv[1]))
