"""Which words mean which subject: names, synonyms, classes and hints of the drawings.

The words are those of Unicode's CLDR annotations in English, sorted by what they are good for, and
the reviewed ones of `aliases.py`. Every text is lower case ASCII: words, digits, spaces, hyphens.
A name, a synonym or an alias means one subject and no other.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from keras_sd.training.aliases import ALIASES, KEYWORDS
from keras_sd.training.nouns import (
    CLASSES,
    CLOCKS,
    COUNTLESS,
    PLURALS,
    RENAMED,
    SIGNS,
    starts_with_vowel,
)
from keras_sd.training.packages import CLDR, EMOJIBASE

HINTS = 6
"""At most so many hints a subject."""

_CLDR_FILE = "annotations/en/annotations.json"
_DATA_FILE, _GROUPS_FILE = "en/data.json", "meta/groups.json"
_NAMES_FILE = "meta/unicode-names.json"


@dataclass(frozen=True)
class Subject:
    """One thing that can be drawn, and its words.

    Args:
        code: the code point.
        name: the canonical name; no two subjects share it.
        names: other full names.
        synonyms: other nouns for it and for nothing else.
        classes: nouns of which it is one of several ("bird").
        hints: single words that go with it ("launch"); no nouns for it.
        group: the kind of subject, for sampling and for measuring by kind.
        plural: of the canonical name.
        article: "a", "an", or "" where the name takes none ("grapes", "bread").
    """

    code: int
    name: str
    names: tuple[str, ...]
    synonyms: tuple[str, ...]
    classes: tuple[str, ...]
    hints: tuple[str, ...]
    group: str
    plural: str
    article: str


def subjects(
    packages: Path,
    codes: Sequence[int],
    aliases: Mapping[str, str] = ALIASES,
) -> list[Subject]:
    """The subjects of a bank, in its order.

    Args:
        packages: folder of the `.tgz` files that `npm pack` fetched.
        codes: the code points.
        aliases: word -> canonical name.

    Raises:
        FileNotFoundError: a package is not there; the message says how to fetch it.
        ValueError: a package is not the pinned one, a code point has no name, or the words
            contradict each other.
    """
    cldr = json.loads(CLDR.read(packages, _CLDR_FILE)[_CLDR_FILE])["annotations"]["annotations"]
    base = EMOJIBASE.read(packages, _DATA_FILE, _GROUPS_FILE, _NAMES_FILE)
    notes = {c: note for text, note in cldr.items() if (c := _single(map(ord, text))) is not None}
    data = {
        c: entry
        for entry in json.loads(base[_DATA_FILE])
        if (c := _single(int(part, 16) for part in entry["hexcode"].split("-"))) is not None
    }
    unicode_names = {
        c: name
        for key, name in json.loads(base[_NAMES_FILE]).items()
        if (c := _single(int(part, 16) for part in key.split("-"))) is not None
    }
    kinds = json.loads(base[_GROUPS_FILE])

    name: dict[int, str] = {}
    for code in codes:
        texts = notes.get(code, {}).get("tts") or [data.get(code, {}).get("label", "")]
        name[code] = RENAMED.get(clean(texts[0]), clean(texts[0]))
    _unique(name)
    check_aliases(aliases, name.values())

    keywords = {c: [clean(k) for k in notes.get(c, {}).get("default", [])] for c in codes}
    holders = Counter(k for c in codes for k in {*keywords[c]})
    group, subgroup = {}, {}
    for code in codes:
        entry = data.get(code, {})
        group[code] = kinds["groups"].get(str(entry.get("group")), "symbols")
        subgroup[code] = kinds["subgroups"].get(str(entry.get("subgroup")), "")

    taken = {*name.values(), *aliases}
    claims = {
        code: _other_names(name[code], unicode_names.get(code, ""), subgroup[code])
        for code in codes
    }
    claimed = Counter(n for code in codes for n in claims[code])
    names = {
        code: tuple(n for n in claims[code] if claimed[n] == 1 and n not in taken) for code in codes
    }
    taken |= {n for code in codes for n in names[code]}
    of_alias: dict[str, list[str]] = {}
    for word, meant in aliases.items():
        of_alias.setdefault(meant, []).append(word)
    synonyms = {
        code: (
            *of_alias.get(name[code], []),
            *sorted(k for k in {*keywords[code]} & KEYWORDS if holders[k] == 1 and k not in taken),
        )
        for code in codes
    }
    taken |= {s for code in codes for s in synonyms[code]}
    if both := sorted(taken & {*CLASSES}):
        raise ValueError(f"Classes that are words for one subject: {', '.join(both)}.")
    taken |= {*CLASSES}

    return [
        Subject(
            code=code,
            name=name[code],
            names=names[code],
            synonyms=synonyms[code],
            classes=tuple(c for c, held in CLASSES.items() if held(name[code], subgroup[code])),
            hints=tuple(dict.fromkeys(k for k in keywords[code] if _is_hint(k, name[code], taken)))[
                :HINTS
            ],
            group=_kind(code, name[code], group[code], subgroup[code]),
            plural=plural(name[code]),
            article=article(name[code]),
        )
        for code in codes
    ]


def clean(text: str) -> str:
    """The text as a person would type it: lower case ASCII words, digits, spaces, hyphens.

    What stands in brackets is left out; "men's" becomes "mens", "o'clock" "o clock".
    """
    text = re.sub(r"\(.*?\)", " ", text.lower().replace("’", "'"))
    text = re.sub(r"(?<=\w)'s\b", "s", text)
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    text = re.sub(r"[^a-z0-9-]+", " ", text)
    return " ".join(word.strip("-") for word in text.split() if word.strip("-"))


def plural(name: str) -> str:
    """Several of a subject: "cats", "glasses of milk", "people running"."""
    if name in COUNTLESS:
        return name
    head, rest = _head(name)
    return " and ".join(_plural(part) for part in head.split(" and ")) + rest


def _plural(phrase: str) -> str:
    *before, last = phrase.split()
    if last in PLURALS:
        last = PLURALS[last]
    elif re.search(r"(s|x|z|ch|sh)$", last):
        last += "es"
    elif re.search(r"[^aeiou]y$", last):
        last = last[:-1] + "ies"
    else:
        last += "s"
    return " ".join([*before, last])


def article(name: str) -> str:
    """The indefinite article of a canonical name; "" where it takes none."""
    if name in COUNTLESS:
        return ""
    return "an" if starts_with_vowel(name) else "a"


def check_aliases(aliases: Mapping[str, str], names: Iterable[str]) -> None:
    """Raise where an alias means nothing, or is the name of a subject itself.

    Args:
        aliases: word -> canonical name.
        names: the canonical names.

    Raises:
        ValueError: the message lists the aliases at fault.
    """
    known = {*names}
    lost = sorted(f"{word!r} -> {meant!r}" for word, meant in aliases.items() if meant not in known)
    if lost:
        raise ValueError(f"Aliases of subjects that are not there: {', '.join(lost)}.")
    if names_too := sorted(known & {*aliases}):
        raise ValueError(f"Aliases that are names of subjects themselves: {', '.join(names_too)}.")
    if dirty := sorted(word for word in aliases if word != clean(word)):
        raise ValueError(f"Aliases that are not plain words: {', '.join(dirty)}.")


def save(subjects: Sequence[Subject], path: str | Path) -> None:
    """Write subjects as JSON; the file appears only when it is whole."""
    path = Path(path)
    whole = path.with_name(path.name + ".part")
    whole.write_text(json.dumps([asdict(s) for s in subjects], indent=1) + "\n", "utf-8")
    whole.replace(path)


def load(path: str | Path) -> list[Subject]:
    """Read what `save` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds something else.
    """
    try:
        entries: list[dict[str, Any]] = json.loads(Path(path).read_text("utf-8"))
        for entry in entries:
            entry.update({k: tuple(v) for k, v in entry.items() if isinstance(v, list)})
        return [Subject(**entry) for entry in entries]
    except (TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} does not hold subjects: {error}.") from error


def _single(codes: Iterable[int]) -> int | None:
    """The one code point, or None for a sequence; a variation selector does not count."""
    rest = [code for code in codes if code != 0xFE0F]
    return rest[0] if len(rest) == 1 else None


def _unique(name: Mapping[int, str]) -> None:
    if nameless := [f"{code:x}" for code, n in name.items() if not n]:
        raise ValueError(f"No name for the code points {', '.join(nameless)}.")
    many = Counter(name.values())
    if shared := sorted(n for n, count in many.items() if count > 1):
        raise ValueError(f"Names of several subjects: {', '.join(shared)}.")


_VAGUE_UNICODE = re.compile(
    r"\b(black|white|heavy|squared|letter|ideograph|sans-serif|negative|type-\d|source)\b"
)  # in Unicode's names these tell of a glyph's form, not of what is drawn
_EMPTY_WORDS = ("face", "button", "sign", "suit", "symbol")
_NO_NAMES = {
    *("new", "free", "cool", "up", "bright", "dim", "stop", "female", "male", "fast up", "mens"),
    *("womens", "medical", "record", "octagonal", "transgender", "peace", "recycling"),
    *("smoking", "sleeping", "anger", "dollar", "splashing sweat", "sleeping accommodation"),
    *("permanent paper", "permanent paper sign", "wind blowing"),
    # these pictures show hands without a person, or a person with more than a face
    *("face with no good gesture", "face with ok gesture", "person with folded hands"),
    *("person raising both hands in celebration", "person with pouting face"),
}  # what is left of a name, and Unicode's names, that say something else than the picture


def _other_names(name: str, unicode_name: str, subgroup: str) -> list[str]:
    """What a subject might be called beside its canonical name."""
    other = clean(unicode_name)
    found = [] if _VAGUE_UNICODE.search(other) or len(other) < 3 else [other]
    moods = subgroup.startswith("face-") and subgroup != "face-costume"
    for full in (name, *found):
        short = full.removeprefix("heavy ")
        *rest, last = short.split()
        found.append(short)
        whole = {"with", "in", "of", "japanese"} & {*rest} or (moods and last == "face")
        if rest and last in _EMPTY_WORDS and not whole:
            found.append(" ".join(rest))
    return [
        n
        for n in dict.fromkeys(found)
        if n != name and len(n) > 2 and n.count(" ") < 6 and n not in _NO_NAMES
    ]


def _is_hint(word: str, name: str, taken: Collection[str]) -> bool:
    return (
        word.isalpha()
        and len(word) > 2
        and word not in taken
        and word not in re.split("[ -]", name)
    )


def _kind(code: int, name: str, group: str, subgroup: str) -> str:
    """The group; small squares with signs, arrows and clock faces are "signs"."""
    if subgroup in SIGNS or name.endswith(" button") or code in CLOCKS:
        return "signs"
    return group


_SLANG = """
pissed fml bae lit litaf omg ily lol rofl hahaha whatever sucks dope bruh cya gtg ttfn hrs awk jel
uhh geez jeez brr tbt bday xoxo doo dung smelly stinks stinky booze yolo feels fosho legit gotta
cmon thx idk nooo homie yup whew eek litbin menstruation gay genderqueer glbt glbtq lesbian lgbt
lgbtq lgbtqia queer trans flirt bestie
"""  # keywords that say nothing of the picture, or that nobody wants in a caption
_NO_HINTS = frozenset(_SLANG.split())


_PREPOSITIONS = "with|without|of|in|on|at|for|behind|from|over|up"
_VERBS = (
    "showing|pointed|pointing|tilted|wearing|running|walking|standing|kneeling|dancing|swimming"
    "|surfing|mountain biking|biking|bouncing|lifting|golfing|rowing|cartwheeling|juggling|fencing"
    "|playing|getting|taking|tipping|gesturing|bowing|raising|frowning|pouting|facepalming"
    "|shrugging|climbing|levitating|facing|screaming|savoring|blowing|fluttering|curving|holding"
    "|vomiting|increasing|decreasing|not done|done"
)
_REST = re.compile(rf" ({_PREPOSITIONS}) .*$| ({_VERBS})( .*)?$")
_COUNTED = (" sign", " face", " hand", " arrow", " fist")


def _head(name: str) -> tuple[str, str]:
    """The noun phrase that is counted, and what follows it."""
    if name.endswith(" button") or (
        name.endswith(_COUNTED) and not re.search(r"^person | (with|of) ", name)
    ):
        return name, ""
    match = _REST.search(name)
    return (name[: match.start()], name[match.start() :]) if match else (name, "")
