"""How long it takes to open a checkpoint, beside diffusers: in processes of their own, in turns.

    python benchmarks/opening.py FOLDER [--repeat 3] [--dtype float32]

FOLDER is one of diffusers', such as `python benchmarks/compare.py --model random-sd-1.5 --keep`
makes. Its files should be in the system's memory, which the first round sees to: it is not counted.
Ours is opened when the last variable has its value. diffusers maps its files, so of each of its
parameters a number in every page is read. Then each draws a picture of one step with guidance, in
which every network is called for the first time; what jax compiled in the first round it finds on
the disk. Imports are not counted. `peak` is the most memory of the process until it is open.
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
opened, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
size = int(sys.argv[3])
pipeline.text_to_image("a cat", num_steps=1, sampler="ddim", height=size, width=size)
print(opened, time.perf_counter() - start, peak)
"""

THEIRS = """
import resource, sys, time
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
start = time.perf_counter()
pipeline = StableDiffusionPipeline.from_pretrained(
    sys.argv[1], torch_dtype=getattr(torch, sys.argv[2]), safety_checker=None,
    requires_safety_checker=False,
)
for network in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
    for parameter in network.parameters():
        float(parameter.view(-1)[::1024].sum())
opened, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
size = int(sys.argv[3])
pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
pipeline.set_progress_bar_config(disable=True)
pipeline("a cat", num_inference_steps=1, height=size, width=size, output_type="np")
print(opened, time.perf_counter() - start, peak)
"""


def measured(
    program: str, backend: str, folder: str, dtype: str, size: int
) -> tuple[float, float, float]:
    """Of one process that must succeed: seconds until it is open, and until its first picture, and
    the peak.
    """
    environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", program, folder, dtype, str(size)],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    opened, drawn, peak = map(float, done.stdout.split()[-3:])
    return opened, drawn, peak


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--size", type=int, default=256, help="of the picture, in pixels")
    options = parser.parse_args()
    backends = [name for name in ("jax", "tensorflow", "torch") if find_spec(name)]
    systems = [("diffusers", THEIRS, "torch")] if find_spec("diffusers") else []
    systems += [(f"keras_sd, {backend}", OURS, backend) for backend in backends]
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name, *_ in systems}
    for turn in range(options.repeat + 1):
        for name, program, backend in systems:
            one = measured(program, backend, options.folder, options.dtype, options.size)
            if turn:
                found[name].append(one)
    print(
        "| | opened, s | over diffusers | with the first picture, s | over diffusers | peak, GB |"
    )
    print("|---|---|---|---|---|---|")
    for name, rows in found.items():
        opened, drawn, peaks = zip(*rows, strict=True)
        cells = []
        for column, times in enumerate((opened, drawn)):
            base = [row[column] for row in found.get("diffusers", ())]
            ours = base and name != "diffusers"
            ratio = f"{statistics.median(times) / statistics.median(base):.2f}" if ours else ""
            cells += [
                f"{statistics.median(times):.1f} ({min(times):.1f} to {max(times):.1f})",
                ratio,
            ]
        print(f"| {name} | {' | '.join(cells)} | {max(peaks):.2f} |")


if __name__ == "__main__":
    main()
