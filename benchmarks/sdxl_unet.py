"""SDXL's UNet at its full size beside diffusers': one evaluation with random weights.

    KERAS_BACKEND=torch python benchmarks/sdxl_unet.py [--model sdxl|sdxl-refiner] [--dtype float32]

Each program is a process of its own that draws the same weights, a tensor at a time (10 GB in
float32, so one after the other), and evaluates a latent of 32x32 at two timesteps. What is said:
how far the two are, relative to the largest number; and of each the seconds until the weights are
there, those of the evaluation, and the most memory.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The values of a weight, a function of its name."""
    generator = np.random.Generator(np.random.SFC64(zlib.crc32(name.encode())))
    values = generator.standard_normal(shape, np.float32)
    if "norm" in name:
        values *= 0.1
        return values + np.float32(name.endswith("weight"))
    if len(shape) == 1:
        values *= 0.05
        return values
    values *= 0.7 / float(np.prod(shape[1:])) ** 0.5
    return values


class Drawn:
    """A tensor that is drawn when it is asked for."""

    dtype = np.dtype(np.float32)

    def __init__(self, name: str, shape: tuple[int, ...]):
        self.name, self.shape = name, shape

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return drawn(self.name, self.shape)


def given(model: Any) -> dict[str, np.ndarray]:
    """What the UNet is told."""
    generator, unet = np.random.default_rng(1), model.unet
    return {
        "latent": generator.standard_normal((1, 32, 32, 4)).astype(np.float32),
        "times": np.array([500.0], np.float32),
        "context": generator.standard_normal((1, 77, unet.context_width)).astype(np.float32),
        "pooled": generator.standard_normal((1, unet.pooled_width)).astype(np.float32),
        "numbers": np.array([[1024, 1024, 0, 0, 1024, 1024][: unet.numbers]], np.float32),
    }


def ours(model: Any, dtype: str) -> tuple[float, float, np.ndarray]:
    """Seconds until the weights are there, seconds of the evaluation, and the prediction."""
    import keras

    from keras_sd.backend import compile_step, to_numpy
    from keras_sd.networks import UNet
    from keras_sd.networks.initializers import weights_follow
    from keras_sd.weights.load import load_state_dict
    from keras_sd.weights.names import diffusers

    keras.config.set_dtype_policy(dtype)
    start = time.perf_counter()
    with weights_follow():
        unet = UNet(model.unet)
    table = diffusers.unet(model.unet)
    load_state_dict(unet, {each.name: Drawn(each.name, each.file_shape) for each in table}, table)
    there = time.perf_counter()
    told = {name: keras.ops.convert_to_tensor(value) for name, value in given(model).items()}
    args = [told.pop(name) for name in ("latent", "times", "context")]
    step = compile_step(lambda told, *args: unet(*args, **told), [unet])
    found = to_numpy(step(told, *args))
    return there - start, time.perf_counter() - there, np.asarray(found, np.float32)


def theirs(model: Any, dtype: str) -> tuple[float, float, np.ndarray]:
    """Likewise of diffusers."""
    import torch
    from diffusers import UNet2DConditionModel

    from keras_sd.weights.diffusers_folder.write import to_jsons

    jsons = to_jsons(Path("sdxl"), model, [str(number) for number in range(49408)])
    settings = {k: v for k, v in jsons["unet/config.json"].items() if not k.startswith("_")}
    start = time.perf_counter()
    with torch.device("meta"):
        unet = UNet2DConditionModel(**settings)
    kind = getattr(torch, dtype)
    state = {
        name: torch.from_numpy(drawn(name, tuple(value.shape))).to(kind)
        for name, value in unet.state_dict().items()
    }
    unet.load_state_dict(state, assign=True)
    there = time.perf_counter()
    told = {name: torch.from_numpy(value) for name, value in given(model).items()}
    with torch.no_grad():
        found = unet(
            told["latent"].permute(0, 3, 1, 2).to(kind),
            told["times"],
            told["context"].to(kind),
            added_cond_kwargs={"text_embeds": told["pooled"].to(kind), "time_ids": told["numbers"]},
        ).sample
    seconds = time.perf_counter() - there
    return there - start, seconds, found.float().permute(0, 2, 3, 1).numpy()


def one(program: str, name: str, dtype: str, path: str) -> None:
    """Runs a program in this process and keeps what it gives."""
    from keras_sd import config

    model = {each.name: each for each in (config.SDXL, config.SDXL_REFINER)}[name]
    ready, seconds, found = (ours if program == "ours" else theirs)(model, dtype)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{program}: weights {ready:.0f} s, evaluation {seconds:.1f} s, peak {peak:.1f} GB")
    np.save(path, found)


def main() -> None:
    """Both, and how far they are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="sdxl", choices=("sdxl", "sdxl-refiner"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--one", nargs=2, metavar=("PROGRAM", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options.one[0], options.model, options.dtype, options.one[1])
        return
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for program in ("theirs", "ours"):
            path = os.path.join(folder, f"{program}.npy")
            shared = ["--model", options.model, "--dtype", options.dtype, "--one", program, path]
            subprocess.run([sys.executable, __file__, *shared], check=True)
            found.append(np.load(path))
    expected, ours_ = found
    distance = np.abs(ours_ - expected).max() / np.abs(expected).max()
    spread = f"largest number {np.abs(expected).max():.3g}"
    print(f"{options.model} in {options.dtype}: {distance:.2g} of the largest number; {spread}")


if __name__ == "__main__":
    main()
