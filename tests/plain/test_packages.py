"""The pinned npm packages of the training: found, checked, read."""

import hashlib
import io
import tarfile

import pytest

from keras_sd.training.packages import Package


def pack(folder, name, files):
    """A made-up package in `folder`, as `npm pack` would leave it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(f"package/{path}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    package = Package(name, "1.0.0", hashlib.sha256(buffer.getvalue()).hexdigest(), "MIT", "Me")
    (folder / package.file).write_bytes(buffer.getvalue())
    return package


def test_files_and_folders_of_a_package(tmp_path):
    package = pack(tmp_path, "@me/art", {"a.txt": b"A", "art/1.webp": b"1", "art/2.webp": b"2"})
    assert package.file == "me-art-1.0.0.tgz"
    assert package.read(tmp_path, "a.txt") == {"a.txt": b"A"}
    assert package.read(tmp_path, "art/") == {"art/1.webp": b"1", "art/2.webp": b"2"}


def test_a_missing_package_names_the_command_that_fetches_it(tmp_path):
    package = Package("@me/art", "1.0.0", "0" * 64, "MIT", "Me")
    with pytest.raises(FileNotFoundError, match=r"npm pack --pack-destination \S+ @me/art@1\.0\.0"):
        package.read(tmp_path, "a.txt")


def test_another_file_than_the_pinned_one_is_refused(tmp_path):
    package = pack(tmp_path, "art", {"a.txt": b"A"})
    (tmp_path / package.file).write_bytes(b"something else")
    with pytest.raises(ValueError, match=package.sha256):
        package.read(tmp_path, "a.txt")


def test_a_path_that_the_package_lacks(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no b\.txt"):
        pack(tmp_path, "art", {"a.txt": b"A"}).read(tmp_path, "a.txt", "b.txt")
