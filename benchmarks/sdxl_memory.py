"""SDXL in bfloat16 at full size: how long it takes to load beside diffusers, and how much memory.

    python benchmarks/sdxl_memory.py FOLDER [--draw] [--size 512] [--on torch] [--only SYSTEM]
        [--dtype bfloat16]

FOLDER is made where there is none: random numbers in the layout of diffusers, 7 GB. Each load is a
process of its own, with the files in the system's memory; imports are not counted. diffusers maps
its files, so of each of its parameters a number in every page is read. With `--draw` one picture of
512x512 in one step follows, with `low_memory`, on torch or another backend: a line for the load,
one for the step with texts and UNet, one for the decode. `peak` is the most resident memory of the
process, mapped pages of files included.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

OURS = """
import resource, sys, time
import keras
import keras_sd.pipeline
keras.ops.convert_to_numpy(keras.ops.ones(3) + 1)  # the backend is there
start = time.perf_counter()
pipeline = keras_sd.StableDiffusion.from_preset(sys.argv[1], dtype=sys.argv[2], low_memory={})
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""

DRAWN = """
start = time.perf_counter()
for step in pipeline.stream(
    "a lighthouse",
    seed=1,
    num_steps=1,
    guidance_scale=1,
    height=int(sys.argv[3]),
    width=int(sys.argv[3]),
):
    pass
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
start = time.perf_counter()
step.image()
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""

THEIRS = """
import resource, sys, time
import torch
from diffusers import StableDiffusionXLPipeline
kind = getattr(torch, sys.argv[2])
start = time.perf_counter()
pipeline = StableDiffusionXLPipeline.from_pretrained(sys.argv[1], torch_dtype=kind)
for network in (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
    for parameter in network.parameters():
        float(parameter.flatten()[::2048].sum())
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""


def make(folder: Path) -> None:
    """Writes SDXL with random numbers, a tensor at a time."""
    from keras_sd.config import SDXL
    from keras_sd.tokenizer import Tokenizer
    from keras_sd.weights.diffusers_folder.write import folders_in, to_jsons, tokenizers_of
    from keras_sd.weights.names import diffusers as names

    letters = [each for each in Tokenizer([]).vocabulary[:256] if each != "\u0120"]  # not CLIP's
    merges = [f"{one} {other}" for one in letters for other in letters][:48894]
    for name, values in to_jsons(folder, SDXL, Tokenizer(merges).vocabulary).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values), encoding="utf-8")
    for name in tokenizers_of(SDXL).values():
        lines = ["#version: 0.2", *merges, ""]
        (folder / name / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    tables = {
        **{
            part: names.text_encoder(one, "text_model.") for part, one in SDXL.text_encoders.items()
        },
        "unet": names.unet(SDXL.unet),
        "autoencoder": names.autoencoder(SDXL.autoencoder),
    }
    for part, name in folders_in(SDXL).items():
        kind = "model" if part.startswith("text") else "diffusion_pytorch_model"
        _write(folder / name / f"{kind}.safetensors", tables[part])


def _write(path: Path, table: Any) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for entry in table:
        begin, end = end, end + 2 * math.prod(entry.file_shape)
        offsets = {"data_offsets": [begin, end], "shape": entry.file_shape, "dtype": "BF16"}
        header[entry.name] = offsets
    text = json.dumps(header).encode()
    some = np.random.default_rng(0).standard_normal(2**22, np.float32)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for entry in table:
            scale = 0.7 / float(np.prod(entry.file_shape[1:])) ** 0.5
            values = scale * some + np.float32("norm" in entry.name and "weight" in entry.name)
            file.write(np.resize(values.astype(ml_dtypes.bfloat16), entry.file_shape).tobytes())


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--draw", action="store_true")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--on", default="torch", choices=("torch", "jax", "tensorflow"))
    parser.add_argument("--only")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    options = parser.parse_args()
    if not options.folder.exists():
        make(options.folder)
    systems = {"diffusers": ("torch", THEIRS)}
    for backend in ("torch", "jax", "tensorflow"):
        systems[f"keras_sd, {backend}"] = backend, OURS.format(False)
    systems["low_memory"] = options.on, OURS.format(True) + DRAWN * options.draw
    for name, (backend, program) in systems.items():
        if options.only not in (None, name):
            continue
        environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
        given = [str(options.folder), options.dtype, str(options.size)]
        command = [sys.executable, "-u", "-c", program, *given]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for line in child.stdout:  # as they come, for a picture takes long
                seconds, peak = map(float, line.split())
                print(f"{name}: {seconds:.1f} s, peak {peak:.1f} GB", flush=True)
        if child.returncode:
            print(f"{name}: failed, exit status {child.returncode}")


if __name__ == "__main__":
    main()
