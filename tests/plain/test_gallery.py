"""Pictures that know how they were made: what keeps that, what does not, and how they are shown."""

from __future__ import annotations

import base64
import copy
import io
import pickle
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

import keras_sd
from keras_sd.gallery import Images, plot_gallery

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)
PROMPTS = ("a", "b", "c", "d")


@pytest.fixture
def images() -> Images:
    return Images(PIXELS.copy(), PROMPTS, 7, [3, 4, 5, 6])


def test_it_is_an_array_that_knows() -> None:
    pixels = PIXELS.copy()
    images = Images(pixels, PROMPTS, 7, [3, 4, 5, 6])
    assert isinstance(images, np.ndarray)
    assert np.shares_memory(images, pixels)
    assert (images == pixels).all()
    assert np.array_equal(images, pixels)
    assert (images.prompts, images.seed, images.numbers) == (PROMPTS, 7, (3, 4, 5, 6))
    assert type(Images(pixels, numbers=np.arange(4)).numbers[0]) is int
    unnamed = Images(pixels)
    assert (unnamed.prompts, unnamed.seed, unnamed.numbers) == ((None,) * 4, None, (0, 1, 2, 3))
    assert type(np.asarray(images)) is np.ndarray
    for index in (0, 3):
        assert np.array_equal(np.asarray(Image.fromarray(images[index])), pixels[index])


@pytest.mark.parametrize(
    ("key", "kept"),
    [
        (0, [0]),
        (-1, [3]),
        (np.int64(2), [2]),
        (np.array(2), [2]),
        (slice(None), [0, 1, 2, 3]),
        (slice(1, 3), [1, 2]),
        (slice(None, None, -2), [3, 1]),
        (slice(0, 0), []),
        ([2, 0, 2], [2, 0, 2]),
        (np.array([3, 1]), [3, 1]),
        (np.array([True, False, False, True]), [0, 3]),
        ([False, True, False, False], [1]),
        ([], []),
    ],
)
def test_indexing_pictures_keeps_what_is_known_of_them(
    images: Images, key: Any, kept: list[int]
) -> None:
    chosen = images[key]
    assert np.array_equal(chosen, PIXELS[key])
    assert chosen.prompts == tuple(PROMPTS[index] for index in kept)
    assert chosen.numbers == tuple(index + 3 for index in kept)
    assert chosen.seed == (7 if kept else None)


def test_a_picture_in_a_loop_knows_itself(images: Images) -> None:
    assert [one.numbers for one in images] == [(3,), (4,), (5,), (6,)]
    assert images[1:][0].prompts == ("b",)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x[:, :3],
        lambda x: x[..., 0],
        lambda x: x[...],
        lambda x: x[None],
        lambda x: x[True],
        lambda x: x[0][0],
        lambda x: x[0][::-1],
        lambda x: x[0, 1],
        lambda x: x[x > 9],
        lambda x: x[PIXELS[:, :, 0, 0] > 9],
        lambda x: x[[[0, 1], [1, 0]]],
        lambda x: x.T,
        lambda x: x.transpose(0, 2, 1, 3),
        lambda x: x.reshape(2, 2, 6, 5, 3),
        lambda x: x.astype(np.float32),
        lambda x: x.view(np.int8),
        lambda x: np.concatenate([x, x]),
        lambda x: np.stack(list(x)),
        lambda x: np.flip(x),
        lambda x: np.roll(x, 1, axis=0),
        lambda x: np.zeros_like(x),
        lambda x: np.repeat(x, 2, axis=0),
    ],
)
def test_anything_else_knows_nothing(images: Images, change: Callable) -> None:
    made = change(images)
    assert np.array_equal(made, change(PIXELS))
    assert getattr(made, "prompts", ()) == ()
    assert getattr(made, "numbers", ()) == ()
    assert getattr(made, "seed", None) is None


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: x / 255,
        lambda x: 255 - x,
        lambda x: x == x[0],
        lambda x: x.mean(axis=0),
        lambda x: x.astype(float).std(axis=(1, 2)),
        lambda x: np.where(x > 9, x, 0),
        lambda x: np.add(x, 1),
    ],
)
def test_what_is_computed_is_a_plain_array(images: Images, compute: Callable) -> None:
    assert type(compute(images)) is np.ndarray
    assert np.array_equal(compute(images), compute(PIXELS))


def test_numbers_are_numbers(images: Images) -> None:
    for number in (images.sum(), images.max(), images.mean(), images[0].min(), images[0, 0, 0, 0]):
        assert isinstance(number, np.generic)
    images += 1
    assert type(images) is np.ndarray


@pytest.mark.parametrize(
    "again",
    [
        lambda x: x.copy(),
        copy.copy,
        copy.deepcopy,
        *(
            lambda x, protocol=protocol: pickle.loads(pickle.dumps(x, protocol))
            for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
        ),
    ],
)
def test_copies_know(images: Images, again: Callable) -> None:
    for original in (images, images[1], images[::2], images.T):
        made = again(original)
        assert type(made) is Images
        assert np.array_equal(made, original)
        assert not np.shares_memory(made, original)
        assert (made.prompts, made.seed, made.numbers) == (
            original.prompts,
            original.seed,
            original.numbers,
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pixels": PIXELS[0]}, r"\(images, height, width, 3\), not uint8 \(6, 5, 3\)"),
        ({"pixels": PIXELS[..., :1]}, r"not uint8 \(4, 6, 5, 1\)"),
        ({"pixels": PIXELS / 255}, "not float64"),
        ({"pixels": PIXELS, "prompts": PROMPTS[1:]}, "3 prompts and 4 numbers for 4 pictures"),
        ({"pixels": PIXELS, "numbers": range(5)}, "4 prompts and 5 numbers for 4 pictures"),
    ],
)
def test_what_are_no_images(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Images(**arguments)


# --- in a notebook --------------------------------------------------------------------


def shown(page: str) -> list[np.ndarray]:
    """The pictures in it."""
    found = re.findall(r'<img src="data:image/png;base64,([^"]+)"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(each)))) for each in found]


def test_a_notebook_shows_pictures_with_seed_and_prompt(images: Images) -> None:
    page = images._repr_html_()
    assert page is not None
    assert np.array_equal(shown(page), PIXELS)
    captions = re.findall("<figcaption>(.*?)</figcaption>", page)
    assert captions[1] == "seed 7, image 4<br>b"
    one = images[2]._repr_html_()
    assert one is not None
    assert np.array_equal(shown(one), PIXELS[2:3])
    assert "seed 7, image 5<br>c<" in one
    unnamed = Images(PIXELS[:1])._repr_html_()
    assert unnamed is not None
    assert "<figcaption>image 0</figcaption>" in unnamed


def test_a_prompt_is_text_not_a_page() -> None:
    prompt = "<script>alert(\"1\")</script> & <img src=x onerror='y'>"
    page = Images(PIXELS[:1], [prompt], 1)._repr_html_()
    assert page is not None
    assert "<script" not in page
    assert page.count("<img") == 1
    assert "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; &amp; &lt;img" in page


def test_pictures_of_which_nothing_is_known_are_shown_alone(images: Images) -> None:
    page = images[:, :3]._repr_html_()
    assert page is not None
    assert np.array_equal(shown(page), PIXELS[:, :3])
    assert "seed" not in page


def test_what_is_no_picture_is_left_to_the_text(images: Images) -> None:
    for array in (images[0][0], images[:0], images.T, images.astype(float), images[None]):
        assert isinstance(array, Images)
        assert array._repr_html_() is None
        assert repr(array).startswith("Images(")


def test_a_notebook_is_not_filled_by_thousands() -> None:
    page = Images(np.zeros((70, 2, 2, 3), np.uint8))._repr_html_()
    assert page is not None
    assert len(shown(page)) == 64
    assert page.endswith("<p>and 6 more</p>")


# --- in a grid ------------------------------------------------------------------------


@pytest.fixture
def pyplot(monkeypatch) -> Iterator[Any]:
    """matplotlib's, without windows; it is left as it was found."""
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("MPLBACKEND", "agg")
    from matplotlib import pyplot, rcParams

    monkeypatch.setattr(pyplot, "show", lambda: monkeypatch.setattr(pyplot, "was_shown", True))
    monkeypatch.setattr(pyplot, "was_shown", False, raising=False)
    mine = pyplot.figure()
    before = dict(rcParams)
    yield pyplot
    assert dict(rcParams) == before
    assert pyplot.get_fignums() == [mine.number]
    assert pyplot.gcf() is mine
    pyplot.close(mine)


def cells(figure: Any) -> list[np.ndarray | None]:
    """What is drawn in each cell of the grid."""
    return [np.asarray(axes.images[0].get_array()) if axes.images else None for axes in figure.axes]


@pytest.mark.parametrize(
    ("count", "asked", "grid"),
    [
        (1, {}, (1, 1)),
        (3, {}, (2, 2)),
        (4, {}, (2, 2)),
        (5, {}, (2, 3)),
        (5, {"rows": 1}, (1, 5)),
        (5, {"rows": 2}, (2, 3)),
        (5, {"cols": 2}, (3, 2)),
        (5, {"rows": 2, "cols": 4}, (2, 4)),
    ],
)
def test_grid(pyplot, count: int, asked: dict, grid: tuple[int, int]) -> None:
    pixels = np.repeat(PIXELS, 2, axis=0)[:count]
    figure = keras_sd.plot_gallery(pixels, scale=3, **asked)
    assert figure.axes[0].get_gridspec().get_geometry() == grid
    assert figure.get_size_inches().tolist() == pytest.approx([grid[1] * 3, grid[0] * 3 * 6 / 5])
    drawn = cells(figure)
    assert np.array_equal(drawn[:count], pixels)
    assert drawn[count:] == [None] * (grid[0] * grid[1] - count)
    assert not any(axes.axison for axes in figure.axes)


@pytest.mark.parametrize(
    ("images", "settings"),
    [
        (PIXELS, {}),
        (list(PIXELS), {}),
        (PIXELS.astype(np.float32), {}),
        (PIXELS / 255, {"value_range": (0, 1)}),
        (PIXELS / 127.5 - 1, {"value_range": (-1, 1)}),
        (np.where(PIXELS > 250, 9, PIXELS / 255), {"value_range": (0, 1)}),
    ],
)
def test_values(pyplot, images: Any, settings: dict) -> None:
    drawn = np.array(cells(plot_gallery(images, **settings)))
    assert drawn.dtype == np.uint8
    assert np.array_equal(drawn, np.where(PIXELS > 250, drawn, PIXELS))
    assert (drawn[PIXELS > 250] > 250).all()


def test_kinds_of_pictures(pyplot) -> None:
    grey = PIXELS[0, ..., 0]
    picture = Image.fromarray(PIXELS[1, :3])
    transparent = np.concatenate([PIXELS[2], PIXELS[2, ..., :1]], axis=2)
    drawn = cells(plot_gallery([grey, grey[..., None], picture, transparent]))
    for each in drawn[:2]:
        assert np.array_equal(each, np.stack([grey] * 3, axis=2))
    assert np.array_equal(drawn[2], PIXELS[1, :3])
    assert np.array_equal(drawn[3], transparent)
    assert np.array_equal(cells(plot_gallery(PIXELS[0])), PIXELS[:1])
    assert np.array_equal(cells(plot_gallery(grey))[0], drawn[0])


def test_titles(pyplot, images: Images) -> None:
    titles = ["a cat " * 20, "costs $1, or $2", "", "d"]
    figure = plot_gallery(images, titles=titles)
    figure.canvas.draw()
    written = [axes.get_title() for axes in figure.axes]
    assert written[0].count("\n") > 1
    assert " ".join(written[0].split()) == titles[0].strip()
    assert written[1:] == titles[1:]
    assert not figure.axes[1].title.get_parse_math()


def test_it_is_shown_only_where_there_are_windows(pyplot, tmp_path, monkeypatch) -> None:
    path = tmp_path / "a.png"
    assert plot_gallery(PIXELS) is not None
    assert plot_gallery(PIXELS, show=False) is not None
    assert not pyplot.was_shown
    assert plot_gallery(PIXELS, show=True) is None
    assert pyplot.was_shown
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    monkeypatch.setattr(FigureCanvasAgg, "required_interactive_framework", "qt", raising=False)
    pyplot.was_shown = False
    assert plot_gallery(PIXELS, show=False) is not None
    assert plot_gallery(PIXELS, path=path) is not None
    assert not pyplot.was_shown
    assert plot_gallery(PIXELS) is None
    assert pyplot.was_shown


def test_file(pyplot, tmp_path) -> None:
    path = tmp_path / "a.png"
    red_and_blue = np.zeros((2, 4, 8, 3), np.uint8)
    red_and_blue[0, ..., 0] = red_and_blue[1, ..., 2] = 255
    figure = plot_gallery(red_and_blue, rows=1, path=path)
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert pixels.shape[:2] == (round(figure.dpi), round(4 * figure.dpi))
    middle = pixels[len(pixels) // 2]
    quarter = len(middle) // 4
    assert middle[quarter].tolist() == [255, 0, 0]
    assert middle[-quarter].tolist() == [0, 0, 255]


@pytest.mark.parametrize(
    ("images", "settings", "message"),
    [
        ([], {}, "there are no pictures"),
        (PIXELS[:0], {}, "there are no pictures"),
        (PIXELS[0, 0, 0], {}, r"\(height, width, channels\) .* not \(3,\)"),
        (PIXELS[..., :2], {}, r"not \(6, 5, 2\)"),
        (PIXELS[None], {}, r"not \(4, 6, 5, 3\)"),
        (PIXELS[:, :0], {}, r"not \(0, 5, 3\)"),
        (np.full((4, 4, 3), np.nan), {}, "NaN or infinite"),
        (PIXELS, {"value_range": (1, 1)}, r"as \(0, 255\), not \(1, 1\)"),
        (PIXELS, {"rows": 1, "cols": 3}, "4 pictures do not fit in 1 x 3"),
        (PIXELS, {"rows": 0}, "rows is a number from 1 up, not 0"),
        (PIXELS, {"cols": 1.5}, "cols is a number from 1 up, not 1.5"),
        (PIXELS, {"titles": ["a"]}, "1 titles for 4 pictures"),
    ],
)
def test_what_cannot_be_plotted(pyplot, images: Any, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot_gallery(images, **settings)


def test_without_matplotlib(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'pip install "keras-sd\[plot\]"'):
        plot_gallery(PIXELS)
