"""How long the embedded model takes: the first picture of a new process, and the warm ones.

    python benchmarks/emoji.py [--repeat 5] [--model emoji-128]

Runs each installed backend in processes of its own and prints a Markdown table. "first" is the
whole command `keras-sd generate`, imports and compilation included; "warm" is the median of
`text_to_image` of one picture in the preset's own 20 steps, after one that was not counted.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time

PROMPT = "a cat face on a blue background"
PACKAGES = {"jax": ("jax",), "tensorflow": ("tensorflow", "tensorflow-cpu"), "torch": ("torch",)}

WARM = f"""
import statistics, sys, time
from keras_sd import StableDiffusion
pipeline = StableDiffusion.from_preset(sys.argv[2])
times = []
for i in range(int(sys.argv[1]) + 1):
    start = time.perf_counter()
    pipeline.text_to_image({PROMPT!r}, seed=i)
    times.append(time.perf_counter() - start)
print(times[0], statistics.median(times[1:]), min(times[1:]), max(times[1:]))
"""


def run(command: list[str], backend: str) -> tuple[float, str]:
    """Seconds and standard output of a command that must succeed."""
    environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return time.perf_counter() - start, done.stdout


def installed_version(backend: str) -> str:
    for package in PACKAGES[backend]:
        if importlib.util.find_spec(backend):
            try:
                return f"{package} {importlib.metadata.version(package)}"
            except importlib.metadata.PackageNotFoundError:
                continue
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--model", default="emoji")
    options = parser.parse_args()
    repeat, model = options.repeat, options.model
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"keras {importlib.metadata.version('keras')}; n = {repeat}"
    )
    print("| backend | first, s | compile and first image, s | warm, s | fastest to slowest, s |")
    print("|---|---|---|---|---|")
    for backend in PACKAGES:
        name = installed_version(backend)
        if not name:
            continue
        first = []
        for _ in range(repeat):
            with tempfile.TemporaryDirectory() as folder:
                command = ["keras-sd", "generate", PROMPT, "--model", model, "--seed", "1"]
                command += ["--output", folder]
                first.append(run(command, backend)[0])
        _, out = run([sys.executable, "-c", WARM, str(repeat), model], backend)
        cold, warm, low, high = map(float, out.split()[-4:])
        print(
            f"| {name} | {statistics.median(first):.1f} | {cold:.1f} | {warm:.2f} | "
            f"{low:.2f} to {high:.2f} |"
        )


if __name__ == "__main__":
    main()
