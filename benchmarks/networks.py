"""What a guided step, a decode and a pair of texts take beside diffusers, in processes in turns.

    python benchmarks/networks.py FOLDER [--size 256 512] [--repeat 3] [--keep-memory]

FOLDER is one of diffusers', such as `python benchmarks/compare.py --model random-sd-1.5 --keep`
makes. All compute in float32, as they do by themselves. In each process everything is called once
before it is timed, and the result is on the host when the clock stops. With `--keep-memory` ours
begin as the command does, with `keras_sd.machine.keep_memory`. Ratios are of one round, of which
the median counts. `peak` is the most memory of the process, the load included.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from importlib.util import find_spec

COMMON = """
import resource, statistics, sys, time
import numpy as np
folder, size, keep = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "True"
random, side = np.random.default_rng(0), int(sys.argv[2]) // 8
def timed(call, times):
    call()
    took = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        took.append(time.perf_counter() - start)
    return statistics.median(took)
def normal(*shape):
    return random.standard_normal(shape, np.float32)
"""

OURS = """
if keep:
    from keras_sd.machine import keep_memory
    assert keep_memory()
import keras, keras_sd
from keras_sd.backend import to_numpy
from keras_sd.conditions import Conditions
model = keras_sd.StableDiffusion.from_preset(folder).model
step = model.steps()["guided"]
one = lambda value: keras.ops.convert_to_tensor(np.float32(value))
width = model.config.unet.context_width
x = keras.ops.convert_to_tensor(normal(1, side, side, 4))
context = keras.ops.convert_to_tensor(normal(2, 77, width))
both = model.looked_at(Conditions({"context": context})).tree()
given = x, one(500), one(0.5), one(0.8), both, one(7.5)
latent = normal(1, side, side, 4)
found = (
    timed(lambda: to_numpy(step(*given)), 3),
    timed(lambda: model.decode(latent), 2),
    timed(lambda: to_numpy(model.encode_text(["a cat on a mat", ""])), 5),
)
"""

THEIRS = """
import torch
from diffusers import StableDiffusionPipeline
model = StableDiffusionPipeline.from_pretrained(
    folder, torch_dtype=torch.float32, safety_checker=None, requires_safety_checker=False
)
x, time_ = torch.from_numpy(normal(1, 4, side, side)), torch.tensor(500)
both = torch.from_numpy(normal(2, 77, model.unet.config.cross_attention_dim))
def step():
    both_halves = model.unet(torch.cat([x, x]), time_, encoder_hidden_states=both).sample
    without, with_ = both_halves.chunk(2)
    return (x - 0.8 * (without + 7.5 * (with_ - without))).numpy()
def decode():
    return ((model.vae.decode(x).sample / 2 + 0.5).clamp(0, 1) * 255).round().numpy()
def texts():
    ids = model.tokenizer(
        ["a cat on a mat", ""], padding="max_length", max_length=77, return_tensors="pt"
    )
    return model.text_encoder(ids.input_ids)[0].numpy()
with torch.inference_mode():
    found = (
        timed(step, 3),
        timed(decode, 2),
        timed(texts, 5),
    )
"""

END = "print(*found, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)"


def measured(program: str, backend: str, *arguments: object) -> list[float]:
    """Of one process that must succeed: seconds of a step, a decode, a pair of texts; its peak."""
    done = subprocess.run(
        [sys.executable, "-c", COMMON + program + END, *map(str, arguments)],
        env=os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return [float(word) for word in done.stdout.split()[-4:]]


def cell(numbers: list[float], theirs: list[float] | None) -> str:
    """The median, and that of the ratios to those of diffusers."""
    said = f"{statistics.median(numbers):.3g}"
    if theirs is None:
        return said
    ratios = [ours / other for ours, other in zip(numbers, theirs, strict=True)]
    spread = f" ({min(ratios):.2f} to {max(ratios):.2f})" if len(ratios) > 1 else ""
    return f"{said}: **{statistics.median(ratios):.2f}**{spread}"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--size", type=int, nargs="+", default=[256, 512], help="of pictures")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--keep-memory", action="store_true")
    options = parser.parse_args()
    backends = [name for name in ("jax", "tensorflow", "torch") if find_spec(name)]
    systems = [("diffusers", THEIRS, "torch")] if find_spec("diffusers") else []
    systems += [(f"keras_sd, {backend}", OURS, backend) for backend in backends]
    print("| pixels | | step, s | decode, s | pair of texts, s | peak, GB |")
    print("|---|---|---|---|---|---|")
    for size in options.size:
        found: dict[str, list[list[float]]] = defaultdict(list)
        for _ in range(options.repeat):
            for name, program, backend in systems:
                one = measured(program, backend, options.folder, size, options.keep_memory)
                found[name].append(one)
                print(size, name, *one, file=sys.stderr)
        theirs = found.get("diffusers")
        for name, rows in found.items():
            columns = zip(*rows, strict=True)
            others = zip(*theirs, strict=True) if theirs and name != "diffusers" else [None] * 4
            cells = [
                cell(list(numbers), list(other) if other else None)
                for numbers, other in zip(columns, others, strict=True)
            ]
            print(f"| {size} | {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
