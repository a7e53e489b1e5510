"""Damaged files of every format: our own error or arrays, in bounded time and memory."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from fuzz import DAMAGE, bounded, nothing_executed, whole_hdf5, whole_safetensors, whole_torch

from keras_sd.weights.readers import WeightsError, read_file
from keras_sd.weights.readers.hdf5 import keras2_order


def use(path):
    """Reads a file and every number in it."""
    read = read_file(path)
    with np.errstate(all="ignore"):
        for array in read.tensors.values():
            assert isinstance(array.shape, tuple)
            np.asarray(array).astype("complex128").sum()
    return read


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.fuzz)])
@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_files_are_refused_or_read(kind, count, tmp_path):
    refused = []
    for seed in range(count):
        # A new file each: the one before may still be mapped.
        path = tmp_path / f"{seed}.bin"
        path.write_bytes(DAMAGE[kind](random.Random(f"{kind} {seed}")))
        try:
            with bounded(), nothing_executed():
                use(path)
                if kind == "hdf5":
                    keras2_order(path)
        except WeightsError as error:
            refused.append((path, error))
        except BaseException as error:
            error.add_note(f"{kind}, seed {seed}")
            raise
        path.unlink()
    # The damage is neither so small that it is not seen, nor so large that only the start is read.
    assert 0.2 * count < len(refused) < count
    assert all(str(path) in str(error) for path, error in refused)
    assert max(len(str(error)) for _, error in refused) < 2000


@pytest.mark.parametrize(
    "data",
    [whole_safetensors(), *whole_torch(False), *whole_torch(True), *whole_hdf5()],
    ids=itertools.count(),
)
def test_every_truncation_is_refused(data, tmp_path):
    path = tmp_path / "whole.bin"
    path.write_bytes(data)
    assert use(path).tensors
    step = max(len(data) // 200, 1)
    for length in (*range(0, len(data), step), len(data) - 1):
        path = tmp_path / f"{length}.bin"
        path.write_bytes(data[:length])
        with pytest.raises(WeightsError), bounded():
            use(path)
        path.unlink()
