"""What a checkpoint has beyond its parts, and in few bits: what becomes of it and what is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from keras_sd.weights.architecture import PARTS
from keras_sd.weights.contents import Checkpoint
from keras_sd.weights.parts import FLOAT8, Part, lies_in, listed
from keras_sd.weights.readers import release
from keras_sd.weights.recognise import Copy


def without_strays(checkpoint: Checkpoint) -> Checkpoint:
    """Without the tensors that are not known and lie in no network, which a note names."""
    parts: dict[str, Part] = {}
    strays: list[str] = []
    for name, part in checkpoint.parts.items():
        parts[name], found = part.without_strays()
        strays += found
    inside = [lies_in(part.table) for part in parts.values()]
    leftover = [name for name in checkpoint.leftover if any(lies(name) for lies in inside)]
    strays += [name for name in checkpoint.leftover if not any(lies(name) for lies in inside)]
    return replace(
        checkpoint,
        parts=parts,
        leftover=tuple(leftover),
        left_out=(*checkpoint.left_out, *strays),
        notes=(*checkpoint.notes, *said_of_strays(checkpoint.path, strays)),
    )


def said_of_strays(path: Path, strays: Sequence[str]) -> tuple[str, ...]:
    """The note of the tensors that are left out; none where none are."""
    if not strays:
        return ()
    count = "1 tensor is" if len(strays) == 1 else f"{len(strays)} tensors are"
    return (f"{path}: {count} left out, which nothing here needs: {listed(strays)}.",)


def said_of_copy(copy: Copy, tensors: Mapping[str, np.ndarray]) -> str:
    """Whether what a file has twice is the same, and which is taken."""
    differ = set()
    for taken, other in copy.pairs:
        first, second = (np.asarray(tensors[entry.name]) for entry in (taken, other))
        if not np.array_equal(taken.ours(first), other.ours(second)):
            differ.add(other.name)
        release(first)
        release(second)
    count = "1 tensor is" if len(copy.names) == 1 else f"{len(copy.names)} tensors are"
    where = f"{PARTS[copy.part]}: {count} there twice, under {copy.other} and {copy.taken}"
    if not differ:
        return f"{where}, with the same numbers."
    return (
        f"{where}, and {len(differ)} of them with other numbers: {listed(sorted(differ))}. "
        f"Programs do not agree which to take. Here it is {copy.taken}, the names that such models "
        f"are published with; {copy.part}=FILE takes another."
    )


def noting_float8(checkpoint: Checkpoint) -> Checkpoint:
    """With a note of numbers in eight bits, where there are any."""
    found = {
        str(tensor.dtype): None
        for part in checkpoint.parts.values()
        for tensor in part.tensors.values()
        if tensor.dtype in FLOAT8
    }
    if not found:
        return checkpoint
    note = (
        f"It has numbers in {' and '.join(found)}, eight bits each: what was rounded away by that "
        "does not come back. They are loaded into the precision of Keras' dtype policy."
    )
    return replace(checkpoint, notes=(*checkpoint.notes, note))
