"""Tags in a prompt: `<lora:name:0.8>`, and `withLora(name, 0.8)` of compel."""

from __future__ import annotations

import re

from keras_sd.prompts.values import PromptError, Tag, finite, shown

__all__ = ["TAGS", "cut", "cut_compel"]

TAGS = {"lora": "lora", "lyco": "lora"}
"""The kinds that are known, and what each stands for."""

_TAG = re.compile(r"<(\w+):([^>]+)>")
_NAMED = {"te": "text_encoder", "unet": "unet", "dyn": "rank"}
_COMPEL = re.compile(r"(?:with|use)Lora\(\s*([\w-]+)\s*(?:,\s*(-?[\d.]+)\s*)?\)")


def cut(text: str) -> tuple[str, tuple[Tag, ...]]:
    """The text without its tags, and the tags in their order.

    Raises:
        PromptError: a number of a known tag is none, or it has more of them than it can have.
    """
    tags: list[Tag] = []

    def read(match: re.Match[str]) -> str:
        tags.append(_tag(*match.group(0, 1, 2)))
        return ""

    # Behind the last ">" there is no tag; without the cut each "<" would be searched to the end.
    end = text.rfind(">") + 1
    return _TAG.sub(read, text[:end]) + text[end:], tuple(tags)


def _tag(source: str, kind: str, arguments: str) -> Tag:
    if kind not in TAGS:
        return Tag(source, kind, arguments, known=False)
    name, *given = arguments.split(":")
    numbers = [each for each in given if "=" not in each]
    values = dict(zip(_NAMED, numbers, strict=False))
    for each in given:
        key, equals, value = each.partition("=")
        if equals and key not in _NAMED:
            raise PromptError(
                f"{shown(source)} has no {key!r}; there are {', '.join(_NAMED)}, as in "
                "<lora:name:te=0.5:unet=0.8>"
            )
        if equals:
            values[key] = value
    if not name or len(numbers) > len(_NAMED):
        raise PromptError(
            f"{shown(source)} is <{kind}:name:strength>, or "
            f"<{kind}:name:strength in the text encoder:strength in the UNet>"
        )
    text_encoder = finite(values.get("te", "1"), source)
    rank = values.get("dyn")
    if rank is not None and not (rank.isdecimal() and len(rank) < 10):
        raise PromptError(f"{shown(rank)} in {shown(source)} is no rank; it is a whole number")
    return Tag(
        source,
        TAGS[kind],
        name,
        text_encoder,
        finite(values["unet"], source) if "unet" in values else text_encoder,
        None if rank is None else int(rank),
    )


def cut_compel(text: str) -> tuple[str, tuple[Tag, ...]]:
    """The same of compel's `withLora(name, 0.8)`, also spelled `useLora`.

    Raises:
        PromptError: the strength is no number.
    """
    tags: list[Tag] = []

    def read(match: re.Match[str]) -> str:
        source, name, number = match.group(0, 1, 2)
        strength = finite(number or "1", source)
        tags.append(Tag(source, "lora", name, strength, strength))
        return ""

    return _COMPEL.sub(read, text), tuple(tags)
