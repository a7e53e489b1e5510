"""Pixels: read from what there is or refused with a reason, brought to a size; and PNG files,
complete or not there, and knowing how they were made.
"""

from __future__ import annotations

import io
import os
import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from keras_sd import image as image_module
from keras_sd.image import (
    check_writable,
    from_uint8,
    read_image,
    read_mask,
    read_metadata,
    resize,
    resize_mask,
    save_png,
    to_uint8,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
METADATA = {
    "prompt": "a café 🐱\non two lines",
    "negative_prompt": "blurry",
    "seed": 2**63,
    "guidance": 7.5,
    "sampler": None,
}


def listing(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_to_uint8_rounds_and_clips() -> None:
    assert to_uint8(np.array([-1.0, 1.0, -9.0, 9.0, 0.0])).tolist() == [0, 255, 0, 255, 128]
    # 0.6 and 0.4 of the way between two values: truncation gives 100 twice.
    x = (np.array([100.6, 100.4]) / 127.5 - 1).astype(np.float32)
    assert to_uint8(x).tolist() == [101, 100]
    assert to_uint8(np.zeros((2, 3, 4, 3), np.float16)).shape == (2, 3, 4, 3)


def test_pixels_survive_the_round_trip() -> None:
    every = np.arange(256, dtype=np.uint8)
    x = from_uint8(every)
    assert x.dtype == np.float32
    assert (x[0], x[255]) == (-1, 1)
    assert np.array_equal(to_uint8(x), every)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_to_uint8_refuses_what_is_no_number(bad: float) -> None:
    with pytest.raises(ValueError, match="1 of 4 values that are NaN or infinite"):
        to_uint8(np.array([0, bad, 0, 0]))


def test_from_uint8_refuses_floats() -> None:
    with pytest.raises(TypeError, match="uint8, 0 to 255; these are float32"):
        from_uint8(np.zeros(3, np.float32))


def test_saved_image_holds_pixels_and_metadata(tmp_path: Path) -> None:
    path = save_png(tmp_path / "a.png", PIXELS, METADATA, "a café 🐱\nSteps: 3")
    assert listing(tmp_path) == ["a.png"]
    assert read_metadata(path) == METADATA
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(image), PIXELS)
        assert image.info["parameters"] == "a café 🐱\nSteps: 3"
    with Image.open(save_png(tmp_path / "a.png", PIXELS, METADATA)) as image:
        assert "parameters" not in image.info


def test_odd_prompts_can_be_stored(tmp_path: Path) -> None:
    odd = {"prompt": "zero \0 byte \udcff not UTF-8", "seed": 1}
    path = save_png(tmp_path / "a.png", PIXELS, odd, odd["prompt"])
    assert read_metadata(path) == odd
    with Image.open(path) as image:
        assert image.info["parameters"] == "zero \ufffd byte ? not UTF-8"


def test_saved_file_has_the_usual_mode(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    path = save_png(tmp_path / "a.png", PIXELS)
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_existing_file_is_replaced_only_by_a_complete_one(tmp_path: Path, monkeypatch) -> None:
    path = save_png(tmp_path / "a.png", PIXELS, {"seed": 1})

    def breaks_half_way(self, content):
        with self.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", breaks_half_way)
        for name in ("a.png", "b.png"):
            with pytest.raises(OSError, match=f"Cannot write .*{name}: disk full"):
                save_png(tmp_path / name, PIXELS, {"seed": 2})
    assert listing(tmp_path) == ["a.png"]
    assert read_metadata(path) == {"seed": 1}
    save_png(path, PIXELS, {"seed": 3})
    assert read_metadata(path) == {"seed": 3}
    assert listing(tmp_path) == ["a.png"]


@pytest.mark.parametrize(
    "wrong",
    [
        PIXELS.astype(np.float32),
        PIXELS[None],
        PIXELS[..., 0],
        np.zeros((4, 4, 4), np.uint8),
        PIXELS[:0],
    ],
)
def test_not_an_image(tmp_path: Path, wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="An image is a uint8 array"):
        save_png(tmp_path / "a.png", wrong)
    assert listing(tmp_path) == []


@pytest.mark.parametrize("wrong", [{"guidance": float("nan")}, {"seed": np.int64(3)}, {"x": b"y"}])
def test_metadata_that_is_not_json(tmp_path: Path, wrong: dict) -> None:
    with pytest.raises(ValueError, match="cannot be written as JSON"):
        save_png(tmp_path / "a.png", PIXELS, wrong)
    assert listing(tmp_path) == []


def test_check_writable_leaves_no_trace(tmp_path: Path) -> None:
    check_writable(tmp_path / "new.png")
    assert listing(tmp_path) == []
    (tmp_path / "old.PNG").write_bytes(b"old")
    check_writable(tmp_path / "old.PNG")
    assert (tmp_path / "old.PNG").read_bytes() == b"old"
    assert listing(tmp_path) == ["old.PNG"]


def test_check_writable_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "file.png").touch()
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "fifo.png")
    for name, kind, message in [
        ("a.jpg", ValueError, r"does not end in \.png"),
        ("a", ValueError, r"does not end in \.png"),
        ("no/a.png", FileNotFoundError, "the folder .*no does not exist"),
        ("file.png/a.png", NotADirectoryError, "is a file, not a folder"),
        ("folder.png", IsADirectoryError, "it is a folder"),
        ("fifo.png", OSError, "not a plain file"),
        ("x" * 300 + ".png", OSError, "Cannot write .*: File name too long"),
    ]:
        with pytest.raises(kind, match=message):
            check_writable(tmp_path / name)
        with pytest.raises(kind, match=message):
            save_png(tmp_path / name, PIXELS)
    assert listing(tmp_path) == ["fifo.png", "file.png", "folder.png"]


def test_check_writable_in_a_folder_that_refuses(tmp_path: Path, monkeypatch) -> None:
    def refuse(self, mode="r"):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(image_module.Path, "open", refuse)
    with pytest.raises(PermissionError, match=r"^Cannot write .*a\.png: Permission denied\.$"):
        check_writable(tmp_path / "a.png")


def test_no_path_is_said_to_be_none(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for wrong in (None, 3, b"a.png"):
        with pytest.raises(TypeError, match="path is the path to write to, not"):
            save_png(wrong, PIXELS)
    with pytest.raises(ValueError, match="path is empty"):
        save_png("", PIXELS)
    assert listing(tmp_path) == []


def test_read_metadata_of_other_files(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "plain.png")
    with pytest.raises(ValueError, match="no metadata of keras_sd"):
        read_metadata(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match="not an image that can be read"):
        read_metadata(tmp_path / "text.png")
    whole = save_png(tmp_path / "a.png", PIXELS, METADATA).read_bytes()
    for length in (len(whole) // 2, len(whole) - 30):  # inside the texts, inside the pixels
        (tmp_path / "half.png").write_bytes(whole[:length])
        with pytest.raises(ValueError, match="not an image that can be read"):
            read_metadata(tmp_path / "half.png")
    with pytest.raises(FileNotFoundError):
        read_metadata(tmp_path / "none.png")


def test_premultiplied_grey_is_read_as_grey_with_transparency() -> None:
    parts = [np.full((4, 4), 100, np.uint8), np.full((4, 4), 128, np.uint8)]
    grey = Image.merge("LA", [Image.fromarray(part) for part in parts])
    pixels = read_image(grey.convert("La"))
    assert np.abs(pixels.astype(int) - read_image(grey)).max() <= 2
    with pytest.raises(ValueError, match="transparent parts"):
        read_mask(grey.convert("La"))


# --- reading --------------------------------------------------------------------------

PICTURE = Image.fromarray(PIXELS)


def saved(folder: Path, image: Image.Image, ending: str = "png", **settings: Any) -> Path:
    path = folder / f"a.{ending}"
    image.save(path, **settings)
    return path


@pytest.mark.parametrize("ending", ["png", "bmp", "tiff", "webp", "jpg"])
def test_a_file_is_read_as_pillow_reads_it(tmp_path: Path, ending: str) -> None:
    path = saved(tmp_path, PICTURE, ending, **({"lossless": True} if ending == "webp" else {}))
    pixels = read_image(str(path))
    assert (pixels.dtype, pixels.shape) == (np.uint8, (5, 7, 3))
    with Image.open(path) as image:
        assert np.array_equal(pixels, np.asarray(image))
    assert ending == "jpg" or np.array_equal(pixels, PIXELS)
    assert np.array_equal(read_image(path), pixels)


def test_what_is_no_file(tmp_path: Path) -> None:
    for source in (PICTURE, PIXELS, PIXELS.view(type("Sub", (np.ndarray,), {}))):
        pixels = read_image(source)
        assert type(pixels) is np.ndarray
        assert np.array_equal(pixels, PIXELS)


GREY = np.arange(0, 240, 16, dtype=np.uint8).reshape(3, 5)


def with_palette() -> Image.Image:
    image = Image.new("PA", (5, 3), (1, 128))
    image.putpalette([255, 255, 255, 0, 0, 0])
    return image


def with_key(mode: str, key: Any) -> Image.Image:
    """A picture of one colour, which its file declares to be transparent."""
    image = Image.new(mode, (5, 3), key)
    image.info["transparency"] = key
    return image


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(GREY > 100), np.where(GREY > 100, 255, 0)),
        (Image.fromarray(GREY), GREY),
        (Image.fromarray(GREY).convert("P"), GREY),
        (Image.fromarray(GREY).convert("RGBA"), GREY),
        (Image.fromarray(GREY).convert("CMYK"), GREY),
        (Image.fromarray(GREY).convert("YCbCr"), GREY),
        (Image.fromarray(GREY.astype(np.uint16) * 257), GREY),
        (Image.fromarray(GREY.astype(np.uint16) * 257 + 128), GREY),
        (Image.fromarray(GREY.astype(np.uint16) * 257 + 129), GREY + 1),
        # Half of black on white, however the alpha is said.
        (Image.new("LA", (5, 3), (0, 128)), 127),
        (Image.new("RGBA", (5, 3), (0, 0, 0, 128)), 127),
        (with_palette(), 127),
        (with_key("RGB", (1, 2, 3)), 255),
        (with_key("L", 7), 255),
        (with_key("P", 0), 255),
        (with_key("I;16", 300), 255),
    ],
    ids=lambda value: getattr(value, "mode", ""),
)
def test_every_mode_becomes_rgb(tmp_path: Path, image: Image.Image, expected: Any) -> None:
    expected = np.broadcast_to(np.asarray(expected, np.uint8), (3, 5))
    sources: list[Any] = [image]
    if image.mode in ("1", "L", "P", "RGB", "LA", "RGBA", "I;16"):
        sources.append(saved(tmp_path, image))
    for source in sources:
        pixels = read_image(source)
        assert pixels.shape == (3, 5, 3)
        assert np.array_equal(pixels, np.repeat(expected[..., None], 3, axis=2))


@pytest.mark.parametrize("ending", ["jpg", "png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_held_sideways_is_turned_upright(
    tmp_path: Path, orientation: int, ending: str
) -> None:
    # Dark at the left, brightest at the bottom right, as the eye sees it.
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:, 16:] = 100
    upright[8:, 16:] = 200
    held = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = saved(tmp_path, Image.fromarray(np.ascontiguousarray(held)), ending, exif=exif)
    sources: list[Any] = [path]
    if ending == "jpg":
        sources.append(Image.open(path))
    for source in sources:
        pixels = read_image(source)
        assert pixels.shape == upright.shape
        assert np.abs(pixels.astype(int) - upright).max() < 12  # JPEG and WEBP lose some
        mask = read_mask(source)
        assert np.abs(mask * 255 - upright[..., 0]).max() < 12


def test_a_photograph_with_others_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    red, blue = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    red.save(path, format="MPO", save_all=True, append_images=[blue])
    with Image.open(path) as image:
        assert image.n_frames == 2
    assert read_image(path)[0, 0, 0] > 250


def chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")


def claims(width: int, height: int) -> bytes:
    """The start of a PNG file of that size, and no pixels."""
    sizes = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", sizes + b"\x08\2\0\0\0") + chunk(b"IDAT", b"")


def encoded(image: Image.Image, format: str, **settings: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format=format, **settings)
    return file.getvalue()


def animated(format: str) -> bytes:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "green")]
    return encoded(frames[0], format, save_all=True, append_images=frames[1:])


NOISY = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 40, 3), dtype=np.uint8))


def half(format: str) -> bytes:
    whole = encoded(NOISY, format)
    return whole[: len(whole) // 2]


NO_IMAGE_FILES = [
    ("empty.png", b"", "empty.png is empty"),
    ("text.png", b"not a picture, but a letter", "is no PNG, JPEG, WEBP, BMP or TIFF image"),
    ("page.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is no PNG, JPEG"),
    ("moving.gif", animated("GIF"), "is no PNG, JPEG"),
    ("gif.png", animated("GIF"), "is no PNG, JPEG"),
    ("still.gif", encoded(PICTURE, "GIF"), "is no PNG, JPEG"),
    ("icon.ico", encoded(NOISY, "ICO"), "is no PNG, JPEG"),
    ("photo.ppm", encoded(PICTURE, "PPM"), "is no PNG, JPEG"),
    ("drawing.eps", encoded(PICTURE, "EPS"), "is no PNG, JPEG"),
    ("moving.png", animated("PNG"), "has 3 frames: save the one you mean"),
    ("moving.webp", animated("WEBP"), "has 3 frames"),
    ("pages.tiff", animated("TIFF"), "has 3 frames"),
    ("half.png", half("PNG"), "is damaged: .*truncated"),
    ("half.jpg", half("JPEG"), "is damaged: .*truncated"),
    ("half.webp", half("WEBP"), "is damaged|is no PNG"),
    ("half.bmp", half("BMP"), "is damaged: .*truncated"),
    ("half.tiff", half("TIFF"), "is damaged|is no PNG"),
    ("header.png", claims(40, 40), "is damaged"),
    ("none.png", claims(0, 40), "has no pixels: it is 0x40|is no PNG"),
    ("large.png", claims(8193, 8192), "is 8193x8192: more than the 67108864 pixels that are"),
    # Pillow warns of the first of these by itself, and refuses the others.
    ("larger.png", claims(10_000, 10_000), "is 10000x10000: more than the 67108864 pixels"),
    ("enormous.png", claims(20_000, 20_000), "more than the 67108864 pixels that are read"),
    ("absurd.png", claims(2**31 - 1, 2**31 - 1), "more than the 67108864 pixels that are read"),
    ("float.tiff", encoded(Image.new("F", (4, 4)), "TIFF"), "32-bit numbers"),
    ("long.tiff", encoded(Image.new("I", (4, 4)), "TIFF"), "32-bit numbers"),
]


@pytest.mark.parametrize("read", [read_image, read_mask])
@pytest.mark.parametrize(
    ("name", "content", "message"), NO_IMAGE_FILES, ids=[name for name, _, _ in NO_IMAGE_FILES]
)
def test_files_that_are_no_picture_to_read(
    tmp_path: Path, read: Callable, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path / name)
    assert name in str(error.value)


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_paths_that_lead_to_no_file(tmp_path: Path, monkeypatch, read: Callable) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo.png")
    Path("folder").mkdir()
    for source, kind, message in [
        ("none.png", FileNotFoundError, "There is no image none.png"),
        ("folder", ValueError, "folder is a folder"),
        ("fifo.png", ValueError, "no plain file"),
        ("https://example.org/a.png", ValueError, "is a URL. Nothing is fetched here"),
        (Path("https://example.org/a.png"), ValueError, "is a URL"),
        ("hf://owner/name", ValueError, "is a URL"),
        ("data:image/png;base64," + "A" * 9999, ValueError, r"AAA\.\.\. is a URL"),
        ("x" * 9999, FileNotFoundError, r"xxx\.\.\.\."),
        ("", FileNotFoundError, "There is no image"),
    ]:
        with pytest.raises(kind, match=message):
            read(source)


def test_the_limit_of_pixels_can_be_set(tmp_path: Path) -> None:
    grey = PICTURE.convert("L")
    path = saved(tmp_path, grey)
    for read, array in ((read_image, PIXELS), (read_mask, PIXELS[..., 0])):
        for source in (path, grey, array):
            assert read(source, max_pixels=35).shape[:2] == (5, 7)
            with pytest.raises(ValueError, match="is 7x5: more than the 34 pixels that are read"):
                read(source, max_pixels=34)


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        (PIXELS.astype(np.float32) / 255, ValueError, r"uint8, .* this one is float32.*to_uint8"),
        (PIXELS.astype(np.int64), ValueError, "this one is int64"),
        (PIXELS > 9, ValueError, "this one is bool"),
        (PIXELS[..., 0], ValueError, r"\(height, width, 3\), not \(5, 7\)"),
        (PIXELS[None], ValueError, r"not \(1, 5, 7, 3\)"),
        (PIXELS[..., :1], ValueError, r"not \(5, 7, 1\)"),
        (np.zeros((4, 4, 4), np.uint8), ValueError, r"not \(4, 4, 4\)"),
        (PIXELS[:0], ValueError, "has no pixels: it is 7x0"),
        (Image.new("RGB", (0, 4)), ValueError, "has no pixels: it is 0x4"),
        (Image.new("F", (4, 4)), ValueError, "32-bit numbers"),
        (Image.open(io.BytesIO(animated("GIF"))), ValueError, "The image has 3 frames"),
        (Image.open(io.BytesIO(half("PNG"))), ValueError, "The image is damaged"),
        (None, TypeError, "a path, a Pillow image or an array, not .*NoneType"),
        (b"a.png", TypeError, "not .*bytes"),
        ([[0, 1]], TypeError, "not .*list"),
        (io.BytesIO(b""), TypeError, "not .*BytesIO"),
    ],
)
def test_what_is_no_image(source: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        read_image(source)


def test_damaged_files_are_a_value_error_or_a_picture(tmp_path: Path, capfd) -> None:
    draw = random.Random(0)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    originals = [encoded(NOISY, format, exif=exif) for format in ("PNG", "JPEG", "WEBP", "TIFF")]
    originals.append(encoded(NOISY, "BMP"))
    path = tmp_path / "a.bin"
    errors = 0
    for index in range(1500):
        data = bytearray(originals[index % len(originals)])
        for _ in range(draw.choice([1, 2, 4])):
            end = len(data) if draw.random() < 0.4 else 200
            data[draw.randrange(end)] = draw.choice([0, 255, draw.randrange(256)])
        path.write_bytes(data)
        try:
            read_image(path)
        except ValueError:
            errors += 1
    assert 300 < errors < 1400


# --- masks ----------------------------------------------------------------------------

MASK = np.array([[0, 0, 1], [0, 1, 1]], np.uint8)


@pytest.mark.parametrize(
    "source",
    [
        MASK,
        MASK.astype(bool),
        MASK.astype(np.int64),
        MASK.astype(np.float64),
        MASK.astype(np.float16),
        MASK * 255,
        MASK.astype(np.int32) * 255,
        MASK[..., None],
        MASK[None],
        Image.fromarray(MASK),
        Image.fromarray(MASK.astype(bool)),
        Image.fromarray(MASK * 255),
        Image.fromarray(MASK * 255).convert("P"),
        Image.fromarray(MASK * 255).convert("LA"),
        Image.fromarray(MASK * 255).convert("RGB"),
        Image.fromarray(MASK * 255).convert("RGBA"),
        Image.fromarray(MASK * np.uint16(65535)),
        Image.fromarray(MASK.astype(np.uint16)),
    ],
    ids=lambda source: getattr(source, "mode", "") or f"{source.dtype}{source.shape}",
)
def test_every_mask_is_zeros_and_ones(tmp_path: Path, source: Any) -> None:
    sources = [source]
    if isinstance(source, Image.Image):
        sources.append(saved(tmp_path, source))
    for each in sources:
        mask = read_mask(each)
        assert mask.dtype == np.float32
        assert np.array_equal(mask, MASK)


def test_soft_masks() -> None:
    eighth = np.arange(8, dtype=np.uint8).reshape(2, 4) * 36
    expected = eighth / np.float32(255)
    assert np.array_equal(read_mask(eighth), expected)
    assert np.array_equal(read_mask(Image.fromarray(eighth).convert("RGB")), expected)
    assert np.array_equal(read_mask(expected), expected)
    assert np.allclose(read_mask(Image.fromarray(eighth * np.uint16(257))), expected, atol=1e-7)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (PIXELS, r"\(1, height, width\), not \(5, 7, 3\)"),
        (PIXELS[None, ..., :1], r"not \(1, 5, 7, 1\)"),
        (np.zeros(4), r"not \(4,\)"),
        (np.zeros((0, 4)), "The mask has no pixels: it is 4x0"),
        (MASK * 255.0, "values from 0.0 to 255.0; floats are from 0 to 1"),
        (MASK - 0.5, "values from -0.5 to 0.5; floats"),
        (np.full((2, 2), np.nan), "values from nan to nan"),
        (MASK.astype(int) * 256, "values from 0 to 256; whole numbers are from 0 to 255"),
        (MASK.astype(int) - 1, "values from -1 to 0; whole numbers"),
        (MASK * 1j, "holds complex128, not bool, whole numbers or floats"),
        (MASK.astype("U"), "holds <U"),
        (Image.fromarray(PIXELS), "has colours, and a mask is black, white or grey"),
        (Image.new("RGB", (4, 4), "red"), "has colours"),
        (Image.new("RGBA", (4, 4), (255, 255, 255, 0)), r"transparent parts.*getchannel\('A'\)"),
        (Image.new("LA", (4, 4), (255, 254)), "transparent parts"),
        (with_key("L", 0), "transparent parts"),
        (with_key("I;16", 300), "transparent parts"),
        (Image.new("I", (4, 4)), "32-bit numbers"),
    ],
)
def test_what_is_no_mask(source: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_mask(source)


# --- sizes ----------------------------------------------------------------------------

HOWS: list[Any] = ["stretch", "crop", "pad"]


@pytest.mark.parametrize("how", HOWS)
def test_a_picture_of_the_size_is_left_alone(how: Any) -> None:
    assert np.array_equal(resize(PIXELS, 5, 7, how), PIXELS)
    mask = PIXELS[..., 0] / np.float32(255)
    assert np.array_equal(resize_mask(mask, 5, 7, how), mask)


def test_stretch_crop_and_pad() -> None:
    # Three squares beside each other: red, green, blue.
    picture = np.repeat(np.repeat(np.eye(3, dtype=np.uint8)[None] * 255, 20, 0), 20, 1)
    mask = np.repeat(np.repeat(np.array([[0, 1, 0]], np.float32), 20, 0), 20, 1)
    names = {(255, 0, 0): "r", (0, 255, 0): "g", (0, 0, 255): "b"}

    def seen(image: np.ndarray) -> str:
        """Colours along the middle, four places of each third."""
        row = image[image.shape[0] // 2, 2 : -1 : image.shape[1] // 12]
        return "".join(names.get(tuple(int(v) for v in pixel), "?") for pixel in row)

    stretched = resize(picture, 24, 48, "stretch")
    assert stretched.shape == (24, 48, 3)
    assert seen(stretched) == "rrrrggggbbbb"
    assert resize_mask(mask, 24, 48, "stretch")[:, [2, 24, 45]].tolist() == [[0, 1, 0]] * 24
    # The middle third is all that is left.
    cropped = resize(picture, 40, 40, "crop")
    assert seen(cropped[:, 6:-6]) == "g" * 13
    assert (resize_mask(mask, 40, 40, "crop")[:, 4:-4] == 1).all()
    # Above and below, the picture's own edge; in the mask, nothing.
    padded = resize(picture, 48, 48, "pad")
    assert padded.shape == (48, 48, 3)
    assert np.array_equal(padded[0], padded[20])
    assert np.array_equal(padded[-1], padded[20])
    assert seen(padded) == "rrrrggggbbbb"
    padded_mask = resize_mask(mask, 48, 48, "pad")
    assert (padded_mask[:16] == 0).all()
    assert (padded_mask[32:] == 0).all()
    assert (padded_mask[16:32, 24] == 1).all()


@pytest.mark.parametrize("how", HOWS)
def test_sizes_and_values_are_kept_whatever_the_shape(how: Any) -> None:
    draw = np.random.default_rng(0)
    sizes = [(7, 7, 136, 136), *draw.integers(1, 90, (60, 4)).tolist()]  # 136 / (136 / 7) > 7
    for h, w, height, width in sizes:
        picture = draw.integers(0, 256, (h, w, 3), dtype=np.uint8)
        assert resize(picture, height, width, how).shape == (height, width, 3)
        mask = draw.integers(0, 2, (h, w)).astype(np.float32)
        made = resize_mask(mask, height, width, how)
        assert (made.shape, made.dtype) == ((height, width), np.float32)
        assert 0 <= made.min() <= made.max() <= 1
        if how != "pad":
            assert (resize_mask(np.ones_like(mask), height, width, how) == 1).all()


def test_no_such_way_to_a_size() -> None:
    for function, array in ((resize, PIXELS), (resize_mask, PIXELS[..., 0] / np.float32(255))):
        with pytest.raises(ValueError, match="one of stretch, crop, pad, not 'fit'"):
            function(array, 8, 8, "fit")  # type: ignore[operator]
