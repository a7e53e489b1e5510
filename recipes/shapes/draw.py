"""Drawings of shapes with captions, which the model in the package has never seen.

    python -m recipes.shapes.draw recipes/shapes

makes the folders that the trainings in recipes/shapes read.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from keras_sd.image import save_png

SIDE = 64
"""Pixels of a drawing."""

SHAPES = ("ring", "cross", "checkers", "stripes")
INKS = {"green": (40, 160, 70), "orange": (240, 140, 30), "white": (250, 250, 250)}
GROUNDS = {"red": (214, 48, 49), "blue": (50, 110, 210), "black": (25, 25, 28)}


def draw(shape: str, ink: str, ground: str, dx: int = 0, dy: int = 0) -> np.ndarray:
    """A drawing, uint8 `(64, 64, 3)`.

    Args:
        shape: one of `SHAPES`.
        ink: a key of `INKS`.
        ground: a key of `GROUNDS`.
        dx: pixels to the right of the middle.
        dy: pixels below it.
    """
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    x, y = x - dx, y - dy
    far, near = np.maximum(abs(x), abs(y)), np.minimum(abs(x), abs(y))
    inside = far < 22
    mask = {
        "ring": abs(np.hypot(x, y) - 18) < 5,
        "cross": inside & (near < 6),
        "checkers": inside & ((x // 11 + y // 11) % 2 == 0),
        "stripes": inside & (y // 7 % 2 == 0),
    }[shape]
    colours = np.array([GROUNDS[ground], INKS[ink]], np.uint8)
    return colours[mask.astype(int)]


def write(folder: Path, rows: list[tuple[str, np.ndarray]]) -> None:
    """Writes drawings and their captions as an imagefolder.

    Args:
        folder: is made.
        rows: captions and drawings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (caption, pixels) in enumerate(rows):
        save_png(folder / f"{number:03}.png", pixels, {})
        lines.append(json.dumps({"file_name": f"{number:03}.png", "text": caption}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def places(seed: int, count: int) -> np.ndarray:
    """How far drawings are off the middle, `(count, 2)`."""
    return np.random.default_rng(seed).integers(-3, 4, (count, 2))


def drawings(seed: int) -> list[tuple[str, np.ndarray]]:
    """Every shape in every ink on every ground, somewhere."""
    kinds = [(s, i, g) for s in SHAPES for i in INKS for g in GROUNDS]
    return [
        (f"a {ink} {shape} on {ground}", draw(shape, ink, ground, dx, dy))
        for (shape, ink, ground), (dx, dy) in zip(kinds, places(seed, len(kinds)), strict=True)
    ]


def of_one(word: str, seed: int, count: int = 8) -> list[tuple[str, np.ndarray]]:
    """One thing, an orange ring, on every ground."""
    grounds = list(GROUNDS)
    return [
        (f"{word} on {ground}", draw("ring", "orange", ground, dx, dy))
        for number, (dx, dy) in enumerate(places(seed, count))
        for ground in [grounds[number % len(grounds)]]
    ]


def main(folder: Path) -> None:
    """Draws what the trainings read, and what they are measured on: other places.

    Args:
        folder: in which the folders are made.
    """
    for seed, name in enumerate(("shapes", "shapes-held")):
        write(folder / "drawings" / name, drawings(seed))
    for seed, name in enumerate(("word", "word-held")):
        write(folder / "drawings" / name, of_one("<hoop>", seed))
    for seed, name in enumerate(("thing", "thing-held")):
        write(folder / "drawings" / name, of_one("a sks ring", seed))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
