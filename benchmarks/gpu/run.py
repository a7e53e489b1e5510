"""Measures keras_sd and diffusers on this machine's GPU within a budget of seconds.

    python3 benchmarks/gpu/run.py --out FOLDER --seconds 170

Each measurement has a process of its own, the most important first; what fails, runs out of time or
no longer fits is said in the results, and the others go on. FOLDER/results.json has everything and
is written after each thing that is known; FOLDER/table.md is the table that is printed last.
`--cpu-test` does all of it with tiny networks and no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from gpu.jobs import Job, run_jobs  # noqa: E402
from gpu.table import table  # noqa: E402

PACKAGES = (
    "keras",
    "jax",
    "jaxlib",
    "torch",
    "diffusers",
    "transformers",
    "triton",
    "numpy",
    "nvidia-cudnn-cu13",
)


def plan(cpu_test: bool) -> list[Job]:
    """The jobs, the most important first."""
    precisions = ["float32"] if cpu_test else ["float32", "default", "tf32"]
    few, many = ([1, 3], [16]) if not cpu_test else ([1], [2])

    def job(name: str, limit: float, needs: float, backend: str = "torch", **options: Any) -> Job:
        path = os.environ.get("PYTHONPATH", "")
        environment = {
            "KERAS_BACKEND": backend,
            # Last: scripts in this folder may be called as packages are.
            "PYTHONPATH": os.pathsep.join(filter(None, (path, str(HERE.parent)))),
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        if cpu_test:
            environment |= {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
            environment |= {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "gpu.worker", json.dumps(options | {"tiny": cpu_test})]
        return Job(name, command, limit, needs, environment)

    def ours(backend: str, dtype: str, batches: list[int], limit: float, needs: float) -> Job:
        name = f"step, keras_sd {backend}, {dtype}, {batches}"
        return job(name, limit, needs, backend, what="ours", dtype=dtype, batches=batches)

    def theirs(dtype: str, batches: list[int], limit: float, needs: float, mode: str) -> Job:
        options: dict[str, Any] = {
            "dtype": dtype,
            "batches": batches,
            "compile": mode == "compiled",
        }
        name = f"step, diffusers {mode}, {dtype}, {batches}"
        return job(name, limit, needs, what="theirs", **options)

    def pictures(backend: str, some: list[str], limit: float) -> Job:
        name = f"pictures, {backend}, {some}"
        return job(name, limit, 10, backend, what="pictures", precisions=some)

    # On torch a batch of 16 costs a second or two where the network is there already, on jax it
    # costs a compilation.
    jobs = [
        pictures("torch", precisions, 25),
        ours("torch", "bfloat16", few + many, 30, 10),
        theirs("bfloat16", few + many, 25, 10, "eager"),
        pictures("jax", precisions[:1], 45),
        ours("jax", "bfloat16", few, 100, 15),
        job("attention, jax", 25, 8, "jax", what="attention"),
        job("attention, torch", 15, 8, "torch", what="attention"),
        ours("jax", "bfloat16", many, 60, 20),
        ours("torch", "float16", few + many, 30, 10),
        theirs("float16", few + many, 25, 10, "eager"),
        pictures("jax", precisions[1:], 45),
        ours("jax", "float16", few, 100, 20),
        theirs("bfloat16", few[:1], 90, 20, "compiled"),
    ]
    return jobs[:7] if cpu_test else jobs


def machine() -> dict[str, Any]:
    """What it is, and which versions."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        card = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        card = f"no card: {error}"
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "missing"
    return {
        "card": card,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }


class Results:
    """Everything that is known, on disk as soon as it is.

    Args:
        folder: of results.json and table.md; is made where there is none.
        about: of the machine.
    """

    def __init__(self, folder: Path, about: dict[str, Any]):
        self.folder = folder
        self.known: dict[str, Any] = {"machine": about, "rows": [], "seconds": {}, "wrong": []}
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, job: str, thing: dict[str, Any]) -> None:
        """What a job said (`jobs.run_jobs`): a row with its `kind`, its seconds, or a fault."""
        if "kind" in thing:
            self.known["rows"].append({"job": job, **thing})
        elif "seconds" in thing:
            self.known["seconds"][job] = thing["seconds"]
        else:
            self.known["wrong"].append({"job": job, **thing})
        print(f"{time.strftime('%H:%M:%S')} {job}: {json.dumps(thing)}", flush=True)
        self.write()

    def write(self) -> str:
        """Writes both files; gives the table."""
        text = table(self.known)
        (self.folder / "results.json").write_text(json.dumps(self.known, indent=1) + "\n")
        (self.folder / "table.md").write_text(text + "\n")
        return text


def main() -> None:
    start = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--seconds", type=float, default=170.0, help="for everything")
    parser.add_argument("--only", default="", help="jobs whose names have this text")
    parser.add_argument("--cpu-test", action="store_true", help="tiny networks, no GPU")
    arguments = parser.parse_args()
    results = Results(arguments.out, machine())
    jobs = [job for job in plan(arguments.cpu_test) if arguments.only in job.name]
    run_jobs(jobs, arguments.seconds - 3 - (time.monotonic() - start), results.add)
    results.known["machine"]["seconds"] = round(time.monotonic() - start, 1)
    print("\n" + results.write(), flush=True)


if __name__ == "__main__":
    main()
