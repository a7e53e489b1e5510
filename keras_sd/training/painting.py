"""Pictures of scenes: composed of drawings, on any backend, a batch at a time.

`layout` makes arrays of scenes, `sprite_bank` one of all drawings, `compose` pictures of both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from keras import ops

from keras_sd.training.scenes import COLOURS, DARK, MOST, SIZE, STYLES, Scene


def layout(scenes: Sequence[Scene], styles: Sequence[str], count: int) -> dict[str, np.ndarray]:
    """Scenes as arrays, for `compose`.

    Args:
        scenes: what to paint.
        styles: those of the sprites, in their order.
        count: subjects of each style.

    Returns:
        `sprite` int32 `(n, MOST)`, -1 where there is none; `box` float32 `(n, MOST, 3)`, middle x,
        middle y and side; `ground` float32 `(n, 2, 3)` in [0, 1]; `split` int32 `(n,)`: 0, or 1
        beside, or 2 above; `ink` float32 `(n,)`: -1 keeps the drawing's colours, else 0 or 1
        replaces them.
    """
    sprite = np.full((len(scenes), MOST), -1, np.int32)
    box = np.full((len(scenes), MOST, 3), 64, np.float32)
    ground = np.empty((len(scenes), 2, 3), np.float32)
    split = np.zeros(len(scenes), np.int32)
    ink = np.full(len(scenes), -1, np.float32)
    for i, scene in enumerate(scenes):
        style = styles.index(scene.style)
        for k, item in enumerate(scene.items):
            sprite[i, k] = style * count + item.subject
            box[i, k] = item.x, item.y, item.size
        ground[i] = [COLOURS[name] for name in (*scene.ground, scene.ground[-1])[:2]]
        split[i] = ("", "beside", "above").index(scene.split)
        if scene.style == "line":
            ink[i] = scene.ground[0] in DARK
    return {"sprite": sprite, "box": box, "ground": ground / 255, "split": split, "ink": ink}


def resampling(middle, side):
    """The weights `(..., SIZE, SIZE)` that put the pixels of a drawing on those of a line of a
    picture, `side` long around `middle`.

    Keys' cubic kernel (1981, a = -1/2), stretched where the drawing becomes smaller; what lies
    beside the drawing counts as nothing.
    """
    rim = 12  # pixels beside the drawing that the widest kernel reaches
    source = ops.arange(-rim, SIZE + rim, dtype="float32") + 0.5
    per_pixel = (SIZE / side)[..., None, None]
    target = ops.arange(SIZE, dtype="float32") + 0.5
    place = (target[:, None] - (middle - side / 2)[..., None, None]) * per_pixel
    x = ops.abs(place - source) / ops.maximum(per_pixel, 1.0)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    weights = ops.where(x < 1, near, ops.where(x < 2, far, 0.0))
    # Far from the drawing all are 0; else they add up to about the kernel's stretch, 1 or more.
    total = ops.maximum(ops.sum(weights, axis=-1, keepdims=True), 0.5)
    return (weights / total)[..., rim:-rim]


def compose(bank, sprite, box, ground, split, ink):
    """Paints scenes: pictures `(n, SIZE, SIZE, 3)` float32 in [-1, 1].

    Args:
        bank: drawings of all styles, uint8 `(styles * subjects, SIZE, SIZE, 4)`, colours times
            alpha.
        sprite: with the others as `layout` makes them.
        box: likewise.
        ground: likewise.
        split: likewise.
        ink: likewise.
    """
    bank, sprite, box, ground, split, ink = map(
        ops.convert_to_tensor, (bank, sprite, box, ground, split, ink)
    )
    across = ops.arange(SIZE) >= SIZE // 2
    beside, above = across[None, None, :], across[None, :, None]
    split = split[:, None, None]
    second = ops.logical_or(ops.logical_and(split == 1, beside), ops.logical_and(split == 2, above))
    picture = ops.where(second[..., None], ground[:, 1, None, None], ground[:, 0, None, None])
    for k in range(sprite.shape[1]):
        there = (sprite[:, k] >= 0)[:, None, None, None]
        drawing = ops.cast(ops.take(bank, ops.maximum(sprite[:, k], 0), axis=0), "float32") / 255
        rows = resampling(box[:, k, 1], box[:, k, 2])
        columns = resampling(box[:, k, 0], box[:, k, 2])
        drawing = ops.einsum("nyi,nijc->nyjc", rows, drawing)
        drawing = ops.clip(ops.einsum("nxj,nyjc->nyxc", columns, drawing), 0.0, 1.0)
        alpha = ops.where(there, drawing[..., 3:], 0.0)
        ink_here = ink[:, None, None, None]
        colours = ops.where(ink_here < 0, ops.minimum(drawing[..., :3], alpha), ink_here * alpha)
        picture = picture * (1.0 - alpha) + ops.where(there, colours, 0.0)
    return picture * 2.0 - 1.0


def pixel_art(sprites: np.ndarray) -> np.ndarray:
    """Drawings of 20 by 20 cells and twelve colours, from uint8 `(n, SIZE, SIZE, 4)`."""
    from PIL import Image

    made = np.empty_like(sprites)
    for i, each in enumerate(sprites):
        small = Image.fromarray(times_alpha(each)).resize((20, 20), Image.Resampling.BOX)
        pixels = np.asarray(small).copy()
        solid = pixels[..., 3] >= 110
        colours = np.where(
            solid[..., None], pixels[..., :3] / np.maximum(pixels[..., 3:], 1) * 255, 0
        )
        few = Image.fromarray(np.uint8(np.clip(colours, 0, 255))).quantize(12).convert("RGB")
        cells = np.dstack([np.asarray(few), np.where(solid, 255, 0).astype(np.uint8)])
        made[i] = np.asarray(Image.fromarray(cells).resize((SIZE, SIZE), Image.Resampling.NEAREST))
    return made


def sticker(sprites: np.ndarray) -> np.ndarray:
    """Drawings with a white rim, from uint8 `(n, SIZE, SIZE, 4)`; they become a little smaller."""
    from PIL import Image, ImageFilter

    made = np.empty_like(sprites)
    inner = SIZE - 16
    for i, each in enumerate(sprites):
        small = Image.fromarray(times_alpha(each)).resize((inner, inner), Image.Resampling.BOX)
        drawn = np.zeros((SIZE, SIZE, 4), np.uint8)
        drawn[8:-8, 8:-8] = np.asarray(small)
        alpha = Image.fromarray(drawn[..., 3])
        wide = alpha.filter(ImageFilter.GaussianBlur(4.5)).point(
            lambda v: min(255, max(0, v * 8 - 120))
        )
        rim = np.maximum(np.asarray(wide), drawn[..., 3]).astype(np.float32)
        over = drawn[..., :3] + 255.0 * (rim[..., None] - drawn[..., 3:]) / 255
        colours = over / np.maximum(rim[..., None], 1) * 255
        made[i] = np.dstack([np.clip(colours, 0, 255), rim]).astype(np.uint8)
    return made


def times_alpha(pixels: np.ndarray) -> np.ndarray:
    """Colours times alpha, uint8; the last axis is red, green, blue and alpha."""
    alpha = pixels[..., 3:].astype(np.uint16)
    return np.concatenate([pixels[..., :3] * alpha // 255, alpha], axis=-1).astype(np.uint8)


DERIVED = {"pixel": pixel_art, "sticker": sticker}
"""The styles that are made of the drawings of `noto`, and how."""


def sprite_bank(drawings: dict[str, np.ndarray]) -> np.ndarray:
    """Drawings of all styles, in their order, for `compose`.

    Args:
        drawings: of each style that is not derived, uint8 `(n, SIZE, SIZE, 4)`, not times alpha.
    """
    made = {**drawings, **{name: derive(drawings["noto"]) for name, derive in DERIVED.items()}}
    return np.concatenate([times_alpha(made[style]) for style in STYLES])
