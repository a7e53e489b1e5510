"""Writing the files of KerasCV's classes, which KerasCV and older programs read."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

import h5py
import numpy as np

from keras_sd.weights.files import replace_file
from keras_sd.weights.names import Table


def write_keras_cv(path: Path, table: Table, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes the weights of one class, whole or not at all.

    Args:
        path: of the file: `.weights.h5` as Keras 3 writes it, or any other `.h5`, whose layers are
            told apart by their order alone, as Keras 2 does.
        table: of the class, in KerasCV's order, see `keras_sd.weights.names.keras_cv`.
        arrays: every variable by its path, in our layout.
    """

    def write(temporary: Path) -> None:
        with h5py.File(temporary, "w") as file:
            if path.name.endswith(".weights.h5"):
                for entry in table:
                    file[entry.name] = entry.theirs(arrays[entry.path])
                return
            layers = []
            # "layers/dense_1/vars/0" is of the layer dense_1
            for layer, entries in groupby(table, key=lambda entry: entry.name.split("/")[1]):
                group = file.create_group(layer)
                names = []
                for entry in entries:
                    inside = entry.name.removeprefix(f"layers/{layer}/").replace("/vars/", "/")
                    names.append(f"{layer}/{inside}:0")
                    group[names[-1]] = entry.theirs(arrays[entry.path])
                group.attrs["weight_names"] = [name.encode() for name in names]
                layers.append(layer)
            file.attrs["layer_names"] = [name.encode() for name in layers]
            # Keras 2 takes a file that does not say so for one of Keras 1.
            file.attrs["keras_version"], file.attrs["backend"] = b"2.15.0", b"tensorflow"

    replace_file(path, write)
