"""What a step costs beside the model and the sampler's arithmetic: driver, contract, host noise.

    python benchmarks/overhead.py [--steps 50] [--repeat 21]

Runs each installed backend in a process of its own and prints a Markdown table of milliseconds a
step, for a latent of 4x64x64 on two processors. The model is a function that returns a tensor that
is there already. "bare" is the same arithmetic written as a loop without the library, its weights
and its noise made before the clock starts; "ours" is `keras_sd.sampling.sample` with the noise of a
pipeline's run, made as it is asked for. Both in alternation, and the median of each; the overhead
is the median of the differences. The exit status is 1 where one is over a millisecond.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from itertools import pairwise

from keras_sd.backend import to_numpy

BACKENDS = ("jax", "tensorflow", "torch")
SAMPLERS = ("euler", "euler_ancestral", "dpmpp_2m_sde")
SHAPE = (64, 64, 4)
LIMIT = 1.0


def measure(num_steps: int, repeat: int) -> dict[str, list[float]]:
    """Sampler -> milliseconds a step: bare, ours, the median difference; on this backend."""
    import keras
    from keras import ops

    from keras_sd import get_sampler
    from keras_sd.noise import NoiseTable
    from keras_sd.random import normal
    from keras_sd.run import NoiseSource
    from keras_sd.sampling import sample
    from keras_sd.schedules import karras

    if keras.backend.backend() == "torch":
        import torch

        torch.set_num_threads(2)
    levels = karras(NoiseTable.scaled_linear(), num_steps)
    x, x0 = (ops.convert_to_tensor(normal(0, 0, draw, SHAPE)[None]) for draw in range(2))

    def wait(x):
        return float(to_numpy(x)[0, 0, 0, 0])

    def bare(weights):
        latent = x
        for kept, moved, fresh, drawn in weights:
            latent = kept * latent + moved * x0
            if fresh:
                latent = latent + fresh * drawn
        return wait(latent)

    def ours(sampler):
        noise = NoiseSource(((1, 0),), SHAPE)
        draw = noise.path if getattr(sampler, "brownian", False) else noise
        *_, last = sample(sampler, lambda x, level: x0, x, levels, draw)
        return wait(last.latent)

    rows = {}
    for name in SAMPLERS:
        sampler = get_sampler(name)
        stochastic = getattr(sampler, "stochastic", False)
        weights = []
        for now, nxt in pairwise(levels):
            fresh = nxt.sigma * (1 - (nxt.ratio / now.ratio) ** 2) ** 0.5 if stochastic else 0.0
            kept = (nxt.sigma**2 - fresh**2) ** 0.5 / now.sigma
            drawn = ops.convert_to_tensor(normal(0, 0, 2, SHAPE)[None]) if fresh else None
            weights.append((kept, nxt.alpha - kept * now.alpha, fresh, drawn))
        bare(weights), ours(sampler)
        pairs = []
        for _ in range(repeat):
            start = time.perf_counter()
            bare(weights)
            middle = time.perf_counter()
            ours(sampler)
            pairs.append((middle - start, time.perf_counter() - middle))
        columns = [*zip(*pairs, strict=True), [b - a for a, b in pairs]]
        rows[name] = [1000 * statistics.median(column) / num_steps for column in columns]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repeat", type=int, default=21)
    parser.add_argument("--here", action="store_true", help="measure the backend of this process")
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(measure(arguments.steps, arguments.repeat)))
        return
    good = True
    print("| backend | sampler | bare, ms | ours, ms | overhead, ms |\n|---|---|---|---|---|")
    for backend in filter(importlib.util.find_spec, BACKENDS):
        environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
        numbers = ("--steps", str(arguments.steps), "--repeat", str(arguments.repeat))
        command = [sys.executable, __file__, "--here", *numbers]
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
        for name, row in json.loads(done.stdout.splitlines()[-1]).items():
            good &= row[-1] < LIMIT
            cells = " | ".join(f"{number:.3f}" for number in row)
            print(f"| {backend} | {name} | {cells} |", flush=True)
    sys.exit(not good)


if __name__ == "__main__":
    main()
