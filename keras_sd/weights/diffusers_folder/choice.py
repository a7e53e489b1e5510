"""Which files of a diffusers folder hold the weights of a part, by their names alone.

The rule is one for a folder on the disk and for a repository that is not fetched yet: what is whole
goes before what lacks a shard, and of that `.safetensors` before `.bin`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

FOLDERS = {"text_encoder": "text_encoder", "unet": "unet", "autoencoder": "vae"}
"""What diffusers calls the folders of the parts of Stable Diffusion 1.x and 2.x."""


def folders_of(first: bool, second: bool) -> dict[str, str]:
    """What diffusers calls the folders of a model's parts.

    Args:
        first: there is a `text_encoder`, which the refiner of SDXL lacks.
        second: there is a `text_encoder_2`.
    """
    if not second:
        return FOLDERS
    if not first:
        return {**FOLDERS, "text_encoder": "text_encoder_2"}
    return {"text_encoder": "text_encoder", "text_encoder_2": "text_encoder_2", **FOLDERS}


T = TypeVar("T")


@dataclass(frozen=True)
class Candidate:
    """Weights of a part.

    Attributes:
        file: of the weights, or the index of their shards, as "unet/NAME".
        shards: of an index, as far as there are any.
        is_whole: every shard is there, as their names count them.
    """

    file: str
    shards: tuple[str, ...] = ()
    is_whole: bool = True


def candidates(
    names: Iterable[str], part: str, folders: Mapping[str, str] = FOLDERS
) -> dict[str | None, Candidate]:
    """The best weights of a part in every variant.

    Args:
        names: of the folder's files, as "unet/NAME"; others may be among them.
        part: a key of `folders`.
        folders: what `folders_of` gave.
    """
    folder = folders[part]
    inside = sorted(name.removeprefix(f"{folder}/") for name in names if _is_in(name, folder))
    found: dict[str | None, tuple[bool, int, Candidate]] = {}
    for name in inside:
        if (known := kind_of(name, part)) is None:
            continue
        rank, variant = known
        shards, whole = _shards(inside, rank, part, variant) if rank % 3 else ((), True)
        made = Candidate(f"{folder}/{name}", tuple(f"{folder}/{shard}" for shard in shards), whole)
        entry = (not whole, rank, made)
        found[variant] = min(found.get(variant, entry), entry, key=lambda each: each[:2])
    return {variant: candidate for variant, (_, _, candidate) in found.items()}


def choose(found: Mapping[str | None, T], variant: str | None) -> T | None:
    """What is taken of what a part has in every variant.

    A part that lacks the variant is taken without one. Where none is asked for, the only variant
    that there is needs no naming.

    Returns:
        None where nothing fits.
    """
    if variant in found:
        return found[variant]
    if None in found:
        return found[None]
    return next(iter(found.values())) if variant is None and len(found) == 1 else None


def kind_of(name: str, part: str) -> tuple[int, str | None] | None:
    """What a file in the folder of a part is to it, by its name.

    Returns:
        The rank of the file (lower goes before higher; that of an index of shards is no multiple
        of 3) and its variant, or None where there is no variant; None for any other file, such as
        one of the shards.
    """
    if re.search(r"-\d+-of-\d+\.", name):  # one of the shards
        return None
    for rank, (stem, suffix) in enumerate(zip(stems(part), _SUFFIXES, strict=True)):
        for order, pattern in enumerate(
            (
                rf"{stem}(?:\.(?P<variant>[^./]+))?\.{suffix}",
                rf"{stem}\.{suffix}\.index(?:\.(?P<variant>[^./]+))?\.json",
                rf"{stem}\.{suffix}\.(?P<variant>[^./]+)\.index\.json",  # of older versions
            )
        ):
            if match := re.fullmatch(pattern, name):
                return 3 * rank + order, match["variant"]
    return None


_SUFFIXES = ("safetensors", "bin")


def stems(part: str) -> tuple[str, str]:
    """How the names of `.safetensors` and `.bin` files begin."""
    if part in ("text_encoder", "text_encoder_2"):
        return "model", "pytorch_model"
    return "diffusion_pytorch_model", "diffusion_pytorch_model"


def named(variant: str | None) -> str:
    """A variant in a sentence: "weights of variant 'fp16'"."""
    return "without a variant" if variant is None else f"of variant {variant!r}"


def _is_in(name: str, folder: str) -> bool:
    return name.startswith(f"{folder}/") and name.count("/") == 1


def _shards(
    names: list[str], rank: int, part: str, variant: str | None
) -> tuple[tuple[str, ...], bool]:
    """The shards of an index, and whether all are there."""
    kind = rank // 3
    dot = re.escape(f".{variant}" if variant else "")
    number = r"-\d{5}-of-(\d{5})"
    # The variant stands before the number, in older files after it.
    ends = rf"(?:{dot}{number}|{number}{dot})\.{_SUFFIXES[kind]}"
    pattern = re.compile(rf"{re.escape(stems(part)[kind])}{ends}")
    matches = [match for name in names if (match := pattern.fullmatch(name))]
    whole = {int(match[1] or match[2]) for match in matches} == {len(matches)}
    return tuple(match[0] for match in matches), whole
