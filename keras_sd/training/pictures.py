"""The embedded model's training pictures: emoji of a colour font on plain backgrounds.

Subjects are drawn from Noto Color Emoji (SIL Open Font License 1.1) at the font's own size, made
smaller, and laid on one of eight colours. A caption is the character's Unicode name and the
colour's. Everything is a function of (seed, index), so a training run can be repeated and resumed.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from pathlib import Path

import numpy as np

SIZE = 64
"""Height and width of a picture, in pixels."""

CODEPOINTS = (
    *range(0x1F400, 0x1F440),  # animals
    *range(0x1F345, 0x1F365),  # fruit and food
    0x1F680,  # rocket
    0x1F344,  # mushroom
    0x1F335,  # cactus
    0x1F33B,  # sunflower
    0x1F31E,  # sun with face
    0x1F697,  # automobile
    0x1F916,  # robot face
    0x1F47B,  # ghost
)

SUBJECTS = {unicodedata.name(chr(code)).lower(): chr(code) for code in CODEPOINTS}
"""What the model can draw: Unicode name in lower case -> character."""

COLOURS = {
    "red": (214, 48, 49),
    "orange": (240, 140, 40),
    "yellow": (248, 214, 60),
    "green": (60, 160, 80),
    "blue": (50, 110, 210),
    "purple": (140, 70, 180),
    "white": (245, 245, 245),
    "black": (25, 25, 28),
}
"""The backgrounds: name -> sRGB, 0 to 255."""

HEIGHTS = (50, 52, 54)
"""Pixels that the font's whole box may be high in a picture."""

SHIFT = 2
"""Pixels that a subject may be off the centre, each way."""

FONT_PLACES = (
    "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/noto/NotoColorEmoji.ttf",
    "/usr/share/fonts/google-noto-emoji/NotoColorEmoji.ttf",
)
_FONT_PIXELS = 109  # the only size in the font: it holds bitmaps
_STRIKE = (136, 128)


def find_font(path: str | Path | None = None) -> Path:
    """The font file: `path`, or where Linux distributions put it.

    Raises:
        FileNotFoundError: it is not there; the message says what to install.
    """
    places = [Path(path)] if path is not None else [Path(place) for place in FONT_PLACES]
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(
        f"No Noto Color Emoji font at {', '.join(map(str, places))}. Install it (Debian, Ubuntu: "
        "apt-get install fonts-noto-color-emoji) or give the path of NotoColorEmoji.ttf."
    )


class Pictures:
    """Draws subjects on colours.

    Args:
        font: path of NotoColorEmoji.ttf; None looks in the usual places.
    """

    def __init__(self, font: str | Path | None = None):
        from PIL import ImageFont

        self._font = ImageFont.truetype(str(find_font(font)), _FONT_PIXELS)
        self._cut = cache(self._cut_out)

    def _cut_out(self, subject: str, height: int) -> np.ndarray:
        """The subject alone: premultiplied RGB and alpha, float32 in [0, 1]."""
        from PIL import Image, ImageDraw

        strike = Image.new("RGBA", _STRIKE, (0, 0, 0, 0))
        ImageDraw.Draw(strike).text((0, 0), SUBJECTS[subject], font=self._font, embedded_color=True)
        pixels = np.asarray(strike, np.float32) / 255
        pixels[..., :3] *= pixels[..., 3:]
        width = round(_STRIKE[0] * height / _STRIKE[1])
        planes = [
            np.asarray(
                Image.fromarray(pixels[..., i]).resize((width, height), Image.Resampling.BOX)
            )
            for i in range(4)
        ]
        return np.stack(planes, axis=-1)

    def draw(
        self, subject: str, colour: str, dx: int = 0, dy: int = 0, height: int = 52
    ) -> np.ndarray:
        """One picture, `(64, 64, 3)` float32 in [-1, 1].

        Args:
            subject: a key of `SUBJECTS`.
            colour: a key of `COLOURS`.
            dx: pixels to the right of the centre.
            dy: pixels below the centre.
            height: of the font's whole box, in pixels.
        """
        cut = self._cut(subject, height)
        picture = np.empty((SIZE, SIZE, 3), np.float32)
        picture[:] = np.asarray(COLOURS[colour], np.float32) / 255
        top = (SIZE - cut.shape[0]) // 2 + dy
        left = (SIZE - cut.shape[1]) // 2 + dx
        place = picture[top : top + cut.shape[0], left : left + cut.shape[1]]
        place *= 1 - cut[..., 3:]
        place += cut[..., :3]
        return picture * 2 - 1

    def random(self, rng: np.random.Generator) -> tuple[np.ndarray, str, str]:
        """A picture, its subject and its colour; size and place vary a little."""
        subject = list(SUBJECTS)[rng.integers(len(SUBJECTS))]
        colour = list(COLOURS)[rng.integers(len(COLOURS))]
        dx, dy = rng.integers(-SHIFT, SHIFT + 1, 2)
        height = HEIGHTS[rng.integers(len(HEIGHTS))]
        return self.draw(subject, colour, int(dx), int(dy), height), subject, colour


WORDINGS = (
    "a {subject} on a {colour} background",
    "{article} {subject} on a {colour} background",
    "{article} {subject} on {colour}",
    "{subject} on {colour}",
    "{subject} on a {colour} background",
    "{subject}, {colour} background",
    "the {subject} in front of a {colour} background",
    "a {colour} background with {article} {subject}",
    "a picture of {article} {subject} on a {colour} background",
    "an emoji of {article} {subject} on {colour}",
)
"""How a caption may be worded; the first is the one that is measured."""

PLAIN = ("{subject}", "{article} {subject}")
"""Wordings without a colour: the model chooses one."""


def caption(subject: str, colour: str, rng: np.random.Generator | None = None) -> str:
    """A caption: the first wording, or with `rng` any of them."""
    if rng is None:
        wording = WORDINGS[0]
    else:
        kind = rng.random()
        choices = WORDINGS[:1] if kind < 0.4 else WORDINGS[1:] if kind < 0.92 else PLAIN
        wording = choices[rng.integers(len(choices))]
    article = "an" if subject[0] in "aeiou" else "a"
    return wording.format(subject=subject, colour=colour, article=article)


def known_words() -> list[str]:
    """Every word of the captions, sorted."""
    text = " ".join(
        [
            *SUBJECTS,
            *COLOURS,
            *(word.format(subject="", colour="", article="a an") for word in (*WORDINGS, *PLAIN)),
        ]
    )
    return sorted(set(text.replace(",", " ").replace("-", " ").split()))
