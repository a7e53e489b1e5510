"""Pictures that know how they were made and show themselves: `Images`, and `plot_gallery`."""

from __future__ import annotations

import base64
import html
import io
import math
import operator
import os
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from keras_sd.request import Request

# A notebook keeps every picture it has shown.
_MOST_SHOWN = 64


class _Made(NamedTuple):
    prompt: str | None
    seed: int | None
    number: int
    request: Request | None = None  # of the whole run
    row: int = 0  # of the picture in it


class Images(np.ndarray):
    """Pictures of one run: a uint8 array that knows the request that each of them was made of, and
    so its prompt, seed and number.

    It is an array in every respect. A notebook shows the pictures. What they are goes along with
    indexing of the first axis (`images[0]`, `images[1:]`, `images[[2, 0]]`) and with copies; an
    array that comes about in any other way knows nothing, since it may be no picture of that seed.
    What is computed from it, `images / 255` or `images.mean()`, is a plain array or number.

    Args:
        pixels: uint8 array `(images, height, width, 3)`; it is viewed, not copied.
        prompts: one a picture; None where the run had no text.
        seed: of the run; None where its noise was given.
        numbers: of the pictures in their run, for `first_image=`; None is 0, 1, 2, ...
        request: of the run, in place of prompts, seed and numbers, which it has.

    Raises:
        ValueError: the array holds no pictures, or there is not one prompt or number a picture.
    """

    _made: tuple[_Made, ...]

    def __new__(
        cls,
        pixels: np.ndarray,
        prompts: Sequence[str] | None = None,
        seed: int | None = None,
        numbers: Sequence[int] | None = None,
        *,
        request: Request | None = None,
    ) -> Images:
        pixels = np.asarray(pixels)
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
            raise ValueError(
                "pictures are a uint8 array (images, height, width, 3), not "
                f"{pixels.dtype} {pixels.shape}"
            )
        count = len(pixels)
        if request is not None:
            if len(request) != count:
                raise ValueError(f"{count} pictures of a request for {len(request)}")
            self = pixels.view(cls)
            self._made = tuple(_made(request, i) for i in range(count))
            return self
        texts = [None] * count if prompts is None else list(prompts)
        numbers = range(count) if numbers is None else numbers
        if not len(texts) == len(numbers) == count:
            raise ValueError(
                f"{len(texts)} prompts and {len(numbers)} numbers for {count} pictures; "
                "there is one of each a picture"
            )
        self = pixels.view(cls)
        self._made = tuple(
            _Made(prompt, seed, operator.index(number))
            for prompt, number in zip(texts, numbers, strict=True)
        )
        return self

    @property
    def prompts(self) -> tuple[str | None, ...]:
        """Of each picture, the only one of `images[0]` as well; empty where nothing is known."""
        return tuple(made.prompt for made in self._made)

    @property
    def request(self) -> Request:
        """The request that makes these pictures, and no others of their run, again:
        `pipeline.draw(images[2].request)`.

        Raises:
            ValueError: nothing is known of them.
        """
        run = self._made[0].request if self._made else None
        if run is None:
            raise ValueError("These pictures do not know their request: they were not drawn here")
        return run.only(*(made.row for made in self._made))

    @property
    def numbers(self) -> tuple[int, ...]:
        """Likewise the number of each picture in its run."""
        return tuple(made.number for made in self._made)

    @property
    def seed(self) -> int | None:
        """Of the run; None where it had none, or where nothing is known."""
        return self._made[0].seed if self._made else None

    # --- what keeps the knowledge ------------------------------------------------------

    def __array_finalize__(self, array: Any) -> None:
        self._made = ()

    def __getitem__(self, key: Any) -> Any:
        result = super().__getitem__(key)
        if self._made and self.ndim == 4 and _chooses_pictures(key):
            chosen = np.atleast_1d(np.arange(len(self))[key])
            result._made = tuple(self._made[index] for index in chosen)
        return result

    def copy(self, order: Any = "C") -> Images:
        """As of any array."""
        return _knowing(super().copy(order), self._made)

    def __copy__(self) -> Images:
        return self.copy()

    def __deepcopy__(self, memo: Any) -> Images:
        return self.copy()

    def __reduce__(self) -> Any:
        return _restore, (np.asarray(self), self._made)

    def __array_wrap__(
        self, array: np.ndarray, context: Any = None, return_scalar: bool = False
    ) -> Any:
        return np.asarray(array)[()]  # of no dimensions: a number

    # --- what shows it -----------------------------------------------------------------

    def _repr_html_(self) -> str | None:
        """The pictures for a notebook; None, and it takes the text, where these are none."""
        pictures = self[None] if self.ndim == 3 else self
        if pictures.ndim != 4 or self.dtype != np.uint8 or self.shape[-1] != 3 or self.size == 0:
            return None
        made = self._made or [None] * len(pictures)
        figures = map(_figure, np.asarray(pictures[:_MOST_SHOWN]), made)
        more = len(pictures) - _MOST_SHOWN
        rest = f"<p>and {more} more</p>" if more > 0 else ""
        return f'<div style="display:flex;flex-wrap:wrap;gap:8px">{"".join(figures)}</div>{rest}'


def _made(request: Request, index: int) -> _Made:
    prompt, (seed, number) = request.prompts[index], request.images[index]
    text = prompt if isinstance(prompt, str) else None
    return _Made(text, None if request.noise else seed, number, request, index)


def _chooses_pictures(key: Any) -> bool:
    """Whether an index names whole pictures: a number, a slice, or a row of numbers or truths."""
    if isinstance(key, slice):
        return True
    if key is None or key is ... or isinstance(key, bool | np.bool_ | tuple):
        return False
    return np.ndim(key) < 2


def _knowing(images: Images, made: tuple[_Made, ...]) -> Images:
    images._made = made
    return images


def _restore(pixels: np.ndarray, made: tuple[_Made, ...]) -> Images:
    return _knowing(pixels.view(Images), made)


def _figure(pixels: np.ndarray, made: _Made | None) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    data = base64.b64encode(file.getvalue()).decode("ascii")
    height, width, _ = pixels.shape
    lines = []
    if made is not None:
        seed = "" if made.seed is None else f"seed {made.seed}, "
        lines = [f"{seed}image {made.number}"] + ([made.prompt] if made.prompt else [])
    caption = "<br>".join(html.escape(line) for line in lines)
    # No narrower than its caption can be read.
    return (
        f'<figure style="margin:0;width:{max(width, 160)}px">'
        f'<img src="data:image/png;base64,{data}" width="{width}" height="{height}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


# --- matplotlib -----------------------------------------------------------------------

_TITLE_POINTS = 8


def plot_gallery(
    images: Any,
    *,
    rows: int | None = None,
    cols: int | None = None,
    scale: float = 2,
    value_range: tuple[float, float] = (0, 255),
    titles: Sequence[str] | None = None,
    show: bool | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure | None:
    """Draws pictures in a grid, with matplotlib (`pip install "keras-sd[plot]"`).

    Args:
        images: one `(height, width, channels)` or several, an array or a list; 1, 3 or 4 channels,
            or none, which is grey.
        rows: of the grid; None is what is needed.
        cols: likewise; where both are None, the grid is about square.
        scale: width of a picture, in inches.
        value_range: the values that are black and white; those beyond are clipped.
        titles: one a picture, above it: `titles=images.prompts`.
        show: True opens a window, or shows the figure in a notebook; None does so only where
            matplotlib has windows, and no path is given.
        path: of a file to be written; its ending says which kind.

    Returns:
        The figure, which a notebook shows; None if it was shown, so that none shows it twice.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there are no pictures, the grid is too small for them, or the range is none.
    """
    pictures = _pictures(images, value_range)
    rows, cols = _grid(len(pictures), rows, cols)
    if titles is not None and len(titles) != len(pictures):
        raise ValueError(f"{len(titles)} titles for {len(pictures)} pictures")
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError('plot_gallery needs matplotlib: pip install "keras-sd[plot]"') from error
    shape = pictures[0].shape
    figure, axes = pyplot.subplots(
        rows,
        cols,
        figsize=(cols * scale, rows * scale * shape[0] / shape[1]),
        squeeze=False,
        layout="constrained",
    )
    try:
        for axis in axes.flat:
            axis.axis("off")
        for axis, picture in zip(axes.flat, pictures, strict=False):
            axis.imshow(picture)
        if titles is not None:
            letters = max(1, int(scale * 72 / (0.6 * _TITLE_POINTS)))
            for axis, title in zip(axes.flat, titles, strict=False):
                # A dollar sign is one, not the start of a formula.
                axis.set_title(
                    textwrap.fill(title, letters), fontsize=_TITLE_POINTS, parse_math=False
                )
        if path is not None:
            figure.savefig(path)
        if show is None:
            show = path is None and figure.canvas.required_interactive_framework is not None
        if show:
            pyplot.show()
        return None if show else figure
    finally:
        pyplot.close(figure)  # Otherwise a notebook shows it again, and memory fills.


def _pictures(images: Any, value_range: tuple[float, float]) -> list[np.ndarray]:
    """As matplotlib takes them: uint8 `(height, width, 3 or 4)`."""
    low, high = value_range
    if not low < high:
        raise ValueError(f"value_range is (black, white), as (0, 255), not {value_range}")
    if not isinstance(images, list | tuple):
        images = np.asarray(images)
        images = [images] if images.ndim < 4 else list(images)
    if not images:
        raise ValueError("there are no pictures to plot")
    return [_picture(np.asarray(image), low, high) for image in images]


def _picture(image: np.ndarray, low: float, high: float) -> np.ndarray:
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or image.size == 0:
        raise ValueError(
            "a picture is an array (height, width, channels) with 1, 3 or 4 channels, not "
            f"{image.shape}"
        )
    values = (image.astype(np.float64) - low) * (255 / (high - low))
    if not np.isfinite(values).all():
        raise ValueError("a picture holds values that are NaN or infinite")
    pixels = np.rint(np.clip(values, 0, 255)).astype(np.uint8)
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def _grid(count: int, rows: int | None, cols: int | None) -> tuple[int, int]:
    for name, value in (("rows", rows), ("cols", cols)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} is a number from 1 up, not {value!r}")
    if cols is None:
        cols = math.ceil(math.sqrt(count)) if rows is None else math.ceil(count / rows)
    if rows is None:
        rows = math.ceil(count / cols)
    if rows * cols < count:
        raise ValueError(f"{count} pictures do not fit in {rows} x {cols}; leave rows or cols out")
    return rows, cols
