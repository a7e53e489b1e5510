"""What a training picture shows, and what it may be called.

A `Scene` is drawings of a style at places on a ground of one or two colours: one subject, one of
some size at some place, several of a kind, or two in a relation. `random_scene` makes one of a
generator's numbers, `Scene.caption` words it, `painting.compose` paints a batch of them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from keras_sd.tokenizer import split_words
from keras_sd.training import pictures
from keras_sd.training.nouns import starts_with_vowel
from keras_sd.training.words import Subject

SIZE = 128
"""Height and width of a picture, in pixels."""

MOST = 5
"""Drawings in a picture, at most."""

COLOURS = {
    **pictures.COLOURS,
    "pink": (245, 150, 190),
    "brown": (130, 85, 55),
    "grey": (140, 140, 145),
    "light blue": (150, 205, 245),
    "dark blue": (25, 45, 110),
    "dark green": (20, 85, 50),
}
"""The grounds: name -> sRGB, 0 to 255."""

STYLES = {
    "noto": (("an emoji of", "a picture of", "a drawing of", "an emoji showing"), (", emoji",)),
    "3d": (("a 3d render of", "a 3d picture of", "a 3d emoji of"), (", 3d render", ", 3d")),
    "flat": (("a flat drawing of", "a flat icon of"), (", flat drawing", ", flat")),
    "line": (("a line drawing of", "a line icon of"), (", line drawing",)),
    "pixel": (("pixel art of", "a pixel art picture of"), (", pixel art", " in pixel art")),
    "sticker": (("a sticker of", "a sticker showing"), (", sticker",)),
}
"""Style -> what is written before a scene in it, and what after it. The first of those before is
the one that is measured. Nothing at all is `noto` too.
"""

SIZES = {
    "tiny": (26, 34),
    "small": (42, 54),
    "": (94, 110),
    "large": (112, 120),
    "huge": (124, 128),
}
"""Word -> the least and the largest side of a drawing's box, in pixels."""

PLACES = {
    (0, 0): ("in the top left corner", "at the top left"),
    (1, 0): ("at the top", "at the top in the middle"),
    (2, 0): ("in the top right corner", "at the top right"),
    (0, 1): ("on the left", "at the left edge"),
    (1, 1): ("in the middle", "in the center"),
    (2, 1): ("on the right", "at the right edge"),
    (0, 2): ("in the bottom left corner", "at the bottom left"),
    (1, 2): ("at the bottom", "at the bottom in the middle"),
    (2, 2): ("in the bottom right corner", "at the bottom right"),
}
"""(column, row) of the ninths of a picture -> what it is called."""

COUNTS = {
    "two": ((35, 64), (93, 64)),
    "three": ((64, 36), (34, 92), (94, 92)),
    "four": ((34, 34), (94, 34), (34, 94), (94, 94)),
    "five": ((30, 30), (98, 30), (64, 64), (30, 98), (98, 98)),
}
"""Number -> the middles of that many drawings, in pixels."""

COUNT_SIZES = {"two": 56, "three": 52, "four": 52, "five": 42}
"""Number -> the side of each of that many drawings, in pixels."""

RELATIONS = {
    "to the left of": ((34, 64, 58), (94, 64, 58)),
    "to the right of": ((94, 64, 58), (34, 64, 58)),
    "above": ((64, 33, 58), (64, 95, 58)),
    "below": ((64, 95, 58), (64, 33, 58)),
    "and": ((34, 64, 58), (94, 64, 58)),
    "next to": ((34, 64, 58), (94, 64, 58)),
    "in front of": ((48, 88, 62), (74, 52, 86)),
    "behind": ((74, 52, 86), (48, 88, 62)),
}
"""Words between two subjects -> middle and size, in pixels, of the first and of the second."""


@dataclass(frozen=True)
class Wordings:
    """Ways to say on which ground a scene is.

    Attributes:
        one: of one colour.
        beside: of two, the first at the left.
        above: of two, the first on top.
    """

    one: tuple[str, ...]
    beside: tuple[str, ...]
    above: tuple[str, ...]


LAST = Wordings(
    one=(
        "{scene} on {a_colour} background",
        "{scene} on {colour}",
        "{scene}, {colour} background",
        "{scene} on a background of {colour}",
    ),
    beside=(
        "{scene} on a background of {colour} and {other}",
        "{scene} on {colour} and {other}",
    ),
    above=(
        "{scene} on a background of {colour} above {other}",
        "{scene} on {colour} above {other}",
    ),
)
"""The ground comes last."""

WORDINGS = Wordings(
    one=(
        *LAST.one,
        "{scene} with {a_colour} background",
        "{scene} against {a_colour} background",
        "{scene} over {colour}",
        "{a_colour} background with {scene}",
        "{a_colour} background and {scene}",
        "on {a_colour} background, {scene}",
        "on {colour}: {scene}",
        "{colour} background, {scene}",
        "with {a_colour} background: {scene}",
    ),
    beside=(
        *LAST.beside,
        "on {colour} and {other}: {scene}",
        "{colour} and {other}, {scene}",
    ),
    above=(
        *LAST.above,
        "on {colour} above {other}: {scene}",
        "{colour} above {other}, {scene}",
    ),
)
"""All that a training has. In some the ground comes first, for a model that has only seen it last
draws something else where it does.
"""

HELD_OUT = (
    "{scene} with a background of {colour}",
    "on a background of {colour}, {scene}",
    "background {colour}, {scene}",
)
"""Wordings of known words that no caption of the training has: the measures ask with these. The
first two have an order that is known, the scene or the ground first; in the last a colour stands
where none did.
"""

DARK = frozenset({"black", "dark blue", "dark green", "purple", "brown", "blue"})
"""Grounds on which a line drawing is white."""


@dataclass(frozen=True, slots=True)
class Item:
    """One drawing: the subject's number, the middle and the side of its box, in pixels."""

    subject: int
    x: float
    y: float
    size: float


@dataclass(frozen=True, slots=True)
class Scene:
    """What a picture shows.

    Attributes:
        kind: `"one"` subject in the middle; `"placed"`, of some size or at some place; `"many"` of
            a kind; `"two"` in a relation; `"listed"`, one with hints in place of a sentence; or
            `"class"`, one that is called by a noun for several.
        style: a key of `STYLES`.
        items: the drawings; a later one hides an earlier one.
        ground: names of one or two colours.
        split: how two colours lie: `"beside"` or `"above"` (the first at the left, or on top).
        words: what the caption says of the items: a size, a place, a number or a relation.
    """

    kind: str
    style: str
    items: tuple[Item, ...]
    ground: tuple[str, ...]
    split: str = ""
    words: tuple[str, ...] = ()

    def caption(
        self,
        subjects: Sequence[Subject],
        rng: random.Random,
        wordings: Wordings | None = None,
        ground: random.Random | None = None,
    ) -> str:
        """One way to say what the scene shows.

        Args:
            subjects: all of them.
            rng: where the chance comes from.
            wordings: of the ground; None is all, or none of them where the model is to choose one.
            ground: where the chance of the ground's wording comes from; None is `rng`.
        """
        text = self._items(subjects, rng)
        before, after = STYLES[self.style]
        if self.style != "noto" or rng.random() < 0.4:
            if self.kind != "listed" and rng.random() < 0.75:
                text = f"{_first_heavy(before, rng)} {text}"
            else:
                text += rng.choice(after)
        rng, chosen = ground or rng, wordings or WORDINGS
        if len(self.ground) == 2:
            of_two = chosen.beside if self.split == "beside" else chosen.above
            return rng.choice(of_two).format(
                scene=text, colour=self.ground[0], other=self.ground[1]
            )
        if wordings is None and rng.random() < 0.08:
            return text  # the model chooses a ground
        colour = self.ground[0]
        if wordings is None and colour == "grey" and rng.random() < 0.3:
            colour = "gray"
        return on_ground(_first_heavy(chosen.one, rng), text, colour)

    def _items(self, subjects: Sequence[Subject], rng: random.Random) -> str:
        first = subjects[self.items[0].subject]
        if self.kind == "many":
            number, size = self.words
            return " ".join(word for word in (number, size, first.plural) if word)
        if self.kind == "two":
            (relation,) = self.words
            pair = [with_article(*noun(subjects[item.subject], rng), rng) for item in self.items]
            if relation == "behind":
                # The one that is hidden lies first in `items`, as it is named first.
                return f"{pair[0]} behind {pair[1]}"
            if relation == "in front of":
                return f"{pair[1]} in front of {pair[0]}"
            return f"{pair[0]} {relation} {pair[1]}"
        if self.kind == "listed":
            hints = list(first.hints)
            rng.shuffle(hints)
            return ", ".join([first.name, *hints[:2]])
        if self.kind == "class":
            return with_article(rng.choice(first.classes), "a", rng)
        name, article = noun(first, rng)
        if self.kind == "one":
            return with_article(name, article, rng)
        size, place = self.words
        text = with_article(f"{size} {name}".strip(), article and "a", rng)
        return f"{text} {place}".strip()


def on_ground(wording: str, scene: str, colour: str) -> str:
    """A scene's words with those of its ground, in one of the wordings above."""
    return wording.format(scene=scene, colour=colour, a_colour=with_article(colour, "a"))


def noun(subject: Subject, rng: random.Random) -> tuple[str, str]:
    """A word for a subject and its article, `"a"` where it takes one."""
    kind = rng.random()
    if kind > 0.8 and subject.synonyms:
        name = rng.choice(subject.synonyms)
        return name, "" if name.endswith("s") and not name.endswith("ss") else "a"
    if kind > 0.65 and subject.names:
        return rng.choice(subject.names), subject.article and "a"
    return subject.name, subject.article and "a"


def with_article(name: str, article: str, rng: random.Random | None = None) -> str:
    """The name with a fitting article: "a cat", "an octopus", "french fries"."""
    if not article:
        return name
    if rng is not None and rng.random() < 0.12:
        return f"the {name}" if rng.random() < 0.5 else name
    return f"{'an' if starts_with_vowel(name) else 'a'} {name}"


def _first_heavy(wordings: Sequence[str], rng: random.Random) -> str:
    """The first of the wordings in two fifths of the cases, any of them in the rest."""
    return wordings[0] if rng.random() < 0.4 else rng.choice(wordings)


@dataclass(frozen=True)
class Mix:
    """How often random scenes are of each kind, and in each style: weights of any sum.

    Attributes:
        kinds: by `Scene.kind`.
        single: by style, of one subject in the middle.
        other: by style, of all other scenes; the other styles have none.
    """

    kinds: Mapping[str, float] = field(
        default_factory=lambda: {
            **{"one": 62, "placed": 13, "many": 5, "two": 15, "listed": 3, "class": 2}
        }
    )
    single: Mapping[str, float] = field(
        default_factory=lambda: {
            **{"noto": 48, "3d": 15, "flat": 13, "line": 12, "pixel": 6, "sticker": 6}
        }
    )
    other: Mapping[str, float] = field(
        default_factory=lambda: {"noto": 76, "3d": 10, "flat": 8, "line": 6}
    )


USUAL = Mix()


def random_scene(subjects: Sequence[Subject], rng: random.Random, mix: Mix = USUAL) -> Scene:
    """A scene as a training run sees them.

    Args:
        subjects: all of them.
        rng: where the chance comes from.
        mix: how often each kind and style comes.
    """
    kind = _one_of(mix.kinds, rng)
    style = _one_of(mix.single if kind == "one" else mix.other, rng)
    number = rng.randrange(len(subjects))
    if kind == "class" and not subjects[number].classes:
        kind = "one"
    if kind == "listed" and not subjects[number].hints:
        kind = "one"
    words: tuple[str, ...] = ()
    if kind == "placed":
        items, words = _placed(number, rng)
    elif kind == "many":
        items, words = _many(number, rng)
    elif kind == "two":
        items, words = _two(number, rng.randrange(len(subjects)), rng)
    else:
        items = (_one(number, rng),)
    ground, split = _ground(rng)
    return Scene(kind, style, items, ground, split, words)


def _one_of(weights: Mapping[str, float], rng: random.Random) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


def _jitter(rng: random.Random, most: float) -> float:
    return rng.uniform(-most, most)


def _one(number: int, rng: random.Random) -> Item:
    size = rng.uniform(*SIZES[""])
    return Item(number, 64 + _jitter(rng, 4), 64 + _jitter(rng, 4), size)


def _placed(number: int, rng: random.Random) -> tuple[tuple[Item, ...], tuple[str, ...]]:
    """A size, a place, or both; of the place alone the size is that of a small one."""
    if rng.random() < 0.35:
        word = rng.choice([word for word in SIZES if word])
        size = rng.uniform(*SIZES[word])
        slack = min(4.0, (SIZE - size) / 2)
        item = Item(number, 64 + _jitter(rng, slack), 64 + _jitter(rng, slack), size)
        return (item,), (word, "")
    word = rng.choice(("", "", "small", "tiny"))
    size = rng.uniform(*SIZES[word or "small"])
    ninth, wordings = rng.choice(list(PLACES.items()))
    x, y = middle_of(ninth, size)
    slack = 3.0
    x, y = (max(size / 2, min(SIZE - size / 2, each + _jitter(rng, slack))) for each in (x, y))
    return (Item(number, x, y, size),), (word, rng.choice(wordings))


def middle_of(ninth: tuple[int, int], size: float) -> tuple[float, float]:
    """Where the middle of a drawing of this size lies: in the middle of the ninth, or nearer to
    that of the picture where it would stick out.
    """
    x, y = (max(size / 2, min(SIZE - size / 2, SIZE * (2 * i + 1) / 6)) for i in ninth)
    return x, y


def _many(number: int, rng: random.Random) -> tuple[tuple[Item, ...], tuple[str, ...]]:
    count = rng.choices(list(COUNTS), (4, 4, 2, 1))[0]
    word = rng.choice(("", "", "", "small"))
    size = (34 if word else COUNT_SIZES[count]) * rng.uniform(0.95, 1.05)
    dx, dy = _jitter(rng, 2), _jitter(rng, 2)
    return tuple(Item(number, x + dx, y + dy, size) for x, y in COUNTS[count]), (count, word)


def _two(first: int, second: int, rng: random.Random) -> tuple[tuple[Item, ...], tuple[str, ...]]:
    relation = rng.choices(list(RELATIONS), (3, 2, 3, 2, 3, 1, 1, 1))[0]
    return arranged(first, second, relation, rng), (relation,)


def arranged(
    first: int, second: int, relation: str, rng: random.Random | None = None
) -> tuple[Item, ...]:
    """Two subjects in a relation; of those that overlap, the hidden one comes first."""
    items = []
    for number, (x, y, size) in zip((first, second), RELATIONS[relation], strict=True):
        dx, dy = (0.0, 0.0) if rng is None else (_jitter(rng, 2), _jitter(rng, 2))
        scale = 1.0 if rng is None else rng.uniform(0.96, 1.04)
        items.append(Item(number, x + dx, y + dy, size * scale))
    return tuple(reversed(items)) if relation == "in front of" else tuple(items)


def _ground(rng: random.Random) -> tuple[tuple[str, ...], str]:
    names = list(COLOURS)
    if rng.random() < 0.1:
        return tuple(rng.sample(names, 2)), rng.choice(("beside", "above"))
    return (rng.choice(names),), ""


def known_words(subjects: Sequence[Subject]) -> list[str]:
    """Every word that a caption may have, as `split_words` makes them, sorted: "3d" is two."""
    texts = [*COLOURS, "gray", *SIZES, *RELATIONS, *COUNTS, "a an the"]
    texts += [wording for pair in STYLES.values() for side in pair for wording in side]
    texts += [wording for pair in PLACES.values() for wording in pair]
    texts += [on_ground(wording, "", "") for wording in WORDINGS.one]
    texts += [
        text.format(scene="", colour="", other="") for text in (*WORDINGS.beside, *WORDINGS.above)
    ]
    for subject in subjects:
        texts += [subject.name, subject.plural, *subject.names, *subject.synonyms]
        texts += [*subject.classes, *subject.hints]
    words = {word for text in texts for word in split_words(text)}
    return sorted(word for word in words if word.isalnum())


_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def strange(text: str, rng: random.Random) -> str:
    """A caption, one in sixteen with a made-up word, so that unknown words do no harm later."""
    if rng.random() > 1 / 16:
        return text
    word = "".join(rng.choice(_LETTERS) for _ in range(rng.randrange(2, 9)))
    pieces = text.split()
    pieces.insert(rng.randrange(len(pieces) + 1), word)
    return " ".join(pieces)
