"""Files of the Hugging Face Hub in its cache on this machine: fetched, checked, and noted.

huggingface_hub downloads into its own cache (`HF_HOME`), which other programs share. A file is used
only after its size and checksum were found right here: SHA-256 for large files, git's SHA-1 for
small ones. What was checked is noted beside it, in `keras_sd/` of the repository's folder, with the
file's size and time of change. So the next use reads the note and a few file times: no hash, no
network, not even huggingface_hub. A file without a note (of another program, or of a run that was
killed) is checked first, one that has changed is checked again, a damaged one is deleted.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from keras_sd.weights.checkpoint import NAMES
from keras_sd.weights.diffusers_folder import INDEX
from keras_sd.weights.diffusers_folder.choice import candidates, choose, folders_of, named
from keras_sd.weights.notes import DIGEST, File, Note, is_commit, read_note, write_note
from keras_sd.weights.readers import sha256
from keras_sd.weights.sources import SOURCES, Place

_OPTIONAL = (
    "scheduler/scheduler_config.json",
    *(
        f"{folder}/{name}"
        for folder in ("tokenizer", "tokenizer_2")
        for name in (
            *("merges.txt", "vocab.json", "tokenizer.json", "tokenizer_config.json"),
            *("special_tokens_map.json", "added_tokens.json"),
        )
    ),
)
_WEIGHTS = (".safetensors", ".ckpt", ".pt", ".bin", ".h5")

_MAX_LISTED = 10
_TIMEOUT = 30

_log = logging.getLogger(__name__)

T = TypeVar("T")


class FetchError(OSError):
    """Something could not be fetched; the message says from where, why, and what to do by hand."""


@dataclass(frozen=True)
class Wanted:
    """A model in a repository: a file (`path`), or the model that the repository is."""

    repo: str
    revision: str
    path: str | None = None
    variant: str | None = None
    expected: File | None = None

    def __str__(self) -> str:
        path = f"/{self.path}" if self.path else ""
        revision = "" if self.revision == "main" else f"@{self.revision}"
        return f"hf://{self.repo}{path}{revision}"

    @property
    def folder(self) -> Path:
        """Of the repository in the Hub's cache."""
        return hub_cache() / f"models--{self.repo.replace('/', '--')}"

    @property
    def note(self) -> Path:
        """Where it is noted what was checked."""
        key = json.dumps([self.revision, self.path, self.variant])
        return self.folder / "keras_sd" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"

    def at(self, commit: str) -> Path:
        """The result, once it is there."""
        snapshot = self.folder / "snapshots" / commit
        return snapshot / self.path if self.path else snapshot

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        if self.path:
            return Place(self.repo, self.revision, self.path).url
        return f"https://huggingface.co/{self.repo}/tree/{self.revision}"


class Failure(Exception):
    """One place did not work, and why; others may."""


# --- Getting it ------------------------------------------------------------------------


def obtain(name: str, requests: list[Wanted], anew: bool = False) -> Path:
    """The path of what was asked for, from wherever it comes cheapest.

    Args:
        name: what it is called, for messages.
        requests: the places of one pinned file, the best first; or a single other request.
        anew: check in full what was checked before, and ask where a branch is now.

    Raises:
        FetchError: it is not on this machine and could not be fetched.
    """
    failures: list[str] = []
    pinned = requests[0].expected is not None
    # A branch may have moved on since; everything else is the same for ever.
    ask = anew and not pinned and not is_commit(requests[0].revision) and not is_offline()
    if not ask:
        for request in requests:
            if path := _noted(request, failures, in_full=anew):
                return path
    if pinned:
        for request in requests:
            if path := _adopt_pinned(request, failures):
                return path
    if is_offline():
        failures.append("HF_HUB_OFFLINE is set, and it is not in the cache")
    else:
        hub = _huggingface_hub(name, requests, failures)
        for request in requests:
            try:
                return _download(hub, name, request)
            except Failure as failure:
                failures.append(f"{request}: {failure}")
    if not pinned and not ask and (path := _adopt(requests[0], failures)):
        return path
    _give_up(name, requests, failures)


def _noted(request: Wanted, failures: list[str], in_full: bool = False) -> Path | None:
    """What was checked before, if it is still as it was."""
    note = read_note(request.note)
    if note is None:
        return None
    files = [file for file, _ in note.files]
    if request.expected and files != [request.expected]:
        return None
    if in_full or not note.is_untouched(request.folder):
        snapshot = request.folder / "snapshots" / note.commit
        for file in files:
            path = snapshot / file.name
            if not path.is_file() or not _check(path, file, failures):
                return None
        _write_note(request, note.commit, files)
    return request.at(note.commit)


def _adopt_pinned(request: Wanted, failures: list[str]) -> Path | None:
    """The file as another program, or a run that was killed, has left it, of whatever commit."""
    expected = request.expected
    assert expected is not None
    for path in sorted(request.folder.glob(f"snapshots/*/{expected.name}")):
        commit = path.relative_to(request.folder / "snapshots").parts[0]
        if not path.is_file():
            continue
        # Another commit may well have another file of this name: that one is not damaged.
        good = (
            _check(path, expected, failures)
            if commit == request.revision
            else not _problem(path, expected)
        )
        if good:
            _write_note(request, commit, [expected])
            return path
    return None


def _adopt(request: Wanted, failures: list[str]) -> Path | None:
    """A model as another program has left it: better than nothing, and checked all the same."""
    commit = request.revision
    if not is_commit(commit):
        try:
            commit = (request.folder / "refs" / commit).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return None
    snapshot = request.folder / "snapshots" / commit
    files = {}
    for path in snapshot.rglob("*"):
        # A snapshot links to a file that is named by its checksum; without links there is none.
        digest = path.readlink().name if path.is_symlink() else ""
        if path.is_file() and DIGEST.fullmatch(digest):
            name = path.relative_to(snapshot).as_posix()
            files[name] = File(name, path.stat().st_size, digest)
    try:
        chosen = _choose(files, request)
    except Failure:
        return None
    if not all(_check(snapshot / file.name, file, failures) for file in chosen):
        return None
    _write_note(request, commit, chosen)
    return request.at(commit)


def _download(hub: Any, name: str, request: Wanted) -> Path:
    """Fetches the files of a request that are missing, checks them and notes it."""
    commit, files = _listing(hub, request)
    chosen = _choose(files, request)
    snapshot = request.folder / "snapshots" / commit
    size = sum(file.size for file in chosen if not (snapshot / file.name).exists())
    if size:
        source = SOURCES.get(name)
        what = f"{name}, license {source.license}, from {request}" if source else name
        _log.warning("fetching %s (%s)", what, human_size(size))
    for file in chosen:
        _get(hub, request, commit, file)
    _write_note(request, commit, chosen)
    return request.at(commit)


def _get(hub: Any, request: Wanted, commit: str, file: File) -> None:
    def get() -> Path:
        return Path(
            _ask(
                hub.hf_hub_download,
                request.repo,
                file.name,
                revision=commit,
                cache_dir=str(hub_cache()),
            )
        )

    # What huggingface_hub finds in its cache it gives as it is, so that is worth a second attempt;
    # what has just come from the network is not.
    was_there = any(
        path.exists()
        for path in (
            request.folder / "snapshots" / commit / file.name,
            request.folder / "blobs" / file.digest,
        )
    )
    failures: list[str] = []
    if _check(get(), file, failures) or (was_there and _check(get(), file, failures)):
        return
    raise Failure(failures[-1])


def _listing(hub: Any, request: Wanted) -> tuple[str, dict[str, File]]:
    """The commit that a revision is now, and its files."""
    info = _ask(
        lambda: hub.HfApi().model_info(
            request.repo, revision=request.revision, files_metadata=True, timeout=_TIMEOUT
        )
    )
    files = {}
    for sibling in info.siblings or []:
        size = sibling.lfs.size if sibling.lfs else sibling.size
        digest = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
        # A file without both could not be checked, so it is as good as not there.
        if isinstance(size, int) and DIGEST.fullmatch(digest or ""):
            files[sibling.rfilename] = File(sibling.rfilename, size, digest)
    if not is_commit(info.sha or ""):
        raise Failure(f"the answer names no commit: {info.sha!r}")
    return info.sha, files


def _ask(function: Callable[..., T], *arguments: Any, **settings: Any) -> T:
    """Calls huggingface_hub, whose errors are those of whatever HTTP library it is built on."""
    try:
        return function(*arguments, **settings)
    except Exception as error:
        raise Failure(_reason(error)) from error


def _reason(error: BaseException) -> str:
    """What went wrong, in the words of whoever has to do something about it."""
    chain = [error]
    while cause := chain[-1].__cause__:
        chain.append(cause)
    names = {type(one).__name__ for one in chain}
    codes = [getattr(getattr(one, "response", None), "status_code", None) for one in chain]
    status = next((code for code in codes if code), None)
    login = "run `hf auth login` or set HF_TOKEN"
    if "GatedRepoError" in names or status == 403:
        return f"it wants to know who asks ({status}): accept its license on its page, then {login}"
    if "RevisionNotFoundError" in names:
        return f"there is no such revision ({status}); an address ends with its @revision"
    if "RepositoryNotFoundError" in names or status == 401:
        return f"there is no such repository ({status}), or it is private: then {login}"
    if names & {"EntryNotFoundError", "RemoteEntryNotFoundError"}:
        return f"there is no such file ({status})"
    said = " ".join(str(chain[-1]).split())[:300]
    return f"{type(chain[-1]).__name__}: {said}"


def _huggingface_hub(name: str, requests: list[Wanted], failures: list[str]) -> Any:
    try:
        import huggingface_hub
    except ImportError:
        failures.append('to fetch it takes huggingface_hub: pip install "keras-sd[hub]"')
        _give_up(name, requests, failures)
    return huggingface_hub


def _give_up(name: str, requests: list[Wanted], failures: list[str]) -> NoReturn:
    first = requests[0]
    if first.expected:
        size, digest = human_size(first.expected.size), first.expected.digest
        what = f"{first.url} ({size}, sha256 {digest})"
    elif first.path:
        what = first.url
    else:
        what = (
            f"{INDEX} and the folders unet, vae, text_encoder, tokenizer and scheduler of "
            f"{first.url}"
        )
    raise FetchError(
        "\n".join(
            [
                f"{name} could not be fetched:",
                *(f"  {failure}" for failure in failures),
                f"By hand: download {what}, put it where you like and give its path instead of "
                f"{name!r}. The model 'emoji' is in the package and needs nothing.",
            ]
        )
    )


# --- Which files of a repository -------------------------------------------------------


def _choose(files: Mapping[str, File], request: Wanted) -> list[File]:
    """The files of a request, small ones first: the last to come is what makes it usable."""
    if request.path is not None:
        chosen = {request.path}
        if request.path not in files:
            raise Failure(f"there is no file {request.path}; there are {_list_weights(files)}")
    elif INDEX in files:
        chosen = _choose_diffusers(files, request.variant)
    elif files.keys() >= set(NAMES):
        chosen = set(NAMES)
    else:
        raise Failure(
            f"it has no {INDEX}, so name one of its files: hf://{request.repo}/... with "
            f"{_list_weights(files)}"
        )
    found = sorted((files[name] for name in chosen), key=lambda file: (file.size, file.name))
    expected = request.expected
    if expected and found != [expected]:
        raise Failure(f"it holds another file of that name ({found[0].size} bytes)")
    return found


def _choose_diffusers(files: Iterable[str], variant: str | None) -> set[str]:
    names = set(files)
    first, second = (f"{name}/config.json" in names for name in ("text_encoder", "text_encoder_2"))
    folders = folders_of(first, second)
    chosen = {INDEX, *(f"{folder}/config.json" for folder in folders.values())}
    missing = sorted(chosen - names)
    if missing:
        raise Failure(f"it is not complete: {', '.join(missing)} missing")
    chosen |= names.intersection(_OPTIONAL)
    taken = set()
    for part in sorted(folders, key=("unet", "autoencoder", *folders).index):
        there = candidates(names, part, folders)
        whole = {kind: weights for kind, weights in there.items() if weights.is_whole}
        weights = choose(whole, variant)
        if weights is None:
            folder = folders[part]
            has = _list(names, folder)
            raise Failure(f"{folder}/ has no weights {named(variant)}; it has {has}")
        taken.add(variant if variant in whole else None)
        chosen |= {weights.file, *weights.shards}
    if variant is not None and variant not in taken:
        raise Failure(f"it has no weights {named(variant)}; unet/ has {_list(names, 'unet')}")
    return chosen


def _list_weights(names: Iterable[str]) -> str:
    return _listed([name for name in sorted(names) if name.endswith(_WEIGHTS)], "no weights")


def _list(names: Iterable[str], part: str) -> str:
    return _listed([name for name in sorted(names) if name.startswith(f"{part}/")], "nothing")


def _listed(names: list[str], none: str) -> str:
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return (", ".join(names[:_MAX_LISTED]) or none) + more


# --- Checking, and noting what was checked ---------------------------------------------


def _check(path: Path, file: File, failures: list[str]) -> bool:
    """Whether a file is what it should be. One that is not is deleted from the Hub's cache."""
    problem = _problem(path, file)
    if problem:
        _discard(path)
        failures.append(f"{file.name} was damaged, {problem}, and was deleted ({path})")
        _log.warning("%s", failures[-1])
    return not problem


def _problem(path: Path, file: File) -> str:
    """Why a file is not what it should be; nothing if it is."""
    size = path.stat().st_size
    if size != file.size:
        return f"it has {size} bytes, not {file.size}"
    digest = sha256(path) if len(file.digest) == 64 else _git_sha1(path)
    return "" if digest == file.digest else f"its checksum is {digest}, not {file.digest}"


def _git_sha1(path: Path) -> str:
    with open(path, "rb") as file:
        head = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
        return hashlib.file_digest(file, lambda: head).hexdigest()


def _discard(path: Path) -> None:
    """Deletes a file of the Hub's cache with all that it links to in there."""
    cache = hub_cache().resolve()
    # A snapshot links to a blob, which may link to one that repositories share. Somebody may have
    # linked files of his own into it: those are not ours to delete.
    while path.parent.resolve().is_relative_to(cache):
        target = path.readlink() if path.is_symlink() else None
        path.unlink(missing_ok=True)
        if target is None:
            break
        path = path.parent / target


def _write_note(request: Wanted, commit: str, files: list[File]) -> None:
    snapshot = request.folder / "snapshots" / commit
    note = Note(
        str(request),
        request.variant,
        request.expected is not None,
        commit,
        tuple((file, (snapshot / file.name).stat().st_mtime_ns) for file in files),
    )
    try:
        write_note(request.note, note)
    except OSError as error:
        # A cache that is shared and read-only: good, but to be checked again the next time.
        _log.info("cannot note that %s was checked: %s", request, error)


# --- Places on this machine ------------------------------------------------------------


def hub_cache() -> Path:
    """Where huggingface_hub has its cache, without importing it."""
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache"), "huggingface"
    )
    cache = (
        os.environ.get("HF_HUB_CACHE")
        or os.environ.get("HUGGINGFACE_HUB_CACHE")
        or os.path.join(home, "hub")
    )
    return Path(os.path.expandvars(os.path.expanduser(cache)))


def is_offline() -> bool:
    """Whether `HF_HUB_OFFLINE` is set, at this moment."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in ("1", "ON", "YES", "TRUE")


def human_size(size: int) -> str:
    """1356917 is "1.36 MB"."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.2f} {unit}"
    return f"{size} bytes"
