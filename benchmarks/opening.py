"""How long it takes to open a checkpoint, beside diffusers: in processes of their own, in turns.

    python benchmarks/opening.py FOLDER [--repeat 3] [--dtype float32]

FOLDER is one of diffusers', such as `python benchmarks/compare.py --model random-sd-1.5` makes. Its
files should be in the system's memory, which the first round sees to: it is not counted. Ours is
opened when the last variable has its value. diffusers maps its files, so of each of its parameters
a number in every page is read. Imports are not counted. `peak` is the most memory of the process.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from importlib.util import find_spec

OURS = """
import resource, sys, time
import keras
import keras_sd.pipeline
keras.config.set_dtype_policy(sys.argv[2])
keras.ops.convert_to_numpy(keras.ops.ones(3) + 1)  # the backend is there
start = time.perf_counter()
pipeline = keras_sd.StableDiffusion.from_preset(sys.argv[1])
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""

THEIRS = """
import resource, sys, time
import torch
from diffusers import StableDiffusionPipeline
start = time.perf_counter()
pipeline = StableDiffusionPipeline.from_pretrained(
    sys.argv[1], torch_dtype=getattr(torch, sys.argv[2]), safety_checker=None,
    requires_safety_checker=False,
)
for network in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
    for parameter in network.parameters():
        float(parameter.view(-1)[::1024].sum())
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""


def seconds_and_peak(program: str, backend: str, folder: str, dtype: str) -> tuple[float, float]:
    """Of one process that must succeed."""
    environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", program, folder, dtype],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    seconds, peak = map(float, done.stdout.split()[-2:])
    return seconds, peak


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    backends = [name for name in ("jax", "tensorflow", "torch") if find_spec(name)]
    systems = [("diffusers", THEIRS, "torch")] if find_spec("diffusers") else []
    systems += [(f"keras_sd, {backend}", OURS, backend) for backend in backends]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name, *_ in systems}
    for turn in range(options.repeat + 1):
        for name, program, backend in systems:
            measured = seconds_and_peak(program, backend, options.folder, options.dtype)
            if turn:
                found[name].append(measured)
    theirs = found.get("diffusers")
    base = statistics.median(seconds for seconds, _ in theirs) if theirs else None
    print("| | opened, s | over diffusers | fastest to slowest, s | peak, GB |")
    print("|---|---|---|---|---|")
    for name, rows in found.items():
        times = sorted(seconds for seconds, _ in rows)
        middle = statistics.median(times)
        ratio = f"{middle / base:.2f}" if base and name != "diffusers" else ""
        peak = max(peak for _, peak in rows)
        print(
            f"| {name} | {middle:.1f} | {ratio} | {times[0]:.1f} to {times[-1]:.1f} | {peak:.2f} |"
        )


if __name__ == "__main__":
    main()
