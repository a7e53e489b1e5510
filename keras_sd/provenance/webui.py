"""What A1111's web UI, and the many programs that write as it does, say in `parameters`.

The prompt, `Negative prompt:` and its text, and a line of settings, `Steps: 20, Sampler: Euler a`.
A value with commas is a string of JSON. The line is the last; some extensions write below it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from keras_sd.provenance.origin import Provenance, real, settings_of, text, whole

__all__ = ["read"]

_MOST = 2**18  # characters, of prompts and settings together
_NEGATIVE = "Negative prompt:"
_KEY = re.compile(r"[ \t]*(\w[\w \-/]{1,80}?)[ \t]*:[ \t]*")
_SIZE = re.compile(r"(\d{1,6})x(\d{1,6})")
_QUOTED = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')
_MOST_OBJECT = 2**12  # characters
_FEWEST = 3  # settings, that a line is one of settings

_DECODER = json.JSONDecoder()

_KNOWN = ("Steps", "Sampler", "Schedule type", "CFG scale", "Seed", "Size", "Model hash", "Model")
_STRENGTH = "Denoising strength"
_SPELLED = {name.lower(): name for name in (*_KNOWN, _STRENGTH)}  # some write "CFG Scale"

# Settings that belong to a second pass, in which "Denoising strength" is that pass's.
_SECOND_PASS = ("Hires upscale", "Hires resize", "Hires steps", "Hires upscaler")
_OF_A_MASK = ("Mask blur", "Inpaint area", "Masked area padding", "Masked content", "Mask mode")


def read(texts: Mapping[str, str]) -> Provenance | None:
    """How a picture with these texts was made, or None where they have no `parameters`."""
    source = texts.get("parameters")
    if source is None:
        return None
    unread: list[str] = []
    if len(source) > _MOST:
        unread.append(f"parameters has more than {_MOST} characters: it is not taken apart")
        return Provenance(program="A1111", unread=tuple(unread))
    prompt, negative, line, below = _parts(source)
    if not line:
        unread.append("parameters has no line of settings: all of it is taken as the prompt")
    if below:
        unread.append(f"below the settings there is more: {below[:200]!r}")
    found = _settings(line, unread)
    size = _SIZE.fullmatch(found.get("Size", ""))
    if found.get("Size") and size is None:
        unread.append(f"Size is {found['Size'][:60]!r}, not a width and a height")
    version = found.get("Version", "")
    second = any(name in found for name in _SECOND_PASS)
    strength = real(_STRENGTH, found.get(_STRENGTH), unread)
    masked = any(name in found for name in _OF_A_MASK)
    # Some programs write a strength of 1 where there was no picture; with one it changes nothing.
    starts = strength is not None and not second and (strength < 1 or masked)
    known = (*_KNOWN, *(() if second else (_STRENGTH,)))
    return Provenance(
        program="keras_sd" if version.startswith("keras_sd ") else "A1111",
        prompt=prompt,
        negative_prompt=negative,
        num_steps=whole("Steps", found.get("Steps"), unread),
        sampler=text(found.get("Sampler")),
        schedule=text(found.get("Schedule type")),
        guidance_scale=real("CFG scale", found.get("CFG scale"), unread),
        seed=whole("Seed", found.get("Seed"), unread),
        width=int(size[1]) if size else None,
        height=int(size[2]) if size else None,
        model=text(found.get("Model")),
        model_hash=text(found.get("Model hash")),
        strength=None if second else strength,
        starts=starts,
        masked=masked,
        others=settings_of(dict(found), *known),
        unread=tuple(unread),
    )


def _parts(source: str) -> tuple[str, str, str, str]:
    """Prompt, negative prompt, the line of settings, and what is below it."""
    lines = source.strip().split("\n")
    at = len(lines)
    for index in reversed(range(len(lines))):
        if (
            lines[index].lstrip().startswith("Steps:")
            and len(_settings(lines[index], [])) >= _FEWEST
        ):
            at = index
            break
    else:
        if lines and len(_settings(lines[-1], [])) >= _FEWEST:
            at = len(lines) - 1
    parts: tuple[list[str], list[str]] = ([], [])
    within = 0
    for line in lines[:at]:
        line = line.strip()
        if not within and line.startswith(_NEGATIVE):
            within, line = 1, line[len(_NEGATIVE) :].strip()
        parts[within].append(line)
    prompt, negative = ("\n".join(part) for part in parts)
    settings = lines[at] if at < len(lines) else ""
    return prompt, negative, settings, "\n".join(lines[at + 1 :])


def _settings(line: str, unread: list[str]) -> dict[str, str]:
    """The settings of a line. Each character is looked at a bounded number of times."""
    found: dict[str, str] = {}
    position = 0
    while position < len(line):
        key = _KEY.match(line, position)
        if key is None:
            position, piece = _until_comma(line, position)
            if piece.strip():
                unread.append(f"{piece.strip()[:60]!r} is no setting")
            continue
        value, position = _value(line, key.end())
        name = _SPELLED.get(key[1].lower(), key[1])
        if name not in found:
            found[name] = value
        else:
            unread.append(f"{name} comes twice: the second, {value[:60]!r}, is left out")
    return found


def _value(line: str, start: int) -> tuple[str, int]:
    """A value and where the next setting begins. What is quoted, or an object of JSON, may have
    commas; if it ends before none, it was not quoted after all.
    """
    value, end = "", start
    if quoted := _QUOTED.match(line, start):
        value, end = quoted[0], quoted.end()
    elif line.startswith("{", start):
        # An error of the decoder takes as long as the text is, so it sees no more than a part.
        part = line[start : start + _MOST_OBJECT]
        try:
            length = _DECODER.raw_decode(part)[1]
        except (ValueError, RecursionError):
            length = 0
        value, end = part[:length], start + length
    if value and line[end : end + 1] in ("", ","):
        try:
            return json.loads(value) if quoted else value, end + 1
        except ValueError:
            return value, end + 1
    end, piece = _until_comma(line, start)
    return piece.strip(), end


def _until_comma(line: str, start: int) -> tuple[int, str]:
    end = line.find(",", start)
    return (len(line), line[start:]) if end < 0 else (end + 1, line[start:end])
