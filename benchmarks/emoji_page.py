"""Draws the page of pictures of `docs/emoji-128.md`: its prompts, in order, seeds from 0 on.

    python benchmarks/emoji_page.py [--model emoji-128] [--output docs/images/emoji-128-page.jpg]

Nothing is chosen: the prompts came from a generator of captions, the seeds are their numbers.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

import keras_sd
from keras_sd import image

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "emoji-128.md"
COLUMNS, BATCH = 10, 10


def prompts(page: str) -> list[str]:
    """The texts of the numbered list in a page, in order."""
    return re.findall(r"^\d+\. (.+)$", page, re.MULTILINE)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="emoji-128")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/images/emoji-128-page.jpg")
    options = parser.parse_args()
    asked = prompts(PAGE.read_text(encoding="utf-8"))
    pipeline = keras_sd.StableDiffusion.from_preset(options.model)
    drawn = []
    for start in range(0, len(asked), BATCH):
        batch = asked[start : start + BATCH]
        seeds = tuple((seed, 0) for seed in range(start, start + len(batch)))
        drawn.append(pipeline.draw(replace(pipeline.request(batch), images=seeds)))
    laid = image.sheet(np.concatenate(drawn), COLUMNS)
    Image.fromarray(laid).save(options.output, quality=88)


if __name__ == "__main__":
    main()
