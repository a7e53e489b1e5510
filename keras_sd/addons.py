"""What a file is that goes beside a model: an adapter, an embedding, or a network by which pictures
steer a run; for people and for programs. No model is loaded.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from keras_sd.adapters.control_files import ControlFile, control_file_of, is_control
from keras_sd.adapters.feature_files import FeatureFile, feature_file_of, is_features
from keras_sd.adapters.files import FAMILIES, Adapter, adapter_of, file_in, is_adapter
from keras_sd.adapters.fitting import feature_misfits
from keras_sd.adapters.image_encoder_files import ImageEncoderFile, encoder_file_of, is_encoder
from keras_sd.adapters.image_prompt_files import ImagePromptFile, is_image_prompt, prompt_file_of
from keras_sd.adapters.matching import match
from keras_sd.config import SD_1, SD_2, SDXL, ModelConfig
from keras_sd.embeddings.files import Embedding, embedding_of, is_embedding
from keras_sd.weights.checkpoint import open_checkpoint
from keras_sd.weights.parts import is_floating
from keras_sd.weights.presets import PRESETS, list_presets
from keras_sd.weights.readers import WeightsError, is_finite, read_file, release, sha256

_MAX_WORDS = 20
_MAX_LETTERS = 200

_SAID = (
    "modelspec.title",
    "modelspec.author",
    "modelspec.license",
    "modelspec.architecture",
    "modelspec.prediction_type",
    "modelspec.trigger_phrase",
    "ss_output_name",
    "ss_base_model_version",
    "ss_sd_model_name",
    "ss_v2",
    "ss_network_module",
    "ss_network_dim",
    "ss_network_alpha",
    "ss_clip_skip",
    "ss_resolution",
)
"""What of the metadata is shown: how and on what it was trained."""


def _families() -> Iterator[ModelConfig]:
    """A model of each family; those in the package are opened when it comes to them."""
    yield from (SD_1, SD_2, SDXL)
    yield from map(_packaged, list_presets())


@cache
def _packaged(name: str) -> ModelConfig:
    return open_checkpoint(PRESETS / name).config


def _known(context: int | None, base: str | None) -> ModelConfig | None:
    """A model of the family, which a shape tells, or else a name."""
    width = context or next((width for width, name in FAMILIES.items() if name == base), None)
    if width is None:
        return None
    return next((each for each in _families() if each.unet.context_width == width), None)


def _unsupported(known: ModelConfig | None, base: str | None) -> str | None:
    """Why no model here takes what was made for a family, or None."""
    if known is not None or base is None:
        return None
    here = ", ".join(list_presets())
    return f"it was made for {base}, and keras_sd has models of 1.x, 2.x and XL, and {here}"


@dataclass(frozen=True)
class AdapterReport:
    """What `inspect` found.

    Attributes:
        path: of the file.
        size: of the file in bytes.
        error: why it cannot be used by any model, or None. Where there is one, most of the rest is
            empty.
        layout: whose names it has: "kohya", "diffusers", "PEFT", ...
        base: the family that it was made for, where a shape or a name tells.
        parts: changes by part of the model, `unet` and `text_encoder`; of another network its
            tensors, by `control`, `image_prompt`, `features` or `image_encoder`.
        kinds: changes by kind.
        ranks: the smallest and the largest.
        alphas: likewise; None where the file says none.
        tensors: how many.
        bytes: of their numbers.
        dtypes: tensors by dtype.
        words: that pictures of the training were described with most often: what it reacts to.
        said: what else the file says of itself.
        problems: names by what is wrong with them, in a model of its family.
        numbers_read: every number was looked at.
        sha256: of the file, if it was read.
        notes: what whoever uses it should know.
        unsupported: why no model here can use it, or None.
    """

    path: str
    size: int
    error: str | None = None
    layout: str | None = None
    base: str | None = None
    parts: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    ranks: tuple[int, int] | None = None
    alphas: tuple[float, float] | None = None
    tensors: int = 0
    bytes: int = 0
    dtypes: dict[str, int] = field(default_factory=dict)
    words: dict[str, int] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    problems: dict[str, list[str]] = field(default_factory=dict)
    numbers_read: bool = False
    sha256: str | None = None
    notes: list[str] = field(default_factory=list)
    unsupported: str | None = None

    @property
    def good(self) -> bool:
        """It can be read, and every change has its place in a model of its family."""
        return self.error is None and not self.problems

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON types, with `good`."""
        return {"good": self.good, **dataclasses.asdict(self)}


def inspect(path: str | Path, *, numbers: bool = True) -> AdapterReport | None:
    """Says what a file of an adapter is, of an embedding, or of a network by which pictures steer a
    run, and what is wrong with it.

    Args:
        path: of the file; or of a folder that PEFT or diffusers has written an adapter into.
        numbers: look at every number, and compute the file's sha256.

    Returns:
        The report, with an `error` where the kind is not read or the file is damaged inside; None
        where the file is neither.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    if path.is_dir():
        # The folder of a model may have a LoRA beside it, and is a model.
        found = None if (path / "model_index.json").is_file() else file_in(path)
        if found is None:
            return None
        path = found
    try:
        file = read_file(path)
    except WeightsError:
        return None
    look = next((look for is_it, look in _LOOKS if is_it(file.tensors)), None)
    if look is None:
        return None
    report = AdapterReport(
        str(path),
        path.stat().st_size,
        tensors=len(file.tensors),
        bytes=sum(math.prod(t.shape) * t.dtype.itemsize for t in file.tensors.values()),
        dtypes=dict(Counter(str(tensor.dtype) for tensor in file.tensors.values())),
        words=_words(file.metadata),
        said={key: _short(file.metadata[key]) for key in _SAID if _says(file.metadata, key)},
        sha256=sha256(path) if numbers else None,
    )
    try:
        return dataclasses.replace(report, **look(file, path, numbers))
    except WeightsError as error:
        return dataclasses.replace(report, error=str(error))


def _found(adapter: Adapter, numbers: bool) -> dict[str, Any]:
    base = adapter.base
    known = _known(adapter.context, base)
    # What no shape tells may be of either; the places have one name in both, but for the layers of
    # the text encoder, of which 2.x has more.
    found = match(adapter, known or (SD_2 if base is None else SD_1))
    problems: dict[str, list[str]] = {}
    unsupported = _unsupported(known, base)
    if unsupported is None:
        misshapen = found.misshapen if known else ()
        kinds = {"unknown": found.unknown, "misshapen": misshapen, "twice": found.twice}
        problems = {kind: list(names) for kind, names in kinds.items() if names}
    if numbers and (damaged := _damaged(adapter)):
        problems["not finite"] = damaged
    notes = list(adapter.notes)
    if base is None:
        notes.append("No shape tells the family that it was made for.")
    if found.unused:
        notes.append(f"{len(found.unused)} changes are of a layer that no model has.")
    ranks = [change.rank for change in adapter.changes if change.rank is not None]
    alphas = [change.alpha for change in adapter.changes if change.alpha is not None]
    return {
        "layout": found.layout,
        "base": base,
        "parts": found.parts if unsupported is None else _parts(adapter),
        "kinds": dict(Counter(change.description for change in adapter.changes)),
        "ranks": (min(ranks), max(ranks)) if ranks else None,
        "alphas": (min(alphas), max(alphas)) if alphas else None,
        "problems": problems,
        "numbers_read": numbers,
        "notes": notes,
        "unsupported": unsupported,
    }


def _of_control(file: ControlFile, numbers: bool) -> dict[str, Any]:
    """Of a ControlNet: whether it fits a model of its family, which has its size."""
    known = _known(file.context, file.base)
    problems = {} if known is None else dict(file.part(file.config(known)).problems())
    notes = list(file.notes)
    if file.difference:
        notes.append("Its weights are differences from the UNet's, to which they are added.")
    found = _of_network("control", "ControlNet", file.tensors, problems, numbers)
    return {
        **found,
        "layout": file.layout,
        "base": file.base,
        "notes": notes,
        "unsupported": _unsupported(known, file.base),
    }


def _of_prompt(file: ImagePromptFile, numbers: bool) -> dict[str, Any]:
    """Of an IP-Adapter: likewise, and the image encoder that it needs."""
    known = _known(file.context, file.base)
    problems = {} if known is None else dict(file.part(file.config(known), known).problems())
    found = _of_network("image_prompt", "IP-Adapter", file.tensors, problems, numbers)
    return {
        **found,
        "kinds": {f"IP-Adapter, {file.kind}": 1},
        "layout": "diffusers" if file.by_diffusers else "original",
        "base": file.base,
        "notes": [f"It needs the image encoder {file.encoder}."],
        "unsupported": _unsupported(known, file.base),
    }


def _of_features(file: FeatureFile, numbers: bool) -> dict[str, Any]:
    """Of a T2I-Adapter: whether it fits a model of its family."""
    known = SDXL if file.config.kind == "full_xl" else SD_1
    problems = dict(file.part().problems())
    found = _of_network("features", "T2I-Adapter", file.tensors, problems, numbers)
    wrong = feature_misfits(file.config, known)
    return {
        **found,
        "kinds": {f"T2I-Adapter, {file.config.kind}": 1},
        "layout": file.layout,
        "base": file.base,
        "unsupported": f"{'; '.join(wrong)} as in {known.name}" if wrong else None,
    }


def _of_encoder(file: ImageEncoderFile, numbers: bool) -> dict[str, Any]:
    """Of an image encoder: its size."""
    problems = dict(file.part().problems())
    found = _of_network("image_encoder", "image encoder", file.tensors, problems, numbers)
    left_out = len(file.left_out)
    notes = [f"Left out are {left_out} tensors beside it."] if left_out else []
    return {**found, "layout": "transformers", "base": file.name, "notes": notes}


def _of_embedding(file: Embedding, numbers: bool) -> dict[str, Any]:
    """Of an embedding: its vectors, and how a prompt calls it. They are read in any case."""
    parts = {"text_encoder": len(file)}
    if file.vectors_2 is not None:
        parts["text_encoder_2"] = len(file)
    width = file.vectors.shape[1]
    encoders = (each for config in _families() for each in config.text_encoders.values())
    said = " or ".join(dict.fromkeys(filter(None, (file.name, file.token))))
    return {
        "layout": file.layout,
        "base": file.family,
        "parts": parts,
        "kinds": {"embedding": 1},
        "said": dict(file.facts),
        "numbers_read": numbers,
        "notes": [f"A prompt calls it {said}."],
        "unsupported": None
        if any(each.width == width for each in encoders)
        else f"no model here has {width} features",
    }


def _of_network(
    part: str,
    kind: str,
    tensors: Mapping[str, Any],
    problems: dict[str, list[str]],
    numbers: bool,
) -> dict[str, Any]:
    """What is said of each of these networks."""
    damaged = []
    for name, tensor in tensors.items() if numbers else ():
        if is_floating(tensor.dtype) and not is_finite(np.asarray(tensor)):
            damaged.append(name)
        release(tensor)
    return {
        "parts": {part: len(tensors)},
        "kinds": {kind: 1},
        "problems": problems | ({"not finite": damaged} if damaged else {}),
        "numbers_read": numbers,
    }


_LOOKS: tuple[tuple[Callable[..., bool], Callable[..., dict[str, Any]]], ...] = (
    (is_control, lambda file, path, numbers: _of_control(control_file_of(file, path), numbers)),
    (is_image_prompt, lambda file, path, numbers: _of_prompt(prompt_file_of(file, path), numbers)),
    (is_features, lambda file, path, numbers: _of_features(feature_file_of(file, path), numbers)),
    (is_encoder, lambda file, path, numbers: _of_encoder(encoder_file_of(file, path), numbers)),
    (is_adapter, lambda file, path, numbers: _found(adapter_of(file, path), numbers)),
    (is_embedding, lambda file, path, numbers: _of_embedding(embedding_of(file, path), numbers)),
)
"""What is said of each kind of file, by what its names tell."""


def _parts(adapter: Adapter) -> dict[str, int]:
    """Of a family whose places are not known, by what the names begin with."""
    of_text = (change.name.startswith(("lora_te", "text_encoder")) for change in adapter.changes)
    return dict(Counter("text_encoder" if each else "unet" for each in of_text))


def _damaged(adapter: Adapter) -> list[str]:
    found = []
    for change in adapter.changes:
        try:
            change.factors()
        except WeightsError as error:
            found.append(str(error).removesuffix(" is not finite"))
    return found


def _says(metadata: Mapping[str, str], key: str) -> bool:
    return metadata.get(key, "None") not in ("None", "")


def _short(text: str) -> str:
    return text if len(text) <= _MAX_LETTERS else text[:_MAX_LETTERS] + "..."


def _words(metadata: Mapping[str, str]) -> dict[str, int]:
    """The words of the training's descriptions that are most frequent, of all its folders."""
    try:
        folders = json.loads(metadata.get("ss_tag_frequency", "{}"))
    except (ValueError, RecursionError):
        return {}
    counts: Counter[str] = Counter()
    for words in _values(folders):
        if isinstance(words, dict):
            for word, count in words.items():
                if isinstance(count, int) and not isinstance(count, bool):
                    counts[_short(word.strip())] += count
    return dict(counts.most_common(_MAX_WORDS))


def _values(data: Any) -> Iterable[Any]:
    return data.values() if isinstance(data, dict) else ()
