"""What is no file of weights at all, and files that say more than they hold. No Keras."""

from __future__ import annotations

import json
import os
import signal
import zipfile
from contextlib import contextmanager

import h5py
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from fuzz import bounded

from keras_sd.tokenizer import read_merges
from keras_sd.weights import readers
from keras_sd.weights.files import read_json
from keras_sd.weights.inspection import inspect
from keras_sd.weights.readers import WeightsError, fill, hdf5, read_file, sha256, torch_file
from keras_sd.weights.readers.safetensors import read_header


@contextmanager
def soon(seconds=10):
    """An error where what is within waits for something that never comes."""

    def too_late(*_):
        raise TimeoutError(f"more than {seconds} seconds")

    handler = signal.signal(signal.SIGALRM, too_late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no such pipes here")
@pytest.mark.parametrize(
    "read",
    [read_file, read_header, torch_file.read, hdf5.read, sha256, read_json, read_merges],
    ids=lambda read: f"{read.__module__}.{read.__name__}",
)
def test_nothing_but_a_file_is_waited_for(read, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to(pipe)
    for path in (pipe, tmp_path / "link", "/dev/zero", tmp_path):
        with soon(), pytest.raises(ValueError, match=f"{path} is (a|not)"):
            read(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no such pipes here")
def test_a_pipe_that_takes_the_place_of_a_file_is_not_waited_for(tmp_path, monkeypatch):
    """What is at a path may change between a look at it and its opening."""
    pipe, file = tmp_path / "pipe", tmp_path / "file"
    os.mkfifo(pipe)
    file.write_bytes(b"")
    stat = os.stat

    def before(path, **options):
        return stat(file if path == pipe else path, **options)

    monkeypatch.setattr(os, "stat", before)
    with soon(), pytest.raises(WeightsError, match=r"is a pipe \(FIFO\), not a file"):
        readers.open_file(pipe)


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "a" * 64 + "\nsize 4265146304\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LFS, "is a Git LFS pointer that stands for 4265146304 bytes: .*`git lfs pull`"),
        (LFS.replace("size", "length"), "is a Git LFS pointer: .*`git lfs pull`"),
        ("<!DOCTYPE html><html><body>Sign in</body></html>", r"is a web page \(HTML\), .*link"),
        ("\n\n  <!doctype HTML>\n", r"is a web page \(HTML\)"),
        ("\ufeff<html lang='en'>", r"is a web page \(HTML\)"),
        ('<?xml version="1.0"?><Error><Code>AccessDenied</Code>', "is an XML document"),
        ('{"error": "Invalid username or password."}', "is a JSON text, not weights.*Invalid user"),
        ('{"errs":{"a": 1}}', "is a JSON text"),
        ('{\n  "message": "Not Found"}', "is a JSON text"),
        ("[]", "is a JSON text"),
        ("", "is empty: it has 0 bytes"),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt", ".bin", ".h5", ".weights.h5"])
def test_what_lies_in_the_place_of_weights_is_called_by_its_name(text, words, suffix, tmp_path):
    path = tmp_path / f"model{suffix}"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(WeightsError, match=words) as caught:
        read_file(path)
    assert str(caught.value).startswith(f"{path} ")
    report = inspect(path)
    assert report.error == str(caught.value)
    assert not report.good


def test_what_lies_in_the_place_of_settings_is_called_by_its_name(tmp_path):
    path = tmp_path / "config.json"
    for text, words in ((LFS, "is a Git LFS pointer"), ("<html>", "is a web page")):
        path.write_text(text)
        with pytest.raises(WeightsError, match=words):
            read_json(path)


# Tables that are long, of files that are small


def written(path, text):
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    return path


EMPTY = b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"{" + b",".join(EMPTY % i for i in range(50_001)) + b"}", "it has 50,001 tensors"),
        (b"{" + b",".join(EMPTY % i for i in range(300_000)) + b"}", "its header says more than"),
        (b'{"a":[' + b"{}," * 8_000_000 + b"{}]}", "its header says more than"),
        (b"[" * 20_000_000, "its header says more than"),
        (b'["a"' + b',"a"' * 6_000_000 + b"]", "its header says more than"),
        (b'"\\' * 10_000_000, "its header"),
        (b'{"a":"' + b"\\" * 20_000_000, "its header"),
    ],
    ids=["tensors", "more tensors", "objects", "lists", "texts", "quotes", "backslashes"],
)
def test_a_header_is_bounded_in_what_is_made_of_it(text, words, tmp_path):
    path = written(tmp_path / "x.safetensors", text)
    with bounded(seconds=2, memory=2**28), pytest.raises(WeightsError, match=words):
        read_file(path)


def test_a_long_text_in_the_metadata_is_no_bomb(tmp_path):
    said = json.dumps({f"tag {i}": i for i in range(400_000)}) + '\\"' * 9
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file({"a": np.ones(2, "f4")}, path, {"ss_tag_frequency": said})
    with bounded():
        found = read_file(path)
    assert found.metadata == {"ss_tag_frequency": said}


def test_an_archive_is_bounded_in_entries(tmp_path):
    path = tmp_path / "x.ckpt"
    with zipfile.ZipFile(path, "w") as file:
        for i in range(50_001):
            file.writestr(f"x/data/{i}", b"")
    with bounded(), pytest.raises(WeightsError, match="would have 50001 entries"):
        read_file(path)


def test_groups_are_bounded(tmp_path, monkeypatch):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        for i in range(30):
            file[f"{i}/a"] = np.ones(1, "f4")
    assert len(read_file(path).tensors) == 30
    monkeypatch.setattr(hdf5, "MAX_TENSORS", 10)
    with pytest.raises(WeightsError, match="has more than 40 groups and datasets"):
        read_file(path)


# Eight bits


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2"])
def test_float8_is_read(name, tmp_path):
    numbers = np.array([0.0, 1.5, -3.0, 0.25]).astype(getattr(ml_dtypes, name))
    dtype = {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}[name]
    entry = {"x": {"dtype": dtype, "shape": [2, 2], "data_offsets": [0, 4]}}
    path = written(tmp_path / "x.safetensors", json.dumps(entry).encode())
    path.write_bytes(path.read_bytes() + numbers.tobytes())
    found = read_file(path).tensors["x"]
    assert found.dtype.name == name
    np.testing.assert_array_equal(found.astype("f4"), numbers.reshape(2, 2).astype("f4"))
    assert readers.is_finite(found)
    broken = numbers.copy()
    broken[2] = np.nan
    assert not readers.is_finite(broken)


def test_another_float8_is_refused_by_name(tmp_path):
    entry = {"x": {"dtype": "F8_E8M0", "shape": [1], "data_offsets": [0, 1]}}
    path = written(tmp_path / "x.safetensors", json.dumps(entry).encode())
    with pytest.raises(WeightsError, match=r"'x': dtype 'F8_E8M0' is not one of .*F8_E4M3"):
        read_file(path)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_16_bits_become_32_as_numpy_has_them(dtype):
    """All numbers there are, and rows that do not lie together."""
    whole = np.arange(2**16, dtype=np.uint16).view(dtype).reshape(256, 256)
    with np.errstate(invalid="ignore"):
        finite = np.where(np.isfinite(whole), whole, dtype(-0.0))
    for array in (whole, finite, finite[:, ::3], finite[3:4], finite.T, finite[:0]):
        before = array.copy()
        with np.errstate(invalid="ignore"):
            wanted = array.astype(np.float32)
        for into in laid_out(array.shape):
            all_finite = fill(into, array)
            assert all_finite == (array.size == 0 or bool(np.isfinite(wanted).all()))
            if all_finite:
                np.testing.assert_array_equal(into.view(np.int32), wanted.view(np.int32))
        np.testing.assert_array_equal(array.view(np.int16), before.view(np.int16))


def laid_out(shape):
    """Arrays of a shape whose axes lie in memory in both orders, and one with gaps."""
    rows, columns = shape
    yield np.zeros(shape, np.float32)
    yield np.zeros((columns, rows), np.float32).T
    yield np.zeros((rows, 2 * columns), np.float32)[:, ::2]


def test_kernels_of_convolutions_are_filled_as_they_lie():
    rng = np.random.default_rng(0)
    numbers = rng.standard_normal((5, 4, 3, 2)).astype(np.float16)
    into = np.zeros((3, 2, 4, 5), np.float32)
    other = np.zeros((5, 3, 2, 4), np.float32)
    for theirs in (into.transpose(3, 2, 0, 1), other.transpose(0, 3, 1, 2)):
        assert fill(theirs, numbers)
        np.testing.assert_array_equal(theirs, numbers.astype(np.float32))
    numbers[4, 3, 2, 1] = np.inf
    assert not fill(into.transpose(3, 2, 0, 1), numbers)


def test_numbers_that_a_dtype_has_no_room_for_are_not_finite():
    given = np.array([1.0, 1e6, -2.0])
    for dtype, fits in ((np.float16, False), (np.float32, True), (np.float64, True)):
        into = np.zeros(3, dtype)
        assert fill(into, given) == fits
        if fits:
            assert into.tolist() == given.tolist()
    assert not fill(np.zeros(1, np.float64), np.array([np.nan]))
    assert not fill(np.zeros(1, np.float32), np.array([-1e39]))
