"""The value that all readers give, and how they take numbers and words out of a stranger's text."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import asdict, dataclass, field
from typing import Any

from keras_sd.request import Request

__all__ = [
    "Provenance",
    "Used",
    "parsed",
    "plain",
    "real",
    "settings_of",
    "text",
    "used_of",
    "whole",
]

_DIGEST = re.compile(r"[0-9a-f]{64}")
_WHOLE = re.compile(r"[+-]?\d{1,20}")
_REAL = re.compile(r"[+-]?(\d{1,40}\.?\d{0,40}|\.\d{1,40})(e[+-]?\d{1,3})?", re.IGNORECASE)

Plain = str | int | float | bool


@dataclass(frozen=True)
class Used:
    """A file that a picture was made with beside its model.

    Attributes:
        name: the stem of the file.
        sha256: of the file.
        strength: how much of it.
    """

    name: str
    sha256: str
    strength: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """How a picture says that it was made. Nothing in it was looked up: names of samplers, models
    and files are words, as the program wrote them.

    Attributes:
        program: `"keras_sd"`, `"A1111"` (or a program that writes as it does), `"ComfyUI"`,
            `"InvokeAI"` or `"NovelAI"`.
        prompt: what the picture shows; None where the file does not say.
        negative_prompt: likewise, what it was kept away from.
        num_steps: sampler steps.
        sampler: as the program calls it.
        schedule: likewise; None where the program has no name for it beside the sampler's.
        guidance_scale: of classifier-free guidance.
        seed: of its noise.
        width: pixels.
        height: pixels.
        model: name of the checkpoint.
        model_hash: what the program says of its contents.
        strength: how much of a picture was made anew.
        starts: whether it began at a picture, which the file does not hold.
        masked: whether only a part of that was painted.
        others: all other settings, by the names that the program gives them.
        unread: sentences about what could not be understood.
        request: of keras_sd alone: everything that the picture depends on but the weights.
        loading: likewise, the options that the model was loaded with.
        extended: likewise, by how many pixels the picture that it began at was extended first.
        adapters: likewise, those that were merged into the model.
        embeddings: likewise, those that its prompts may name.
    """

    program: str
    prompt: str | None = None
    negative_prompt: str | None = None
    num_steps: int | None = None
    sampler: str | None = None
    schedule: str | None = None
    guidance_scale: float | None = None
    seed: int | None = None
    width: int | None = None
    height: int | None = None
    model: str | None = None
    model_hash: str | None = None
    strength: float | None = None
    starts: bool = False
    masked: bool = False
    others: Mapping[str, Plain] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    request: Request | None = None
    loading: Mapping[str, Plain] = field(default_factory=dict)
    extended: Mapping[str, int] = field(default_factory=dict)
    adapters: tuple[Used, ...] = ()
    embeddings: tuple[Used, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The value in JSON's types; the request as `Request.to_dict` gives it."""
        found = {name: getattr(self, name) for name in _NAMES}
        found["request"] = self.request and self.request.to_dict()
        for name in ("adapters", "embeddings"):
            found[name] = [asdict(each) for each in found[name]]
        return {
            name: dict(value) if isinstance(value, Mapping) else value
            for name, value in {**found, "unread": list(self.unread)}.items()
        }


_NAMES = tuple(Provenance.__dataclass_fields__)


def used_of(what: str, rows: Any, unread: list[str]) -> tuple[Used, ...]:
    """Files that a picture names; a sentence for each that is not whole."""
    found = []
    for row in rows if isinstance(rows, list) else () if rows is None else (rows,):
        each = row if isinstance(row, dict) else {}
        name, digest, strength = each.get("name"), each.get("sha256"), each.get("strength", 1.0)
        if (
            isinstance(name, str)
            and isinstance(digest, str)
            and _DIGEST.fullmatch(digest)
            and real(what, strength, []) is not None
            and not isinstance(strength, str)
        ):
            found.append(Used(name[:1000], digest, float(strength)))
        else:
            unread.append(f"{what}: {_shown(row)} is no name, SHA-256 and strength")
    return tuple(found)


def parsed(what: str, source: str, unread: list[str]) -> Any:
    """The value of a text of JSON; None, and a sentence, where it is none. That it nests too deep
    is no reason to fail either.
    """
    try:
        return json.loads(source)
    except (ValueError, RecursionError) as error:
        why = "it nests too deep" if isinstance(error, RecursionError) else f"{error}"
        unread.append(f"{what} is no JSON: {why}")
        return None


def text(value: Any) -> str | None:
    """A string that holds anything, else None."""
    return value if isinstance(value, str) and value else None


def whole(what: str, value: Any, unread: list[str]) -> int | None:
    """A whole number, or the text of one; None, and a sentence, where a value is none."""
    number = real(what, value, unread)
    if number is None:
        return None
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        return int(value)  # exact where a float is not
    if number != int(number):
        unread.append(f"{what} is {_shown(value)}, which is no whole number")
        return None
    return int(value) if isinstance(value, int) else int(number)


def real(what: str, value: Any, unread: list[str]) -> float | None:
    """A finite number, or the text of one; None, and a sentence, where a value is none."""
    if value is None or value == "":
        return None
    number = math.nan
    if isinstance(value, str):
        number = float(value) if _REAL.fullmatch(value.strip()) else math.nan
    elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300:
        number = float(value)
    if not math.isfinite(number):
        unread.append(f"{what} is {_shown(value)}, which is no number")
        return None
    return number


def plain(value: Any) -> Plain | None:
    """A setting as one word or number: lists and objects become a line of JSON, of which the first
    thousand characters are kept; None stays None.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float) and math.isfinite(value) and abs(value) < 1e300:
        return value
    if not isinstance(value, str):
        try:
            value = json.dumps(value, ensure_ascii=False)
        except RecursionError:
            value = "(nests too deep)"
    return value if len(value) <= 1000 else f"{value[:1000]}..."


def settings_of(given: MutableMapping[str, Any], *known: str) -> dict[str, Plain]:
    """What is left of a program's settings, but for those that are known, empty or None."""
    left = {str(name): plain(v) for name, v in given.items() if name not in known}
    return {name: v for name, v in left.items() if v not in (None, "", "[]", "{}")}


def _shown(value: Any) -> str:
    shown = str(plain(value))
    return repr(shown if len(shown) <= 60 else f"{shown[:60]}...")
