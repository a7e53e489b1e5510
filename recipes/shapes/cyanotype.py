"""Pictures in another style, white on blue as old prints are, made of what the model in the package
draws.

    python -m recipes.shapes.cyanotype recipes/shapes

makes the folder that the training `cyanotype.toml` reads. What it learns is in the package, in
`keras_sd/presets/add-ons`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from keras_sd import StableDiffusion
from recipes.shapes.draw import write
from recipes.shapes.edges import pictures

INK = (14, 44, 104)
PAPER = (238, 240, 228)


def printed(image: np.ndarray) -> np.ndarray:
    """A picture as a print in one ink, the lighter the whiter; uint8 `(height, width, 3)`.

    Args:
        image: likewise.
    """
    light = image.astype(np.float32) @ np.float32([0.299, 0.587, 0.114])
    darkest, lightest = np.percentile(light, (2, 98))
    tone = np.clip((light - darkest) / max(lightest - darkest, 1), 0, 1)[..., None]
    return ((1 - tone) * INK + tone * PAPER).round().astype(np.uint8)


def main(folder: Path) -> None:
    """Draws what is trained on."""
    drawn = pictures(StableDiffusion.from_preset("emoji"), 0, 96, far=2)
    write(folder / "drawings" / "cyanotype", [(text, printed(image)) for text, image in drawn])


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
