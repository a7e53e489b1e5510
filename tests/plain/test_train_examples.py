"""Folders of pictures with captions, and the sizes that the pictures are brought to."""

from __future__ import annotations

import json
import sys
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from keras_sd.checks import SettingError
from keras_sd.training.buckets import Buckets
from keras_sd.training.examples import RUN, ExamplesError, read_examples


def picture(path, height=8, width=8, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(path)
    return path


def metadata(folder, *rows):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")


def test_an_imagefolder_has_its_captions_in_a_file(tmp_path):
    picture(tmp_path / "b.png", 8, 24, 1)
    picture(tmp_path / "in" / "a.png", value=2)
    rows = [{"file_name": "b.png", "text": "two"}, {"file_name": "in/a.png", "caption": "one"}]
    metadata(tmp_path, *rows, "")
    found = read_examples(tmp_path)
    assert [(each.name, each.caption) for each in found] == [("b.png", "two"), ("in/a.png", "one")]
    assert found[0].size == (8, 24)
    assert (found[1].read() == 2).all()
    assert len({each.sha256 for each in found}) == 2


def test_text_files_beside_pictures_are_captions(tmp_path):
    for name in ("b.png", "a.JPG", "in/c.webp"):
        path = picture(tmp_path / name)
        path.with_suffix(".txt").write_text(f" of\n{name} ", encoding="utf-8")
    (tmp_path / "notes.md").write_text("no picture")
    found = read_examples(tmp_path)
    assert [each.caption for each in found] == ["of a.JPG", "of b.png", "of in/c.webp"]


def test_a_caption_for_all_is_for_those_without_one(tmp_path):
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png").with_suffix(".txt").write_text("its own")
    found = read_examples(tmp_path, "the others")
    assert [each.caption for each in found] == ["the others", "its own"]


def test_all_that_is_wrong_is_said_at_once(tmp_path):
    picture(tmp_path / "whole.png")
    whole = picture(tmp_path / "cut.png", 64, 64).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:-30])
    (tmp_path / "text.png").write_text("no picture")
    metadata(
        tmp_path,
        {"file_name": "whole.png", "text": "good"},
        {"file_name": "whole.png", "text": "again"},
        {"file_name": "cut.png", "text": "cut off"},
        {"file_name": "text.png", "text": "text"},
        {"file_name": "gone.png", "text": "gone"},
        {"file_name": "../whole.png", "text": "outside"},
        {"file_name": "in/../whole.png", "text": "a way around"},
        {"file_name": str(tmp_path / "whole.png"), "text": "absolute"},
        {"file_name": "whole2.png"},
        {"text": "no name"},
        "{",
    )
    picture(tmp_path / "whole2.png")
    with pytest.raises(ExamplesError) as found:
        read_examples(tmp_path)
    message = str(found.value)
    assert message.startswith(f"10 of the 11 pictures in {tmp_path} cannot be trained on")
    for part in (
        "whole.png: it comes a second time",
        "cut.png: ",
        "text.png: ",
        "gone.png: there is no such file (metadata.jsonl, line 5)",
        "../whole.png: it is not in the folder",
        "in/../whole.png: it is not in the folder",
        f"{tmp_path / 'whole.png'}: it is not in the folder",
        "whole2.png: it has no caption",
        "metadata.jsonl, line 10: it has no file_name",
        "metadata.jsonl, line 11: it is no JSON",
    ):
        assert part in message


def test_ten_are_named_and_the_others_counted(tmp_path):
    for number in range(12):
        picture(tmp_path / f"{number:02}.png")
    with pytest.raises(ExamplesError, match=r"09.png: it has no caption; and 2 more$"):
        read_examples(tmp_path)


def test_hidden_files_are_no_pictures(tmp_path):
    """A writer that was killed leaves one, and so do macOS and Jupyter."""
    names = (".0123456789abcdef.a.png", "._a.png", ".ipynb_checkpoints/a.png", "in/.b.png")
    for name in names:
        picture(tmp_path / name).write_bytes(b"cut off")
    with pytest.raises(ExamplesError, match=r"has no pictures: they end in .* and are not hidden"):
        read_examples(tmp_path, "all")
    picture(tmp_path / "a.png")
    assert [each.name for each in read_examples(tmp_path, "all")] == ["a.png"]
    hidden = picture(tmp_path / ".cache" / "in" / "a.png").parent  # itself, it may lie in one
    assert [each.name for each in read_examples(hidden, "all")] == ["a.png"]


def test_folders_among_the_pictures_can_be_left_out(tmp_path, monkeypatch):
    for name in ("a.png", "out/samples/1.png", "out/own.png", "output/b.png", "dogs/1.png"):
        picture(tmp_path / name)
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    without = [tmp_path / "link" / "out", "dogs", tmp_path / "none"]
    for folder in (tmp_path, ".", tmp_path / "link"):
        found = read_examples(folder, "all", without=without)
        assert [each.name for each in found] == ["a.png", "output/b.png"]
    # A folder in which the whole of it lies leaves nothing out.
    found = read_examples(tmp_path / "out", "all", without=[tmp_path, tmp_path / "out"])
    assert [each.name for each in found] == ["own.png", "samples/1.png"]
    samples = picture(tmp_path / "alone" / "samples" / "1.png").parent
    with pytest.raises(ExamplesError, match=r"has no pictures: .*; those in .*samples are none"):
        read_examples("alone", "all", without=[samples])
    metadata(tmp_path, {"file_name": "dogs/1.png", "text": "a dog"})  # asks for it by its name
    assert len(read_examples(tmp_path, without=without)) == 1


def test_what_another_training_has_drawn_is_no_example(tmp_path):
    for name in ("a.png", "lora/samples/1.png", "lora/prior/0.png", "state/b.png"):
        picture(tmp_path / name)
    note = tmp_path / "lora" / RUN
    note.parent.mkdir()
    note.write_text("{}")
    assert [each.name for each in read_examples(tmp_path, "all")] == ["a.png", "state/b.png"]
    # Asked for, it is: a prior that was drawn before, or the output itself.
    assert len(read_examples(tmp_path / "lora" / "prior", "all")) == 1
    assert len(read_examples(tmp_path / "lora", "all")) == 2
    (tmp_path / "a.png").unlink()
    (tmp_path / "state" / "b.png").unlink()
    with pytest.raises(ExamplesError, match=r"has no pictures: .*; those in .*lora are none"):
        read_examples(tmp_path)


def linked(folder, name, value):
    """A picture as the cache of Hugging Face's hub has it: a link to a file of another name."""
    blob = picture(folder.parent / "blobs" / f"{value}.png", value=value)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(blob.rename(blob.with_suffix("")))


@pytest.mark.parametrize("listed", [True, False])
def test_links_lead_anywhere(tmp_path, listed):
    folder = tmp_path / "snapshot"
    linked(folder, "a.png", 1)
    linked(folder, "hints/a.png", 2)
    if listed:
        row = {"file_name": "a.png", "text": "a", "conditioning_image": "hints/a.png"}
        metadata(folder, row)
        (found,) = read_examples(folder, hinted=True)
    else:
        (found,) = read_examples(folder, "all", hinted=True, hints=folder / "hints")
    assert (found.read() == 1).all()
    assert (found.hint.read() == 2).all()


def test_a_folder_without_pictures_is_none(tmp_path):
    with pytest.raises(ExamplesError, match="has no pictures"):
        read_examples(tmp_path)
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        read_examples(tmp_path / "none")


# --- hints ----------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["conditioning_image", "conditioning_image_file_name"])
def test_a_column_names_the_hints(tmp_path, column):
    picture(tmp_path / "a.png", 8, 24, 1)
    picture(tmp_path / "hints" / "of-a.png", 4, 12, 2)
    metadata(tmp_path, {"file_name": "a.png", "text": "a", column: "hints/of-a.png"})
    (found,) = read_examples(tmp_path, hinted=True)
    assert (found.size, found.hint.size) == ((8, 24), (4, 12))
    assert (found.hint.read() == 2).all()
    (plain,) = read_examples(tmp_path)
    assert plain.hint is None
    assert plain.sha256 == found.sha256 != found.hint.sha256


@pytest.mark.parametrize("inside", [True, False])
def test_a_folder_has_the_hints_under_the_pictures_names(tmp_path, inside):
    folder = tmp_path / "pictures"
    hints = (folder if inside else tmp_path) / "hints"
    for number, name in enumerate(("a", "in/a", "in/b")):
        picture(folder / f"{name}.png", value=number)
        picture(hints / f"{name}.jpg", value=100 + number)
    picture(hints / "of-none.png")
    found = read_examples(folder, "all", hinted=True, hints=hints)
    assert [each.name for each in found] == ["a.png", "in/a.png", "in/b.png"]
    for number, each in enumerate(found):
        assert (each.read() == number).all()
        assert (each.hint.read() == 100 + number).all()
    # With lines that name them too, it is the folder's that are taken.
    metadata(folder, {"file_name": "a.png", "text": "a", "conditioning_image": "in/b.png"})
    (found,) = read_examples(folder, hinted=True, hints=hints)
    assert (found.hint.read() == 100).all()


def test_hints_that_do_not_fit_are_said_with_their_pictures(tmp_path):
    for name in ("good", "none", "gone", "text", "wide", "near", "out", "bad"):
        picture(tmp_path / f"{name}.png", 100, 67)
    picture(tmp_path / "twice.png", 67, 100)
    picture(tmp_path / "near-hint.png", 512, 342)  # 343.04 would be right
    (tmp_path / "no-picture.png").write_text("no picture")
    hints = {
        "good": "good.png",
        "gone": "gone-hint.png",
        "text": "no-picture.png",
        "wide": "twice.png",
        "near": "near-hint.png",
        "out": "../out.png",
        "bad": 3,
    }
    rows = [{"file_name": "none.png", "text": "none"}] + [
        {"file_name": f"{name}.png", "text": name, "conditioning_image": hint}
        for name, hint in hints.items()
    ]
    metadata(tmp_path, *rows)
    with pytest.raises(ExamplesError) as found:
        read_examples(tmp_path, hinted=True)
    message = str(found.value)
    for part in (
        f"7 of the 8 pictures in {tmp_path} cannot be trained on",
        "none.png: it has no hint, 'conditioning_image'",
        "bad.png: it has no hint, 'conditioning_image'",
        "gone.png: its hint gone-hint.png cannot be used: there is no such file (metadata.jsonl",
        "text.png: its hint cannot be used: ",
        "wide.png: its hint is of another shape, 100x67; the picture is 67x100",
        "near.png: its hint is of another shape, 342x512; the picture is 67x100",
        "out.png: its hint ../out.png cannot be used: it is not in the folder",
    ):
        assert part in message
    assert len(read_examples(tmp_path)) == 8  # of a training that is shown none


def test_a_hint_may_be_the_rounded_size_of_its_picture(tmp_path):
    for number, size in enumerate(((512, 343), (512, 344), (50, 33), (200, 134))):
        picture(tmp_path / "pictures" / f"{number}.png", 100, 67)
        picture(tmp_path / "hints" / f"{number}.png", *size)
    found = read_examples(tmp_path / "pictures", "all", hinted=True, hints=tmp_path / "hints")
    assert [each.hint.size for each in found] == [(512, 343), (512, 344), (50, 33), (200, 134)]


def test_a_folder_of_hints_lacks_one_or_has_two(tmp_path):
    folder, hints = tmp_path / "pictures", tmp_path / "hints"
    picture(folder / "a.png")
    picture(folder / "in" / "b.png")
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        read_examples(folder, "all", hinted=True, hints=hints)
    picture(hints / "b.png")
    picture(hints / "a.png")
    picture(hints / "a.webp")
    with pytest.raises(ExamplesError) as found:
        read_examples(folder, "all", hinted=True, hints=hints)
    assert f"a.png: it has several hints: {hints} has a.png, a.webp" in str(found.value)
    assert f"in/b.png: it has no hint: {hints} has no picture in/b" in str(found.value)
    for place in (folder, tmp_path):
        with pytest.raises(ExamplesError, match="has the pictures in it"):
            read_examples(folder, "all", hinted=True, hints=place)


class Table(list):
    """As a table of `datasets`, as far as it is asked."""

    def __init__(self, rows, columns):
        super().__init__(rows)
        self.features = dict.fromkeys(columns)


def given(monkeypatch, table):
    module = ModuleType("datasets")
    module.__spec__ = sys.modules["json"].__spec__  # which says that it is there
    module.load_from_disk = lambda path: table
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_a_folder_of_datasets_is_read_by_it(tmp_path, monkeypatch):
    (tmp_path / "dataset_info.json").write_text("{}")
    red = Image.new("RGB", (4, 6), "red")
    rows = [{"image": red, "text": "red"}, {"image": red.transpose(2), "text": "red too"}]
    given(monkeypatch, {"train": Table(rows, ("image", "text")), "test": None})
    found = read_examples(tmp_path)
    assert [(each.name, each.caption, each.size) for each in found] == [
        ("row 0", "red", (6, 4)),
        ("row 1", "red too", (4, 6)),
    ]
    assert found[0].sha256 != found[1].sha256
    assert found[0].read()[0, 0].tolist() == [255, 0, 0]
    given(monkeypatch, Table([{"image": None, "text": "x"}], ("image", "text")))
    with pytest.raises(ExamplesError, match="row 0: it has no picture"):
        read_examples(tmp_path)
    given(monkeypatch, Table([], ("pixels", "text")))
    with pytest.raises(ExamplesError, match="columns pixels, text, and no 'image'"):
        read_examples(tmp_path)
    given(monkeypatch, {"test": Table([], ("image",))})
    with pytest.raises(ExamplesError, match="splits test, and no 'train'"):
        read_examples(tmp_path)


def test_a_column_of_datasets_has_the_hints(tmp_path, monkeypatch):
    (tmp_path / "state.json").write_text("{}")
    red, blue = (Image.new("RGB", (4, 6), colour) for colour in ("red", "blue"))
    row = {"image": red, "text": "x", "conditioning_image": blue}
    given(monkeypatch, Table([row], tuple(row)))
    (found,) = read_examples(tmp_path, hinted=True)
    assert found.hint.read()[0, 0].tolist() == [0, 0, 255]
    with pytest.raises(ExamplesError, match="in a table, whose hints are in a column"):
        read_examples(tmp_path, hinted=True, hints=picture(tmp_path / "hints" / "a.png").parent)
    row = {**row, "conditioning_image": None}
    given(monkeypatch, Table([row], tuple(row)))
    with pytest.raises(ExamplesError, match="row 0: it has no hint"):
        read_examples(tmp_path, hinted=True)


def test_without_datasets_the_error_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "state.json").write_text("{}")
    monkeypatch.setattr("keras_sd.training.examples.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "keras-sd\[datasets\]"'):
        read_examples(tmp_path)


# Sizes


@pytest.mark.parametrize(
    ("resolution", "step"), [(512, 64), (1024, 64), (128, 16), (64, 8), (16, 8)]
)
def test_sizes_have_no_more_pixels_than_the_square(resolution, step):
    sizes = Buckets(resolution).sizes
    assert (resolution, resolution) in sizes
    for height, width in sizes:
        assert height % step == width % step == 0
        assert height * width <= resolution**2
        assert 0.5 <= height / width <= 2
        assert (width, height) in sizes


def test_a_picture_goes_to_the_size_of_its_shape():
    buckets = Buckets(512)
    assert buckets.of(3000, 3000) == (512, 512)
    assert buckets.of(600, 900) == (384, 640)
    assert buckets.of(900, 600) == (640, 384)
    assert buckets.of(100, 1000) == (320, 640)  # no side is more than twice the other
    assert Buckets(512, square=True).of(100, 1000) == (512, 512)


def test_a_resolution_is_a_size():
    with pytest.raises(SettingError, match="resolution 100 is not a multiple of 8"):
        Buckets(100)
