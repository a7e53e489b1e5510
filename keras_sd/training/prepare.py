"""What a training of `emoji` needs beside the program: drawings, words and a vocabulary.

    python -m keras_sd.training.prepare PACKAGES FOLDER

makes `bank.zip`, `subjects.json` and `merges.txt` of the npm packages that `packages.py` names.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from keras_sd.files import replace_file
from keras_sd.tokenizer import UNMERGED
from keras_sd.training import drawings, scenes, words
from keras_sd.training.bpe import learn_merges

BANK, SUBJECTS, MERGES = "bank.zip", "subjects.json", "merges.txt"

VOCABULARY = 4096
"""Tokens of the text encoder."""


def prepare(packages: Path, folder: Path, *, captions: int = 40_000, seed: int = 0) -> None:
    """Makes the three files; the same packages make the same files.

    Args:
        packages: folder of the `.tgz` files that `npm pack` fetched.
        folder: for the files; it is made where there is none.
        captions: the vocabulary is learned from so many random ones, and the names.
        seed: of the captions.

    Raises:
        FileNotFoundError: a package is not there; the message says how to fetch it.
        ImportError: what draws is not installed (`pip install keras-sd[train]`).
        ValueError: a package is not the pinned one, or its words contradict each other.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawings.make_bank(packages, folder / BANK)
    subjects = words.subjects(packages, drawings.Bank(folder / BANK).codes)
    words.save(subjects, folder / SUBJECTS)
    rng = random.Random(seed)
    texts = [
        text
        for subject in subjects
        for text in (subject.name, subject.plural, *subject.names, *subject.synonyms) * 3
    ]
    texts += [scenes.random_scene(subjects, rng).caption(subjects, rng) for _ in range(captions)]
    lines = "".join(f"{merge}\n" for merge in learn_merges(texts, VOCABULARY - UNMERGED))
    replace_file(folder / MERGES, lambda path: path.write_bytes(lines.encode()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("packages", type=Path, help="folder of what `npm pack` fetched")
    parser.add_argument("folder", type=Path, help="for the files")
    options = parser.parse_args()
    prepare(options.packages, options.folder)
    print(f"{options.folder}: {BANK}, {SUBJECTS}, {MERGES}")


if __name__ == "__main__":
    main()
