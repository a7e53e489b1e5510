"""Saving a model, whole or not at all, and what a layout cannot say."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import AUTOENCODER, MERGES, TINY, TINY_2

from keras_sd import lock
from keras_sd.compat import get
from keras_sd.config import NoiseConfig
from keras_sd.files import replace_file
from keras_sd.weights import files, save
from keras_sd.weights.checkpoint import open_checkpoint
from keras_sd.weights.convert import convert
from keras_sd.weights.diffusers_folder import write, write_folder
from keras_sd.weights.files import replace_folder
from keras_sd.weights.names import own
from keras_sd.weights.readers import WeightsError
from keras_sd.weights.save import save_checkpoint, save_preset


def arrays(config=TINY, seed=0):
    dice = np.random.default_rng(seed)
    return {
        entry.name: dice.standard_normal(entry.shape, np.float32)
        for table in own.tables(config).values()
        for entry in table
    }


def as_preset(folder, config=TINY, seed=0, **more):
    save_preset(folder, config, arrays(config, seed), MERGES, dtype=None, **more)


def as_diffusers(folder, config=TINY, seed=0):
    write_folder(folder, config, arrays(config, seed), MERGES)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


FOLDERS = pytest.mark.parametrize("write_to", [as_preset, as_diffusers])


def contents(folder):
    """Every file and folder, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def seed_of(path):
    """Which of the models that this file makes a path holds."""
    found = open_checkpoint(path)
    found.check()
    held = found.arrays()
    for seed in range(3):
        if all(np.array_equal(array, held[n]) for n, array in arrays(seed=seed).items()):
            return seed
    raise AssertionError("none")


# Whole or not at all


@FOLDERS
def test_a_model_is_saved_over_an_older_one(tmp_path, write_to):
    folder = tmp_path / "deep" / "mine"
    write_to(folder, seed=0)
    (folder / ".DS_Store").write_text("of the Finder")
    before = contents(folder).keys()
    write_to(folder, seed=1)
    assert seed_of(folder) == 1
    assert contents(folder).keys() == before
    assert os.listdir(folder.parent) == ["mine"]


@FOLDERS
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, write_to, number):
    write_to(tmp_path / "mine")
    before = contents(tmp_path)
    number = min(number, 1) if write_to is as_preset else number
    module = save if write_to is as_preset else write
    original, calls = module.save_file, []

    def full(tensors, path, *more, **settings):
        calls.append(path)
        original(tensors, path, *more, **settings)
        if len(calls) == number:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    for folder in ("mine", "new/deep"):
        calls.clear()
        with pytest.raises(OSError, match="No space left"):
            write_to(tmp_path / folder, seed=1)
        assert contents(tmp_path) == before


@FOLDERS
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_wherever_the_exchange_fails_the_old_model_comes_back(
    tmp_path, monkeypatch, write_to, error
):
    write_to(tmp_path / "mine")
    before = contents(tmp_path)
    original = Path.rename
    tried = 0
    while seed_of(tmp_path / "mine") == 0:
        assert contents(tmp_path) == before
        left = tried

        def rename(path, target):
            nonlocal left
            left -= 1
            if left == -1:
                raise error("no")
            return original(path, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", rename)
            try:
                write_to(tmp_path / "mine", seed=1)
            except error:
                tried += 1
    assert tried == 1 + 2 * len(os.listdir(tmp_path / "mine"))
    assert contents(tmp_path).keys() == before.keys()


@FOLDERS
def test_an_index_is_never_beside_parts_of_another_model(tmp_path, monkeypatch, write_to):
    """What a power cut leaves between any two steps is no model, or a whole one."""
    folder = tmp_path / "mine"
    write_to(folder)
    original, seen = Path.rename, []

    def rename(path, target):
        original(path, target)
        try:
            seen.append(seed_of(folder))
        except (WeightsError, FileNotFoundError):
            seen.append(None)

    monkeypatch.setattr(Path, "rename", rename)
    write_to(folder, seed=1)
    # The first says that all is written; then the index is the first to go and the last to come.
    assert seen[0] == 0
    assert set(seen[1:-1]) == {None}
    assert seen[-1] == 1


@FOLDERS
def test_the_folder_that_one_is_in_is_written_to(tmp_path, monkeypatch, write_to):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    inode = os.stat(".").st_ino
    for seed in (0, 1):
        write_to(".", seed=seed)
        assert seed_of(Path()) == seed
    assert os.stat(tmp_path / "mine").st_ino == inode


@FOLDERS
def test_a_link_to_a_folder_stays_one(tmp_path, write_to):
    write_to(tmp_path / "mine")
    (tmp_path / "link").symlink_to("mine")
    write_to(tmp_path / "link", seed=1)
    assert (tmp_path / "link").is_symlink()
    assert seed_of(tmp_path / "mine") == 1


def test_all_is_on_the_disk_before_anything_is_moved(tmp_path, monkeypatch):
    done, sync, rename = [], os.fsync, Path.rename
    monkeypatch.setattr(os, "fsync", lambda handle: done.append("sync") or sync(handle))
    monkeypatch.setattr(Path, "rename", lambda *paths: done.append("move") or rename(*paths))
    monkeypatch.setattr(os, "replace", lambda *paths: done.append("move"))
    as_preset(tmp_path / "mine")
    save_checkpoint(tmp_path / "x.safetensors", TINY, arrays())
    assert done == ["sync"] * 3 + ["move", "sync", "move"]


# Several at once, and killed ones


@FOLDERS
def test_of_two_that_write_one_folder_the_second_is_refused(tmp_path, monkeypatch, write_to):
    """It begins wherever the first is; what is there in the end is whole, and the first's."""
    folder = tmp_path / "mine"
    original, refused = Path.rename, []

    def rename(path, target):
        with pytest.raises(BlockingIOError, match="mine is being written by another process"):
            write_to(folder, seed=2)
        refused.append(path)
        return original(path, target)

    for seed in (0, 1):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", rename)
            write_to(folder, seed=seed)
        assert seed_of(folder) == seed
    assert len(refused) > 5
    assert not [name for name in contents(tmp_path) if ".lock" in name]


def test_a_lock_that_a_killed_process_left_is_taken(tmp_path):
    as_preset(tmp_path / "mine")
    (tmp_path / "mine" / ".keras_sd.lock").touch()
    (tmp_path / ".new.lock").touch()
    as_preset(tmp_path / "mine", seed=1)
    as_preset(tmp_path / "new", seed=1)
    assert sorted(os.listdir(tmp_path)) == ["mine", "new"]
    assert len(os.listdir(tmp_path / "mine")) == 3


@FOLDERS
def test_without_locks_of_the_file_system_a_line_says_so(tmp_path, monkeypatch, caplog, write_to):
    def none(handle):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(lock, "_take", none)
    for seed in (0, 1):
        write_to(tmp_path / "mine", seed=seed)
        assert seed_of(tmp_path / "mine") == seed
    assert "cannot be locked" in caplog.text


def killed(folder, write_to, monkeypatch, places):
    """Copies of a folder as a process that was killed would leave it: before each file is flushed
    and each folder is moved.
    """

    def keep():
        shutil.copytree(folder.parent, places / f"{len(os.listdir(places)):02}")

    originals = Path.rename, files.flush

    def rename(path, target):
        keep()
        return originals[0](path, target)

    def flush(path):
        keep()
        originals[1](path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        patch.setattr(files, "flush", flush)
        write_to(folder, seed=1)
    keep()
    found = [places / name / folder.name for name in sorted(os.listdir(places))]
    return found if write_to is as_preset else [*found[::5], found[-1]]  # of many files


@FOLDERS
@pytest.mark.parametrize("there", [True, False])
def test_a_killed_replacement_does_not_block_the_next(
    tmp_path, monkeypatch, caplog, write_to, there
):
    folder, places = tmp_path / "at" / "mine", tmp_path / "places"
    folder.parent.mkdir()
    places.mkdir()
    if there:
        write_to(folder)
    for place in killed(folder, write_to, monkeypatch, places):
        litter = [
            name for name in contents(place.parent) if ".keras_sd." in name or ".mine." in name
        ]
        caplog.clear()
        write_to(place, seed=2)
        assert seed_of(place) == 2
        wanted = contents(folder).keys()
        assert contents(place.parent).keys() == {"mine", *(f"mine/{name}" for name in wanted)}
        names = {name for name in litter if not name.endswith(".lock")}
        assert bool(names) == ("a killed" in caplog.text)


@FOLDERS
def test_a_replacement_that_was_killed_is_finished_or_taken_back(tmp_path, monkeypatch, write_to):
    """Seen where the next one fails too: the folder has one of the two models, whole."""
    folder, places = tmp_path / "at" / "mine", tmp_path / "places"
    folder.parent.mkdir()
    places.mkdir()
    write_to(folder)
    module = save if write_to is as_preset else write

    def full(*arguments, **settings):
        raise OSError(errno.ENOSPC, "No space left on device")

    seen = []
    for place in killed(folder, write_to, monkeypatch, places):
        with monkeypatch.context() as patch:
            patch.setattr(module, "save_file", full)
            with pytest.raises(OSError, match="No space left"):
                write_to(place, seed=2)
        assert contents(place).keys() == contents(folder).keys()
        seen.append(seed_of(place))
    assert set(seen) == {0, 1}
    assert seen == sorted(seen)


def test_what_an_older_version_left_of_a_killed_replacement_comes_back(tmp_path):
    """It called what it wrote by the folder's name, and had no name for what is whole."""
    folder = tmp_path / "mine"
    as_preset(folder)
    for kind in ("new", "old"):
        (folder / f".mine.{'0' * 16}.{kind}").mkdir()
    for name in ("config.json", "merges.txt", "model.safetensors"):
        shutil.copy(folder / name, folder / f".mine.{'0' * 16}.new" / name)
    (folder / "config.json").rename(folder / f".mine.{'0' * 16}.old" / "config.json")
    (folder / f".mine.{'1' * 16}.old").mkdir()
    (folder / "merges.txt").rename(folder / f".mine.{'1' * 16}.old" / "merges.txt")
    with pytest.raises(OSError, match="no"):
        replace_folder(folder, {"model.safetensors": fail, "config.json": fail}, keep=True)
    assert seed_of(folder) == 0
    assert len(os.listdir(folder)) == 3


def fail(path):
    raise OSError("no")


def test_a_file_that_a_killed_process_left_is_removed_after_a_day(tmp_path, caplog):
    stale, fresh, other = (
        tmp_path / f".{digit * 16}.{name}.safetensors"
        for digit, name in (("0", "x"), ("1", "x"), ("2", "y"))
    )
    for path in (stale, fresh, other):
        path.touch()
    for path in (stale, other):
        os.utime(path, (1e9, 1e9))
    save_checkpoint(tmp_path / "x.safetensors", TINY, arrays())
    assert not stale.exists()
    assert fresh.exists()
    assert other.exists()
    assert f"{stale} is removed" in caplog.text


# Where it cannot be written


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EIO])
@pytest.mark.parametrize("of", ["safetensors", "hdf5", "system"])
def test_an_error_of_writing_names_the_file_and_the_remedy(tmp_path, monkeypatch, number, of):
    """Safetensors and HDF5 have errors of their own, which are no OSError and name no file."""
    errors = {
        "safetensors": RuntimeError(f"Error while serializing: I/O error: X (os error {number})"),
        "hdf5": RuntimeError(f"Can't write (file write failed, errno = {number}, error message"),
        "system": OSError(number, "X"),
    }

    def full(tensors, path, *more, **settings):
        Path(path).write_bytes(b"half")
        raise errors[of]

    for module in (save, write):
        monkeypatch.setattr(module, "save_file", full)
    for name, writing in {
        "x.safetensors": lambda path: save_checkpoint(path, TINY, arrays()),
        "ours/model.safetensors": lambda path: as_preset(path.parent),
        "theirs/text_encoder/model.safetensors": lambda path: as_diffusers(path.parent.parent),
    }.items():
        with pytest.raises(OSError, match="Cannot write") as caught:
            writing(tmp_path / name)
        assert str(caught.value).startswith(f"Cannot write {tmp_path / name}: ")
        assert caught.value.errno == number
        assert ("make room there" in str(caught.value)) == (number != errno.EIO)
        assert not list(tmp_path.iterdir())


def test_an_error_of_something_else_is_left_as_it_is(tmp_path):
    def other(path):
        raise FileNotFoundError(errno.ENOENT, "no", "merges.txt")

    with pytest.raises(FileNotFoundError, match=r"no: 'merges.txt'"):
        replace_file(tmp_path / "x", other)
    with pytest.raises(WeightsError, match="bad"):
        replace_file(tmp_path / "x", lambda path: (_ for _ in ()).throw(WeightsError("bad")))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "save_to",
    [
        lambda path: save_preset(path, TINY, {}, MERGES),
        lambda path: save_checkpoint(path, TINY, {}),
        lambda path: write_folder(path, TINY, {}, MERGES),
        lambda path: convert(None, path, to="keras_sd"),
    ],
)
def test_no_place_is_refused_before_anything_is_done(tmp_path, monkeypatch, save_to):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"is empty; the current folder is '\.'"):
        save_to("")
    for wrong in (None, 3, b"x"):
        with pytest.raises(TypeError, match="is the path to write to, not"):
            save_to(wrong)
    assert not list(tmp_path.iterdir())


def test_an_old_model_that_cannot_be_removed_is_named(tmp_path, monkeypatch, caplog):
    as_preset(tmp_path / "mine")
    original = shutil.rmtree

    def refuse(path, *arguments, **settings):
        if str(path).endswith(".old"):
            raise PermissionError("not yours")
        original(path, *arguments, **settings)

    monkeypatch.setattr(shutil, "rmtree", refuse)
    as_preset(tmp_path / "mine", seed=1)
    assert seed_of(tmp_path / "mine") == 1
    assert "cannot be removed: not yours" in caplog.text


@pytest.mark.parametrize("to", ["keras_sd", "diffusers", "original"])
def test_a_conversion_that_fails_leaves_no_folders(tmp_path, to):
    bad = arrays()
    bad["unet/conv_in/bias"][0] = 1e30
    save_preset(tmp_path / "bad", TINY, bad, MERGES, dtype=None)
    before = contents(tmp_path)
    out = tmp_path / "a/b" / ("c.safetensors" if to == "original" else "c")
    with pytest.raises(WeightsError, match="not finite as float16"):
        convert(open_checkpoint(tmp_path / "bad"), out, to=to, dtype="float16")
    assert contents(tmp_path) == before


def test_folders_that_were_made_go_again_and_others_stay(tmp_path):
    def fail(path):
        assert path.parent == tmp_path / "a/b"
        raise OSError("no")

    def fail_in_a_folder(path):
        assert path.parent.parent == tmp_path / "a/b"
        raise OSError("no")

    (tmp_path / "a").mkdir()
    with pytest.raises(OSError, match="no"):
        replace_file(tmp_path / "a/b/c", fail)
    with pytest.raises(OSError, match="no"):
        replace_folder(tmp_path / "a/b/c", {"x": fail_in_a_folder})
    assert contents(tmp_path) == {"a": None}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such rights")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_rights_are_those_that_the_user_gives_to_new_files(tmp_path, mask):
    old = os.umask(mask)
    try:
        as_preset(tmp_path / "preset")
        as_diffusers(tmp_path / "diffusers")
        save_checkpoint(tmp_path / "one.safetensors", TINY, arrays())
    finally:
        os.umask(old)
    for path in tmp_path.rglob("*"):
        wanted = (0o777 if path.is_dir() else 0o666) & ~mask
        assert path.stat().st_mode & 0o777 == wanted, path


# What else is there


def test_a_model_does_not_join_one_of_another_layout(tmp_path):
    as_diffusers(tmp_path / "theirs")
    with pytest.raises(FileExistsError, match=r"theirs is a folder of diffusers'.*another name"):
        as_preset(tmp_path / "theirs", seed=1)
    assert seed_of(tmp_path / "theirs") == 0
    as_preset(tmp_path / "ours")
    with pytest.raises(
        FileExistsError, match=r"lost: config.json, merges.txt, model.safetensors. Take another"
    ):
        as_diffusers(tmp_path / "ours", seed=1)
    assert seed_of(tmp_path / "ours") == 0


@pytest.mark.parametrize(
    "name", ["README.md", "unet/diffusion_pytorch_model.fp16.safetensors", "tokenizer/x/y", "vae/z"]
)
def test_a_folder_of_diffusers_is_replaced_only_if_nothing_is_lost(tmp_path, name):
    as_diffusers(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("dear")
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match=f"other files too, which would be lost: {name}"):
        as_diffusers(tmp_path, seed=1)
    assert contents(tmp_path) == before


def test_a_preset_leaves_what_else_is_in_its_folder(tmp_path):
    """A model card; the state of a training run."""
    (tmp_path / "work").mkdir()
    for name in ("README.md", "work/state"):
        (tmp_path / name).write_text("dear")
    for seed in (0, 1):
        as_preset(tmp_path, seed=seed)
        assert seed_of(tmp_path) == seed
        assert (tmp_path / "README.md").read_text() == "dear"
        assert (tmp_path / "work/state").read_text() == "dear"
    assert len(os.listdir(tmp_path)) == 5


def test_what_is_in_the_way_of_a_preset_is_not_lost(tmp_path):
    (tmp_path / "config.json").mkdir()
    (tmp_path / "config.json" / "mine").write_text("dear")
    (tmp_path / "file").write_text("dear")
    with pytest.raises(FileExistsError, match=r"lost: config\.json/mine"):
        as_preset(tmp_path)
    with pytest.raises(FileExistsError, match="file is a file; remove it"):
        as_preset(tmp_path / "file")
    assert sorted(contents(tmp_path)) == ["config.json", "config.json/mine", "file"]


def test_convert_replaces_what_a_link_leads_to(tmp_path):
    as_preset(tmp_path / "from", seed=1)
    save_checkpoint(tmp_path / "old.safetensors", TINY, arrays())
    (tmp_path / "link.safetensors").symlink_to("old.safetensors")
    checkpoint = open_checkpoint(tmp_path / "from")
    convert(checkpoint, tmp_path / "link.safetensors", to="original", force=True)
    assert (tmp_path / "link.safetensors").is_symlink()
    assert seed_of(tmp_path / "old.safetensors") == 1


def test_convert_ignores_what_the_system_leaves_in_folders(tmp_path):
    as_preset(tmp_path / "from", seed=1)
    for to, write_to in (("keras_sd", as_preset), ("diffusers", as_diffusers)):
        write_to(tmp_path / to)
        (tmp_path / to / ".DS_Store").write_text("x")
        convert(open_checkpoint(tmp_path / "from"), tmp_path / to, to=to, force=True)
        assert seed_of(tmp_path / to) == 1


# What a layout cannot say


@pytest.mark.parametrize("pad", ["end", "zero"])
def test_how_a_run_ends_does_not_keep_weights_from_being_saved(tmp_path, caplog, pad):
    config = replace(TINY, noise=replace(TINY.noise, final_sigma="zero"), pad_token=pad)
    save_checkpoint(tmp_path / "x.safetensors", config, arrays())
    assert seed_of(tmp_path / "x.safetensors") == 0
    assert ("the token 'zero': whoever reads it takes 'end'" in caplog.text) == (pad == "zero")


def test_what_is_in_the_weights_alone_is_still_asked_for(tmp_path):
    config = replace(TINY, noise=replace(TINY.noise, beta_end=0.02))
    with pytest.raises(WeightsError, match=r"beta_end is 0.02, and would be 0.012. The layout ker"):
        save_checkpoint(tmp_path / "x.safetensors", config, arrays())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("config", [TINY, TINY_2], ids=["1.x", "2.x"])
@pytest.mark.parametrize("layout", ["original", "diffusers", "keras_sd"])
def test_zero_terminal_snr_survives(tmp_path, config, layout):
    noise = NoiseConfig(prediction="v", zero_terminal_snr=True)
    config, path = replace(config, noise=noise), tmp_path / "x"
    if layout == "original":
        path = tmp_path / "x.safetensors"
        save_checkpoint(path, config, arrays(config))
    else:
        {"keras_sd": as_preset, "diffusers": as_diffusers}[layout](path, config)
    found = open_checkpoint(path)
    found.check()
    assert found.config.noise.table() == noise.table()
    assert found.config.noise.prediction == "v"
    assert not found.notes


@pytest.mark.parametrize("config", [TINY, TINY_2], ids=["1.x", "2.x"])
@pytest.mark.parametrize("layout", ["original", "diffusers", "keras_sd"])
def test_the_arithmetic_of_keras_cv_stays_here(tmp_path, caplog, config, layout):
    caplog.set_level(logging.WARNING)
    theirs, path = get("keras_cv").config(config), tmp_path / "x"
    if layout == "original":
        path = tmp_path / "x.safetensors"
        save_checkpoint(path, theirs, arrays(config))
    else:
        {"keras_sd": as_preset, "diffusers": as_diffusers}[layout](path, theirs)
    found = open_checkpoint(path)
    found.check()
    assert ("the layout" in caplog.text) == (layout != "keras_sd")
    if layout == "keras_sd":
        assert found.config == theirs
    else:
        assert replace(found.config, name=config.name, defaults=config.defaults) == config
        assert f"the layout {layout} cannot say" in caplog.text


def test_a_model_of_its_own_arithmetic_is_not_taken_for_one_of_keras_cv(tmp_path):
    config = replace(TINY, autoencoder=replace(AUTOENCODER, epsilon=1e-5))
    for write_to in (as_diffusers, lambda path, c: save_checkpoint(path, c, arrays(c))):
        with pytest.raises(WeightsError, match=r"no settings for its auto|epsilon is 1e-05"):
            write_to(tmp_path / "x.safetensors", config)
