"""A bank of drawings: the same subjects drawn in several styles, cut out, 128 pixels square.

The drawings come from four sets with clean licences (`packages.py`), which share Unicode code
points. `make_bank` renders them once into a zip file of WebP pictures; `Bank` reads that file.
A drawing is RGBA with straight alpha and fills the square as its own set has it; the line
drawings are black ink, which a scene may tint.
"""

from __future__ import annotations

import io
import json
import re
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from keras_sd.training.packages import FLUENT_3D, FLUENT_FLAT, NOTO, NOTO_LINE, Package

SIZE = 128
"""Height and width of a drawing, in pixels."""

LINE_SIDE = 112
"""Larger side of a usual line drawing, in pixels."""

STYLES: Mapping[str, Package] = {
    "noto": NOTO,
    "3d": FLUENT_3D,
    "flat": FLUENT_FLAT,
    "line": NOTO_LINE,
}
"""The styles in their order -> the package of the drawings."""

_SKIN_TONES = range(0x1F3FB, 0x1F400)
_QUALITY = 90
_FONT_FILE = "files/noto-emoji-emoji-400-normal.woff"  # the slice that holds every emoji
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same drawings make the same file

Draw = Callable[[int], np.ndarray]


def make_bank(packages: Path, out: Path) -> None:
    """Draw every subject that all styles have, and write the bank.

    Args:
        packages: folder of the `.tgz` files that `npm pack` fetched.
        out: the zip file to write; it appears only when it is whole.

    Raises:
        FileNotFoundError: a package is not there; the message says how to fetch it.
        ImportError: what draws is not installed (`pip install keras-sd[train]`).
        ValueError: a package is not the pinned one, or a drawing is empty.
    """
    openers: dict[str, Callable[[Path], dict[int, Draw]]] = {
        "noto": lambda folder: _iconify(folder, NOTO),
        "3d": _webps,
        "flat": lambda folder: _iconify(folder, FLUENT_FLAT),
        "line": _glyphs,
    }
    sets = {style: openers[style](Path(packages)) for style in STYLES}
    codes = sorted(set.intersection(*(set(drawn) for drawn in sets.values())) - {*_SKIN_TONES})
    write_bank(out, {style: {c: sets[style][c] for c in codes} for style in STYLES})


def write_bank(out: Path, sets: Mapping[str, Mapping[int, Draw]]) -> None:
    """Write a bank of any drawings.

    Args:
        out: the zip file.
        sets: style -> code point -> a function of the code point that gives `(128, 128, 4)`
            uint8. Every style has the same code points.

    Raises:
        ValueError: the styles differ in their subjects, or a drawing is empty or of another size.
    """
    codes = sorted(next(iter(sets.values())))
    for style, drawn in sets.items():
        if sorted(drawn) != codes:
            odd = sorted(set(drawn) ^ set(codes))
            raise ValueError(f"The style {style!r} has not the subjects of the first: {odd[:9]}.")
    about = {
        "size": SIZE,
        "styles": list(sets),
        "codes": codes,
        "packages": {
            style: {
                "name": STYLES[style].name,
                "version": STYLES[style].version,
                "sha256": STYLES[style].sha256,
                "licence": STYLES[style].licence,
                "holder": STYLES[style].holder,
            }
            for style in sets
            if style in STYLES
        },
    }
    out = Path(out)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        whole = Path(folder) / out.name
        with zipfile.ZipFile(whole, "w") as bank:
            _put(bank, "bank.json", json.dumps(about, indent=1).encode())
            for style, drawn in sets.items():
                for code in codes:
                    picture = drawn[code](code)
                    if picture.shape != (SIZE, SIZE, 4) or picture.dtype != np.uint8:
                        raise ValueError(
                            f"The drawing {style}/{code:x} is {picture.shape} {picture.dtype}; "
                            f"it has to be {(SIZE, SIZE, 4)} uint8."
                        )
                    if not picture[..., 3].any():
                        raise ValueError(f"The drawing {style}/{code:x} is empty.")
                    _put(bank, f"{style}/{code:x}.webp", _encode(picture, style == "line"))
        whole.replace(out)


class Bank:
    """The drawings of a file that `make_bank` wrote.

    Args:
        path: the zip file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a bank.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            with zipfile.ZipFile(self.path) as bank:
                self.about: dict[str, Any] = json.loads(bank.read("bank.json"))
        except (zipfile.BadZipFile, KeyError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not a bank of drawings: {error}.") from error
        self.styles: tuple[str, ...] = tuple(self.about["styles"])
        self.codes: tuple[int, ...] = tuple(self.about["codes"])

    def sprites(self, style: str) -> np.ndarray:
        """All drawings of a style, in the order of `codes`.

        Args:
            style: one of `styles`.

        Returns:
            `(n, 128, 128, 4)` uint8: sRGB and straight alpha.

        Raises:
            ValueError: the bank has no such style.
        """
        from PIL import Image

        if style not in self.styles:
            raise ValueError(f"No style {style!r} in {self.path}; it has {', '.join(self.styles)}.")
        sprites = np.empty((len(self.codes), SIZE, SIZE, 4), np.uint8)
        with zipfile.ZipFile(self.path) as bank:
            for i, code in enumerate(self.codes):
                with Image.open(io.BytesIO(bank.read(f"{style}/{code:x}.webp"))) as picture:
                    sprites[i] = np.asarray(picture.convert("RGBA"))
        return sprites


def _put(bank: zipfile.ZipFile, name: str, content: bytes) -> None:
    bank.writestr(zipfile.ZipInfo(name, _EPOCH), content)


def _encode(picture: np.ndarray, lossless: bool) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(
        file, "WEBP", lossless=lossless, quality=_QUALITY, alpha_quality=100, method=4
    )
    return file.getvalue()


def _single(name: str) -> int | None:
    """The code point of a name such as "2764-fe0f", or None for a sequence of several."""
    code = name.lower().replace("-fe0f", "")
    return int(code, 16) if re.fullmatch(r"[0-9a-f]+", code) else None


def _iconify(folder: Path, package: Package) -> dict[int, Draw]:
    """The drawings of an IconifyJSON package: bodies of SVG files with one view box."""
    import resvg_py
    from PIL import Image

    files = package.read(folder, "icons.json", "chars.json")
    icons, chars = json.loads(files["icons.json"]), json.loads(files["chars.json"])
    names = {code: name for key, name in chars.items() if (code := _single(key)) is not None}

    def draw(code: int) -> np.ndarray:
        name = names[code]
        while name not in icons["icons"]:  # another name of the same drawing
            alias = icons["aliases"][name]
            if set(alias) & {"rotate", "hFlip", "vFlip"}:
                raise ValueError(f"{package.name} turns {name!r}; drawings are taken as they are.")
            name = alias["parent"]
        icon = {"width": icons["width"], "height": icons["height"], **icons["icons"][name]}
        box = f"{icon.get('left', 0)} {icon.get('top', 0)} {icon['width']} {icon['height']}"
        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'width="{SIZE}" height="{SIZE}" viewBox="{box}">{icon["body"]}</svg>'
        )
        png = bytes(resvg_py.svg_to_bytes(svg_string=svg))
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))

    return dict.fromkeys(names, draw)


def _webps(folder: Path) -> dict[int, Draw]:
    """The drawings of Fluent 3D: WebP files, all but one of twice our size."""
    from PIL import Image

    files = {
        code: content
        for path, content in FLUENT_3D.read(folder, "assets/").items()
        if (code := _single(Path(path).stem)) is not None
    }

    def draw(code: int) -> np.ndarray:
        return shrink(np.asarray(Image.open(io.BytesIO(files[code])).convert("RGBA")))

    return dict.fromkeys(files, draw)


def _glyphs(folder: Path) -> dict[int, Draw]:
    """The glyphs of Noto Emoji, black, in the middle of the square.

    One scale serves all, so that a small square stays smaller than a large one; a glyph that is
    wider or higher than most is made smaller.
    """
    from fontTools.pens.boundsPen import BoundsPen
    from fontTools.ttLib import TTFont
    from PIL import Image, ImageDraw, ImageFont

    font = TTFont(io.BytesIO(NOTO_LINE.read(folder, _FONT_FILE)[_FONT_FILE]))
    glyphs = font.getGlyphSet()
    em = font["head"].unitsPerEm
    boxes: dict[int, tuple[float, float, float, float]] = {}
    for code, name in font.getBestCmap().items():
        pen = BoundsPen(glyphs)
        glyphs[name].draw(pen)
        if pen.bounds is not None:  # a space has no outline
            boxes[code] = pen.bounds
    font.flavor = None  # FreeType reads it without the wrapping
    plain = io.BytesIO()
    font.save(plain)

    @cache
    def sized(pixels: int) -> ImageFont.FreeTypeFont:
        return ImageFont.truetype(
            io.BytesIO(plain.getvalue()), pixels, layout_engine=ImageFont.Layout.BASIC
        )

    n = 4  # drawn so many times larger
    sides = {code: max(right - x, top - y) for code, (x, y, right, top) in boxes.items()}
    usual = float(np.median([*sides.values()]))

    def draw(code: int) -> np.ndarray:
        pixels = round(n * LINE_SIDE * em / max(usual, sides[code]))
        left, bottom, right, top = (edge * pixels / em for edge in boxes[code])
        canvas = Image.new("L", (n * SIZE, n * SIZE))
        origin = (
            round((n * SIZE - left - right) / 2),
            round((n * SIZE + bottom + top) / 2),
        )
        ImageDraw.Draw(canvas).text(origin, chr(code), 255, sized(pixels), anchor="ls")
        picture = np.zeros((SIZE, SIZE, 4), np.uint8)
        picture[..., 3] = np.asarray(canvas.reduce(n))
        return picture

    return dict.fromkeys(boxes, draw)


def shrink(picture: np.ndarray) -> np.ndarray:
    """Make an RGBA picture `SIZE` pixels square; transparent pixels lend no colour to others.

    Args:
        picture: `(h, w, 4)` uint8 with straight alpha. One that is not square is laid in the
            middle of a square of its larger side.

    Returns:
        `(128, 128, 4)` uint8 with straight alpha.
    """
    from PIL import Image

    height, width = picture.shape[:2]
    side = max(height, width)
    pixels = np.zeros((side, side, 4), np.float32)
    top, left = (side - height) // 2, (side - width) // 2
    pixels[top : top + height, left : left + width] = picture
    pixels[..., :3] *= pixels[..., 3:] / 255
    planes = [
        np.asarray(Image.fromarray(pixels[..., i]).resize((SIZE, SIZE), Image.Resampling.BOX))
        for i in range(4)
    ]
    pixels = np.stack(planes, axis=-1)
    pixels[..., :3] *= 255 / np.maximum(pixels[..., 3:], 1e-3)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
