"""What recipes/emoji measures, on pictures that are right or wrong because they were painted so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_scenes import subject
from tiny import MERGES, TINY

from keras_sd import StableDiffusion
from keras_sd.networks import Autoencoder, TextEncoder, UNet
from keras_sd.training import painting, scenes
from keras_sd.training.scenes import SIZE, STYLES, Item
from keras_sd.weights.load import arrays_of
from keras_sd.weights.save import save_preset

ROOT = Path(__file__).parents[2]

SUBJECTS = [subject(name) for name in ("disc", "bar", "cross", "ring", "wedge", "pair")]


def drawings():
    """Simple shapes, each of one colour and, but for the last, of one piece."""
    y, x = (np.mgrid[:SIZE, :SIZE] - SIZE / 2 + 0.5) / (SIZE / 2)
    far = np.hypot(x, y)
    shapes = {
        "disc": (far < 0.8, (220, 40, 30)),
        "bar": ((np.abs(x) < 0.35) & (np.abs(y) < 0.9), (30, 60, 200)),
        "cross": ((np.minimum(abs(x), abs(y)) < 0.25) & (far < 0.9), (250, 200, 20)),
        "ring": ((far < 0.9) & (far > 0.5), (20, 120, 30)),
        "wedge": ((y > -0.8) & (y < 0.8) & (np.abs(x) < (y + 0.8) / 2), (120, 30, 140)),
        "pair": ((np.abs(np.abs(x) - 0.5) < 0.3) & (np.abs(y) < 0.8), (90, 50, 20)),
    }
    assert list(shapes) == [each.name for each in SUBJECTS]
    made = np.zeros((len(shapes), SIZE, SIZE, 4), np.uint8)
    for each, (mask, colour) in zip(made, shapes.values(), strict=True):
        each[..., :3], each[..., 3] = colour, np.where(mask, 255, 0)
    drawn = {style: made for style in STYLES if style not in painting.DERIVED}
    return {**drawn, "line": made * np.uint8([0, 0, 0, 1])}


BANK = painting.sprite_bank(drawings())


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from recipes.emoji import asking, matching, measure, measuring

    return SimpleNamespace(asking=asking, matching=matching, measure=measure, measuring=measuring)


def means(squares):
    """A classifier for these tests: it sees eight by eight means."""
    n, side = squares.shape[:2]
    small = squares.reshape(n, 8, side // 8, 8, side // 8, 3).mean((2, 4)).reshape(n, -1)
    small = small - small.mean(1, keepdims=True)
    return small / np.linalg.norm(small, axis=1, keepdims=True)


@pytest.fixture
def examiner(recipe, tmp_path):
    """One who is painted what the prompts of `asked` say; tests that ask set it."""
    sheets = recipe.measuring.Sheets(tmp_path / "sheets.zip")
    return recipe.measuring.Examiner(SUBJECTS, BANK, None, sheets, len(SUBJECTS), means)


@pytest.fixture
def questions(recipe):
    return recipe.asking.Questions(SUBJECTS)


def judged(examiner, asked, shown=None):
    """Share of what is right of pictures of the scenes `shown`, where others were asked for."""
    asked = [question.scene for question in asked]
    verdicts = examiner.judge(examiner.painted(shown or asked), asked)
    return {what: float(np.nanmean(each)) for what, each in verdicts.items() if len(each)}


def others(scene):
    """The scene with the next subjects."""
    items = (replace(item, subject=(item.subject + 1) % len(SUBJECTS)) for item in scene.items)
    return replace(scene, items=tuple(items))


@pytest.mark.parametrize("style", ["noto", "line", "sticker"])
def test_one_subject_is_right_on_every_ground_and_another_is_not(examiner, questions, style):
    asked = questions.ones(style, list(range(6)) * 7)
    assert {question.scene.ground for question in asked} == {(name,) for name in scenes.COLOURS}

    assert judged(examiner, asked) == {"right": 1, "among five": 1, "ground": 1}
    found = judged(examiner, asked, [others(question.scene) for question in asked])
    assert found["right"] == 0
    assert found["ground"] == 1
    red = [replace(question.scene, ground=("red",)) for question in asked]
    assert judged(examiner, asked, red)["ground"] == pytest.approx(3 / 42)


def test_a_subject_is_right_on_a_ground_that_is_not(examiner, questions):
    asked = questions.ones("line", range(6))
    black = [replace(question.scene, ground=("black",)) for question in asked]
    found = judged(examiner, asked, black)
    assert found["right"] == 1
    assert found["ground"] == 0
    asked = questions.pairs("noto", [(k, (k + 2) % 6) for k in range(6)])
    grounds = [("black", "white")[k % 2] for k in range(6)]
    shown = [replace(q.scene, ground=(g,)) for q, g in zip(asked, grounds, strict=True)]
    found = judged(examiner, asked, shown)
    assert found["both, by pixels and features"] == 1
    assert found["ground"] == 0


def test_a_subject_may_be_a_little_larger_or_elsewhere(examiner, questions):
    asked = questions.ones("3d", range(6))
    shown = [
        replace(q.scene, items=(replace(q.scene.items[0], x=60, y=67, size=96),)) for q in asked
    ]
    assert judged(examiner, asked, shown)["right"] == 1


@pytest.mark.once
def test_a_place_is_right_where_the_subject_is_there_and_nowhere_else(examiner, questions):
    asked = questions.places("noto", list(range(6)) * 3)
    measures = [f"subject there, by {m}" for m in ("pixels", "features", "pixels and features")]
    assert judged(examiner, asked) == dict.fromkeys([*measures, "place", "ground"], 1)
    found = judged(examiner, asked, [others(question.scene) for question in asked])
    assert found == {**dict.fromkeys(measures, 0), "place": 1, "ground": 1}
    turned = []
    for question in asked:
        (item,) = question.scene.items
        turned.append(replace(question.scene, items=(replace(item, x=SIZE - item.x),)))
    found = judged(examiner, asked, turned)
    assert found["place"] == found["subject there, by pixels"] == pytest.approx(1 / 3)


def test_two_are_right_in_any_order_and_their_relation_in_one(examiner, questions, recipe):
    measures = ("pixels", "features", "pixels and features")
    both = [f"both, by {measure}" for measure in measures]
    relation = [f"relation of those, by {measure}" for measure in measures]
    asked = questions.pairs("noto", [(k, (k + 2) % 6) for k in range(6)] * 2)
    assert {q.scene.words for q in asked} == {(each,) for each in recipe.asking.RELATIONS}
    assert judged(examiner, asked) == dict.fromkeys([*both, *relation, "ground"], 1)
    swapped = [
        replace(
            q.scene,
            items=tuple(
                replace(item, subject=other.subject)
                for item, other in zip(q.scene.items, q.scene.items[::-1], strict=True)
            ),
        )
        for q in asked
    ]
    right, wrong = dict.fromkeys([*both, "ground"], 1), dict.fromkeys(relation, 0)
    assert judged(examiner, asked, swapped) == {**right, **wrong}
    turned = [
        replace(q.scene, items=tuple(replace(item, x=item.y, y=item.x) for item in q.scene.items))
        for q in asked
    ]
    assert judged(examiner, asked, turned) == {**right, **wrong}
    alone = [replace(q.scene, items=q.scene.items[:1]) for q in asked]
    scene = [question.scene for question in asked]
    verdicts = examiner.judge(examiner.painted(alone), scene)
    assert not verdicts["both, by pixels and features"].any()
    assert np.isnan(verdicts["relation of those, by pixels and features"]).all()


@pytest.mark.once
@pytest.mark.parametrize(("number", "count"), [("two", 2), ("three", 3), ("four", 4), ("five", 5)])
def test_a_number_is_right_where_as_many_are_painted(examiner, questions, number, count):
    asked = questions.several("noto", number, range(5))
    assert {len(question.scene.items) for question in asked} == {count}
    found = judged(examiner, asked)
    assert found["number"] == found["ground"] == 1
    fewer = [replace(q.scene, items=q.scene.items[1:]) for q in asked]
    assert judged(examiner, asked, fewer)["number"] == 0


@pytest.mark.once
def test_all_of_a_number_are_of_the_subject(examiner, questions):
    for number in ("two", "three"):
        asked = questions.several("noto", number, range(4))
        assert judged(examiner, asked)["subject in all places, by pixels"] == 1
        shown = []
        for question in asked:
            first, *rest = question.scene.items
            first = replace(first, subject=(first.subject + 1) % 6)
            shown.append(replace(question.scene, items=(first, *rest)))
        found = judged(examiner, asked, shown)
        assert found["subject in all places, by pixels"] == 0
        assert found["number"] == 1


@pytest.mark.once
def test_what_cannot_be_counted_is_not_asked_for(examiner, questions):
    asked = examiner.scenes_of("noto", questions, range(6), 12)
    for number in ("two", "three"):
        named = [question.scene.items[0].subject for question in asked[f"noto, {number}"]]
        assert len(named) == 6
        assert {*named} == {*range(5)}  # the sixth is of two pieces


@pytest.mark.once
def test_answers_are_counted_and_relations_among_pairs_that_are_right(examiner, questions):
    asked = questions.pairs("noto", [(0, 1), (1, 2), (2, 3), (3, 4)])
    shown = [question.scene for question in asked]
    shown[1] = replace(shown[1], items=shown[1].items[:1])  # one of two is missing
    shown[2] = replace(shown[2], items=tuple(replace(i, y=SIZE - i.y) for i in shown[2].items))
    given = dict(zip((q.prompt for q in asked), examiner.painted(shown), strict=True))
    examiner.paint = lambda prompts, first: np.stack([given[prompt] for prompt in prompts])
    found = examiner.answers("pairs", asked)
    assert found["both, by pixels"] == (3, 4)
    assert found["relation of those, by pixels"] == (2, 3)


@pytest.mark.once
def test_a_training_measures_until_its_time_is_over(examiner, recipe, monkeypatch):
    monkeypatch.setattr(recipe.measuring, "BATCH", 10)
    asked = []

    def paint(prompts, first):
        asked.append((first, len(prompts)))
        return np.zeros((len(prompts), SIZE, SIZE, 3), np.float32)

    clock = iter(range(100))
    monkeypatch.setattr(recipe.measuring, "passed", lambda: next(clock))
    examiner.paint, examiner.features = paint, None  # as a training has it
    found = examiner.measure(4)
    assert list(found) == ["noto", "noto, places", "noto, pairs", "noto, two", "noto, three"]
    assert asked == [(0, 6), (0, 9), (0, 10), (0, 5), (0, 5)]
    assert found["noto"]["ground"] == (0, 6)
    assert found["noto, pairs"]["relation of those, by pixels"] == (0, 0)
    monkeypatch.setattr(recipe.measuring, "passed", lambda: 9)
    assert examiner.measure(4) == {}


@pytest.mark.once
def test_prompts_say_what_is_asked_for(questions):
    assert [q.prompt for q in questions.ones("line", [0, 1, 2])] == [
        "a line drawing of a disc with a background of red",
        "on a background of red, a line drawing of a bar",
        "background red, a line drawing of a cross",
    ]
    (first, *_, last) = questions.places("noto", [3] * 9)
    assert first.prompt == (
        "an emoji of a small ring in the top left corner with a background of light blue"
    )
    assert "in the bottom right corner" in last.prompt
    assert questions.pairs("3d", [(4, 0)])[0].prompt == (
        "a 3d render of a wedge to the left of a disc with a background of green"
    )
    assert questions.several("noto", "three", [2])[0].prompt == (
        "an emoji of three crosss with a background of light blue"
    )


@pytest.mark.once
def test_a_square_beside_the_picture_goes_on_as_its_border(recipe):
    picture = np.arange(8 * 8, dtype=np.float32).reshape(1, 8, 8, 1)
    inside = recipe.matching.square(picture, 4, 4, 4)
    np.testing.assert_array_equal(inside, picture[:, 2:6, 2:6])
    corner = recipe.matching.square(picture, 1, 7, 4)
    np.testing.assert_array_equal(corner[0, :, 1:, 0], picture[0, [5, 6, 7, 7], :3, 0])
    np.testing.assert_array_equal(corner[0, :, 0], corner[0, :, 1])


# The command


@pytest.fixture
def pipeline(tmp_path):
    networks = {
        "text_encoder": TextEncoder(TINY.text_encoder),
        "unet": UNet(TINY.unet),
        "autoencoder": Autoencoder(TINY.autoencoder),
    }
    save_preset(tmp_path / "preset", TINY, arrays_of(networks), MERGES)
    return StableDiffusion.from_preset(tmp_path / "preset", height=16, width=16)


def test_pictures_are_kept_and_each_is_that_of_its_number(tmp_path, recipe, pipeline, monkeypatch):
    painter = recipe.measure.Painter(pipeline, tmp_path / "kept", 1, 5, 2)
    prompts = ["a cat", "a dog", "a cat"]
    made = painter(prompts, 4)
    assert made.min() >= -1
    assert made.max() <= 1
    alone = pipeline.text_to_image("a cat", seed=5, first_image=6, num_steps=1, sampler="ddim")
    assert np.abs((made[2] + 1) * 127.5 - alone[0]).max() < 1.5
    assert (made[0] != made[2]).any()

    def fail(request):
        raise AssertionError("drawn again")

    monkeypatch.setattr(pipeline, "draw", fail)
    np.testing.assert_array_equal(painter(prompts, 4), made)
    for other in (lambda: painter(prompts, 5), lambda: painter(["a dog"], 4)):
        with pytest.raises(AssertionError, match="drawn again"):
            other()
    again = recipe.measure.Painter(pipeline, tmp_path / "kept", 2, 5, 2)
    with pytest.raises(AssertionError, match="drawn again"):
        again(prompts, 4)


@pytest.mark.once
def test_the_limit_is_of_painted_scenes_that_the_autoencoder_decoded(examiner, recipe, questions):
    seen = []

    def autoencoder(pictures):
        seen.append(pictures)
        return pictures * 2  # beyond black and white

    asked = questions.places("noto", range(5))
    pipeline = SimpleNamespace(autoencoder=autoencoder)
    made = recipe.measure.Limit(pipeline, examiner, asked)(["of", "these"], 3)
    wanted = examiner.painted([question.scene for question in asked[3:]])
    np.testing.assert_array_equal(seen[0], wanted)
    np.testing.assert_array_equal(made, np.clip(2 * wanted, -1, 1))


@pytest.mark.once
def test_the_table_tells_what_is_missed(recipe):
    measured = {
        "noto, 4 steps": {"kind": "one", "found": {"right": (17, 20), "among five": (20, 20)}},
        "3d": {"kind": "one", "found": {"right": (17, 20), "ground": (19, 20)}},
        "noto, pairs": {
            "kind": "two",
            "found": {"both, by pixels": (12, 20), "relation of those, by pixels": (10, 12)},
        },
        "noto, places": {"kind": "placed", "found": {"subject there, by pixels": (0, 20)}},
        "noto, two": {"kind": "many", "found": {"number": (0, 0)}},
        "noto, two, painted and decoded": {"kind": "many", "found": {"number": (3, 9)}},
    }
    assert recipe.measure.table(measured).splitlines()[2:] == [
        "| noto, 4 steps | right | 17 of 20, 85.0% | 90%, missed |",
        "| noto, 4 steps | among five | 20 of 20, 100.0% | 97% |",
        "| 3d | right | 17 of 20, 85.0% | 75% |",
        "| 3d | ground | 19 of 20, 95.0% | 98%, missed |",
        "| noto, pairs | both, by pixels | 12 of 20, 60.0% | 60% |",
        "| noto, pairs | relation of those, by pixels | 10 of 12, 83.3% | 85%, missed |",
        "| noto, places | subject there, by pixels | 0 of 20, 0.0% |  |",
        "| noto, two | number | 0 of 0 | 70% |",
        "| noto, two, painted and decoded | number | 3 of 9, 33.3% |  |",
    ]


@pytest.mark.once
def test_all_is_asked_in_one_wording_and_subjects_in_those_held_out_too(recipe, examiner):
    given = ["emoji-128", "--bank=b", "--subjects=s", "--out=o", "--every=2", "--others=3"]
    wording = "{scene} before {colour}"
    options = recipe.measure.options_of([*given, "--scenes=9", f"--wording={wording}"])
    plan = recipe.measure.plan(examiner, list(range(6)), options)
    assert list(plan) == [
        "noto",
        "noto, 'x with a background of blue'",
        "noto, 'on a background of blue, x'",
        "noto, 'background blue, x'",
        *("noto, places", "noto, pairs", "noto, two", "noto, three"),
        *("3d", "flat", "line", "pixel", "sticker"),
    ]
    for name, asked in plan.items():
        colours = [question.scene.ground[0] for question in asked]
        ends = [q.prompt.endswith(f" before {c}") for q, c in zip(asked, colours, strict=True)]
        assert ends == [" 'x" not in name and "blue" not in name] * len(asked), name
    assert [len(plan[name]) for name in ("noto", "3d", "noto, places")] == [3, 2, 9]
    with pytest.raises(SystemExit):
        recipe.measure.options_of([*given, "--scenes=8"])


def test_a_drawing_is_seen_as_it_is_painted(examiner, recipe):
    """The squares that the second measure compares with are those of painted scenes."""
    view = recipe.measuring.VIEWS["two"]
    matcher = recipe.matching.Matcher("noto", BANK[: len(SUBJECTS)])
    squares = matcher.squares("green", view)
    shown = [scenes.Scene("one", "noto", (Item(k, 64, 64, 58),), ("green",)) for k in range(6)]
    painted = recipe.matching.square(examiner.painted(shown), 64, 64, view.side)
    np.testing.assert_allclose(squares, painted, atol=1e-3)
