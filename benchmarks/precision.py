"""What a dtype policy costs and gains: errors against float32, and time, on the embedded model.

    python benchmarks/precision.py [--repeat 5]

Runs each installed backend in a process of its own and prints a Markdown table. The columns of the
networks are the largest difference from float32 over the largest magnitude, for the same input;
"pixels" is the mean difference, in steps of 1/255, of pictures of 20 steps from the same noise;
"time" is the median time of such a picture over float32's, in alternation. The exit status is 1
where an error is larger than the project is held to.
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

import numpy as np

from keras_sd.backend import to_numpy

BACKENDS = ("jax", "tensorflow", "torch")
PROMPTS = ["a cat face", "a slice of pizza", "a red apple", "a rocket on a blue background"]
COLUMNS = ("text encoder", "UNet", "encode", "decode", "pixels")
LIMITS = {  # of the policies of these bits
    "float16": dict(zip(COLUMNS, (0.005, 0.005, 0.005, 0.008, 0.2), strict=True)),
    "bfloat16": dict(zip(COLUMNS, (0.04, 0.04, 0.03, 0.06, 2.0), strict=True)),
}


def measure(repeat: int) -> dict[str, dict[str, float]]:
    """The numbers of every policy on the backend of this process."""
    from keras import ops

    from keras_sd import StableDiffusion
    from keras_sd.backend import compile_step
    from keras_sd.precision import POLICIES

    generator = np.random.Generator(np.random.PCG64(7))
    image = generator.integers(0, 256, (4, 64, 64, 3)).astype(np.uint8)
    noise = generator.standard_normal((4, 16, 16, 8)).astype(np.float32)
    t = ops.convert_to_tensor(np.full(4, 501, np.float32))
    exact = StableDiffusion.from_preset("emoji", dtype="float32")
    context = exact.encode_text(PROMPTS)

    def outputs(pipeline: StableDiffusion) -> dict[str, np.ndarray]:
        unet, autoencoder = pipeline.unet, pipeline.autoencoder
        decode = compile_step(autoencoder.decode, [autoencoder])
        found = {
            "text encoder": pipeline.encode_text(PROMPTS),
            "UNet": compile_step(unet, [unet])(ops.convert_to_tensor(noise), t, context),
            "encode": pipeline.encode(image),
            "decode": decode(exact.encode(image)),
        }
        pictures = pipeline.text_to_image(PROMPTS, diffusion_noise=noise)
        numbers = {name: to_numpy(x) for name, x in found.items()}
        return numbers | {"pixels": np.asarray(pictures, np.float32)}

    def seconds(pipeline: StableDiffusion) -> float:
        start = time.perf_counter()
        pipeline.text_to_image(PROMPTS[0], seed=1)
        return time.perf_counter() - start

    known, rows = outputs(exact), {}
    for policy in POLICIES[1:]:
        pipeline = StableDiffusion.from_preset("emoji", dtype=policy)
        found = outputs(pipeline)
        differences = {name: np.abs(found[name] - known[name]) for name in COLUMNS}
        row = {
            name: float(d.mean() if name == "pixels" else d.max() / np.abs(known[name]).max())
            for name, d in differences.items()
        }
        for each in (exact, pipeline):
            seconds(each)
        pairs = [(seconds(exact), seconds(pipeline)) for _ in range(repeat)]
        theirs, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
        rows[policy] = row | {"time": ours / theirs}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--here", action="store_true", help="measure the backend of this process")
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(measure(arguments.repeat)))
        return
    good = True
    print(f"| backend | policy | {' | '.join(COLUMNS)} | time |")
    print("|---|---|" + "---|" * (len(COLUMNS) + 1))
    for backend in filter(importlib.util.find_spec, BACKENDS):
        environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, __file__, "--here", "--repeat", str(arguments.repeat)]
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
        for policy, row in json.loads(done.stdout.splitlines()[-1]).items():
            limits = LIMITS[policy.removeprefix("mixed_")]
            good &= all(row[name] <= limits[name] for name in COLUMNS)
            cells = [f"{row[name]:.2g}" for name in COLUMNS]
            print(f"| {backend} | {policy} | {' | '.join(cells)} | {row['time']:.2f} |", flush=True)
    sys.exit(not good)


if __name__ == "__main__":
    main()
