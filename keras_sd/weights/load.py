"""Loading weights into networks, all of them or none."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import keras
import ml_dtypes
import numpy as np

from keras_sd.backend import put, to_numpy
from keras_sd.networks import Autoencoder, TextEncoder, UNet
from keras_sd.networks.initializers import host_zeros, weights_follow
from keras_sd.weights.checkpoint import Checkpoint, Part, refuse
from keras_sd.weights.names import Table, Weight
from keras_sd.weights.readers import WeightsError, fill, release

_PIECE = 2**24
"""Bytes of a file that a thread has in memory at a time."""

_BLOCK = 2**18
"""Numbers that a thread converts at a time, so that they are in the processor's cache meanwhile."""

_THREADS = min(4, os.cpu_count() or 1)

_AHEAD = 16
"""Variables that are made before the first of them is assigned."""


def build_networks(
    checkpoint: Checkpoint, names: Sequence[str] | None = None
) -> dict[str, keras.Model]:
    """The networks of a checkpoint with its weights.

    Args:
        checkpoint: what `open_checkpoint` gave.
        names: of the parts that are built; None is all.

    Returns:
        By the names of `config.parts`, in the global dtype policy.

    Raises:
        WeightsError: the weights do not fit, see `load_parts`.
    """
    checkpoint.check()
    config = checkpoint.config
    with weights_follow():
        made: dict[str, Callable[[], keras.Model]] = {
            **{part: partial(TextEncoder, one, part) for part, one in config.text_encoders.items()},
            "unet": lambda: UNet(config.unet),
            "autoencoder": lambda: Autoencoder(config.autoencoder),
        }
        models = {name: made[name]() for name in (made if names is None else names)}
    load_parts(models, checkpoint.parts, source=str(checkpoint.path), new=True)
    return models


def load_parts(
    models: Mapping[str, keras.Model], parts: Mapping[str, Part], *, source: str, new: bool = False
) -> None:
    """Fills every variable of several networks, or changes nothing.

    Args:
        models: the networks by their part's name.
        parts: the weights of each.
        source: what an error calls all of them.
        new: nobody has the networks yet. The numbers are read once then, and where one is bad,
            networks that nobody will have are half filled.

    Raises:
        WeightsError: a tensor has no variable, a variable no tensor, a shape or dtype does not
            fit, or a number is not finite. The message lists all of them; nothing was changed.
    """
    found: dict[str, list[str]] = {}
    for name, model in models.items():
        _check_table(name, parts[name].table, variables_of(model))
        for kind, names in parts[name].problems().items():
            found.setdefault(kind, []).extend(names)
    refuse(source, found)

    wanted = [
        (entry, parts[name], variables[entry.path])
        for name, model in models.items()
        for variables in (variables_of(model),)
        for entry in parts[name].table
    ]
    damaged: list[str] = []
    with ThreadPoolExecutor(_THREADS) as pool:  # NumPy lets others run meanwhile
        if not new:  # No variable is touched before all numbers are known to be good.
            good = pool.map(lambda each: _is_good(*each), wanted)
            damaged = [
                entry.name for (entry, *_), fine in zip(wanted, good, strict=True) if not fine
            ]
            refuse(source, {"not finite": dict.fromkeys(damaged)})
        # The executor would run ahead of whoever assigns.
        for start in range(0, len(wanted), _AHEAD):
            some = wanted[start : start + _AHEAD]
            values = pool.map(lambda each: _converted(*each), some)
            for (entry, _, variable), value in zip(some, values, strict=True):
                if value is None:
                    damaged.append(entry.name)
                else:
                    put(variable, value)
    refuse(source, {"not finite": dict.fromkeys(damaged)})


def load_state_dict(
    model: keras.Model,
    state_dict: Mapping[str, Any],
    table: Table,
    *,
    source: str = "the state dict",
) -> None:
    """Fills every variable of one network from tensors with foreign names, or changes nothing.

    Args:
        model: the network.
        state_dict: arrays by name, such as `read_file(path).tensors`.
        table: which tensor goes where, see `keras_sd.weights.names`.
        source: what an error calls the tensors, such as their path.

    Raises:
        WeightsError: see `load_parts`.
    """
    load_parts({"model": model}, {"model": Part(state_dict, table, source)}, source=source)


def variables_of(model: keras.Model) -> dict[str, keras.Variable]:
    """The weights of a network by path, without the network's own name."""
    return {variable.path.split("/", 1)[1]: variable for variable in model.weights}


def arrays_of(models: Mapping[str, keras.Model]) -> dict[str, np.ndarray]:
    """The values of all weights by `part/path`, in rows: a variable's own memory may be in another
    order (`backend.memory_order`), which safetensors would write as it lies.

    Args:
        models: the networks by their part's name.
    """
    return {
        f"{part}/{path}": np.ascontiguousarray(to_numpy(variable.value))
        for part, model in models.items()
        for path, variable in variables_of(model).items()
    }


def _check_table(name: str, table: Table, variables: Mapping[str, keras.Variable]) -> None:
    """A table is made from the config that the network was made from; anything else is a mistake
    of ours, and must not fill half a network.
    """
    odd = {(entry.path, entry.shape) for entry in table} ^ {
        (path, tuple(variable.shape)) for path, variable in variables.items()
    }
    if odd or len(table) != len(variables):
        raise WeightsError(f"The table does not fit the {name}: {sorted(odd) or 'a path twice'}")


def _is_good(entry: Weight, part: Part, variable: keras.Variable) -> bool:
    """Whether all numbers of a variable are finite, in the file and in the variable's dtype."""
    dtype = np.dtype(getattr(ml_dtypes, variable.dtype, variable.dtype))
    return all(
        fill(np.empty(block.shape, dtype), block)
        for piece in _pieces(entry, part)
        for block in _blocks(piece)
    )


def _converted(entry: Weight, part: Part, variable: keras.Variable) -> np.ndarray | None:
    """The value of a variable, in memory of its own, which becomes the variable's; None where a
    number is not finite, in the file or in the variable's dtype.
    """
    value = host_zeros(entry.shape, variable.dtype, linear=variable.name == "kernel")
    theirs, row = entry.theirs(value), 0
    for piece in _pieces(entry, part):
        for block in _blocks(piece):
            if not fill(theirs[row : row + len(block)], block):
                return None
            row += len(block)
    return value


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Rows that are few numbers, some of them at a time."""
    step = max(1, _BLOCK * len(rows) // max(rows.size, 1))
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


def _pieces(entry: Weight, part: Part) -> Iterator[np.ndarray]:
    """The numbers of a variable as the file has them, some rows at a time."""
    tensor = entry.rows(np.asarray(part.tensors[entry.name]))
    step = max(1, _PIECE * len(tensor) // max(tensor.nbytes, 1))
    for start in range(0, len(tensor), step):
        yield tensor[start : start + step]
        release(tensor[start : start + step])
