"""How far `keras_sd.plan` is off: what it says of a picture, beside what one took.

    python benchmarks/plan.py [--model emoji] [--size 512] [--count 1] [--steps 1] [--on torch]
        [--dtype float32] [--guidance 7.5] [--low-memory] [--tiled]

Several sizes and backends may be given. Each picture is drawn in a process of its own, whose most
memory is read after each phase and set back (Linux). A line has of each phase the memory that was
said and that was measured, in GB of 10^9 bytes, then of a step and of the decode the seconds that
were said and measured. The plan's speed is that of NumPy just before and after the picture, so that
it is as busy a machine as the picture had. The first step and the decode compile on jax and
TensorFlow; of `--steps` above 1 the last step is timed, and the decode is done twice.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from typing import Any

DRAWN = """
import json, sys, time
from pathlib import Path
import keras
from keras_sd.machine import speed
from keras_sd.pipeline import StableDiffusion

asked = json.loads(sys.argv[1])
clock, peaks, speeds = time.perf_counter, {}, []

def mark(name):
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    peaks[name] = max(peaks.get(name, 0), int(status["VmHWM"].split()[0]) * 1024)
    Path("/proc/self/clear_refs").write_text("5")

keras.ops.convert_to_numpy(keras.ops.ones(3) + 1)  # the backend is there
mark("imports")
pipeline = StableDiffusion.from_preset(asked["model"], **asked["loading"])
mark("load")
pipeline.model.encode_text([""] * asked["settings"]["batch_size"])
mark("text")
speeds.append(speed())
began = clock()
for step in pipeline.stream("", seed=1, **asked["settings"]):
    took, began = clock() - began, clock()
mark("unet")
speeds.append(speed())
for _ in range(2 if asked["twice"] else 1):
    began = clock()
    step.image()
    decode = clock() - began
mark("decode")
speeds.append(speed())
print(json.dumps({"peaks": peaks, "step": took, "decode": decode, "speeds": speeds}))
"""


def measured(backend: str, asked: dict[str, Any]) -> dict[str, Any]:
    """What a picture took."""
    environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", DRAWN, json.dumps(asked)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{backend}: exit status {done.returncode}\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """The lines."""
    from keras_sd import planning

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--size", type=int, nargs="+", default=[512])
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--on", nargs="+", default=["torch"], choices=planning.RUNTIMES)
    parser.add_argument("--dtype", default="float32", choices=planning.BYTES)
    parser.add_argument("--guidance", type=float, default=7.5)
    parser.add_argument("--low-memory", action="store_true")
    parser.add_argument("--tiled", action="store_true")
    given = parser.parse_args()
    loading = {"dtype": given.dtype, "low_memory": given.low_memory, "tiled": given.tiled}
    print("| | load | text | unet | decode | peak: said / measured | a step, s | decode, s |")
    print("|---|---|---|---|---|---|---|---|")
    for backend in given.on:
        for size in given.size:
            settings = {
                "batch_size": given.count,
                "num_steps": given.steps,
                "guidance_scale": given.guidance,
                "width": size,
                "height": size,
            }
            asked = {"model": given.model, "loading": loading, "settings": settings}
            took = measured(backend, {**asked, "twice": given.steps > 1})
            said = planning.plan(given.model, backend=backend, **loading, **settings)
            phases = {phase.name: phase for phase in said.phases}
            memory = [
                f"{phase.memory / 1e9:.2f} / {took['peaks'][name] / 1e9:.2f}"
                for name, phase in phases.items()
            ]
            peak = max(took["peaks"].values())
            memory.append(f"{said.peak / 1e9:.2f} / {peak / 1e9:.2f} = {said.peak / peak:.2f}")
            runtime, speeds = planning.RUNTIMES[backend], took["speeds"]
            speed = sum(speeds) / len(speeds)
            step = phases["unet"].operations / given.steps / speed / runtime.speed
            decode = phases["decode"].operations / speed / runtime.decoding
            times = [
                f"{one:.3g} / {took[name]:.3g} = {one / took[name]:.2f}"
                for name, one in (("step", step), ("decode", decode))
            ]
            name = f"{backend}, {size}, {given.count}"
            print("|", " | ".join([name, *memory, *times]), "|", flush=True)


if __name__ == "__main__":
    main()
