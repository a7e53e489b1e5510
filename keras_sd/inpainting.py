"""Pictures that a run starts from: what is painted over in them, and what stays as it is.

A `Canvas` is a picture on its way through a run: read, brought to the run's size, its mask's box
cut out of it, and put together again at the end. `Blend` is how an ordinary model inpaints.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from keras_sd import image as images
from keras_sd import sampling
from keras_sd.config import check_size
from keras_sd.image import Resize
from keras_sd.noise import CLEAN, Level, Levels
from keras_sd.sampler import Array, Denoise, Noise, Sampler

__all__ = [
    "Blend",
    "Box",
    "Canvas",
    "MaskConvention",
    "check_pictures",
    "extend_canvas",
    "masked_canvas",
    "picture_canvas",
    "read_pictures",
]

MaskConvention = Literal["white_repaints", "keras_cv"]
"""What 1, white, is in a mask: painted anew, or with `"keras_cv"` kept."""

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
    sides = {"left": left, "right": right, "top": top, "bottom": bottom}
    for name, pixels in sides.items():
        _check_pixels(name, pixels)
    if not any(sides.values()):
        raise ValueError("Nothing to add: give left, right, top or bottom a number of pixels")
    picture = images.read_image(image)
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


def read_pictures(image: Any, count: int | None = None) -> Pixels:
    """Pictures that were given for a run.

    Args:
        image: a path, a Pillow image, a uint8 array `(height, width, 3)`, or several of them in a
            list or along a first axis.
        count: pictures of the run; there is one image for all, or one for each. None is as many
            as there are images.

    Raises:
        ValueError: this is no picture, there are too few or too many, or they differ in size.
    """
    return _stacked("image", [images.read_image(one) for one in _each(image, 3)], count)


def check_pictures(pictures: Pixels) -> Pixels:
    """Pictures of a size that a network takes.

    Raises:
        ValueError: a height or width is no multiple of 8; the message has the two nearest.
    """
    for name, size in zip(("height", "width"), pictures.shape[1:3], strict=True):
        check_size(f"The image is {_size(pictures)}; its {name}", size)
    return pictures


def picture_canvas(
    image: Any, count: int, height: int, width: int, resize: Resize | None = None
) -> Canvas:
    """A canvas all of which is painted: image-to-image.

    Args:
        image: see `read_pictures`.
        count: pictures of the run; there is one image for all, or one for each.
        height: what `resize` brings the image to; without it, its own is the run's.
        width: likewise.
        resize: how, or None.

    Raises:
        ValueError: this is no picture, there are too few or too many, or one is of a size that
            does not work.
    """
    _check_choice("resize", resize, (None, *get_args(Resize)))
    return Canvas(_sized(read_pictures(image, count), height, width, resize))


def masked_canvas(
    image: Any,
    mask: Any,
    count: int,
    height: int,
    width: int,
    factor: int,
    *,
    resize: Resize | None = None,
    mask_convention: MaskConvention = "white_repaints",
    mask_blur: float = 0,
    only_masked: bool = False,
    padding: int = 32,
    keep_unmasked: bool = True,
) -> Canvas:
    """A canvas that is painted where its mask says.

    A cell of the latent is painted where the mask is at least 1/2 in its first pixel, as diffusers
    reduces masks; with the mask convention `"keras_cv"` where nothing in it is kept, as KerasCV
    did.

    Args:
        image: see `read_pictures`.
        mask: a path, a Pillow image or an array `(height, width)` of the image's size; or several.
        count: pictures of the run; there is one image and one mask for all, or one for each.
        height: of the run, where `resize` or `only_masked` makes it another than the image's.
        width: likewise.
        factor: pixels along one side of a cell of the latent.
        resize: how the image and its mask are brought to the run's size, or None.
        mask_convention: what 1 is in the mask.
        mask_blur: standard deviation, in pixels of the image, of the Gaussian that softens it.
        only_masked: run the mask's surroundings alone, at the run's size.
        padding: pixels of the image around the mask that belong to them.
        keep_unmasked: where the mask is 0, the caller's pixels come back.

    Raises:
        ValueError: an image or mask that cannot be read, is of another size than the other or of
            one that does not work; a mask that is empty, or that no cell is in; a setting that does
            not fit.
    """
    _check_choice("resize", resize, (None, *get_args(Resize)))
    _check_choice("mask_convention", mask_convention, get_args(MaskConvention))
    if resize is not None and only_masked:
        raise ValueError("only_masked makes its part of the picture fit by itself: no resize")
    if not 0 <= mask_blur < math.inf:
        raise ValueError(f"mask_blur is a number of pixels from 0 up, not {mask_blur!r}")
    _check_pixels("padding", padding)
    pictures, masks = read_pictures(image, count), _masks(mask, count)
    if masks.shape[1:] != pictures.shape[1:3]:
        raise ValueError(
            f"The mask is {_size(masks)}, the picture {_size(pictures)}: they are of one size."
        )
    rows = max(len(pictures), len(masks))
    whole = np.broadcast_to(pictures, (rows, *pictures.shape[1:]))
    masks = np.broadcast_to(masks, (rows, *masks.shape[1:]))
    if mask_convention == "keras_cv":
        masks = 1 - masks
    if not _all_paint(masks):
        kept = "1 keeps a pixel" if mask_convention == "keras_cv" else "white, 1, is painted"
        raise ValueError(
            f"The mask is empty: {kept}, from 1/2 on, and so the picture would stay as it is."
        )
    masks = np.stack([_soft(each, mask_blur) for each in masks])
    if not _all_paint(masks):
        raise ValueError(f"A mask_blur of {mask_blur:g} leaves nothing of the mask: take less.")
    if only_masked:
        boxes = tuple(_box(each, padding, height, width) for each in masks)
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
    cells = _cells(inner >= 0.5, factor, all_of_it=mask_convention == "keras_cv")
    if not _all_paint(cells):
        larger = "take less padding" if only_masked else "paint it alone with only_masked=True"
        raise ValueError(
            f"The mask is too small: it has none of the {factor}x{factor} pixels that are one cell "
            f"of a latent. Make it larger, or {larger}."
        )
    return Canvas(
        pixels=pixels,
        cells=cells,
        hidden=inner[..., None] >= 0.5,
        whole=whole,
        cover=masks if keep_unmasked else np.ones_like(masks),
        boxes=boxes,
    )


def _check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is one of {', '.join(map(repr, choices))}, not {value!r}")


def _check_pixels(name: str, pixels: int) -> None:
    if isinstance(pixels, bool) or not isinstance(pixels, int) or pixels < 0:
        raise ValueError(f"{name} is a number of pixels from 0 up, not {pixels!r}")


def _all_paint(masks: np.ndarray) -> bool:
    """Whether there is something to paint in each of several masks."""
    return bool((masks >= 0.5).reshape(len(masks), -1).any(axis=1).all())


def _size(arrays: np.ndarray) -> str:
    return f"{arrays.shape[2]}x{arrays.shape[1]}"


def _each(given: Any, dimensions: int) -> list[Any]:
    """What was given as one for all, or in a list or along a first axis as one each."""
    if isinstance(given, list | tuple):
        return list(given)
    return list(given) if getattr(given, "ndim", 0) > dimensions else [given]


def _stacked(name: str, arrays: list[np.ndarray], count: int | None) -> np.ndarray:
    if not arrays:
        raise ValueError(f"There is no {name} in an empty list")
    if count is not None and len(arrays) not in (1, count):
        raise ValueError(
            f"{len(arrays)} {name}s for {count} picture(s): give one for all, or one a picture; "
            "there are as many pictures as prompts, times batch_size"
        )
    if len({array.shape for array in arrays}) > 1:
        sizes = ", ".join(f"{array.shape[1]}x{array.shape[0]}" for array in arrays)
        raise ValueError(f"The {name}s of one run are of one size, these of {sizes}")
    return np.stack(arrays)


def _masks(mask: Any, count: int) -> Mask:
    if getattr(mask, "ndim", 0) == 3 and 1 in (mask.shape[0], mask.shape[2]):
        mask = [mask]  # one, with an axis of one channel
    return _stacked("mask", [images.read_mask(one) for one in _each(mask, 2)], count)


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

        def blended(x: Array, level: Level) -> Array:
            seen = x if level == self.start else self.latent(x, level)
            return self.latent(denoise(seen, level), CLEAN)

        return blended

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


def _back(x: Array, level: Level, to: Level, noise: Array) -> Array:
    """A latent with so much fresh noise that it is one of a noisier level."""
    ratio = to.alpha / level.alpha
    fresh = math.sqrt(max(to.sigma**2 - (ratio * level.sigma) ** 2, 0.0))
    return ratio * x + fresh * noise
