"""The bank of drawings: written, read, and drawn from small made-up packages."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image
from test_packages import pack

from keras_sd.training import drawings
from keras_sd.training.drawings import SIZE, Bank, shrink, write_bank


def disc(colour, radius):
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    picture = np.zeros((SIZE, SIZE, 4), np.uint8)
    picture[..., :3] = colour
    picture[..., 3] = 255 * (x * x + y * y < radius * radius)
    return picture


SETS = {
    "noto": {5: lambda code: disc((200, 30, 30), 50), 9: lambda code: disc((30, 30, 200), 30)},
    "line": {5: lambda code: disc(0, 50), 9: lambda code: disc(0, 30)},
}


def test_a_bank_gives_back_the_drawings_in_the_order_of_codes(tmp_path):
    write_bank(tmp_path / "bank.zip", SETS)
    bank = Bank(tmp_path / "bank.zip")
    assert bank.styles == ("noto", "line")
    assert bank.codes == (5, 9)
    for style in bank.styles:
        sprites = bank.sprites(style)
        assert sprites.shape == (2, SIZE, SIZE, 4)
        assert sprites.dtype == np.uint8
        for sprite, code in zip(sprites, bank.codes, strict=True):
            drawn = SETS[style][code](code)
            np.testing.assert_array_equal(sprite[..., 3], drawn[..., 3])
            inside = drawn[..., 3] > 0
            error = np.abs(sprite[inside].astype(int) - drawn[inside])
            assert error.mean() < (6 if style == "noto" else 1e-9)
    assert bank.about["packages"]["noto"]["licence"] == "Apache-2.0"
    assert bank.about["packages"]["line"]["name"] == "@fontsource/noto-emoji"


def test_the_same_drawings_make_the_same_file(tmp_path):
    write_bank(tmp_path / "a.zip", SETS)
    write_bank(tmp_path / "b.zip", SETS)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


@pytest.mark.parametrize(
    ("drawing", "message"),
    [
        (np.zeros((SIZE, SIZE, 4), np.uint8), "noto/9 is empty"),
        (np.ones((64, 64, 4), np.uint8), r"noto/9 is \(64, 64, 4\)"),
    ],
)
def test_a_bad_drawing_leaves_no_bank(tmp_path, drawing, message):
    sets = {"noto": {**SETS["noto"], 9: lambda code: drawing}}
    with pytest.raises(ValueError, match=message):
        write_bank(tmp_path / "bank.zip", sets)
    assert not [*tmp_path.iterdir()]


def test_styles_have_the_same_subjects(tmp_path):
    with pytest.raises(ValueError, match=r"'line'.*\[9\]"):
        write_bank(tmp_path / "bank.zip", {"noto": SETS["noto"], "line": {5: SETS["line"][5]}})


def test_an_unknown_style_and_a_file_that_is_no_bank(tmp_path):
    write_bank(tmp_path / "bank.zip", SETS)
    with pytest.raises(ValueError, match="it has noto, line"):
        Bank(tmp_path / "bank.zip").sprites("oil")
    (tmp_path / "text").write_text("no zip")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as other:
        other.writestr("a.txt", "A")
    for name in ("text", "other.zip"):
        with pytest.raises(ValueError, match="is not a bank"):
            Bank(tmp_path / name)


def test_transparent_pixels_lend_no_colour_when_a_drawing_is_shrunk():
    picture = np.zeros((256, 256, 4), np.uint8)
    picture[...] = (0, 255, 0, 0)  # green, but not to be seen
    picture[101:, :] = (255, 0, 0, 255)
    small = shrink(picture)
    assert small.shape == (SIZE, SIZE, 4)
    assert small[50, 0].tolist() == [255, 0, 0, 128]
    assert not small[:50, :, 3].any()
    high = shrink(np.full((264, 256, 4), 255, np.uint8))
    assert high[64, 64, 3] == 255
    assert not high[64, 0, 3]


def iconify(name, folder, bodies, **alias):
    icons = {"width": 32, "height": 32, "icons": {n: {"body": b} for n, b in bodies.items()}}
    icons["aliases"] = {n: {"parent": parent} for n, parent in alias.items()}
    chars = {"2764-fe0f": "heart", "1f534": "ball", "1f534-200d-1f534": "ball"}
    files = {"icons.json": icons, "chars.json": chars}
    return pack(folder, name, {path: json.dumps(text).encode() for path, text in files.items()})


def test_svg_drawings_fill_the_square_as_their_view_box_says(tmp_path):
    pytest.importorskip("resvg_py")
    package = iconify(
        "@set/flat",
        tmp_path,
        {
            "heart": '<path fill="#f00" d="M8 8h16v16H8z"/>',
            "round": '<circle cx="16" cy="16" r="16" fill="#00f"/>',
        },
        ball="round",
    )
    drawn = drawings._iconify(tmp_path, package)
    assert sorted(drawn) == [0x2764, 0x1F534]
    square = drawn[0x2764](0x2764)
    assert square[64, 64].tolist() == [255, 0, 0, 255]
    rows, columns = np.nonzero(square[..., 3])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (32, 95, 32, 95)
    ball = drawn[0x1F534](0x1F534)
    assert ball[64, 1].tolist() == [0, 0, 255, 255]
    assert not ball[0, 0, 3]


def test_an_alias_that_turns_its_drawing_is_refused(tmp_path):
    pytest.importorskip("resvg_py")
    icons = {"width": 32, "height": 32, "icons": {"a": {"body": "<g/>"}}}
    icons["aliases"] = {"b": {"parent": "a", "hFlip": True}}
    files = {"icons.json": json.dumps(icons).encode(), "chars.json": b'{"2764": "b"}'}
    package = pack(tmp_path, "set", files)
    with pytest.raises(ValueError, match="turns 'b'"):
        drawings._iconify(tmp_path, package)[0x2764](0x2764)


def test_glyphs_are_black_in_the_middle_and_keep_their_proportions(tmp_path, monkeypatch):
    builder = pytest.importorskip("fontTools.fontBuilder")
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    def square(x, y, side):
        pen = TTGlyphPen(None)
        pen.moveTo((x, y))
        for corner in ((x, y + side), (x + side, y + side), (x + side, y)):
            pen.lineTo(corner)
        pen.closePath()
        return pen.glyph()

    glyphs = {".notdef": square(0, 0, 10), "a": square(0, 0, 800), "b": square(500, 100, 400)}
    glyphs["c"] = square(0, -200, 1600)
    font = builder.FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder([*glyphs])
    font.setupCharacterMap({0x2600: "a", 0x2601: "b", 0x2602: "c"})
    font.setupGlyf(glyphs)
    font.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 0)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.font.flavor = "woff"
    file = io.BytesIO()
    font.save(file)
    package = pack(tmp_path, "font", {drawings._FONT_FILE: file.getvalue()})
    monkeypatch.setattr(drawings, "NOTO_LINE", package)

    drawn = drawings._glyphs(tmp_path)
    for code, side in ((0x2600, 112), (0x2601, 56), (0x2602, 112)):  # the usual, half of it, twice
        picture = drawn[code](code)
        rows, columns = np.nonzero(picture[..., 3] > 127)
        assert not picture[..., :3].any()
        for place in (rows, columns):
            assert abs(np.ptp(place) + 1 - side) <= 1
            assert abs((place.min() + place.max()) / 2 - 63.5) <= 1


def test_webp_drawings_are_found_by_their_code_points(tmp_path, monkeypatch):
    def webp(colour):
        file = io.BytesIO()
        Image.new("RGBA", (256, 256), colour).save(file, "WEBP", lossless=True)
        return file.getvalue()

    files = {"assets/2764-fe0f.webp": webp("red"), "assets/1f1e6_1f1e8.webp": webp("blue")}
    monkeypatch.setattr(drawings, "FLUENT_3D", pack(tmp_path, "3d", files))
    drawn = drawings._webps(tmp_path)
    assert sorted(drawn) == [0x2764]
    assert drawn[0x2764](0x2764)[5, 5].tolist() == [255, 0, 0, 255]
