"""Attentions of SD 1.5 at 512x512, three pictures with guidance: time, and memory beside inputs and
result, which says whether the scores of all queries and keys are ever there.
"""

from __future__ import annotations

import math
from typing import Any

from gpu.measuring import failed, row, steady
from gpu.memory import wait

# (batch, heads, queries, keys, features); the last is the autoencoder's.
SHAPES = [
    (6, 8, 4096, 4096, 40),
    (6, 8, 4096, 77, 40),
    (6, 8, 1024, 1024, 80),
    (6, 8, 1024, 77, 80),
    (6, 8, 256, 256, 160),
    (3, 1, 4096, 4096, 512),
]
TINY = [(2, 2, 64, 64, 8), (2, 2, 64, 7, 8)]


def prepare(options: dict[str, Any]) -> None:
    import keras_sd.backend  # noqa: F401


def measure(options: dict[str, Any]) -> None:
    import keras
    import numpy as np
    from keras import ops

    from keras_sd import backend

    name = keras.backend.backend()
    measured = {"jax": _jax, "torch": _torch}[name]
    rng = np.random.default_rng(2)
    for shape in TINY if options["tiny"] else SHAPES:
        batch, heads, queries, keys, features = shape
        qkv = [
            ops.cast(rng.standard_normal((batch, tokens, heads, features), np.float32), "bfloat16")
            for tokens in (queries, keys, keys)
        ]
        forms = {"": backend.attention, ", plain": backend.attention_plain}
        for form, function in forms.items():
            system, shown = f"keras_sd {name}{form}", " x ".join(map(str, shape))
            try:
                found = measured(function, qkv)
            except Exception:
                failed(f"{system}, {shown}")
                continue
            scores = math.prod(shape[:-1]) * 4 / 2**20
            row("attention", system=system, shape=shown, scores_mb=scores, **found)


def _jax(function: Any, qkv: list[Any]) -> dict[str, Any]:
    import jax

    compiled = jax.jit(function).lower(*qkv).compile()
    memory = compiled.memory_analysis()
    extra = None if memory is None else round(memory.temp_size_in_bytes / 2**20, 2)
    return {**steady(lambda: compiled(*qkv), wait), "extra_mb": extra}


def _torch(function: Any, qkv: list[Any]) -> dict[str, Any]:
    import torch

    with torch.no_grad():
        times = steady(lambda: function(*qkv), wait)
        if not torch.cuda.is_available():
            return times
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = function(*qkv)
        wait(result)
        used = torch.cuda.max_memory_allocated() - before - result.nbytes
    return {**times, "extra_mb": round(used / 2**20, 2)}
