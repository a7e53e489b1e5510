"""What a model is asked for when it is measured: scenes, in wordings that no training had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keras_sd.training import scenes
from keras_sd.training.scenes import Item, Scene
from keras_sd.training.words import Subject

GROUND_OF = dict(
    zip(scenes.STYLES, ("light blue", "green", "pink", "white", "grey", "blue"), strict=True)
)
"""Style -> the ground of its places, pairs and numbers, which is one, so that what they are
compared with is painted once.
"""

RELATIONS = ("to the left of", "to the right of", "above", "below")
"""Those in which two subjects do not hide each other."""

_ONE, _PLACED = 102, 48  # the sizes that the training has on the average, in pixels


@dataclass(frozen=True)
class Question:
    """A scene, and the words that ask for it."""

    scene: Scene
    prompt: str


class Questions:
    """Makes questions.

    Args:
        subjects: all of them.
        wordings: in turn, of a scene on its ground.
    """

    def __init__(self, subjects: Sequence[Subject], wordings: Sequence[str] = scenes.HELD_OUT):
        self.subjects, self.wordings = subjects, wordings

    def ones(self, style: str, numbers: Sequence[int]) -> list[Question]:
        """Each of these subjects alone, on all grounds in turn."""
        grounds = list(scenes.COLOURS)
        made = []
        for k, number in enumerate(numbers):
            # Each ground in all wordings, before the next.
            ground = grounds[k // len(self.wordings) % len(grounds)]
            item = Item(number, scenes.SIZE / 2, scenes.SIZE / 2, _ONE)
            scene = Scene("one", style, (item,), (ground,))
            made.append(self._asked(scene, self._named(number), k))
        return made

    def places(self, style: str, numbers: Sequence[int]) -> list[Question]:
        """Each of these subjects, small, in all ninths of the picture in turn."""
        made = []
        for k, number in enumerate(numbers):
            ninth = list(scenes.PLACES)[k % len(scenes.PLACES)]
            words = ("small", scenes.PLACES[ninth][0])
            subject = self.subjects[number]
            name = scenes.with_article(f"small {subject.name}", subject.article and "a")
            item = Item(number, *scenes.middle_of(ninth, _PLACED), _PLACED)
            scene = Scene("placed", style, (item,), (GROUND_OF[style],), "", words)
            made.append(self._asked(scene, f"{name} {words[1]}", k // len(scenes.PLACES)))
        return made

    def pairs(self, style: str, pairs: Sequence[tuple[int, int]]) -> list[Question]:
        """Two subjects each, in all of `RELATIONS` in turn."""
        made = []
        for k, (one, two) in enumerate(pairs):
            relation = RELATIONS[k % len(RELATIONS)]
            items = scenes.arranged(one, two, relation)
            scene = Scene("two", style, items, (GROUND_OF[style],), "", (relation,))
            text = f"{self._named(one)} {relation} {self._named(two)}"
            made.append(self._asked(scene, text, k // len(RELATIONS)))
        return made

    def several(self, style: str, number: str, numbers: Sequence[int]) -> list[Question]:
        """Several of each of these subjects.

        Args:
            style: of the pictures.
            number: a key of `scenes.COUNTS`.
            numbers: the subjects'.
        """
        made = []
        size = scenes.COUNT_SIZES[number]
        for k, subject in enumerate(numbers):
            items = tuple(Item(subject, x, y, size) for x, y in scenes.COUNTS[number])
            scene = Scene("many", style, items, (GROUND_OF[style],), "", (number, ""))
            made.append(self._asked(scene, f"{number} {self.subjects[subject].plural}", k))
        return made

    def _named(self, number: int) -> str:
        subject = self.subjects[number]
        return scenes.with_article(subject.name, subject.article)

    def _asked(self, scene: Scene, text: str, turn: int) -> Question:
        wording = self.wordings[turn % len(self.wordings)]
        text = f"{scenes.STYLES[scene.style][0][0]} {text}"
        return Question(scene, scenes.on_ground(wording, text, scene.ground[0]))
