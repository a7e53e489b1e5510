"""Pictures that a run starts from: what is painted over in them, and what stays as it is.

A `Canvas` is a picture on its way through a run: read, brought to the run's size, its mask's box
cut out of it, and put together again at the end. `Blend` is how an ordinary model inpaints.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from keras_sd import image as images
from keras_sd import sampling
from keras_sd.checks import MAX_SIDE, check_area, check_size, whole
from keras_sd.noise import CLEAN, Level, Levels
from keras_sd.sampler import Array, Denoise, Noise, Parts, Sampler
from keras_sd.start import Attachment, Masking, Resize, Start

__all__ = [
    "Blend",
    "Box",
    "Canvas",
    "canvas_of",
    "check_pictures",
    "extend_canvas",
    "stacked",
]

Pixels = NDArray[np.uint8]
Mask = NDArray[np.float32]


def extend_canvas(
    image: Any, *, left: int = 0, right: int = 0, top: int = 0, bottom: int = 0
) -> tuple[Pixels, Pixels]:
    """A larger picture, and the mask with which `inpaint` paints what is new: outpainting.

    What is new continues the picture's edges; with `strength` 1 the model sees little of it. Give
    `mask_blur` a few pixels, and the seam is softer.

    Args:
        image: a path, a Pillow image or a uint8 array `(height, width, 3)`.
        left: pixels to add on this side.
        right: likewise.
        top: likewise.
        bottom: likewise.

    Returns:
        The picture, uint8 `(height, width, 3)`, and its mask, uint8 `(height, width)`: 255 where it
        is new, 0 elsewhere.

    Raises:
        ValueError: a number of pixels is negative or all are 0, or this is no picture.
    """
    given = {"left": left, "right": right, "top": top, "bottom": bottom}
    sides = {name: whole(name, pixels, 0, MAX_SIDE) for name, pixels in given.items()}
    if not any(sides.values()):
        raise ValueError("Nothing to add: give left, right, top or bottom a number of pixels")
    left, right, top, bottom = sides.values()
    picture = images.read_image(image)
    height, width = picture.shape[0] + top + bottom, picture.shape[1] + left + right
    if max(height, width) > MAX_SIDE:
        raise ValueError(f"The picture would be {width}x{height}; at most {MAX_SIDE} a side work")
    check_area(height, width)
    margins = ((top, bottom), (left, right))
    mask = np.pad(np.zeros(picture.shape[:2], np.uint8), margins, constant_values=255)
    return np.pad(picture, (*margins, (0, 0)), mode="edge"), mask


class Box(NamedTuple):
    """A part of a picture; it may reach beyond it."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, array: np.ndarray) -> np.ndarray:
        """This part of `(height, width, ...)`, whose edges go on beyond it."""
        rows = np.arange(self.top, self.top + self.height).clip(0, array.shape[0] - 1)
        columns = np.arange(self.left, self.left + self.width).clip(0, array.shape[1] - 1)
        return array[rows[:, None], columns]


@dataclass(frozen=True, eq=False)
class Canvas:
    """What a run starts from, and the way back to the caller's picture. Arrays have one row, for
    all pictures of the run, or one a picture.

    Attributes:
        pixels: what the run sees, uint8 `(n, height, width, 3)`; its size is the run's.
        cells: which cells of the latent are painted, 1 or 0, float32 `(n, rows, columns, 1)`; None
            where all are.
        hidden: the pixels that are painted, bool `(n, height, width, 1)`; None where all are.
        whole: the caller's pictures, of any size; None where the run's are the result.
        cover: how much of each pixel of `whole` is taken from the run, float32.
        boxes: where the run's picture belongs in each of `whole`.
    """

    pixels: Pixels
    cells: Mask | None = None
    hidden: NDArray[np.bool_] | None = None
    whole: Pixels | None = None
    cover: Mask | None = None
    boxes: tuple[Box, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the run."""
        return self.pixels.shape[1], self.pixels.shape[2]

    def paste(self, painted: Pixels) -> Pixels:
        """The caller's pictures with what the run has painted, bit for bit the same elsewhere."""
        if self.whole is None or self.cover is None:
            return painted
        result = np.repeat(self.whole, len(painted) // len(self.whole), axis=0)
        for i, new in enumerate(painted):
            box, cover = self.boxes[i % len(self.boxes)], self.cover[i % len(self.cover)]
            top, left = max(box.top, 0), max(box.left, 0)
            place = result[i, top : box.top + box.height, left : box.left + box.width]
            if new.shape[:2] != (box.height, box.width):
                new = images.resize(new, box.height, box.width, "stretch")
            new = new[top - box.top :, left - box.left :][: place.shape[0], : place.shape[1]]
            share = cover[top : box.top + box.height, left : box.left + box.width, None]
            place[:] = np.rint(share * new + (1 - share) * place)
        return result


def stacked(name: str, given: Sequence[Attachment], count: int | None = None) -> np.ndarray:
    """Attachments as one array, a row each.

    Args:
        name: what they are, for errors.
        given: one for all, or one a picture.
        count: pictures of the run; None is as many as there are.

    Raises:
        ValueError: there are too few or too many, or they differ in size, or their numbers are not
            here.
    """
    if count is not None and len(given) not in (1, count):
        raise ValueError(
            f"{len(given)} {name}s for {count} picture(s): give one for all, or one a picture; "
            "there are as many pictures as prompts, times batch_size"
        )
    for each in given:
        if each.data is None:
            raise ValueError(
                f"The {name} {each.name or each.sha256} is known by its hash alone: give the "
                "request its arrays with Request.attached"
            )
    arrays = [each.data for each in given]
    if len({array.shape for array in arrays}) > 1:
        sizes = ", ".join(f"{array.shape[1]}x{array.shape[0]}" for array in arrays)
        raise ValueError(f"The {name}s of one run are of one size, these of {sizes}")
    return np.stack(arrays)


def check_pictures(pictures: Pixels) -> Pixels:
    """Pictures of a size that a network takes.

    Raises:
        ValueError: a height or width is no multiple of 8; the message has the two nearest.
    """
    for name, size in zip(("height", "width"), pictures.shape[1:3], strict=True):
        check_size(f"The image is {_size(pictures)}; its {name}", size)
    return pictures


def canvas_of(start: Start, count: int, height: int, width: int, factor: int) -> Canvas:
    """The canvas of a run.

    With a mask, a cell of the latent is painted where the mask is at least 1/2 in its first pixel,
    as diffusers reduces masks; with the mask convention `"keras_cv"` where nothing in it is kept,
    as KerasCV did.

    Args:
        start: what the run begins at.
        count: pictures of the run; there is one image and one mask for all, or one for each.
        height: of the run, where `resize` or `only_masked` makes it another than the image's.
        width: likewise.
        factor: pixels along one side of a cell of the latent.

    Raises:
        ValueError: an image or mask is of another size than the other or of one that does not work;
            a mask is empty, or no cell is in it.
    """
    pictures = stacked("image", start.pictures, count)
    if start.masking is None:
        return Canvas(_sized(pictures, height, width, start.resize))
    return _masked(pictures, start.masking, start.resize, count, height, width, factor)


def _masked(
    pictures: Pixels,
    masking: Masking,
    resize: Resize | None,
    count: int,
    height: int,
    width: int,
    factor: int,
) -> Canvas:
    masks = stacked("mask", masking.masks, count)
    if masks.shape[1:] != pictures.shape[1:3]:
        raise ValueError(
            f"The mask is {_size(masks)}, the picture {_size(pictures)}: they are of one size."
        )
    rows = max(len(pictures), len(masks))
    whole = np.broadcast_to(pictures, (rows, *pictures.shape[1:]))
    masks = np.broadcast_to(masks, (rows, *masks.shape[1:]))
    old_masks = masking.mask_convention == "keras_cv"
    if old_masks:
        masks = 1 - masks
    if not _all_paint(masks):
        kept = "1 keeps a pixel" if old_masks else "white, 1, is painted"
        raise ValueError(
            f"The mask is empty: {kept}, from 1/2 on, and so the picture would stay as it is."
        )
    masks = np.stack([_soft(each, masking.mask_blur) for each in masks])
    if not _all_paint(masks):
        raise ValueError(
            f"A mask_blur of {masking.mask_blur:g} leaves nothing of the mask: take less."
        )
    if masking.only_masked:
        boxes = tuple(_box(each, masking.padding, height, width) for each in masks)
        pixels = np.stack(
            [
                images.resize(box.cut(picture), height, width, "stretch")
                for box, picture in zip(boxes, whole, strict=True)
            ]
        )
        inner = np.stack(
            [
                images.resize_mask(box.cut(each), height, width, "stretch")
                for box, each in zip(boxes, masks, strict=True)
            ]
        )
    else:
        if resize is not None:
            masks = np.stack([images.resize_mask(m, height, width, resize) for m in masks])
            if not _all_paint(masks):
                raise ValueError(f"resize={resize!r} leaves nothing of the mask: take another.")
        pixels = whole = _sized(whole, height, width, resize)
        inner, boxes = masks, (Box(0, 0, *whole.shape[1:3]),) * rows
    cells = _cells(inner >= 0.5, factor, all_of_it=old_masks)
    if not _all_paint(cells):
        larger = (
            "take less padding" if masking.only_masked else "paint it alone with only_masked=True"
        )
        raise ValueError(
            f"The mask is too small: it has none of the {factor}x{factor} pixels that are one cell "
            f"of a latent. Make it larger, or {larger}."
        )
    return Canvas(
        pixels=pixels,
        cells=cells,
        hidden=inner[..., None] >= 0.5,
        whole=whole,
        cover=masks if masking.keep_unmasked else np.ones_like(masks),
        boxes=boxes,
    )


def _all_paint(masks: np.ndarray) -> bool:
    """Whether there is something to paint in each of several masks."""
    return bool((masks >= 0.5).reshape(len(masks), -1).any(axis=1).all())


def _size(arrays: np.ndarray) -> str:
    return f"{arrays.shape[2]}x{arrays.shape[1]}"


def _sized(pictures: Pixels, height: int, width: int, resize: Resize | None) -> Pixels:
    if resize is not None:
        return np.stack([images.resize(each, height, width, resize) for each in pictures])
    try:
        return check_pictures(pictures)
    except ValueError as error:
        raise ValueError(
            f"{error}. Or give resize='stretch', 'crop' or 'pad', and it is brought to "
            f"{width}x{height}"
        ) from None


def _soft(mask: Mask, blur: float) -> Mask:
    if not blur:
        return mask
    from PIL import Image, ImageFilter

    grey = Image.fromarray(np.rint(mask * 255).astype(np.uint8))
    soft = grey.filter(ImageFilter.GaussianBlur(blur))
    return np.asarray(soft, np.float32) / np.float32(255)


def _box(mask: Mask, padding: int, height: int, width: int) -> Box:
    """The mask's surroundings, of the shape of a run of this height and width."""
    spans = []
    for axis, size in enumerate(mask.shape):
        touched = np.flatnonzero(mask.any(axis=1 - axis))
        spans.append((max(int(touched[0]) - padding, 0), min(int(touched[-1]) + 1 + padding, size)))
    (top, bottom), (left, right) = spans
    tall = max(bottom - top, math.ceil((right - left) * height / width))
    wide = max(right - left, math.ceil((bottom - top) * width / height))

    def start(low: int, high: int, length: int, size: int) -> int:
        """Around the middle, inside of the picture as far as it goes."""
        if length > size:
            return (size - length) // 2
        return min(max((low + high - length) // 2, 0), size - length)

    return Box(
        start(top, bottom, tall, mask.shape[0]), start(left, right, wide, mask.shape[1]), tall, wide
    )


def _cells(hard: NDArray[np.bool_], factor: int, *, all_of_it: bool) -> Mask:
    """A mask of pixels as one of a latent's cells."""
    rows, height, width = hard.shape
    blocks = hard.reshape(rows, height // factor, factor, width // factor, factor)
    chosen = np.all(blocks, axis=(2, 4)) if all_of_it else blocks[:, :, 0, :, 0]
    return np.asarray(chosen, np.float32)[..., None]


# Latents


@dataclass(frozen=True, eq=False)
class Blend:
    """Inpainting with an ordinary model: around the mask, every latent is what is known of it
    (Avrahami et al. 2022, "Blended Latent Diffusion").

    What is known at a level is the picture's latent with the noise that the run began with. A model
    sees it around what it paints, and of what it says of the clean latent the rest is the picture's
    own. So any sampler can be used, and keeps its contract.

    Args:
        cells: 1 where the model paints, 0 elsewhere.
        known: the picture's clean latent.
        noise: what the run began with.
        start: the level it began at, whose latent is left as it is.
    """

    cells: Array
    known: Array
    noise: Array
    start: Level

    def latent(self, x: Array, level: Level) -> Array:
        """A latent at a level with what is known put in."""
        known = level.alpha * self.known + level.sigma * self.noise
        return self.cells * x + (1 - self.cells) * known

    def denoiser(self, denoise: Denoise) -> Denoise:
        """The model that is shown what is known, and keeps it."""
        return _Blended(self, denoise)

    def sampler(self, sampler: Sampler, num_resamples: int = 1) -> Sampler:
        """The sampler whose latents are blended; the last with the clean latent, whatever noise
        its level has.

        Args:
            sampler: the one that walks.
            num_resamples: how often each interval but the last is walked, each time from fresh
                noise, so that the inside can come to fit the outside (Lugmayr et al. 2022,
                "RePaint", algorithm 1). Above 1 the sampler begins anew at each, so those that
                remember earlier steps are of first order.
        """

        def blended(denoise: Denoise, x: Array, levels: Levels, noise: Noise) -> Iterator[Array]:
            for step in sampling.sample(sampler, denoise, x, levels, noise):
                yield self.latent(step.latent, CLEAN if step.index == step.total else step.level)

        def resampled(denoise: Denoise, x: Array, levels: Levels, noise: Noise) -> Iterator[Array]:
            last = len(levels) - 2
            for index in range(last + 1):
                now, reached = levels[index], CLEAN if index == last else levels[index + 1]
                for again in range(1 if index == last else num_resamples):
                    if again:
                        x = self.latent(_back(x, reached, now, noise(reached, now)), now)
                    part = levels[index : index + 2]
                    (step,) = sampling.sample(sampler, denoise, x, part, noise)
                    x = self.latent(step.latent, reached)
                yield x

        return blended if num_resamples == 1 else resampled


@dataclass(frozen=True, eq=False)
class _Blended:
    """`Blend.denoiser`."""

    blend: Blend
    denoise: Any

    def __call__(self, x: Array, level: Level) -> Array:
        return self.blend.latent(self.denoise(self._seen(x, level), level), CLEAN)

    def parts(self, x: Array, level: Level) -> Parts:
        found = self.denoise.parts(self._seen(x, level), level)
        return Parts(*(self.blend.latent(part, CLEAN) for part in found))

    def _seen(self, x: Array, level: Level) -> Array:
        return x if level == self.blend.start else self.blend.latent(x, level)


def _back(x: Array, level: Level, to: Level, noise: Array) -> Array:
    """A latent with so much fresh noise that it is one of a noisier level."""
    ratio = to.alpha / level.alpha
    fresh = math.sqrt(max(to.sigma**2 - (ratio * level.sigma) ** 2, 0.0))
    return ratio * x + fresh * noise
