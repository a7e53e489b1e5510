"""LoRA files of ours, in the layouts that other programs read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors.numpy import save_file

from keras_sd.adapters.files import PEFT_CLASSES, PEFT_PREFIX, PEFT_SETTINGS, PEFT_WEIGHTS
from keras_sd.adapters.names import Place, names_of
from keras_sd.config import ModelConfig
from keras_sd.files import checked_path, replace_file
from keras_sd.weights.files import replace_folder
from keras_sd.weights.readers import WeightsError, is_finite

__all__ = ["LAYOUTS", "Layout", "LowRank", "places_of", "save_lora"]

Layout = Literal["kohya", "diffusers", "PEFT"]

LAYOUTS: dict[Layout, str] = {
    "kohya": "kohya's sd-scripts, A1111's web UI, ComfyUI and others",
    "diffusers": "PEFT's names in a file of diffusers, `pytorch_lora_weights.safetensors`",
    "PEFT": "a folder for each network, as `PeftModel.from_pretrained` takes it",
}
"""What is written, and who reads it."""

_LIBRARIES = {
    "unet": "diffusers.models.unets.unet_2d_condition",
    "text_encoder": "transformers.models.clip.modeling_clip",
    "text_encoder_2": "transformers.models.clip.modeling_clip",
}
"""Modules that have the classes of `PEFT_CLASSES`."""

_BEFORE = {"unet": "", "text_encoder": "", "text_encoder_2": "text_model."}
"""What transformers 5 has before the names of their layers; transformers 4 had it in both text
encoders. PEFT wants the names of the tensors as they are there."""


@dataclass(frozen=True, eq=False)
class LowRank:
    """The change of one weight, `alpha / rank * up @ down` (Hu et al. 2021).

    Attributes:
        place: the layer.
        up: float32 `(out, rank)`, of a convolution `(out, rank, 1, 1)`.
        down: float32 `(rank, in)`, of a convolution `(rank, in, height, width)`.
        alpha: see above.
    """

    place: Place
    up: np.ndarray
    down: np.ndarray
    alpha: float

    @property
    def rank(self) -> int:
        """Rows of `down`."""
        return len(self.down)


def places_of(config: ModelConfig) -> dict[Place, dict[str, str]]:
    """The layers of a model, each with its name by layout: the first that `names_of` has.

    Args:
        config: of the model.
    """
    found: dict[Place, dict[str, str]] = {}
    for name, named in names_of(config).items():
        if named.place.used:
            found.setdefault(named.place, {}).setdefault(named.layout, name)
    return found


def save_lora(
    path: str | Path,
    changes: Sequence[LowRank],
    config: ModelConfig,
    *,
    layout: Layout = "kohya",
) -> list[Path]:
    """Writes a LoRA as one `.safetensors` file, or as folders of PEFT; `open_adapter` reads all.

    A file of kohya's says each alpha, a folder of PEFT has them in its settings. A file of
    diffusers has no place for them where all readers look: there `up` is multiplied by alpha /
    rank, so that the file means the same to all.

    Args:
        path: of the file; one that is there is replaced, whole or not at all. Of the layout
            `"PEFT"` it is a folder, in which each network that is changed gets a folder of its
            part's name: `unet`, `text_encoder`, `text_encoder_2`.
        changes: of the weights.
        config: of the model.
        layout: one of `LAYOUTS`.

    Returns:
        What `open_adapter` takes: the path, or the folder of each network.

    Raises:
        WeightsError: a number is not finite. Nothing was written.
        ValueError: another layout or ending, or there are no changes.
        FileExistsError: the folder has other files.
        OSError: the file cannot be written; the message names it.
    """
    path = checked_path(path, "path")
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {' or '.join(map(repr, LAYOUTS))}, not {layout!r}")
    if layout != "PEFT" and path.suffix != ".safetensors":
        raise ValueError(f"{path.name} is no name for a LoRA; it ends in .safetensors")
    if layout == "PEFT" and path.suffix == ".safetensors":
        raise ValueError(f"{path.name} is no name for a folder, which PEFT reads")
    if not changes:
        raise ValueError("A LoRA has at least one change")
    names = places_of(config)
    parts: dict[str, dict[str, np.ndarray]] = {}
    for change in changes:
        name, tensors = names[change.place][layout], parts.setdefault(change.place.part, {})
        up, down = (np.asarray(each, np.float32) for each in (change.up, change.down))
        if not (is_finite(up) and is_finite(down)):
            raise WeightsError(f"Not saved, for the change of {name} is not finite")
        if layout == "kohya":
            tensors[f"{name}.lora_up.weight"] = np.ascontiguousarray(up)
            tensors[f"{name}.lora_down.weight"] = np.ascontiguousarray(down)
            tensors[f"{name}.alpha"] = np.array(change.alpha, np.float32)
            continue
        if layout == "PEFT":
            name = f"{PEFT_PREFIX}{_BEFORE[change.place.part]}{change.place.name}"
        else:
            up = up * np.float32(change.alpha / change.rank)
        tensors[f"{name}.lora_B.weight"] = np.ascontiguousarray(up)
        tensors[f"{name}.lora_A.weight"] = np.ascontiguousarray(down)
    if layout == "PEFT":
        return _save_folders(path, parts, changes)
    whole = {name: array for tensors in parts.values() for name, array in tensors.items()}
    replace_file(path, lambda at: save_file(whole, at, {"format": "pt"}))
    return [path]


def _save_folders(
    folder: Path, parts: Mapping[str, Mapping[str, np.ndarray]], changes: Sequence[LowRank]
) -> list[Path]:
    """The folders of PEFT, all or none."""
    files: dict[str, Callable[[Path], object]] = {}
    for part, tensors in parts.items():
        settings = _settings_of(part, [each for each in changes if each.place.part == part])
        text = json.dumps(settings, indent=2) + "\n"
        files[f"{part}/{PEFT_SETTINGS}"] = partial(_write_text, text)
        files[f"{part}/{PEFT_WEIGHTS}"] = partial(_write_tensors, dict(tensors))
    replace_folder(folder, files)
    return [folder / part for part in parts]


def _write_text(text: str, path: Path) -> None:
    path.write_bytes(text.encode())


def _write_tensors(tensors: dict[str, np.ndarray], path: Path) -> None:
    save_file(tensors, path, {"format": "pt"})


def _settings_of(part: str, changes: Sequence[LowRank]) -> dict[str, Any]:
    """What PEFT makes a `LoraConfig` of. It finds layers by the ends of their names, so that those
    of a text encoder go with and without the `text_model.` that its release has before them.
    """
    ranks = {each.place.name: each.rank for each in changes}
    alphas = {each.place.name: _short(each.alpha) for each in changes}
    (rank, _), *_ = Counter(ranks.values()).most_common(1)
    (alpha, _), *_ = Counter(alphas.values()).most_common(1)
    (name,) = (name for name, of in PEFT_CLASSES.items() if of == part)
    return {
        "peft_type": "LORA",
        "task_type": None,
        "auto_mapping": {"base_model_class": name, "parent_library": _LIBRARIES[part]},
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted(ranks),
        "rank_pattern": {name: each for name, each in ranks.items() if each != rank},
        "alpha_pattern": {name: each for name, each in alphas.items() if each != alpha},
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }


def _short(number: float) -> float:
    """A whole number as PEFT writes it, without a point."""
    return int(number) if float(number).is_integer() else float(number)
