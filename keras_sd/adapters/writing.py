"""LoRA files of ours, in the layouts that other programs read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors.numpy import save_file

from keras_sd.adapters.names import Place, names_of
from keras_sd.config import ModelConfig
from keras_sd.files import checked_path, replace_file
from keras_sd.weights.readers import WeightsError, is_finite

__all__ = ["LAYOUTS", "LowRank", "places_of", "save_lora"]

Layout = Literal["kohya", "diffusers"]

LAYOUTS: dict[Layout, str] = {
    "kohya": "kohya's sd-scripts, A1111's web UI, ComfyUI and others",
    "diffusers": "PEFT's names in a file of diffusers, `pytorch_lora_weights.safetensors`",
}
"""What is written, and who reads it."""


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
) -> None:
    """Writes a LoRA as one `.safetensors` file, which `open_adapter` reads too.

    A file of kohya's says each alpha. PEFT keeps it elsewhere, where not all readers look: there
    `up` is multiplied by alpha / rank, so that the file means the same to all.

    Args:
        path: of the file; one that is there is replaced, whole or not at all.
        changes: of the weights.
        config: of the model.
        layout: one of `LAYOUTS`.

    Raises:
        WeightsError: a number is not finite. Nothing was written.
        ValueError: another layout or ending, or there are no changes.
        OSError: the file cannot be written; the message names it.
    """
    path = checked_path(path, "path")
    if path.suffix != ".safetensors":
        raise ValueError(f"{path.name} is no name for a LoRA; it ends in .safetensors")
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {' or '.join(map(repr, LAYOUTS))}, not {layout!r}")
    if not changes:
        raise ValueError("A LoRA has at least one change")
    names = places_of(config)
    tensors: dict[str, np.ndarray] = {}
    for change in changes:
        name = names[change.place][layout]
        up, down = (np.asarray(each, np.float32) for each in (change.up, change.down))
        if not (is_finite(up) and is_finite(down)):
            raise WeightsError(f"Not saved, for the change of {name} is not finite")
        if layout == "kohya":
            tensors[f"{name}.lora_up.weight"] = np.ascontiguousarray(up)
            tensors[f"{name}.lora_down.weight"] = np.ascontiguousarray(down)
            tensors[f"{name}.alpha"] = np.array(change.alpha, np.float32)
        else:
            scaled = up * np.float32(change.alpha / change.rank)
            tensors[f"{name}.lora_B.weight"] = np.ascontiguousarray(scaled)
            tensors[f"{name}.lora_A.weight"] = np.ascontiguousarray(down)
    replace_file(path, lambda at: save_file(tensors, at, {"format": "pt"}))
