"""Pictures in another style, white on blue as old prints are, made of what the model in the package
draws.

    python -m recipes.shapes.cyanotype recipes/shapes

makes the folder that the training `cyanotype.toml` reads, and `cyanotype-held`, on which it is
measured. What it learns is in the package, in `keras_sd/presets/add-ons`.
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
HELD = 5000
"""The seed of what is measured on."""


def printed(image: np.ndarray) -> np.ndarray:
    """A picture as a print in one ink, the lighter the whiter; uint8 `(height, width, 3)`.

    Args:
        image: likewise.
    """
    light = image.astype(np.float32) @ np.float32([0.299, 0.587, 0.114])
    darkest, lightest = np.percentile(light, (2, 98))
    tone = np.clip((light - darkest) / max(lightest - darkest, 1), 0, 1)[..., None]
    return ((1 - tone) * INK + tone * PAPER).round().astype(np.uint8)


def off(images: np.ndarray) -> float:
    """How far colours are from those between ink and paper, the mean over pixels; of prints, the
    error of rounding.

    Args:
        images: uint8 `(count, height, width, 3)`.
    """
    line = np.subtract(PAPER, INK) / np.linalg.norm(np.subtract(PAPER, INK))
    away = images - np.array(INK, np.float64)
    return float(np.linalg.norm(away - (away @ line)[..., None] * line, axis=-1).mean())


def measure(file: Path, count: int = 12, steps: int = 10) -> tuple[float, float]:
    """How far colours are `off` with what was trained and without it, on prompts of other pictures
    than those of the training.

    Args:
        file: of the LoRA.
        count: of pictures.
        steps: of the sampler.
    """
    model = StableDiffusion.from_preset("emoji")
    prompts = [text for text, _ in pictures(model, HELD, count)]
    run = {"seed": 3, "num_steps": steps}
    plain = model.text_to_image(prompts, **run)
    return off(model.text_to_image(prompts, adapters=[file], **run)), off(plain)


def main(folder: Path) -> None:
    """Draws what is trained on, and what it is measured on: other pictures."""
    model = StableDiffusion.from_preset("emoji")
    for name, seed, count in (("cyanotype", 0, 96), ("cyanotype-held", HELD, 24)):
        drawn = pictures(model, seed, count, far=2)
        write(folder / "drawings" / name, [(text, printed(image)) for text, image in drawn])


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
