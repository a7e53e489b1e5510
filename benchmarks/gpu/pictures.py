"""Pictures of `emoji` against those that the CPU draws, in float32 with and without TF32."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from gpu.measuring import clock, row
from gpu.memory import name_of

GOLDENS = Path(__file__).parents[2] / "tests" / "fixtures" / "emoji_goldens.npz"

PROMPTS = [
    "a cat face on a blue background",
    "a rocket on a red background",
    "strawberry on white",
    "a green background with an octopus",
]
"""Of the goldens, see tests/backend/test_emoji.py."""


def prepare(options: dict[str, Any]) -> None:
    import keras_sd.model
    import keras_sd.pipeline  # noqa: F401


def measure(options: dict[str, Any]) -> None:
    import keras
    import numpy as np

    from keras_sd import StableDiffusion

    backend = keras.backend.backend()
    with np.load(GOLDENS) as goldens:
        expected = goldens["images"].astype(int)
    for precision in options["precisions"]:
        _set(backend, precision)
        pipeline, load = clock(lambda: StableDiffusion.from_preset("emoji"))
        draw = partial(pipeline.text_to_image, PROMPTS, seed=1)
        images, first = clock(draw)
        _, again = clock(draw)
        apart = np.abs(np.asarray(images).astype(int) - expected)
        row(
            "pictures",
            system=f"keras_sd {backend}, {name_of(backend)}",
            precision=precision,
            largest=int(apart.max()),
            mean=float(apart.mean()),
            differ=float((apart > 0).mean()),
            load_s=load,
            first_s=first,
            next_s=again,
        )


def _set(backend: str, precision: str) -> None:
    """Precision of float32 products: `"float32"`, `"tf32"`, or the backend's `"default"`."""
    if backend == "jax":
        import jax

        names = {"float32": "highest", "tf32": "tensorfloat32", "default": None}
        jax.config.update("jax_default_matmul_precision", names[precision])
    elif precision != "default":
        import torch

        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
