"""What torch writes, read without it. More of the reader: tests/plain/test_torch_file.py."""

from __future__ import annotations

import numpy as np
import pytest

from keras_sd.weights.readers import WeightsError, torch_file


def test_what_torch_writes_now(tmp_path):
    """With whatever torch is installed: both forms, the numbers, and torch's own loader agrees."""
    torch = pytest.importorskip("torch")
    value = {
        "state_dict": {"a": torch.randn(3, 5).t(), "b": torch.randn(2).bfloat16()},
        "epoch": 3,
    }
    for new in (True, False):
        path = tmp_path / f"{new}.ckpt"
        torch.save(value, path, _use_new_zipfile_serialization=new)
        tensors = torch_file.read(path).tensors
        theirs = torch.load(path, weights_only=True)["state_dict"]
        assert list(tensors) == ["a", "b"]
        for name, array in tensors.items():
            np.testing.assert_array_equal(array.astype("f4"), theirs[name].float().numpy())
    for name, wrong in {
        "a sparse tensor": torch.eye(2).to_sparse(),
        "a tensor without numbers": torch.empty(2, device="meta"),
        "'conj' set": torch.ones(2, dtype=torch.complex64).conj(),
        "1000 elements in a storage of 4 bytes": torch.ones(1).expand(1000),
        "asks for torch.nn.modules.linear.Linear": torch.nn.Linear(1, 1),
    }.items():
        torch.save({"x": wrong}, tmp_path / "wrong.ckpt")
        with pytest.raises(WeightsError, match=name):
            torch_file.read(tmp_path / "wrong.ckpt")
