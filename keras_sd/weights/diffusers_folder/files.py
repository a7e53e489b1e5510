"""Which files hold the weights of a part: variants, formats, shards."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_sd.weights.diffusers_folder.choice import (
    Candidate,
    candidates,
    choose,
    named,
    stems,
)
from keras_sd.weights.diffusers_folder.settings import FolderSettings
from keras_sd.weights.readers import WeightsError, read_file, shown


@dataclass(frozen=True)
class PartFiles:
    """The files that hold the weights of a part.

    Attributes:
        files: one, or several shards.
        shards: the file name of every tensor, as the index of the shards has it; None where there
            is one file.
    """

    files: tuple[Path, ...]
    shards: Mapping[str, str] | None = None


def find_weights(
    folder: Path,
    folders: Mapping[str, str],
    variant: str | None,
    notes: list[str],
    without: Collection[str] = (),
) -> dict[str, PartFiles]:
    """Finds the files of every part; see `read_folder`.

    Args:
        folder: of the model.
        folders: inside of it, by part.
        variant: of the weights, or None.
        notes: gets what whoever uses the model should know.
        without: parts that are not looked for.

    Raises:
        FileNotFoundError: a part has no weights, or not all of its shards.
        WeightsError: there is no such variant, or an index of shards is damaged.
    """
    found = {
        part: candidates(
            (f"{name}/{path.name}" for path in (folder / name).iterdir()), part, folders
        )
        for part, name in folders.items()
        if part not in without
    }
    for part, files in found.items():
        if not files:
            place = folder / folders[part]
            there = ", ".join(sorted(path.name for path in place.iterdir())) or "nothing"
            raise FileNotFoundError(
                f"{place} has no weights that can be read ({stems(part)[0]}.safetensors or "
                f"{stems(part)[1]}.bin, whole or in shards); there is {there}"
            )
    if variant is not None and not any(variant in files for files in found.values()):
        raise WeightsError(f"{folder} has no variant {variant!r}; {_variants(found, folders)}")
    chosen = {}
    for part, files in found.items():
        name = folders[part]
        taken = choose(files, variant)
        if taken is None:
            raise WeightsError(
                f"{folder / name} has no weights {named(variant)}; {_variants(found, folders)}"
            )
        if variant not in files:
            notes.append(
                f"{name} has no variant {variant!r}: it is taken without a variant"
                if None in files
                else f"{name} has the variant {next(iter(files))!r} only, which is taken"
            )
        path = folder / taken.file
        chosen[part] = _sharded(path) if path.suffix == ".json" else PartFiles((path,))
    return chosen


def _variants(
    found: Mapping[str, Mapping[str | None, Candidate]], folders: Mapping[str, str]
) -> str:
    return "there is " + "; ".join(
        f"{folders[part]}: {', '.join(sorted(map(named, files)))}" for part, files in found.items()
    )


def _sharded(path: Path) -> PartFiles:
    index = FolderSettings.read(path)
    shards = index.take("weight_map")
    if not isinstance(shards, dict) or not shards:
        index.refuse("weight_map", "an object with the file of every tensor")
    files = {}
    # No separator of any system, and no "..".
    shard = re.compile(r"[A-Za-z0-9_.-]+\.(safetensors|bin)")
    for name in shards.values():
        if not isinstance(name, str) or not shard.fullmatch(name):
            raise WeightsError(
                f"{path}: {shown(name)} is not the name of a shard in the same folder"
            )
        files[name] = path.parent / name
    for file in files.values():
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing, a shard of {path.name}")
    return PartFiles(tuple(files[name] for name in sorted(files)), shards)


def read_tensors(part: PartFiles) -> dict[str, np.ndarray]:
    """Opens the files of a part, whose shards have to be what their index says.

    Raises:
        WeightsError: a file is damaged, or another shard than its index says.
    """
    found: dict[str, np.ndarray] = {}
    for file in part.files:
        tensors = read_file(file).tensors
        if part.shards is not None:
            wanted = {name for name, shard in part.shards.items() if shard == file.name}
            if odd := sorted(wanted ^ set(tensors)):
                more = f" and {len(odd) - 10} more" if len(odd) > 10 else ""
                raise WeightsError(
                    f"{file} is not the shard that its index says: either of them lacks "
                    f"{', '.join(odd[:10])}{more}"
                )
        found.update(tensors)
    return found
