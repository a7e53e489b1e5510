"""CLIP's vocabulary, which models in a single file do not bring: found on this machine, or fetched.

It is known to the byte, and small enough for its checksum to be checked at each use.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from keras_sd.files import checked_path, replace_file
from keras_sd.tokenizer import CLIP_VOCAB_SIZE, UNMERGED, Tokenizer, read_merges
from keras_sd.weights.checkpoint import Checkpoint
from keras_sd.weights.hub import FetchError, is_offline
from keras_sd.weights.readers import sha256

NAME = "clip-vocabulary"
"""What `keras-sd fetch` calls it."""

FILE = "bpe_simple_vocab_16e6.txt.gz"
SIZE = 1_356_917
SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
URLS = (
    f"https://raw.githubusercontent.com/openai/CLIP/main/clip/{FILE}",
    f"https://raw.githubusercontent.com/mlfoundations/open_clip/v2.24.0/src/open_clip/{FILE}",
)
"""Where it is, to the byte the same."""

# The file has five times the merges that CLIP uses; a merges.txt has these alone.
_MERGES = CLIP_VOCAB_SIZE - UNMERGED
_MERGES_SHA256 = "f61f2adf497e6f5357c347aeb4646fabe82f341e946de5bdec5d2858e41bef4a"
_MAX_BYTES = 16_000_000
_TIMEOUT = 30

_log = logging.getLogger(__name__)


def tokenizer_of(checkpoint: Checkpoint, vocabulary: str | Path | None = None) -> Tokenizer:
    """The tokenizer of a checkpoint.

    Args:
        checkpoint: what `open_checkpoint` gave.
        vocabulary: path of its merges; None is those beside the weights, or else CLIP's.

    Raises:
        FileNotFoundError: there is no such file; or there are no merges beside the weights, and
            CLIP's are not on this machine.
        ValueError: the merges are too few for the text encoder, or not CLIP's where they should be.
    """
    config = checkpoint.config
    known = config.text_encoder.vocab_size
    size = checkpoint.vocab_size or known
    merges: Path | Sequence[str]
    if vocabulary is None and checkpoint.merges is not None:
        merges = checkpoint.merges
        if isinstance(merges, Path) and checkpoint.vocab_size is None:
            # A preset has all of its merges, and they say how many of the tokens were added.
            merges = read_merges(merges)
            size = min(size, len(merges) + UNMERGED)
    elif size >= CLIP_VOCAB_SIZE or vocabulary is None:
        merges = find_vocabulary(vocabulary)
        # OpenAI's file has more merges, but those are no tokens of CLIP's.
        size = min(size, CLIP_VOCAB_SIZE)
    else:
        merges = _existing(vocabulary)
    if added := known - size:
        _log.warning(
            "The text encoder knows %d token%s more than the vocabulary (textual inversion adds "
            "such): what was added cannot be typed in a prompt.",
            added,
            "" if added == 1 else "s",
        )
    return Tokenizer(
        merges, max_length=config.text_encoder.max_length, vocab_size=size, pad=config.pad_token
    )


def tokenizers_of(
    checkpoint: Checkpoint, vocabulary: str | Path | None = None
) -> dict[str, Tokenizer]:
    """The tokenizers of a checkpoint's text encoders, which differ in what fills a short prompt.
    Arguments and errors are those of `tokenizer_of`.
    """
    config, first = checkpoint.config, tokenizer_of(checkpoint, vocabulary)
    found = {"text_encoder": first}
    if (second := config.text_encoder_2) is not None:
        if second.vocab_size < first.vocab_size:
            raise ValueError(
                f"The vocabulary has {first.vocab_size} tokens, and the second text encoder knows "
                f"{second.vocab_size}"
            )
        found["text_encoder_2"] = first.padded(config.pad_token_2)
    return found


def find_vocabulary(given: str | Path | None = None) -> Path:
    """CLIP's vocabulary on this machine, with its checksum checked; never uses the network.

    Args:
        given: the path of OpenAI's `bpe_simple_vocab_16e6.txt.gz` (or of the text in it), or of a
            `merges.txt` of Hugging Face with the same merges. None looks where `fetch_vocabulary`
            puts it and where KerasCV has put it.

    Returns:
        A path for `keras_sd.tokenizer.Tokenizer`.

    Raises:
        FileNotFoundError: it is nowhere; the message says how to get it.
        ValueError: the file that was given is not CLIP's vocabulary.
    """
    if given is not None:
        path = _existing(given)
        if problem := problem_of(path):
            raise ValueError(f"{path} is not CLIP's vocabulary: {problem}")
        return path
    ours, theirs = places()
    for path in (ours, theirs):
        if path.is_file():
            problem = problem_of(path)
            if not problem:
                return path
            _log.warning("%s is damaged and is not used: %s", path, problem)
    raise FileNotFoundError(
        f"The weights come without CLIP's vocabulary, and it is neither at {ours} nor at {theirs}. "
        f"One of these helps: `keras-sd fetch {NAME}` fetches it once (1.4 MB); vocabulary=PATH "
        f"names a {FILE} or a merges.txt; a folder tokenizer/ with merges.txt beside the weights "
        "is found by itself. The model 'emoji' has its own."
    )


def _existing(given: str | Path) -> Path:
    path = checked_path(given, "vocabulary", "the path of a file of merges")
    if not path.is_file():
        raise FileNotFoundError(f"There is no vocabulary file {path}")
    return path


def fetch_vocabulary() -> Path:
    """Fetches CLIP's vocabulary once, 1.4 MB, and checks it.

    Returns:
        Its path: `keras_sd/bpe_simple_vocab_16e6.txt.gz` in the folder of Keras (`KERAS_HOME`).

    Raises:
        FetchError: it could not be fetched.
    """
    path = places()[0]
    if path.is_file() and not problem_of(path):
        return path
    failures = []
    if is_offline():
        failures.append("HF_HUB_OFFLINE is set")
    else:
        for url in URLS:
            failure = _download(url, path)
            if not failure:
                return path
            failures.append(f"{url}: {failure}")
    raise FetchError(
        "\n".join(
            [
                "CLIP's vocabulary could not be fetched:",
                *(f"  {failure}" for failure in failures),
                f"By hand: put {URLS[0]} (sha256 {SHA256}) at {path}. The model 'emoji' has its "
                "own and needs nothing.",
            ]
        )
    )


def places() -> tuple[Path, Path]:
    """Where we put it, and where KerasCV puts it."""
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    return home / "keras_sd" / FILE, home / "datasets" / FILE


def problem_of(path: Path) -> str:
    """Why a file is not CLIP's vocabulary; nothing if it is."""
    size = path.stat().st_size
    if size > _MAX_BYTES:
        return f"it has {size} bytes"
    with open(path, "rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
    if gzipped:
        # Known to the byte, so nothing else has to be unpacked to find out.
        digest = sha256(path)
        return "" if digest == SHA256 else f"its sha256 is {digest}, not {SHA256}"
    try:
        merges = read_merges(path)
    except ValueError as error:
        return str(error)
    digest = hashlib.sha256("\n".join(merges[:_MERGES]).encode()).hexdigest()
    if digest == _MERGES_SHA256:
        return ""
    return f"the first {_MERGES} of its {len(merges)} merges are not those of CLIP"


def _download(url: str, path: Path) -> str:
    """Why it did not work; nothing if it did."""
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:
            data = answer.read(SIZE + 1)
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    digest = hashlib.sha256(data).hexdigest()
    if digest != SHA256:
        return f"it gave {len(data)} bytes with sha256 {digest}"
    replace_file(path, lambda part: part.write_bytes(data))
    return ""
