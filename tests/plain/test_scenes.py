"""Scenes and their captions: what a training picture shows is what its caption says."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest

from keras_sd.tokenizer import Tokenizer
from keras_sd.training import scenes
from keras_sd.training.scenes import COLOURS, HELD_OUT, SIZE, Item, Mix, Scene, random_scene
from keras_sd.training.words import Subject


def subject(name, article="a", plural=None, **more):
    words = {"names": (), "synonyms": (), "classes": (), "hints": (), "group": "", **more}
    return Subject(code=0, name=name, plural=plural or f"{name}s", article=article, **words)


SUBJECTS = [
    subject("cat", synonyms=("kitty", "felines"), classes=("animal",), hints=("pet", "meow")),
    subject("octopus", "an", "octopuses", names=("sea-dwelling octopus",), hints=("ink",)),
    subject("grapes", "", "grapes", classes=("fruit",)),
    subject("unicorn", classes=("animal",), hints=("horn", "magic", "horse")),
    subject("hourglass", "an", "hourglasses"),
]


def made(count=4000, seed=0):
    """Scenes with a caption each."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        scene = random_scene(SUBJECTS, rng)
        found.append((scene, scene.caption(SUBJECTS, rng)))
    return found


MADE = made()


def test_a_seed_makes_the_same_scenes_and_captions():
    assert made(50) == MADE[:50]
    assert made(50, seed=1) != MADE[:50]


def test_every_kind_style_number_relation_and_place_occurs():
    kinds = Counter(scene.kind for scene, _ in MADE)
    assert set(kinds) == {"one", "placed", "many", "two", "listed", "class"}
    assert kinds["one"] > len(MADE) / 2
    assert {scene.style for scene, _ in MADE} == set(scenes.STYLES)
    said = {word for scene, _ in MADE for word in scene.words}
    places = {wording for wordings in scenes.PLACES.values() for wording in wordings}
    assert said == {*scenes.SIZES, *scenes.COUNTS, *scenes.RELATIONS, *places}
    assert {scene.split for scene, _ in MADE} == {"", "beside", "above"}
    assert {name for scene, _ in MADE for name in scene.ground} == set(COLOURS)


def test_no_caption_has_a_word_that_is_not_known():
    known = scenes.known_words(SUBJECTS)
    tokenizer = Tokenizer([])
    captions = [caption for _, caption in MADE]
    assert any("3d" in caption for caption in captions)
    assert {w for text in captions for w in tokenizer.unknown_words(text, known)} == set()
    for wording in HELD_OUT:
        text = scenes.on_ground(wording, "a 3d render of a cat", "light blue")
        assert tokenizer.unknown_words(text, known) == []
    assert tokenizer.unknown_words("a dog on a teal wall", known) == ["dog", "teal", "wall"]
    assert known == sorted(known)
    assert not {"", "{scene}", "colour", ":"} & set(known)


def test_articles_go_by_the_sound():
    wrong = re.compile(r"\ban? (?=(?P<word>[a-z]+))(?P=word)")
    for _, caption in MADE:
        for found in wrong.finditer(caption):
            word = found["word"]
            vowel = word[0] in "aeio" or word in ("hourglass", "hourglasses")
            assert found[0].startswith("an ") == vowel, caption
        assert not re.search(r"\b(a|an) (grapes|felines|octopuses|two|three)\b", caption), caption
    for name, text in {
        "user": "a user",
        "ufo": "a ufo",
        "umbrella": "an umbrella",
        "unicorn": "a unicorn",
        "hourglass": "an hourglass",
    }.items():
        assert scenes.with_article(name, "a") == text
    assert scenes.with_article("bread", "") == "bread"


def test_a_caption_says_what_the_scene_shows():
    for scene, caption in MADE:
        names = [SUBJECTS[item.subject] for item in scene.items]
        for each in names if scene.kind in ("two", "one", "placed") else ():
            assert any(n in caption for n in (each.name, *each.names, *each.synonyms)), caption
        if scene.kind == "many":
            count = {"two": 2, "three": 3, "four": 4, "five": 5}[scene.words[0]]
            assert len(scene.items) == count
            assert len({item.subject for item in scene.items}) == 1
            assert f"{scene.words[0]} " in caption
            assert names[0].plural in caption
        if scene.kind == "listed":
            assert set(re.split(r", | on | with |: ", caption)) & set(names[0].hints), caption
        if scene.kind == "class":
            assert any(word in caption for word in names[0].classes)
        if len(scene.ground) == 2:
            assert set(scene.ground) == {c for c in scene.ground if c in caption}
            assert scene.split != "above" or "above" in caption
        if scene.style not in ("noto",):
            before, after = scenes.STYLES[scene.style]
            assert any(words in caption for words in (*before, *after)), caption


def test_grounds_come_first_and_last_and_are_sometimes_left_out():
    single = [(s, c) for s, c in MADE if len(s.ground) == 1]
    bare = [
        c for s, c in single if s.ground[0].replace("grey", "gr") not in c.replace("gray", "gr")
    ]
    assert 0.03 < len(bare) / len(single) < 0.15
    first = sum(bool(re.match(rf"(on )?(an? )?({'|'.join(COLOURS)})\b", c)) for _, c in single)
    assert 0.15 < first / len(single) < 0.45


@pytest.mark.parametrize("wording", HELD_OUT)
def test_no_caption_has_a_wording_that_is_held_out(wording):
    assert wording not in scenes.WORDINGS.one
    pattern = re.escape(wording).replace(r"\{colour\}", f"({'|'.join(COLOURS)})")
    pattern = pattern.replace(r"\{scene\}", r"[a-z0-9 ,:-]+")
    assert re.fullmatch(pattern, scenes.on_ground(wording, "a cat", "light blue"))
    assert not [caption for _, caption in MADE if re.fullmatch(pattern, caption)]


def test_a_mix_says_how_often_kinds_and_styles_come():
    rng = random.Random(0)
    mix = Mix(kinds={"one": 3, "two": 1}, single={"line": 1}, other={"3d": 1, "flat": 1})
    found = Counter(
        (scene.kind, scene.style)
        for scene in (random_scene(SUBJECTS, rng, mix) for _ in range(2000))
    )
    assert set(found) == {("one", "line"), ("two", "3d"), ("two", "flat")}
    assert 1400 < found["one", "line"] < 1600
    assert 200 < found["two", "3d"] < 300


@pytest.mark.parametrize("split", ["", "beside", "above"])
def test_the_same_words_of_a_scene_in_given_wordings_of_its_ground(split):
    colours = ("blue", "red")[: 2 if split else 1]
    scene = Scene("one", "flat", (Item(1, 64, 64, 100),), colours, split)
    alone = scenes.Wordings(("{scene}",), ("{scene}",), ("{scene}",))
    rng = random.Random(7)
    texts = set()
    for given in (scenes.LAST, scenes.WORDINGS):
        wanted, found = getattr(given, split or "one"), set()
        for seed in range(400):
            # What is said of the subject follows from the first chance alone.
            text = scene.caption(SUBJECTS, random.Random(seed), alone)
            said = scene.caption(SUBJECTS, random.Random(seed), given, rng)
            (wording,) = (
                each
                for each in wanted
                if said == scenes.on_ground(each.replace("{other}", colours[-1]), text, colours[0])
            )
            found.add(wording)
            texts.add(text)
        assert found == set(wanted)
    assert len(texts) > 5


def test_everything_lies_in_the_picture_where_its_words_say():
    for scene, _ in MADE:
        for item in scene.items:
            assert item.size / 2 - 3 <= item.x <= SIZE - item.size / 2 + 3
            assert item.size / 2 - 3 <= item.y <= SIZE - item.size / 2 + 3
        if scene.kind == "placed" and scene.words[1]:
            (item,) = scene.items
            ninth = int(item.x * 3 / SIZE), int(item.y * 3 / SIZE)
            assert scene.words[1] in scenes.PLACES[ninth]
        if scene.kind == "placed" and scene.words[0]:
            low, high = scenes.SIZES[scene.words[0]]
            assert low <= scene.items[0].size <= high


@pytest.mark.parametrize("relation", scenes.RELATIONS)
def test_two_lie_as_their_relation_says(relation):
    items = scenes.arranged(7, 9, relation)
    seven, nine = sorted(items, key=lambda item: item.subject)
    assert (seven.subject, nine.subject) == (7, 9)
    if relation in ("to the left of", "and", "next to"):
        assert seven.x + 40 < nine.x
    elif relation == "to the right of":
        assert nine.x + 40 < seven.x
    elif relation == "above":
        assert seven.y + 40 < nine.y
    elif relation == "below":
        assert nine.y + 40 < seven.y
    else:  # a later one hides an earlier one
        front, back = (seven, nine) if relation == "in front of" else (nine, seven)
        assert items == (back, front)
        assert front.size < back.size
        assert abs(front.x - back.x) < (front.size + back.size) / 2
    rng = random.Random(3)
    moved = scenes.arranged(7, 9, relation, rng)
    assert moved != items
    for one, two in zip(moved, items, strict=True):
        assert abs(one.x - two.x) <= 2
        assert abs(one.size / two.size - 1) <= 0.041
    shown = Scene("two", "noto", items, ("red",), words=(relation,))
    pair = [subject(f"thing{i}") for i in range(10)]
    words = shown._items(pair, random.Random(1))
    assert words.index("thing7") < words.index("thing9")
    assert f" {relation} " in words


def test_the_ground_may_be_called_gray():
    scene = Scene("one", "noto", (Item(0, 64, 64, 100),), ("grey",))
    rng = random.Random(0)
    said = [scene.caption(SUBJECTS, rng) for _ in range(100)]
    assert 10 < sum("gray" in text for text in said) < 50
    assert sum("grey" in text for text in said) > 40


def test_one_caption_in_sixteen_has_a_made_up_word():
    rng = random.Random(0)
    text = "a cat on blue"
    changed = [each for each in (scenes.strange(text, rng) for _ in range(3200)) if each != text]
    assert 150 < len(changed) < 250
    for each in changed:
        assert len(each.split()) == 5
        assert Counter(text.split()) <= Counter(each.split())
