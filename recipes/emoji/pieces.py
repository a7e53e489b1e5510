"""The weights that a run writes: float16, in files small enough to be carried home.

A variable is named by its network and its number there, "unet/12".
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

MOST = 15 * 2**20
"""Bytes of a file."""

_MARK = "mark"


def split(sizes: Mapping[str, int], most: int = MOST) -> list[list[str]]:
    """Names in as many lists as there are files, in order.

    Args:
        sizes: bytes by name.
        most: of a file.

    Raises:
        ValueError: one alone is larger than that.
    """
    pieces: list[list[str]] = [[]]
    room = most
    for name, size in sizes.items():
        if size > most:
            raise ValueError(f"{name} has {size} bytes, and a file has room for {most}")
        if size > room:
            pieces.append([])
            room = most
        pieces[-1].append(name)
        room -= size
    return pieces


def sizes_of(values: Mapping[str, Sequence]) -> dict[str, int]:
    """Bytes in float16 of the variables of some networks, by name."""
    return {
        f"{network}/{i}": 2 * int(np.prod(value.shape))
        for network, each in sorted(values.items())
        for i, value in enumerate(each)
    }


def save(
    out: Path, name: str, values: Mapping[str, Sequence], mark: int, most: int = MOST
) -> list[Path]:
    """Writes variables to `NAME-0.npz` and so on; the files take their places when all are whole.

    Args:
        out: the folder.
        name: of the files.
        values: the variables of each network.
        mark: a number that all of these files have and those of another time do not.
        most: bytes of a file, its headers aside.
    """
    halves = {
        f"{network}/{i}": np.asarray(value, np.float16)
        for network, each in values.items()
        for i, value in enumerate(each)
    }
    written = {}
    for i, names in enumerate(split(sizes_of(values), most)):
        part, path = out / f".{name}-{i}.part.npz", out / f"{name}-{i}.npz"
        np.savez(part, **{_MARK: np.int64(mark)}, **{each: halves[each] for each in names})
        written[part] = path
    for part, path in written.items():
        os.replace(part, path)
    return list(written.values())


def load(folder: Path, counts: Mapping[str, int], name: str = "*") -> dict[str, list[np.ndarray]]:
    """All variables that a run has written.

    Args:
        folder: of the run.
        counts: the number of variables of each network.
        name: of the files, where they are not all meant.

    Raises:
        ValueError: a variable is missing or has no place, or the files are of several times.
    """
    found: dict[str, np.ndarray] = {}
    marks: dict[str, set[int]] = {}
    for path in sorted(folder.glob(f"{name}-*.npz")):
        if path.name.startswith("."):
            continue  # of a run that was cut off
        with np.load(path) as piece:
            marks.setdefault(path.name.rpartition("-")[0], set()).add(int(piece[_MARK]))
            found.update({name: piece[name] for name in piece.files if name != _MARK})
    if mixed := sorted(name for name, each in marks.items() if len(each) > 1):
        raise ValueError(f"{folder} has files of several times: {', '.join(mixed)}")
    wanted = {f"{network}/{i}" for network, count in counts.items() for i in range(count)}
    if odd := sorted(wanted ^ set(found)):
        raise ValueError(f"{folder} is not whole, or of another model: {', '.join(odd[:5])}")
    return {
        network: [found[f"{network}/{i}"] for i in range(count)]
        for network, count in counts.items()
    }


def add(folder: Path, part: str, name: str, network: Any, share: float = 1.0) -> None:
    """Gives a network what it has gained in a part that `refine` has written.

    Args:
        folder: of the parts.
        part: which of them.
        name: of the network.
        network: it.
        share: of what was gained.
    """
    variables = network.trainable_variables
    gained = load(folder, {name: len(variables)}, part)[name]
    for variable, more in zip(variables, gained, strict=True):
        variable.assign_add(share * more.astype("float32"))


def parts_of(folder: Path) -> dict[str, str]:
    """The parts that `refine` has written, and the network that each is of.

    Raises:
        ValueError: there is none.
    """
    found = {}
    for path in sorted(folder.glob("[!.]*-0.npz")):
        with np.load(path) as piece:
            (network,) = {name.partition("/")[0] for name in piece.files if name != _MARK}
        found[path.name.removesuffix("-0.npz")] = network
    if not found:
        raise ValueError(f"{folder} has no weights: PART-0.npz and so on")
    return found
