"""How well a trained model draws, in wordings that it was not trained with; sheets to look at."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from keras_sd import image
from keras_sd.files import replace_file
from keras_sd.training import judging, painting, scenes
from keras_sd.training.words import Subject
from recipes.emoji.log import passed, say

BATCH = 64
"""Pictures that are painted at a time."""

GROUND_OF = dict(
    zip(scenes.STYLES, ("light blue", "green", "pink", "white", "grey", "blue"), strict=True)
)
"""Style -> the ground on which it is asked for."""

# A picture is the subject's whose rendering is nearest, in one of these sizes and places.
_VARIANTS = [(size, x, y) for size in (98, 106) for x in (-3, 0, 3) for y in (-3, 0, 3)]
_PLACED = ("noto", "3d", "flat", "line")  # styles that have scenes with places and relations
_RELATIONS = ("to the left of", "to the right of", "above", "below")


class Sheets:
    """Pages of small pictures, in one file that is written anew with each."""

    def __init__(self, path: Path):
        self.path = path
        self._pages: dict[str, bytes] = {}

    def add(self, name: str, pictures: np.ndarray) -> None:
        """A page of pictures in [-1, 1], in a square of rows."""
        self._pages[name] = _webp(image.sheet(pictures, math.ceil(math.sqrt(len(pictures)))))
        replace_file(self.path, self._write)

    def _write(self, path: Path) -> None:
        with zipfile.ZipFile(path, "w") as file:
            for name, page in self._pages.items():
                file.writestr(f"{name}.webp", page)


def _webp(page: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    pixels = np.uint8(np.clip(page * 127.5 + 128, 0, 255))
    Image.fromarray(pixels).save(file, "webp", quality=72)
    return file.getvalue()


@dataclass
class Examiner:
    """Asks a model for pictures, and judges them.

    Args:
        subjects: all of them.
        sprites: the bank of drawings, on the device.
        paint: prompts, at most `BATCH` -> pictures `(n, SIZE, SIZE, 3)`.
        sheets: get the pictures.
        count: ask for the first so many subjects.
    """

    subjects: Sequence[Subject]
    sprites: jax.Array
    paint: Callable[[list[str]], np.ndarray]
    sheets: Sheets
    count: int
    _compose: Callable = field(default_factory=lambda: jax.jit(painting.compose))

    def measure(self, end: float) -> dict[str, dict[str, float]]:
        """The shares of pictures that are right, by style; as many styles as there is time for.

        Args:
            end: seconds since the run began at which no other style is begun.
        """
        found: dict[str, dict[str, float]] = {}
        for style in scenes.STYLES:
            if passed() > end:
                say("no time for more")
                break
            found[style] = self._subjects(style)
            if style in _PLACED:
                found[style] |= {"place": self._places(style), "relation": self._relations(style)}
            say(
                f"{style}: "
                + ", ".join(f"{name} {part:.1%}" for name, part in found[style].items())
            )
        return found

    def _asked(self, prompts: list[str]) -> np.ndarray:
        made = [self.paint(prompts[at : at + BATCH]) for at in range(0, len(prompts), BATCH)]
        return np.concatenate(made)

    def _rendered(self, shown: list[scenes.Scene]) -> np.ndarray:
        """What training pictures of these scenes look like."""
        laid = painting.layout(shown, list(scenes.STYLES), len(self.subjects))
        made = []
        for at in range(0, len(shown), BATCH):
            part = {name: each[at : at + BATCH] for name, each in laid.items()}
            lacking = BATCH - len(part["split"])  # one size is compiled once
            part = {n: np.concatenate([v, np.repeat(v[-1:], lacking, 0)]) for n, v in part.items()}
            made.append(np.asarray(self._compose(self.sprites, **part)))
        return np.concatenate(made)[: len(shown)]

    def _words(self, style: str, number: int) -> str:
        subject = self.subjects[number]
        before = scenes.STYLES[style][0][0]
        return f"{before} {scenes.with_article(subject.name, subject.article)}"

    def _subjects(self, style: str) -> dict[str, float]:
        """Every subject in one of the wordings, in turn; in the first style, also all of them in
        the wording that the training has most.
        """
        ground, numbers = GROUND_OF[style], range(self.count)
        turn = np.arange(self.count) % len(scenes.HELD_OUT)
        said = [scenes.HELD_OUT[turn[i]] for i in numbers]
        if style == "noto":
            said += [scenes.GROUNDS[0]] * self.count
        pictures = self._asked(
            [
                scenes.on_ground(wording, self._words(style, i % self.count), ground)
                for i, wording in enumerate(said)
            ]
        )
        order = self._nearest(pictures, style, ground)
        truth = np.arange(len(pictures))[:, None] % self.count
        first, five = order[:, 0] == truth[:, 0], (order[:, :5] == truth).any(1)
        held = slice(self.count)
        right = np.array([name == ground for name in judging.colours(pictures[held])])
        found = {"right": first[held].mean(), "among five": five[held].mean()}
        for k, wording in enumerate(scenes.HELD_OUT):
            asked = scenes.on_ground(wording, "x", ground)
            found[f"right in {asked!r}"] = first[held][turn == k].mean()
        if style == "noto":
            found["right in a known wording"] = first[self.count :].mean()
        found["ground"] = right.mean()
        shown = pictures[held] if style == "noto" else pictures[held][:: max(1, self.count // 256)]
        self.sheets.add(style, shown)
        return {name: float(part) for name, part in found.items()}

    def _nearest(self, pictures: np.ndarray, style: str, ground: str) -> np.ndarray:
        """The subjects of each picture, the nearest first: `(n, count)`."""
        vectors = _small(pictures)
        best = np.full((len(pictures), self.count), np.inf, np.float32)
        for size, dx, dy in _VARIANTS:
            candidates = _small(
                self._rendered(
                    [
                        scenes.Scene(
                            "one", style, (scenes.Item(i, 64 + dx, 64 + dy, size),), (ground,)
                        )
                        for i in range(self.count)
                    ]
                )
            )
            # |a - b|^2 without |a|^2, which is the same for every candidate.
            distance = jnp.sum(jnp.square(candidates), 1)[None] - 2 * vectors @ candidates.T
            best = np.minimum(best, np.asarray(distance))
        return best.argsort(1)

    def _places(self, style: str) -> float:
        """Small subjects in each ninth of the picture."""
        places, prompts = [], []
        for k in range(BATCH - BATCH % len(scenes.PLACES)):
            place = list(scenes.PLACES)[k % len(scenes.PLACES)]
            subject = self.subjects[self._spread(k)]
            before = scenes.STYLES[style][0][0]
            name = scenes.with_article(f"small {subject.name}", subject.article and "a")
            text = f"{before} {name} {scenes.PLACES[place][0]}"
            places.append(place)
            wording = scenes.HELD_OUT[k % len(scenes.HELD_OUT)]
            prompts.append(scenes.on_ground(wording, text, GROUND_OF[style]))
        pictures = self._asked(prompts)
        self.sheets.add(f"{style}-places", pictures)
        seen = judging.ninths(pictures)
        return float(np.mean([a == b for a, b in zip(seen, places, strict=True)]))

    def _relations(self, style: str) -> float:
        """Two subjects beside or above each other."""
        ground, prompts = GROUND_OF[style], []
        wanted, swapped = [], []
        for k in range(BATCH):
            one, two = self._spread(k), self._spread(k + BATCH // 2 + 1)
            relation = _RELATIONS[k % len(_RELATIONS)]
            other = self.subjects[two]
            name = scenes.with_article(other.name, other.article)
            text = f"{self._words(style, one)} {relation} {name}"
            wording = scenes.HELD_OUT[k % len(scenes.HELD_OUT)]
            prompts.append(scenes.on_ground(wording, text, ground))
            for pair, into in (((one, two), wanted), ((two, one), swapped)):
                items = scenes.arranged(*pair, relation)
                into.append(scenes.Scene("two", style, items, (ground,), "", (relation,)))
        pictures = self._asked(prompts)
        self.sheets.add(f"{style}-relations", pictures)
        right = judging.in_order(pictures, self._rendered(wanted), self._rendered(swapped))
        return float(right.mean())

    def _spread(self, k: int) -> int:
        """The number of a subject: `BATCH` of them lie evenly among all."""
        return k % BATCH * self.count // BATCH


@jax.jit
def _shrunk(x):
    return jax.image.resize(x, (x.shape[0], 32, 32, 3), "linear").reshape(x.shape[0], -1)


def _small(pictures: np.ndarray) -> jax.Array:
    return _shrunk(jnp.asarray(pictures))
