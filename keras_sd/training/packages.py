"""The npm packages that drawings and words come from: which, and what is inside.

They are needed for training only, are read as `npm pack` leaves them, and are never committed.
"""

from __future__ import annotations

import hashlib
import tarfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Package:
    """One pinned package.

    Args:
        name: on npm, with its scope.
        version: the exact version.
        sha256: of the `.tgz` file.
        licence: SPDX name of the licence of what we take from it.
        holder: who the licence names.
    """

    name: str
    version: str
    sha256: str
    licence: str
    holder: str

    @property
    def file(self) -> str:
        """Name of the file that `npm pack` writes."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"

    def read(self, folder: Path, *wanted: str) -> dict[str, bytes]:
        """Files of the package.

        Args:
            folder: where the `.tgz` lies.
            wanted: paths inside, without the leading `package/`; one that ends in `/` stands for
                all files of that folder.

        Returns:
            Path -> bytes.

        Raises:
            FileNotFoundError: the package is not in `folder`, or a wanted path not in the package.
            ValueError: the file is not the pinned one.
        """
        path = Path(folder) / self.file
        if not path.is_file():
            raise FileNotFoundError(
                f"No {self.file} in {folder}. Fetch it there: "
                f"npm pack --pack-destination {folder} {self.name}@{self.version}"
            )
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != self.sha256:
            raise ValueError(
                f"{path} has the sha256 {found}; {self.name} {self.version} has {self.sha256}. "
                "Delete it and fetch it again: "
                f"npm pack --pack-destination {folder} {self.name}@{self.version}"
            )
        files: dict[str, bytes] = {}
        with tarfile.open(path) as archive:
            for member in archive:
                inside = member.name.partition("/")[2]
                if any(inside == w or (w.endswith("/") and inside.startswith(w)) for w in wanted):
                    content = archive.extractfile(member)
                    if content is not None:
                        files[inside] = content.read()
        missing = [w for w in wanted if not w.endswith("/") and w not in files]
        if missing:
            raise FileNotFoundError(f"{path} has no {', '.join(missing)}.")
        return files


NOTO = Package(
    "@iconify-json/noto",
    "1.2.9",
    "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
    "Apache-2.0",
    "Google LLC",
)
FLUENT_3D = Package(
    "@lobehub/fluent-emoji-3d",
    "1.1.0",
    "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    "MIT",
    "Microsoft Corporation",
)
FLUENT_FLAT = Package(
    "@iconify-json/fluent-emoji-flat",
    "1.2.6",
    "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    "MIT",
    "Microsoft Corporation",
)
NOTO_LINE = Package(
    "@fontsource/noto-emoji",
    "5.3.2",
    "1fe49bb2cf7c2d78f93c0a69b6a431dcfd0d585b7831eba87fae6888ccf8d373",
    "OFL-1.1",
    "Google LLC",
)
CLDR = Package(
    "cldr-annotations-full",
    "48.2.0",
    "28576e51225deb51e3ddd734b0f824a0079682cb5d8c27faa9f68149317a14d1",
    "Unicode-3.0",
    "Unicode, Inc.",
)
EMOJIBASE = Package(
    "emojibase-data",
    "17.0.0",
    "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    "MIT",
    "Miles Johnson",
)
