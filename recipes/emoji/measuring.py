"""How well a model draws, in wordings that it was not trained with; sheets to look at.

On any backend: a training measures with it at its end, `measure.py` any preset.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from keras_sd import image
from keras_sd.backend import to_numpy
from keras_sd.files import replace_file
from keras_sd.training import judging, painting, scenes
from keras_sd.training.scenes import Scene
from keras_sd.training.words import Subject
from recipes.emoji.asking import Question, Questions
from recipes.emoji.features import Features
from recipes.emoji.log import passed, say
from recipes.emoji.matching import WHOLE, Matcher, square, view_of

BATCH = 64
"""Pictures that are asked for at a time, at most."""

Share = tuple[int, int]
"""How many are right, of how many."""

VIEWS = {"placed": view_of(48), "two": view_of(58), "many": view_of(52)}
"""Kind of scene -> what is looked for at each of its places."""

_AXES = (((34, 64), (94, 64)), ((64, 33), (64, 95)))  # the middles of pairs, beside and above
_PLACED = ("noto", "3d", "flat", "line")  # styles that have scenes with places and relations


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
        sprites: the bank of drawings, as `painting.compose` takes it.
        paint: prompts, at most `BATCH`, and the number of the first -> pictures in [-1, 1],
            `(n, SIZE, SIZE, 3)`.
        sheets: get the pictures.
        count: the first so many subjects are asked for, and looked for.
        features: the second measure of scenes, where it is wanted.
        compose: `painting.compose`, or the same compiled.
    """

    subjects: Sequence[Subject]
    sprites: Any
    paint: Callable[[list[str], int], np.ndarray]
    sheets: Sheets
    count: int
    features: Features | None = None
    compose: Callable = painting.compose
    _known: dict[tuple, np.ndarray] = field(default_factory=dict)

    def measure(self, end: float) -> dict[str, dict[str, Share]]:
        """What a training measures, all subjects in as many styles as there is time for.

        Args:
            end: seconds since the run began at which nothing else is begun.
        """
        questions = Questions(self.subjects)
        found: dict[str, dict[str, Share]] = {}
        for style in scenes.STYLES:
            asked = {style: questions.ones(style, range(self.count))}
            if style in _PLACED:
                asked |= self.scenes_of(style, questions, range(self.count), BATCH)
            for name, each in asked.items():
                if passed() > end:
                    say("no time for more")
                    return found
                found[name] = self.answers(name, each)
        return found

    def scenes_of(
        self, style: str, questions: Questions, numbers: Sequence[int], most: int
    ) -> dict[str, list[Question]]:
        """Name -> questions for places, pairs and numbers.

        Args:
            style: of the pictures.
            questions: makes them.
            numbers: of the subjects to choose from, which is done evenly.
            most: so many of each, two and three together, or a few less.
        """
        spread = [numbers[k * len(numbers) // most] for k in range(most)]
        turned = spread[most // 2 + 1 :] + spread[: most // 2 + 1]
        asked = {
            f"{style}, places": questions.places(style, spread[: most - most % len(scenes.PLACES)]),
            f"{style}, pairs": questions.pairs(style, list(zip(spread, turned, strict=True))),
        }
        for number in ("two", "three"):
            # Of the subjects whose own drawings can be counted, which not all can.
            each = self._countable(questions.several(style, number, spread))
            wanted = min(most // 2, len(each))
            asked[f"{style}, {number}"] = [each[k * len(each) // wanted] for k in range(wanted)]
        return asked

    def answers(
        self,
        name: str,
        questions: Sequence[Question],
        paint: Callable[[list[str], int], np.ndarray] | None = None,
    ) -> dict[str, Share]:
        """Asks questions, all of one style and one kind, and counts what is right.

        Args:
            name: of the page of their pictures.
            questions: what to ask.
            paint: in place of the examiner's own.
        """
        paint = paint or self.paint
        prompts = [question.prompt for question in questions]
        made = [paint(prompts[at : at + BATCH], at) for at in range(0, len(prompts), BATCH)]
        pictures = np.concatenate(made)
        self.sheets.add(name, pictures)
        verdicts = self.judge(pictures, [question.scene for question in questions])
        found = {
            what: (int(np.nansum(each)), int(np.isfinite(each).sum()))
            for what, each in verdicts.items()
        }
        parts = (f"{what} {right} of {of}" for what, (right, of) in found.items())
        say(f"{name}: {', '.join(parts)}")
        return found

    def judge(self, pictures: np.ndarray, shown: Sequence[Scene]) -> dict[str, np.ndarray]:
        """What is right of each picture: name -> float `(n,)`, 1 or 0, or NaN where that was not
        to be judged.

        Args:
            pictures: `(n, SIZE, SIZE, 3)` in [-1, 1].
            shown: what each was to show; all of one style and kind, on one colour.
        """
        judge = {
            "one": self._judge_ones,
            "placed": self._judge_places,
            "two": self._judge_pairs,
            "many": self._judge_numbers,
        }[shown[0].kind]
        grounds = [scene.ground[0] for scene in shown]
        verdicts = judge(pictures, shown)
        verdicts["ground"] = np.equal(judging.colours(pictures), grounds)
        return {name: np.asarray(each, float) for name, each in verdicts.items()}

    def _judge_ones(self, pictures, shown):
        # On the ground that is there: whether that is the right one is another question.
        grounds = judging.colours(pictures)
        found = self._matcher(shown[0].style).nearest(pictures, grounds, WHOLE, 5)
        truth = np.array([scene.items[0].subject for scene in shown])[:, None]
        return {"right": found[:, 0] == truth[:, 0], "among five": (found == truth).any(1)}

    def _judge_places(self, pictures, shown):
        points = [[(item.x, item.y) for item in scene.items] for scene in shown]
        asked = [(int(x * 3 / scenes.SIZE), int(y * 3 / scenes.SIZE)) for ((x, y),) in points]
        seen = judging.ninths(pictures)
        verdicts = {"place": np.array([a == b for a, b in zip(seen, asked, strict=True)])}
        truth = [scene.items[0].subject for scene in shown]
        for measure, found in self._seen_at(pictures, shown, points).items():
            verdicts[f"subject there, by {measure}"] = found[:, 0] == truth
        return verdicts

    def _judge_pairs(self, pictures, shown):
        points = [[point for axis in _AXES for point in axis]] * len(shown)
        verdicts = {}
        for measure, found in self._seen_at(pictures, shown, points).items():
            both, relation = np.zeros(len(shown)), np.full(len(shown), np.nan)
            for i, scene in enumerate(shown):
                asked = {(item.x, item.y): item.subject for item in scene.items}
                # Both are there where they stand beside or above each other, in any order.
                pairs = [sorted(found[i, :2]), sorted(found[i, 2:])]
                both[i] = sorted(asked.values()) in pairs
                if both[i]:
                    at = dict(zip(points[i], found[i], strict=True))
                    relation[i] = all(at[point] == subject for point, subject in asked.items())
            verdicts[f"both, by {measure}"] = both
            verdicts[f"relation of those, by {measure}"] = relation
        return verdicts

    def _judge_numbers(self, pictures, shown):
        points = [[(item.x, item.y) for item in scene.items] for scene in shown]
        verdicts = {"number": judging.regions(pictures) == [len(each) for each in points]}
        truth = np.array([[item.subject for item in scene.items] for scene in shown])
        for measure, found in self._seen_at(pictures, shown, points).items():
            verdicts[f"subject in all places, by {measure}"] = (found == truth).all(1)
        return verdicts

    def _seen_at(self, pictures, shown, points) -> dict[str, np.ndarray]:
        """Name of a measure -> the subjects that are seen at points, int `(n, points)`, -1 where
        none is, or each measure sees another.
        """
        style, view = shown[0].style, VIEWS[shown[0].kind]
        parts = np.concatenate(
            [
                square(picture[None], x, y, view.side)
                for picture, each in zip(pictures, points, strict=True)
                for x, y in each
            ]
        )
        grounds = np.repeat(judging.colours(pictures), [len(each) for each in points])
        matcher, shape = self._matcher(style), (len(pictures), -1)
        near = matcher.nearest(parts, grounds, view).reshape(shape)
        found = {"pixels": near}
        if self.features is not None:
            like = self._liked(matcher, parts, grounds, view).reshape(shape)
            found |= {"features": like, "pixels and features": np.where(near == like, near, -1)}
        return found

    def _liked(self, matcher: Matcher, parts, grounds, view) -> np.ndarray:
        """The subject whose drawing has the features that are nearest to those of each part."""
        features, like = self.features, np.empty(len(parts), int)
        for ground in np.unique(grounds):
            key = matcher.style, ground, view
            if key not in self._known:
                self._known[key] = features(matcher.squares(ground, view))
            here = grounds == ground
            like[here] = (features(parts[here]) @ self._known[key].T).argmax(1)
        return like

    def painted(self, shown: Sequence[Scene]) -> np.ndarray:
        """What training pictures of these scenes look like: `(n, SIZE, SIZE, 3)`, in [-1, 1]."""
        laid = painting.layout(shown, list(scenes.STYLES), len(self.subjects))
        made = []
        for at in range(0, len(shown), BATCH):
            part = {name: each[at : at + BATCH] for name, each in laid.items()}
            lacking = BATCH - len(part["split"])  # one size is compiled once
            part = {n: np.concatenate([v, np.repeat(v[-1:], lacking, 0)]) for n, v in part.items()}
            made.append(to_numpy(self.compose(self.sprites, **part)))
        return np.concatenate(made)[: len(shown)]

    def _countable(self, questions: list[Question]) -> list[Question]:
        """Those whose painted scene has as many regions as drawings."""
        shown = [question.scene for question in questions]
        counted = judging.regions(self.painted(shown)) == [len(scene.items) for scene in shown]
        return [question for question, right in zip(questions, counted, strict=True) if right]

    def _matcher(self, style: str) -> Matcher:
        first = list(scenes.STYLES).index(style) * len(self.subjects)
        return Matcher(style, self.sprites[first : first + self.count])
