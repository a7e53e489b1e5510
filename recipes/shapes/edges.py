"""Pictures for a ControlNet on edges, and how far one steers the model in the package.

    python -m recipes.shapes.edges recipes/shapes
    keras-sd train --config recipes/shapes/edges.toml
    python -m recipes.shapes.edges recipes/shapes SHEET.png

The model draws the pictures, and code moves and mirrors them: by itself it draws in the middle
alone. The second call measures what was trained, and draws a sheet: hints, the pictures that they
are of, with the ControlNet, and without it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from keras_sd import Control, ControlNet, StableDiffusion
from keras_sd.hints import canny
from keras_sd.image import save_png
from keras_sd.training.pictures import COLOURS, SIZE, SUBJECTS
from recipes.shapes.draw import write

FAR = 12
"""Pixels that a picture is moved by, at most."""
_AT_ONCE = 32


def moved(image: np.ndarray, dx: int, dy: int, mirrored: bool) -> np.ndarray:
    """A picture, moved, whose edges go on; uint8 `(64, 64, 3)`.

    Args:
        image: likewise.
        dx: pixels to the right.
        dy: pixels down.
        mirrored: whether left is right before.
    """
    wide = np.pad(image[:, ::-1] if mirrored else image, ((FAR, FAR), (FAR, FAR), (0, 0)), "edge")
    return np.ascontiguousarray(wide[FAR - dy : FAR - dy + SIZE, FAR - dx : FAR - dx + SIZE])


def pictures(
    model: StableDiffusion, seed: int, count: int, far: int = FAR
) -> list[tuple[str, np.ndarray]]:
    """Prompts and pictures.

    Args:
        model: draws them.
        seed: of prompts, pictures and places.
        count: how many.
        far: pixels that they are moved by, at most `FAR`.
    """
    rng = np.random.default_rng(seed)
    prompts = [f"{rng.choice(list(SUBJECTS))} on {rng.choice(list(COLOURS))}" for _ in range(count)]
    drawn = [
        image
        for first in range(0, count, _AT_ONCE)
        for image in model.text_to_image(
            prompts[first : first + _AT_ONCE], seed=seed + first, num_steps=8
        )
    ]
    places = rng.integers(-far, far + 1, (count, 2)), rng.random(count) < 0.5
    return [
        (prompt, moved(image, int(dx), int(dy), bool(mirrored)))
        for prompt, image, (dx, dy), mirrored in zip(prompts, drawn, *places, strict=True)
    ]


def overlap(images: np.ndarray, hints: list[np.ndarray]) -> float:
    """The mean over pictures of how far their edges are those of the hints: intersection over
    union, where an edge is three pixels wide.
    """
    found = []
    for image, hint in zip(images, hints, strict=True):
        one, two = _wide(canny(image)), _wide(hint)
        found.append((one & two).sum() / (one | two).sum())
    return float(np.mean(found))


def _wide(edges: np.ndarray) -> np.ndarray:
    around = np.pad(edges[..., 0] > 0, 1)
    shifts = [around[y : y + SIZE, x : x + SIZE] for y in range(3) for x in range(3)]
    return np.any(shifts, axis=0)


def measure(
    folder: Path, sheet: Path | None = None, count: int = 12, steps: int = 10
) -> tuple[float, float]:
    """The overlap of edges with what was trained and without it, on hints of other pictures than
    those of the training.

    Args:
        folder: of the ControlNet.
        sheet: where a picture of all goes; None draws none.
        count: of hints.
        steps: of the sampler.
    """
    model = StableDiffusion.from_preset("emoji")
    net = ControlNet.from_file(folder, model=model)
    prompts, held = zip(*pictures(model, 5000, count), strict=True)
    hints = [canny(image) for image in held]
    run = {"seed": 3, "num_steps": steps}
    plain = model.text_to_image(list(prompts), **run)
    told = model.text_to_image(list(prompts), control=Control(net, hints), **run)
    if sheet is not None:
        rows = [np.concatenate(list(row), axis=1) for row in (hints, held, told, plain)]
        save_png(sheet, np.concatenate(rows), {})
    return overlap(told, hints), overlap(plain, hints)


def main(folder: Path, sheet: Path | None = None) -> None:
    """Draws what is trained on, or measures what was trained."""
    if sheet is None:
        write(folder / "drawings" / "moved", pictures(StableDiffusion.from_preset("emoji"), 0, 192))
        return
    told, plain = measure(folder / "out" / "edges" / "controlnet", sheet)
    print(f"the edges overlap by {told:.3f} with the ControlNet, by {plain:.3f} without")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
