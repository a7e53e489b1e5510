"""Grammar of the canonical names, and the classes of subjects: reviewed by eye."""

from __future__ import annotations

import re
from collections.abc import Callable

RENAMED = {
    "person blond hair": "person with blond hair",
    "person beard": "person with a beard",
}
"""Cleaned CLDR names that read badly -> the canonical name."""

_COUNTLESS = """
cherries, eyes, grapes, pancakes, peanuts, beans, chopsticks, scissors, glasses, sunglasses,
goggles, jeans, briefs, shorts, gloves, socks, ballet shoes, shopping bags, prayer beads, skis,
lungs, paw prints, footprints, bubbles, maracas, books, houses, musical notes, film frames,
admission tickets, control knobs, fireworks, sparkles, flower playing cards, japanese dolls,
nesting dolls, crossed swords, crossed flags, crossed fingers, pinched fingers, clapping hands,
open hands, raising hands, folded hands, heart hands, two hearts, revolving hearts, sweat
droplets, linked paperclips, card index dividers, bookmark tabs, hot springs, chains, hundred
points, busts in silhouette, people with bunny ears, people wrestling, people hugging, clinking
beer mugs, clinking glasses, french fries, blueberries, antenna bars, performing arts, palms up
together, womans clothes, input numbers, input symbols, input latin letters, input latin
uppercase, input latin lowercase, clockwise vertical arrows, bread, baguette bread, bacon,
butter, salt, garlic, ginger root, broccoli, cooked rice, curry rice, spaghetti, sushi, oden,
dango, sake, mate, popcorn, fire, fog, foggy, ice, shaved ice, custard, cooking, bubble tea,
wood, coral, yarn, thread, soap, construction, building construction, cinema, badminton, tennis,
bowling, ping pong, field hockey, ice hockey, lacrosse, horse racing, camping, zzz, dna, money
with wings, canned food, meat on bone, baggage claim, left luggage, luggage, nail polish,
mahjong red dragon, mount fuji, statue of liberty, tokyo tower, santa claus, mrs claus, aries,
taurus, gemini, cancer, leo, virgo, libra, scorpio, sagittarius, capricorn, aquarius, pisces,
ophiuchus, infinity, passport control, customs, currency exchange, information, vibration mode,
falafel, no smoking, no entry, no mobile phones, no one under eighteen, no littering, no
bicycles, no pedestrians, children crossing, rolling on the floor laughing, biting lip,
breast-feeding, milky way, star-struck, multiply, divide, dashing away, prohibited, registered,
high voltage, radioactive, potable water, non-potable water, wireless, fondue, skull and
crossbones, one o clock, two o clock, three o clock, four o clock, five o clock, six o clock,
seven o clock, eight o clock, nine o clock, ten o clock, eleven o clock, twelve o clock,
one-thirty, two-thirty, three-thirty, four-thirty, five-thirty, six-thirty, seven-thirty,
eight-thirty, nine-thirty, ten-thirty, eleven-thirty, twelve-thirty, locked, unlocked, locked
with pen, locked with key, om, pouring liquid, mens room, womens room, fried shrimp, thumbs up,
thumbs down, airplane departure, airplane arrival, index pointing up, index pointing at the
viewer, backhand index pointing up, backhand index pointing down, backhand index pointing left,
keycap 10, mobile phone off, dizzy
"""
COUNTLESS = frozenset(" ".join(name.split()) for name in _COUNTLESS.split(","))
"""Names of several things, of a stuff, of an activity, of one of its kind: without an article."""

PLURALS = {
    "man": "men",
    "woman": "women",
    "person": "people",
    "child": "children",
    "mouse": "mice",
    "goose": "geese",
    "ox": "oxen",
    "foot": "feet",
    "biceps": "biceps",
    "tooth": "teeth",
    "knife": "knives",
    "leaf": "leaves",
    "wolf": "wolves",
    "elf": "elves",
    "die": "dice",
    "fish": "fish",
    "blowfish": "blowfish",
    "jellyfish": "jellyfish",
    "deer": "deer",
    "moose": "moose",
    "bison": "bison",
    "buffalo": "buffalo",
    "squid": "squid",
    "shrimp": "shrimp",
    "potato": "potatoes",
    "tomato": "tomatoes",
    "mango": "mangoes",
    "mosquito": "mosquitoes",
    "volcano": "volcanoes",
    "tornado": "tornadoes",
    "superhero": "superheroes",
    "merperson": "merpeople",
    "snowman": "snowmen",
    "scarf": "scarves",
    "sheaf": "sheaves",
    "fleur-de-lis": "fleurs-de-lis",
    "cactus": "cacti",
}
"""The last word of a counted noun phrase -> its plural, where no rule gives it."""


def starts_with_vowel(name: str) -> bool:
    """Whether "an" stands before the name: by its sound, not by its letter."""
    if re.match(r"(uni|eu|one\b|uk|ufo|use|u\b)", name):
        return False
    return bool(re.match(r"[aeio]|u(?!t)|hourglass|x-ray|8|(ng|sos|atm|rv|id|m|l|s) ", name))


CLOCKS = range(0x1F550, 0x1F568)
"""Code points of the clock faces, one for each half hour."""

SIGNS = frozenset(
    {"transport-sign", "arrow", "religion", "zodiac", "av-symbol", "keycap", "alphanum"}
)
"""Emojibase's subgroups of signs: mostly a white figure on a small square."""

Held = Callable[[str, str], bool]


def _of(*subgroups: str, but: str = "", also: str = "") -> Held:
    """Whether a subject, by name and subgroup, is of a class."""
    out = {name.strip() for name in but.split(",")}
    more = {name.strip() for name in also.split(",")}
    return lambda name, subgroup: (subgroup in subgroups and name not in out) or name in more


_COLOURS = frozenset(
    {"red", "orange", "yellow", "green", "blue", "light", "purple"}
    | {"brown", "black", "white", "grey", "pink"}
)
_ANIMALS = ("mammal", "bird", "amphibian", "reptile", "marine", "bug")

CLASSES: dict[str, Held] = {
    "animal": _of(
        *(f"animal-{kind}" for kind in _ANIMALS),
        but="pig nose, paw prints, feather, wing, spiral shell, coral, spider web, microbe, "
        "dragon, dragon face, unicorn",
    ),
    "insect": _of(
        also="bug, ant, honeybee, lady beetle, butterfly, cricket, mosquito, fly, beetle, cockroach"
    ),
    "reptile": _of(also="crocodile, snake, turtle, lizard, sauropod, t-rex"),
    "dinosaur": _of(also="sauropod, t-rex"),
    "sea creature": _of("animal-marine", but="spiral shell, coral"),
    "pet": _of(also="cat, cat face, dog, dog face, hamster, rabbit, rabbit face, parrot, poodle"),
    "farm animal": _of(
        also="cow, cow face, ox, pig, pig face, goat, ewe, ram, horse, horse face, donkey, "
        "rooster, chicken, duck, goose, turkey"
    ),
    "fruit": _of("food-fruit"),
    "vegetable": _of("food-vegetable", but="chestnut, peanuts, avocado"),
    "dessert": _of("food-sweet", but="honey pot"),
    "drink": _of(
        "drink",
        but="baby bottle, ice, teapot, clinking beer mugs, clinking glasses, pouring liquid",
    ),
    "vehicle": _of(
        "transport-ground",
        but="fuel pump, railway track, motorway, station, bus stop, horizontal traffic light, "
        "vertical traffic light, construction, police car light, stop sign, wheel, oil drum, "
        "roller skate, skateboard, motorized wheelchair, manual wheelchair",
    ),
    "building": _of(
        "place-building",
        "place-religious",
        but="building construction, brick, rock, wood, hut, wedding, houses, statue of liberty, "
        "shinto shrine, kaaba",
    ),
    "ball": _of(
        also="soccer ball, baseball, basketball, volleyball, american football, rugby football, "
        "softball, pool 8 ball"
    ),
    "musical instrument": _of("musical-instrument", but="musical keyboard"),
    "tool": _of(
        also="hammer, axe, pick, wrench, screwdriver, carpentry saw, clamp, hammer and pick, "
        "hammer and wrench"
    ),
    "weapon": _of(also="crossed swords, dagger, bow and arrow, bomb, axe, boomerang"),
    "toy": _of(also="teddy bear, yo-yo, kite, nesting dolls, puzzle piece, water pistol, pinata"),
    "hat": _of(also="top hat, womans hat, billed cap, graduation cap"),
    "bag": _of(also="backpack, handbag, clutch bag, purse, shopping bags, money bag"),
    "medal": _of(
        also="military medal, sports medal, 1st place medal, 2nd place medal, 3rd place medal"
    ),
    "clock face": lambda name, subgroup: name.endswith((" o clock", "-thirty")),
    "banknote": _of(also="yen banknote, dollar banknote, euro banknote, pound banknote"),
    "hand sign": _of(
        "hand-fingers-open", "hand-fingers-partial", "hand-single-finger", "hand-fingers-closed"
    ),
    "emoticon": lambda name, subgroup: (
        subgroup.startswith("face-") and subgroup not in ("face-costume", "face-negative")
    ),
    "monster": _of(also="ogre, goblin, alien monster, zombie, vampire, troll"),
    "zodiac sign": _of("zodiac"),
    "coloured heart": lambda name, subgroup: subgroup == "heart" and name.split()[0] in _COLOURS,
    "coloured circle": lambda name, subgroup: (
        subgroup == "geometric" and name.endswith(" circle") and name.split()[0] in _COLOURS
    ),
    "coloured square": lambda name, subgroup: (
        subgroup == "geometric" and name.endswith(" square") and name.split()[0] in _COLOURS
    ),
}
"""A noun -> whether a subject, by canonical name and emojibase's subgroup, is one of those.

No class is called like a subject or an alias: "a bird" is the drawing of that name.
"""
