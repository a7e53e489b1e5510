"""Whether int8 as compute gains anything: Keras' `quantize("int8")` of a linear map, in turns.

    python benchmarks/int8.py [--on torch jax tensorflow] [--repeat 7]

Each backend is a process of its own. The maps are three of Stable Diffusion 1.5's UNet: hidden
features of a feed-forward at 32x32 latents and of a coarser level, and keys of a text. A line has
the milliseconds of a compiled call in float32 and in int8 (the fastest of the repeats), and how far
the two are, relative to the largest number.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

SHAPES = {"32x32, fine": (2048, 320, 2560), "16x16": (512, 640, 5120), "a text": (154, 768, 320)}
"""Of each map: the rows it is called for (with guidance), its inputs, its outputs."""


def one(repeat: int) -> None:
    """All maps on the backend of this process."""
    import keras
    import numpy as np

    from keras_sd.backend import NAME, compile_step, to_numpy
    from keras_sd.networks.layers import dense

    for name, (rows, width_in, width) in SHAPES.items():
        exact, whole = (dense(width_in, width, each) for each in ("exact", "whole"))
        for layer in (exact, whole):
            layer.build((None, width_in))
        whole.kernel.assign(exact.kernel)
        whole.quantize("int8")
        x = keras.ops.convert_to_tensor(
            np.random.default_rng(0).standard_normal((1, rows, width_in), np.float32)
        )
        steps = [compile_step(layer.__call__, [layer]) for layer in (exact, whole)]
        found = [to_numpy(step(x)) for step in steps]
        best = [min(_seconds(step, x) for _ in range(repeat)) for step in steps]
        apart = abs(found[0] - found[1]).max() / abs(found[0]).max()
        print(
            f"{NAME}, {name}: float32 {1000 * best[0]:.1f} ms, int8 {1000 * best[1]:.1f} ms, "
            f"{best[1] / best[0]:.2f} of the time, {apart:.4f} apart"
        )


def _seconds(step: Callable[..., Any], x: Any) -> float:
    from keras_sd.backend import to_numpy

    start = time.perf_counter()
    to_numpy(step(x))
    return time.perf_counter() - start


def main() -> None:
    """A process a backend."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--on", nargs="+", default=["torch", "jax", "tensorflow"])
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options.repeat)
        return
    for backend in options.on:
        environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, __file__, "--one", "--repeat", str(options.repeat)]
        subprocess.run(command, env=environment, check=True)


if __name__ == "__main__":
    main()
