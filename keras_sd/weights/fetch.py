"""Models that are not on this machine yet: from a name or an address to a path, checked.

`resolve` is what a name or an `hf://` address stands for, `fetch` gets it (again), `list_sources`
says what there is. Nothing here needs Keras, and nothing but a download needs the network:
`keras_sd.weights.hub` says how files are checked and where they are kept.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from keras_sd.weights import vocabulary
from keras_sd.weights.hub import (
    FetchError,
    Wanted,
    hub_cache,
    is_offline,
    obtain,
)
from keras_sd.weights.notes import File, read_note
from keras_sd.weights.sources import SOURCES, Pinned
from keras_sd.weights.vocabulary import fetch_vocabulary, find_vocabulary

__all__ = [
    "SOURCES",
    "FetchError",
    "SourceStatus",
    "fetch",
    "fetch_vocabulary",
    "find_vocabulary",
    "is_one_file",
    "list_sources",
    "provide_vocabulary",
    "resolve",
]

_HF = re.compile(
    r"hf://(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<path>[^@]+?))?/?(?:@(?P<revision>[^@\s]+))?"
)
_URL = re.compile(
    r"https?://(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)"
    r"(?:/(?:blob|resolve)/([^/]+)/(.+?))?/?(?:\?.*)?"
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourceStatus:
    """Something that can be fetched, and whether it was.

    Attributes:
        name: what `resolve` and `fetch` call it.
        variant: of the name, as `resolve` and `fetch` take it.
        title: what it is, for people.
        license: of the weights, or None where nothing here says it.
        size: in bytes.
        where: the address it comes from first.
        path: of the file or folder on this machine, or None.
        bytes: that it takes on this machine.
        verified: it was checked, and has not changed since.
    """

    name: str
    variant: str | None
    title: str
    license: str | None
    size: int
    where: str
    path: Path | None
    bytes: int
    verified: bool


def resolve(preset: str | Path, *, variant: str | None = None, others: Sequence[str] = ()) -> Path:
    """The file or folder that a preset stands for, fetched where it has to be.

    Args:
        preset: one of

            - the path of a file or folder, which is returned as it is. A path that exists goes
              before a name: with a folder `sd-1.5` here, "sd-1.5" is that folder (logged).
            - a name of `list_sources`, such as "sd-1.5".
            - `hf://owner/name[/path/of/a/file][@revision]`: a file of a repository of the Hugging
              Face Hub, or its model in the layout of diffusers or our own. Without a revision it is
              the commit that was fetched first; `fetch` looks for a newer one.
        variant: which of several files for the same weights, such as "fp16".
        others: names that are known elsewhere, for the error that there is no such name.

    Returns:
        A path whose files were checked. Files in the cache of the Hub are used without asking the
        network; with `HF_HUB_OFFLINE=1` nothing ever asks it.

    Raises:
        FileNotFoundError: it is no such path and no such name.
        ValueError: it is no such address, or the model has no such variant.
        FetchError: it is not on this machine and could not be fetched.
    """
    if isinstance(preset, str) and preset.startswith("hf://"):
        return obtain(preset, [_parse(preset, variant)])
    known = preset in SOURCES  # which a Path never is
    if preset != "" and Path(preset).exists():
        if known:
            _log.warning(
                "%s is a path here, so this is not the model of that name", Path(preset).absolute()
            )
        return Path(preset)
    if not known:
        raise FileNotFoundError(_unknown(str(preset), [*others, *SOURCES]))
    return obtain(str(preset), _requests(str(preset), variant))


def fetch(name: str, *, variant: str | None = None) -> Path:
    """Fetches something by name; checks it in full, whatever the notes of the cache say.

    Args:
        name: as for `resolve`, but no path; or "clip-vocabulary". An `hf://` address without a
            commit is asked for anew.
        variant: as for `resolve`.

    Returns:
        The path of the file or folder.

    Raises:
        FileNotFoundError: there is no such name.
        ValueError: it is no such address, or the model has no such variant.
        FetchError: it could not be fetched.
    """
    if name == vocabulary.NAME:
        if variant is not None:
            raise ValueError(f"{name} has no variant {variant!r}; it has: none")
        return fetch_vocabulary()
    if name.startswith("hf://"):
        return obtain(name, [_parse(name, variant)], anew=True)
    if name not in SOURCES:
        raise FileNotFoundError(_unknown(name, [*SOURCES, vocabulary.NAME], paths=False))
    return obtain(name, _requests(name, variant), anew=True)


def is_one_file(preset: str, variant: str | None = None) -> bool:
    """Whether a name or an `hf://` address stands for a single file, which has no vocabulary
    beside it.

    Args:
        preset: as for `resolve`.
        variant: likewise.

    Raises:
        ValueError: it is no such address, or the model has no such variant.
    """
    if preset.startswith("hf://"):
        return _parse(preset, variant).path is not None
    if preset not in SOURCES:
        return False
    _requests(preset, variant)
    return True


def provide_vocabulary() -> None:
    """Fetches CLIP's vocabulary where it is not on this machine; does nothing with
    `HF_HUB_OFFLINE=1`.

    Raises:
        FetchError: it could not be fetched.
    """
    if is_offline():
        return
    try:
        find_vocabulary()
    except FileNotFoundError:
        fetch_vocabulary()


def list_sources() -> list[SourceStatus]:
    """What can be fetched by name, and what was fetched from `hf://`. No network. Nothing
    is hashed but CLIP's vocabulary, which is small.
    """
    found = [
        _status(name, variant, source.file if variant is None else source.variants[variant])
        for name, source in SOURCES.items()
        for variant in (None, *source.variants)
    ]
    found += _fetched()
    found.append(_vocabulary_status())
    return found


# --- What is wanted --------------------------------------------------------------------


def _parse(address: str, variant: str | None) -> Wanted:
    match = _HF.fullmatch(address)
    parts = match["path"].split("/") if match and match["path"] else []
    if match is None or any(part in ("", ".", "..") for part in parts):
        raise ValueError(
            f"{address!r} is not an address; one is hf://owner/name, with a /path/of/a/file and an "
            "@revision (last) if need be"
        )
    if parts and variant:
        raise ValueError(f"variant={variant!r} is for whole repositories; {address} is one file")
    return Wanted(match["repo"], match["revision"] or "main", "/".join(parts) or None, variant)


def _requests(name: str, variant: str | None) -> list[Wanted]:
    source = SOURCES[name]
    if variant is not None and variant not in source.variants:
        has = ", ".join(source.variants) or "none"
        raise ValueError(f"{name} has no variant {variant!r}; it has: {has}")
    return _places(source.file if variant is None else source.variants[variant])


def _places(pinned: Pinned) -> list[Wanted]:
    return [
        Wanted(
            place.repo,
            place.revision,
            place.path,
            expected=File(place.path, pinned.size, pinned.sha256),
        )
        for place in pinned.places
    ]


def _unknown(preset: str, names: Sequence[str], paths: bool = True) -> str:
    lines = [f"{'No file or folder, and no name' if paths else 'No name'}: {preset!r}."]
    url = _URL.fullmatch(preset)
    close = difflib.get_close_matches(preset, names, n=1)
    if url:
        path, revision = f"/{url[3]}" if url[3] else "", f"@{url[2]}" if url[2] else ""
        lines.append(f"Write hf://{url[1]}{path}{revision}.")
    elif close:
        lines.append(f"Did you mean {close[0]!r}?")
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", preset):
        lines.append(f"If it is a repository of the Hugging Face Hub, write hf://{preset}.")
    lines.append(f"Names: {', '.join(names)}; any other model is hf://owner/name.")
    return " ".join(lines)


# --- What there is ---------------------------------------------------------------------


def _status(name: str, variant: str | None, pinned: Pinned) -> SourceStatus:
    path, verified = None, False
    for request in _places(pinned):
        note = read_note(request.note)
        if note and note.is_untouched(request.folder):
            path, verified = request.at(note.commit), True
            break
        left = sorted(request.folder.glob(f"snapshots/*/{request.path}"))
        path = path or next((one for one in left if one.is_file()), None)
    return SourceStatus(
        name,
        variant,
        SOURCES[name].title,
        SOURCES[name].license,
        pinned.size,
        pinned.places[0].url,
        path,
        path.stat().st_size if path else 0,
        verified,
    )


def _fetched() -> list[SourceStatus]:
    """What came from `hf://` addresses, by the notes."""
    found = []
    for path in sorted(hub_cache().glob("models--*/keras_sd/*.json")):
        note = read_note(path)
        if note is None or note.pinned:  # What is pinned is listed by its name.
            continue
        request = _parse(note.address, note.variant)
        there = request.at(note.commit).exists()
        size = sum(file.size for file, _ in note.files)
        found.append(
            SourceStatus(
                note.address,
                note.variant,
                f"commit {note.commit}",
                None,
                size,
                request.url,
                request.at(note.commit) if there else None,
                size if there else 0,
                note.is_untouched(request.folder),
            )
        )
    return found


def _vocabulary_status() -> SourceStatus:
    there = [path for path in vocabulary.places() if path.is_file()]
    good = [path for path in there if not vocabulary.problem_of(path)]
    path = next(iter(good or there), None)
    return SourceStatus(
        vocabulary.NAME,
        None,
        "CLIP's byte-pair vocabulary",
        "MIT",
        vocabulary.SIZE,
        vocabulary.URLS[0],
        path,
        path.stat().st_size if path else 0,
        bool(good),
    )
