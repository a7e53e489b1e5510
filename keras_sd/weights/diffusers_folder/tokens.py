"""The tokenizer's folder: merges, and whether the rest of it agrees with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_sd.config import TextEncoderConfig
from keras_sd.tokenizer import END, Tokenizer, read_merges
from keras_sd.weights.diffusers_folder.settings import FolderSettings
from keras_sd.weights.readers import WeightsError, shown

PADS = {END: "end", "!": "zero"}
"""Our name of each padding token; "!" is the first of every vocabulary of CLIP's kind."""


@dataclass(frozen=True)
class Tokens:
    """What the folder of a tokenizer says.

    Attributes:
        merges: see `DiffusersFolder`.
        vocabulary: the tokens that the merges make, in the order of their ids.
        added: tokens that were added behind those.
        pad: `"end"` or `"zero"`; None where there is neither a tokenizer nor a word about it.
        max_length: ids in a row, or None where nothing says.
    """

    merges: Path | tuple[str, ...] | None = None
    vocabulary: tuple[str, ...] | None = None
    added: tuple[str, ...] = ()
    pad: str | None = None
    max_length: int | None = None


def read_tokenizer(folder: Path, notes: list[str]) -> Tokens:
    """Reads the folder of a tokenizer, in the files of transformers 4 or of 5.

    Args:
        folder: need not be there.
        notes: gets what whoever uses the model should know.

    Raises:
        WeightsError: a file is damaged, is of another kind of tokenizer, or does not agree with
            the merges.
    """
    merges: Path | tuple[str, ...] | None = None
    vocabulary: Mapping[str, Any] | None = None
    added: dict[str, Any] = {}
    source = folder / "merges.txt"
    if source.is_file():
        merges = source
        if (path := folder / "vocab.json").is_file():
            vocabulary = FolderSettings.read(path).values
    elif (path := folder / "tokenizer.json").is_file():
        source = path
        merges, vocabulary, added = _read_tokenizer_json(FolderSettings.read(path))
    else:
        notes.append("the folder has no tokenizer: CLIP's is taken, where no other is given")
    settings = _optional(folder / "tokenizer_config.json")
    special = _optional(folder / "special_tokens_map.json")
    settings.fixed({"do_lower_case": (True,), "add_prefix_space": (False,)})

    # Newer files keep all of it in the first; in older ones the second is right where they differ.
    both = [settings] if "added_tokens_decoder" in settings.values else [special, settings]
    given = next((one for one in both if one.values.get("pad_token") is not None), settings)
    pad = given.take("pad_token", None if merges is None else END)
    pad = pad.get("content") if isinstance(pad, dict) else pad
    if pad is not None and (not isinstance(pad, str) or pad not in PADS):
        given.refuse("pad_token", " or ".join(map(repr, PADS)))
    ours_pad = None if pad is None else PADS[pad]
    length = settings.take("model_max_length")
    if type(length) in (int, float) and length > 10**6:  # 1e30 says that there is no limit
        length = None
    if length is not None and type(length) is not int:
        settings.refuse("model_max_length", "a number of tokens")

    if merges is None:
        return Tokens(pad=ours_pad, max_length=length)
    try:
        lines = read_merges(merges) if isinstance(merges, Path) else merges
        ours = Tokenizer(lines).vocabulary
    except ValueError as error:
        raise WeightsError(f"{source}: {error}") from error
    if vocabulary is not None:
        theirs = _ordered(path, vocabulary)
        for number, (token, wanted) in enumerate(zip(theirs, ours, strict=False)):
            if token != wanted:
                raise WeightsError(
                    f"{path}: id {number} is {shown(token)}, but the merges give {wanted!r}"
                )
        if len(theirs) < len(ours):
            raise WeightsError(
                f"{path}: it has {len(theirs)} tokens, but the merges give {len(ours)}"
            )
        added |= {token: number for number, token in enumerate(theirs) if number >= len(ours)}
    added |= _optional(folder / "added_tokens.json").values
    names = tuple(added.keys() - set(ours))
    return Tokens(merges, ours, tuple(sorted(names)), ours_pad, length)


def _optional(path: Path) -> FolderSettings:
    return FolderSettings.read(path) if path.is_file() else FolderSettings(path, {})


def _read_tokenizer_json(
    given: FolderSettings,
) -> tuple[tuple[str, ...], Mapping[str, Any], dict[str, Any]]:
    """Merges, vocabulary and added tokens of the one file that newer versions write."""
    model = given.take("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        given.refuse("model", "byte-pair encoding")
    merges, vocabulary = model.get("merges"), model.get("vocab")
    if not isinstance(merges, list) or not isinstance(vocabulary, dict):
        given.refuse("model", "an object with vocab and merges")
    lines: list[str] = []
    for merge in merges:  # "i n" or ["i", "n"]
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if (
            not isinstance(pair, list)
            or len(pair) != 2
            or not all(isinstance(symbol, str) for symbol in pair)
        ):
            raise WeightsError(
                f"{given.path}: merge {len(lines) + 1} is {shown(merge)}, not a pair"
            )
        lines.append(" ".join(pair))
    added = given.take("added_tokens") or []
    if not isinstance(added, list) or not all(
        isinstance(token, dict) and isinstance(token.get("content"), str) for token in added
    ):
        given.refuse("added_tokens", "a list of tokens")
    return tuple(lines), vocabulary, {token["content"]: token.get("id") for token in added}


def _ordered(path: Path, vocabulary: Mapping[str, Any]) -> list[str]:
    """The tokens in the order of their ids."""
    found: list[str | None] = [None] * len(vocabulary)
    for token, number in vocabulary.items():
        if type(number) is not int or not 0 <= number < len(found) or found[number] is not None:
            raise WeightsError(
                f"{path}: the id of {shown(token)} is {shown(number)}; the ids of "
                f"{len(found)} tokens are 0 to {len(found) - 1}, each once"
            )
        found[number] = token
    return [token for token in found if token is not None]


def check_tokens(folder: Path, tokens: Tokens, config: TextEncoderConfig, notes: list[str]) -> None:
    """Refuses a tokenizer and a text encoder that do not belong together, with a WeightsError."""
    length = tokens.max_length
    if length is not None and length != config.max_length:
        raise WeightsError(
            f"{folder}: the tokenizer's model_max_length is {length}, but the text encoder reads "
            f"{config.max_length} tokens (max_position_embeddings)"
        )
    if tokens.vocabulary is None:
        return
    count = len(tokens.vocabulary)
    if config.vocab_size < count:
        raise WeightsError(
            f"{folder}: the tokenizer has {count} tokens, but the text encoder knows "
            f"{config.vocab_size} (vocab_size)"
        )
    if tokens.added:
        first = ", ".join(map(shown, tokens.added[:10]))
        notes.append(
            f"{len(tokens.added)} tokens were added to the vocabulary, which no prompt here "
            f"reaches: {first}{', ...' if len(tokens.added) > 10 else ''}"
        )
