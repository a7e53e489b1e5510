"""Measures the embedded model: does it draw what was asked for, and change what it is given?

    python benchmarks/emoji_quality.py [PRESET] [--font PATH] [--json FILE]

One image is made of every subject on every background, with fixed seeds and the preset's own
defaults; `keras_sd.training.measure` says what each shows. The autoencoder's error is the mean
absolute error on [-1, 1] over pictures it was not trained on by index. An image of every subject is
then asked to become the next subject, at two strengths; and every subject is painted into a quarter
of a plain picture.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from keras_sd.backend import to_numpy
from keras_sd.training.measure import backgrounds, subjects
from keras_sd.training.pictures import COLOURS, SIZE, SUBJECTS, Pictures, caption


def measure(preset: str | Path, font: str | Path | None = None, batch: int = 26) -> dict:
    """Every subject on every background.

    Returns:
        `subject` and `background`: fractions of images that show what was asked for;
        `autoencoder_error`: mean absolute error on [-1, 1]; `images`: how many were made;
        `wrong`: those that do not, as "asked -> shown".
    """
    from keras_sd.pipeline import StableDiffusion

    source = Pictures(font)
    pipeline = StableDiffusion.from_preset(preset)
    asked = list(itertools.product(SUBJECTS, COLOURS))
    made = []
    for start in range(0, len(asked), batch):
        prompts = [caption(*pair) for pair in asked[start : start + batch]]
        made.append(pipeline.text_to_image(prompts, seed=0, first_image=start))
    images = np.concatenate(made)
    shown_colours = backgrounds(images)
    shown_subjects = subjects(images, shown_colours, source)

    rng = np.random.default_rng(12345)
    errors = []
    for _ in range(8):
        pictures = np.stack([source.random(rng)[0] for _ in range(26)])
        decoded = to_numpy(pipeline.autoencoder(pictures))
        errors.append(np.abs(np.clip(decoded, -1, 1) - pictures).mean())

    shown = list(zip(shown_subjects, shown_colours, strict=True))
    return {
        "subject": float(np.mean([a[0] == s[0] for a, s in zip(asked, shown, strict=True)])),
        "background": float(np.mean([a[1] == s[1] for a, s in zip(asked, shown, strict=True)])),
        "autoencoder_error": float(np.mean(errors)),
        "images": len(images),
        "wrong": [
            f"{caption(*a)} -> {caption(*s)}" for a, s in zip(asked, shown, strict=True) if a != s
        ],
    }


def measure_edits(
    preset: str | Path,
    font: str | Path | None = None,
    batch: int = 26,
    guidance_scale: float = 1.0,
) -> dict:
    """Image-to-image and inpainting, with every subject.

    Args:
        preset: as `measure`'s.
        font: likewise.
        batch: images at a time.
        guidance_scale: of image-to-image. 1 measures what the noise leaves; more pulls at that
            towards the other subject, and at the preset's own about half is kept.

    Returns:
        `kept`: the fraction of images that at strength 0.3 with the prompt of another subject show
        what they showed; `changed`: that show the other subject at 0.9; `painted`: of subjects that
        are seen in the quarter they were painted into; `elsewhere`: of pixels outside of that
        quarter that are not what they were.
    """
    from keras_sd.pipeline import StableDiffusion

    source = Pictures(font)
    pipeline = StableDiffusion.from_preset(preset)
    colours = itertools.cycle(COLOURS)
    asked = [(name, next(colours)) for name in SUBJECTS]
    others = [(name, colour) for name, (_, colour) in zip(_next(SUBJECTS), asked, strict=True)]
    quarter = np.zeros((2 * SIZE, 2 * SIZE), bool)
    quarter[:SIZE, SIZE:] = True
    kept, changed, painted, elsewhere = [], [], [], []
    for start in range(0, len(asked), batch):
        pairs, becoming = asked[start : start + batch], others[start : start + batch]
        grounds = [colour for _, colour in pairs]
        prompts, other_prompts = ([caption(*pair) for pair in of] for of in (pairs, becoming))
        first = pipeline.text_to_image(prompts, seed=0, first_image=start)
        shown = [subjects(np.asarray(first), grounds, source)]
        for strength in (0.3, 0.9):
            images = pipeline.image_to_image(
                other_prompts,
                first,
                strength,
                unconditional_guidance_scale=guidance_scale,
                seed=1,
                first_image=start,
            )
            shown.append(subjects(np.asarray(images), grounds, source))
        kept += [a == b for a, b in zip(shown[0], shown[1], strict=True)]
        changed += [a == b for a, (b, _) in zip(shown[2], becoming, strict=True)]

        plain = np.stack([np.full((*quarter.shape, 3), COLOURS[c], np.uint8) for c in grounds])
        images = pipeline.inpaint(
            prompts, plain, quarter, seed=2, first_image=start, only_masked=True, padding=4
        )
        inside = np.ascontiguousarray(images[:, :SIZE, SIZE:])
        seen = subjects(inside, grounds, source)
        painted += [a == b for a, (b, _) in zip(seen, pairs, strict=True)]
        elsewhere.append((images != plain)[:, ~quarter].mean())
    return {
        "kept": float(np.mean(kept)),
        "changed": float(np.mean(changed)),
        "painted": float(np.mean(painted)),
        "elsewhere": float(np.mean(elsewhere)),
    }


def _next(names: Iterable[str]) -> list[str]:
    first, *rest = names
    return [*rest, first]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("preset", nargs="?", default="emoji")
    parser.add_argument("--font", type=Path)
    parser.add_argument("--json", type=Path, help="write the result here too")
    arguments = parser.parse_args()
    result = measure(arguments.preset, arguments.font)
    print(f"images                  {result['images']}")
    print(f"right subject           {result['subject']:.1%}")
    print(f"right background        {result['background']:.1%}")
    print(f"autoencoder's error     {result['autoencoder_error']:.4f}")
    for line in result["wrong"]:
        print(f"  {line}")
    result |= measure_edits(arguments.preset, arguments.font)
    print(f"kept at strength 0.3    {result['kept']:.1%}")
    print(f"changed at strength 0.9 {result['changed']:.1%}")
    print(f"painted in a quarter    {result['painted']:.1%}")
    print(f"pixels changed outside  {result['elsewhere']:.1%}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
