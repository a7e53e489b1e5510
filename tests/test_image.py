"""Pixels, and PNG files: complete or not there, and knowing how they were made."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_sd import image as image_module
from keras_sd.image import check_writable, from_uint8, read_metadata, save_png, to_uint8

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
    path = save_png(tmp_path / "a.png", PIXELS, METADATA)
    assert listing(tmp_path) == ["a.png"]
    assert read_metadata(path) == METADATA
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(image), PIXELS)
        assert image.info["parameters"] == (
            "a café 🐱\non two lines\nNegative prompt: blurry\n"
            "Seed: 9223372036854775808, Guidance: 7.5"
        )


def test_odd_prompts_can_be_stored(tmp_path: Path) -> None:
    odd = {"prompt": "zero \0 byte \udcff not UTF-8", "seed": 1}
    path = save_png(tmp_path / "a.png", PIXELS, odd)
    assert read_metadata(path) == odd
    with Image.open(path) as image:
        assert image.info["parameters"] == "zero \ufffd byte ? not UTF-8\nSeed: 1"


def test_saved_file_has_the_usual_mode(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    path = save_png(tmp_path / "a.png", PIXELS)
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_existing_file_is_replaced_only_by_a_complete_one(tmp_path: Path, monkeypatch) -> None:
    path = save_png(tmp_path / "a.png", PIXELS, {"seed": 1})

    def breaks_half_way(self, file, **kwargs):
        file.write(b"\x89PNG half")
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", breaks_half_way)
        for name in ("a.png", "b.png"):
            with pytest.raises(OSError, match="disk full"):
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
