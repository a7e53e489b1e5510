"""Words of the drawings: from a small made-up CLDR file, and the tables as they are."""

import json

import pytest
from test_packages import pack

from keras_sd.training import words
from keras_sd.training.aliases import ALIASES, KEYWORDS
from keras_sd.training.nouns import CLASSES, COUNTLESS
from keras_sd.training.words import article, check_aliases, clean, load, plural, save

CAT, CAT_FACE, OWL, ONE, BUTTON, FACE, GRAPES = (
    0x1F408,
    0x1F431,
    0x1F989,
    0x1F550,
    0x1F17E,
    0x1F600,
    0x1F347,
)
NOTES = {
    CAT: (["animal", "cat", "cats", "pet", "kitty"], "cat", "3", "animal-mammal", "CAT"),
    CAT_FACE: (["cat", "face", "pet"], "cat face", "3", "animal-mammal", "CAT FACE"),
    OWL: (["bird", "owl", "wise", "torch", "snake-eyed"], "owl", "3", "animal-bird", "OWL FACE"),
    ONE: (["clock", "time"], "one o’clock", "5", "time", "CLOCK FACE ONE OCLOCK"),
    BUTTON: (["blood", "o"], "O button (blood type)", "8", "alphanum", "NEGATIVE SQUARED LETTER O"),
    FACE: (["smile"], "grinning face", "0", "face-smiling", "GRINNING FACE"),
    GRAPES: (["fruit", "wise"], "grapes", "4", "food-fruit", "GRAPES"),
}
GROUPS = {
    "0": "smileys-emotion",
    "3": "animals-nature",
    "4": "food-drink",
    "5": "travel-places",
    "8": "symbols",
}


@pytest.fixture
def packages(tmp_path, monkeypatch):
    subgroups = sorted({note[3] for note in NOTES.values()})
    annotations = {
        chr(code) + "\ufe0f" * (code == BUTTON): {"default": note[0], "tts": [note[1]]}
        for code, note in NOTES.items()
    }
    data = [
        {
            "hexcode": f"{code:X}",
            "group": int(note[2]),
            "subgroup": subgroups.index(note[3]),
            "label": note[1],
        }
        for code, note in NOTES.items()
    ]
    kinds = {"groups": GROUPS, "subgroups": {str(i): name for i, name in enumerate(subgroups)}}
    names = {f"{code:X}": note[4] for code, note in NOTES.items()}
    cldr = {"annotations": {"annotations": annotations}}
    files = {
        "cldr": {"annotations/en/annotations.json": cldr},
        "base": {
            "en/data.json": data,
            "meta/groups.json": kinds,
            "meta/unicode-names.json": names,
        },
    }
    for package, variable in (("cldr", "CLDR"), ("base", "EMOJIBASE")):
        content = {path: json.dumps(text).encode() for path, text in files[package].items()}
        monkeypatch.setattr(words, variable, pack(tmp_path, package, content))
    return tmp_path


def test_the_words_of_subjects(packages):
    aliases = {"kitten": "cat face", "night owl": "owl"}
    found = words.subjects(packages, [*NOTES], aliases)
    assert [s.code for s in found] == [*NOTES]
    by_name = {s.name: s for s in found}
    assert [*by_name] == [
        "cat",
        "cat face",
        "owl",
        "one o clock",
        "o button",
        "grinning face",
        "grapes",
    ]
    owl = by_name["owl"]
    assert owl.names == ("owl face",)
    assert owl.synonyms == ("night owl", "torch")  # a keyword only it has, and which we have read
    assert owl.hints == ("bird", "wise")
    assert owl.classes == ("animal",)
    assert (owl.plural, owl.article, owl.group) == ("owls", "an", "animals-nature")
    assert by_name["cat"].synonyms == ("kitty",)
    assert by_name["cat face"].synonyms == ("kitten",)
    assert not by_name["cat face"].names  # "cat" is the whole cat
    assert not by_name["grinning face"].names  # "grinning" is no thing
    assert not by_name["o button"].names
    assert by_name["o button"].group == by_name["one o clock"].group == "signs"
    assert by_name["grapes"].classes == ("fruit",)
    assert (by_name["grapes"].plural, by_name["grapes"].article) == ("grapes", "")


def test_no_word_means_two_subjects(packages):
    found = words.subjects(packages, [*NOTES], {"kitten": "cat face"})
    means = [word for s in found for word in (s.name, *s.names, *s.synonyms)]
    assert len(means) == len({*means})
    hints = {hint for s in found for hint in s.hints}
    assert not hints & {*means}


def test_an_alias_takes_a_word_from_a_name_or_keyword_of_another(packages):
    found = words.subjects(packages, [*NOTES], {"owl face": "cat", "torch": "cat"})
    owl = found[2]
    assert not owl.names
    assert not owl.synonyms
    assert found[0].synonyms == ("owl face", "torch", "kitty")


@pytest.mark.parametrize(
    ("aliases", "message"),
    [
        ({"kitten": "cat's face"}, "not there: 'kitten' -> \"cat's face\""),
        ({"cat": "owl"}, "names of subjects themselves: cat"),
        ({"Night Owl": "owl"}, "not plain words: Night Owl"),
        ({"fruit": "grapes"}, "Classes that are words for one subject: fruit"),
    ],
)
def test_contradictions_are_refused(packages, aliases, message):
    with pytest.raises(ValueError, match=message):
        words.subjects(packages, [*NOTES], aliases)


def test_a_code_point_without_a_name(packages):
    with pytest.raises(ValueError, match="No name for the code points 1f999"):
        words.subjects(packages, [*NOTES, 0x1F999], {})


def test_subjects_survive_the_file(packages, tmp_path):
    found = words.subjects(packages, [*NOTES], {})
    save(found, tmp_path / "subjects.json")
    assert load(tmp_path / "subjects.json") == found
    for text in ("no json", "[1]", '[{"name": "cat"}]'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ValueError, match="does not hold subjects"):
            load(tmp_path / "bad.json")


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("Japanese “free of charge” button", "japanese free of charge button"),
        ("O button (blood type)", "o button"),
        ("one o’clock", "one o clock"),
        ("woman’s hat", "womans hat"),
        ("piñata", "pinata"),
        ("UP! button", "up button"),
        ("T-Rex", "t-rex"),
        ("keycap: 10", "keycap 10"),
        ("Mrs. Claus", "mrs claus"),
    ],
)
def test_clean(text, cleaned):
    assert clean(text) == cleaned
    assert clean(cleaned) == cleaned


@pytest.mark.parametrize(
    ("name", "several"),
    [
        ("cat", "cats"),
        ("cat face", "cat faces"),
        ("fox", "foxes"),
        ("strawberry", "strawberries"),
        ("monkey", "monkeys"),
        ("glass of milk", "glasses of milk"),
        ("face with tongue", "faces with tongue"),
        ("person running", "people running"),
        ("person raising hand", "people raising hand"),
        ("woman dancing", "women dancing"),
        ("fork and knife", "forks and knives"),
        ("slightly smiling face", "slightly smiling faces"),
        ("fast up button", "fast up buttons"),
        ("leaf fluttering in wind", "leaves fluttering in wind"),
        ("chart increasing", "charts increasing"),
        ("goose", "geese"),
        ("grapes", "grapes"),
        ("bread", "bread"),
    ],
)
def test_plural(name, several):
    assert plural(name) == several


@pytest.mark.parametrize(
    ("name", "before"),
    [
        ("cat", "a"),
        ("owl", "an"),
        ("hourglass done", "an"),
        ("unicorn", "a"),
        ("umbrella", "an"),
        ("euro banknote", "a"),
        ("one-piece swimsuit", "a"),
        ("onion", "an"),
        ("x-ray", "an"),
        ("sos button", "an"),
        ("cherries", ""),
    ],
)
def test_article(name, before):
    assert article(name) == before


def test_the_reviewed_tables_do_not_contradict_each_other():
    names = {*ALIASES.values()}
    check_aliases(ALIASES, names)
    assert not names & KEYWORDS
    assert not {*CLASSES} & ({*ALIASES} | names | KEYWORDS)
    assert not COUNTLESS & {*ALIASES}
    assert len(ALIASES) > 900
    assert all(word == clean(word) for word in KEYWORDS | COUNTLESS | {*CLASSES} | names)
