"""Files of embeddings, as other programs read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors.numpy import save_file

from keras_sd.embeddings.files import MAX_VECTORS, XL_KEYS
from keras_sd.files import checked_path, replace_file
from keras_sd.weights.readers import WeightsError, is_finite

__all__ = ["save_embedding"]


def save_embedding(
    path: str | Path,
    vectors: Any,
    token: str,
    *,
    layout: Literal["diffusers", "A1111", "XL"] = "diffusers",
    vectors_2: Any | None = None,
) -> None:
    """Writes an embedding as one `.safetensors` file, which `open_embedding` reads too.

    Args:
        path: of the file; one that is there is replaced, whole or not at all. A1111's web UI calls
            an embedding by the stem of its file.
        vectors: `(count, features)`; of XL's, those of the first text encoder.
        token: the word, which a file of diffusers says.
        layout: `"diffusers"`, as its `load_textual_inversion` reads; or `"A1111"`, the one of
            kohya's that the web UI reads; or `"XL"`, the pair that it and others read for Stable
            Diffusion XL.
        vectors_2: of the layout `"XL"`, as many of the second text encoder.

    Raises:
        WeightsError: a number is not finite. Nothing was written.
        ValueError: another layout or ending, or no such number of vectors.
        OSError: the file cannot be written; the message names it.
    """
    path = checked_path(path, "path")
    if path.suffix != ".safetensors":
        raise ValueError(f"{path.name} is no name for an embedding; it ends in .safetensors")
    if layout not in ("diffusers", "A1111", "XL"):
        raise ValueError(f"layout is 'diffusers', 'A1111' or 'XL', not {layout!r}")
    if (layout == "XL") != (vectors_2 is not None):
        raise ValueError(
            "The layout 'XL' has vectors_2 for its second text encoder, and no other has"
        )
    keys = {"diffusers": (token,), "A1111": ("emb_params",), "XL": XL_KEYS}[layout]
    given = (vectors,) if vectors_2 is None else (vectors, vectors_2)
    arrays = [_checked(each) for each in given]
    if len({len(each) for each in arrays}) > 1:
        raise ValueError(
            f"An embedding for XL has as many vectors for each text encoder, not "
            f"{' and '.join(str(len(each)) for each in arrays)}"
        )
    tensors = dict(zip(keys, arrays, strict=True))
    replace_file(path, lambda at: save_file(tensors, at, {"format": "pt"}))


def _checked(vectors: Any) -> np.ndarray:
    array = np.ascontiguousarray(vectors, np.float32)
    if array.ndim != 2 or not 1 <= len(array) <= MAX_VECTORS:
        raise ValueError(
            f"An embedding is 1 to {MAX_VECTORS} vectors (count, features), not {array.shape}"
        )
    if not is_finite(array):
        raise WeightsError("Not saved, for a vector is not finite")
    return array
