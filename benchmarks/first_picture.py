"""What executables on disk spare: the first picture of a process, with and without.

    python benchmarks/first_picture.py [--backend jax] [--model emoji] [--size 64] [--repeat 5]

Processes take turns. Those with them find a folder that a process has filled before the first
round. On TensorFlow those without compile what `jit_compile="auto"` has them compile, which of a
small model is nothing. Told are medians of the first picture alone, and of importing, loading and
drawing it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

PROGRAM = """
import sys, time
began = time.perf_counter()
import keras_sd
if sys.argv[4] == "tensorflow":  # as the command does
    from keras_sd.executables import keep_for_tensorflow
    keep_for_tensorflow()
size = int(sys.argv[2]) or None
pipeline = keras_sd.StableDiffusion.from_preset(sys.argv[1])
loaded = time.perf_counter()
pipeline.text_to_image("a cat", num_steps=int(sys.argv[3]), seed=0, height=size, width=size)
print(time.perf_counter() - loaded, time.perf_counter() - began)
"""


def seconds(options: argparse.Namespace, folder: str) -> tuple[float, float]:
    """Of the first picture, and of the process until it is there."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    ours = {"KERAS_BACKEND": options.backend, "KERAS_SD_EXECUTABLES": folder}
    arguments = (options.model, options.size, options.steps, options.backend)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        env=kept | ours | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    first, whole = map(float, done.stdout.split()[-2:])
    return first, whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", choices=("jax", "tensorflow"), default="jax")
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--size", type=int, default=0, help="0 is the model's.")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seconds(options, folder)
        found: dict[str, list[tuple[float, float]]] = {"without": [], "with": []}
        for _ in range(options.repeat):
            for name, place in (("without", "off"), ("with", folder)):
                found[name].append(seconds(options, place))
        size = sum(
            os.path.getsize(os.path.join(place, name))
            for place, _, names in os.walk(folder)
            for name in names
        )
    for index, what in enumerate(("first picture", "process until then")):
        without, kept = (statistics.median(row[index] for row in found[n]) for n in found)
        ratios = sorted(b[index] / a[index] for a, b in zip(*found.values(), strict=True))
        print(
            f"{what}: without {without:.2f} s, with {kept:.2f} s, ratio "
            f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )
    print(f"on disk: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
