"""Files of embeddings, as other programs read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors.numpy import save_file

from keras_sd.embeddings.files import MAX_VECTORS
from keras_sd.files import checked_path, replace_file
from keras_sd.weights.readers import WeightsError, is_finite

__all__ = ["save_embedding"]


def save_embedding(
    path: str | Path,
    vectors: Any,
    token: str,
    *,
    layout: Literal["diffusers", "A1111"] = "diffusers",
) -> None:
    """Writes an embedding as one `.safetensors` file, which `open_embedding` reads too.

    Args:
        path: of the file; one that is there is replaced, whole or not at all. A1111's web UI calls
            an embedding by the stem of its file.
        vectors: `(count, features)`.
        token: the word, which a file of diffusers says.
        layout: `"diffusers"`, as its `load_textual_inversion` reads; or `"A1111"`, the one of
            kohya's that the web UI reads.

    Raises:
        WeightsError: a number is not finite. Nothing was written.
        ValueError: another layout or ending, or no such number of vectors.
        OSError: the file cannot be written; the message names it.
    """
    path = checked_path(path, "path")
    if path.suffix != ".safetensors":
        raise ValueError(f"{path.name} is no name for an embedding; it ends in .safetensors")
    if layout not in ("diffusers", "A1111"):
        raise ValueError(f"layout is 'diffusers' or 'A1111', not {layout!r}")
    array = np.ascontiguousarray(vectors, np.float32)
    if array.ndim != 2 or not 1 <= len(array) <= MAX_VECTORS:
        raise ValueError(
            f"An embedding is 1 to {MAX_VECTORS} vectors (count, features), not {array.shape}"
        )
    if not is_finite(array):
        raise WeightsError("Not saved, for a vector is not finite")
    key = token if layout == "diffusers" else "emb_params"
    replace_file(path, lambda at: save_file({key: array}, at, {"format": "pt"}))
