"""Measures a preset like `emoji-128`: shares of pictures that are right, through the pipeline.

    python -m recipes.emoji.measure emoji-128 --bank data/bank.zip --subjects data/subjects.json \
        --out measured

On any backend (`KERAS_BACKEND`). `OUT` gets `measured.json` and `sheets.zip`, written anew with
each measure, and the pictures, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_sd import StableDiffusion, image
from keras_sd.backend import to_numpy
from keras_sd.files import replace_file
from keras_sd.training import drawings, painting, scenes, words
from keras_sd.weights.load import arrays_of
from recipes.emoji.asking import Question, Questions
from recipes.emoji.features import Features
from recipes.emoji.log import passed, say, write_to
from recipes.emoji.measuring import VIEWS, Examiner, Share, Sheets

BARS = {"ground": 0.98, "place": 0.90, "both": 0.60, "relation of those": 0.85, "number": 0.70}
"""What is measured, up to a comma -> the share that is wanted. The subjects' is that of the style:
`BARS_OF_ONES`.
"""

BARS_OF_ONES = {"noto": {"right": 0.90, "among five": 0.97}}
"""Style -> likewise, of one subject alone."""

BAR_OF_OTHERS = {"right": 0.75}


DECODED = "painted and decoded"
"""What a measure of `Limit` has in its name."""


class Painter:
    """Pictures by a pipeline, in batches of one size; each is a function of its prompt and number.

    Args:
        pipeline: of the preset.
        folder: keeps the pictures. Those that are there are not made again.
        steps: of DDIM.
        seed: of all pictures.
        batch: pictures at a time.
    """

    def __init__(self, pipeline: StableDiffusion, folder: Path, steps: int, seed: int, batch: int):
        self.pipeline, self.folder, self.batch = pipeline, folder, batch
        self.settings = {"num_steps": steps, "seed": seed, "sampler": "ddim"}
        self.weights = weights_of(pipeline)
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, prompts: list[str], first: int) -> np.ndarray:
        made = [
            self._part(prompts[at : at + self.batch], first + at)
            for at in range(0, len(prompts), self.batch)
        ]
        return image.from_uint8(np.concatenate(made))

    def _part(self, prompts: list[str], first: int) -> np.ndarray:
        what = json.dumps([self.weights, keras.backend.backend(), self.settings, first, prompts])
        path = self.folder / f"{hashlib.sha256(what.encode()).hexdigest()[:24]}.npy"
        if not path.exists():
            asked = prompts + prompts[-1:] * (self.batch - len(prompts))
            request = self.pipeline.request(asked, first_image=first, **self.settings)
            made = np.asarray(self.pipeline.draw(request))[: len(prompts)]
            # NumPy adds the ending to a path that has another, but not to an open file.
            replace_file(path, lambda at: _save(at, made))
        return np.load(path)


class Limit:
    """What the measures say of painted scenes that the autoencoder has encoded and decoded: no
    better can be expected of a model that knows everything.

    Args:
        pipeline: whose autoencoder it is.
        examiner: paints.
        questions: those that are asked.
    """

    def __init__(
        self, pipeline: StableDiffusion, examiner: Examiner, questions: Sequence[Question]
    ):
        self.pipeline, self.examiner, self.questions = pipeline, examiner, questions

    def __call__(self, prompts: list[str], first: int) -> np.ndarray:
        asked = self.questions[first : first + len(prompts)]
        painted = self.examiner.painted([question.scene for question in asked])
        return np.clip(to_numpy(self.pipeline.autoencoder(painted)), -1, 1)


def _save(path: Path, pictures: np.ndarray) -> None:
    with open(path, "wb") as file:
        np.save(file, pictures)


def weights_of(pipeline: StableDiffusion) -> str:
    """A sum of all weights."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays_of(pipeline.networks).items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def bar(name: str, what: str, kind: str) -> float | None:
    """The share that is wanted of a measure, or None.

    Args:
        name: of the questions, as `plan` has it.
        what: is judged.
        kind: of scene.
    """
    if name.endswith(DECODED):
        return None
    if kind == "one" and what in ("right", "among five"):
        return BARS_OF_ONES.get(name.split(",")[0], BAR_OF_OTHERS).get(what)
    return BARS.get(what.split(",")[0])


def table(measured: Mapping[str, Mapping[str, Any]]) -> str:
    """A table in Markdown of what `measured.json` has under that name."""
    lines = ["| asked for | judged | right | wanted |", "|---|---|---|---|"]
    for name, entry in measured.items():
        for what, (right, of) in entry["found"].items():
            share = f"{right} of {of}" + (f", {right / of:.1%}" if of else "")
            wanted = bar(name, what, entry["kind"])
            told = "" if wanted is None else f"{wanted:.0%}"
            if wanted is not None and of and right / of < wanted:
                told += ", missed"
            lines.append(f"| {name} | {what} | {share} | {told} |")
    return "\n".join(lines)


def plan(
    examiner: Examiner, known: list[int], options: argparse.Namespace
) -> dict[str, list[Question]]:
    """Name -> questions, in the order in which they are asked.

    Args:
        examiner: chooses what can be counted.
        known: the numbers of the subjects to choose from.
        options: of the command.
    """
    questions = Questions(examiner.subjects, [options.wording])
    asked = {"noto": questions.ones("noto", known[:: options.every])}
    for wording in scenes.HELD_OUT:
        if wording != options.wording:
            name = f"noto, {scenes.on_ground(wording, 'x', 'blue')!r}"
            others = Questions(examiner.subjects, [wording])
            asked[name] = others.ones("noto", known[:: options.others])
    asked |= examiner.scenes_of("noto", questions, known, options.scenes)
    for style in scenes.STYLES:
        if style != "noto":
            asked[style] = questions.ones(style, known[:: options.others])
    return asked


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options of the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("preset", help="a name or a folder")
    for name in ("bank", "subjects", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=20, help="of DDIM")
    parser.add_argument("--few", type=int, default=4, help="steps that noto is asked with too")
    parser.add_argument("--every", type=int, default=7, help="n-th subject, of noto")
    parser.add_argument(
        "--others", type=int, default=14, help="n-th subject, of other styles and wordings"
    )
    parser.add_argument(
        "--wording",
        default=scenes.HELD_OUT[0],
        help="of a scene on its ground, which the preset was not trained with; noto's subjects are "
        "asked for in the other ones of scenes.HELD_OUT too (default: %(default)r)",
    )
    parser.add_argument("--scenes", type=int, default=64, help="of places, pairs, numbers each")
    parser.add_argument("--only", default="", help="what has this in its name")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument(
        "--features", action="store_true", help="scenes by EfficientNet too: see features.py"
    )
    options = parser.parse_args(arguments)
    if options.scenes < len(scenes.PLACES):
        parser.error(f"--scenes {options.scenes} are fewer than places: {len(scenes.PLACES)}")
    return options


def main() -> None:
    """The command."""
    options = options_of()
    options.out.mkdir(parents=True, exist_ok=True)
    write_to(options.out / "log.txt")
    features = Features() if options.features else None
    bank, subjects = drawings.Bank(options.bank), words.load(options.subjects)
    if [subject.code for subject in subjects] != list(bank.codes):
        raise SystemExit(f"{options.subjects} are not those of {options.bank}")
    pipeline = StableDiffusion.from_preset(options.preset)
    known = [
        number
        for number, subject in enumerate(subjects)
        if not pipeline.model.unknown_words(f"{subject.name} {subject.plural}")
    ]
    say(f"{options.preset} on {keras.backend.backend()}; {len(known)} of {len(subjects)} known")
    sprites = painting.sprite_bank({style: bank.sprites(style) for style in bank.styles})
    say(f"{len(sprites)} drawings")
    painter, few = (
        Painter(pipeline, options.out / "pictures", steps, options.seed, options.batch)
        for steps in (options.steps, options.few)
    )
    sheets = Sheets(options.out / "sheets.zip")
    examiner = Examiner(subjects, sprites, painter, sheets, len(subjects), features)
    facts: dict[str, Any] = {
        "options": {name: str(value) for name, value in vars(options).items()},
        "backend": keras.backend.backend(),
        "weights": painter.weights,
        "known": len(known),
        "measured": {},
    }

    def measure(name: str, questions: list[Question], paint: Callable) -> None:
        if options.only not in name:
            return
        begin = passed()
        found: dict[str, Share] = examiner.answers(name, questions, paint)
        facts["measured"][name] = {
            "kind": questions[0].scene.kind,
            "found": found,
            "seconds": round(passed() - begin, 1),
        }
        text = json.dumps(facts, indent=1) + "\n"
        replace_file(
            options.out / "measured.json", lambda path: path.write_text(text, encoding="utf-8")
        )

    asked = plan(examiner, known, options)
    measure(f"noto, {options.few} steps", asked["noto"], few)
    for name, questions in asked.items():
        measure(name, questions, painter)
    for name, questions in asked.items():
        if questions[0].scene.kind in VIEWS:
            measure(f"{name}, {DECODED}", questions, Limit(pipeline, examiner, questions))
    print(table(facts["measured"]))


if __name__ == "__main__":
    main()
