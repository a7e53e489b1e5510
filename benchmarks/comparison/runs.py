"""The processes: every case in turn, again and again, each in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from comparison.cases import Case
from comparison.systems import Job

WORKER = Path(__file__).with_name("worker.py")

_MAX_REASON = 300
_MAX_LOG = 10_000

Results = dict[str, Any]
"""What `results.json` holds."""


class RunError(RuntimeError):
    """A worker did not come to its end.

    Args:
        reason: why, in a line.
        log: what it wrote to stderr.
    """

    def __init__(self, reason: str, log: str = ""):
        super().__init__(reason if len(reason) <= _MAX_REASON else f"{reason[:_MAX_REASON]}...")
        self.log = log[-_MAX_LOG:]


def run_worker(python: str, job: Job, backend: str, timeout: float) -> dict[str, Any]:
    """One measurement, see `worker.measure`.

    Args:
        python: the interpreter.
        job: what to do.
        backend: what Keras is to run on.
        timeout: seconds after which it has failed.

    Raises:
        RunError: it failed.
    """
    threads = str(job.threads)
    environment = os.environ | {
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "HF_HUB_OFFLINE": "1",
        # A program that was compiled at another time would not be cold.
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        # On a GPU some of the systems would else round float32 products to 19 bits, and some not.
        "NVIDIA_TF32_OVERRIDE": "0",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "TF_NUM_INTRAOP_THREADS": threads,
        "TF_NUM_INTEROP_THREADS": threads,
    }
    try:
        done = subprocess.run(
            [python, str(WORKER)],
            input=json.dumps(dataclasses.asdict(job)),
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        raise RunError(f"it took more than {timeout:.0f} seconds") from None
    except OSError as error:
        raise RunError(f"{python} cannot be started: {error}") from error
    try:
        found: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
    except ValueError:
        raise RunError(f"its answer is no JSON: {done.stdout[:80]!r}", done.stderr) from None
    if "first" in found:
        return found
    raise RunError(found.get("error") or _ended(done.returncode, done.stderr), done.stderr)


def _ended(code: int, stderr: str) -> str:
    if code < 0:
        memory = ", which the system does when memory runs out" if code == -9 else ""
        return f"it was ended by signal {-code}{memory}"
    return (stderr.strip().splitlines() or [f"it ended with status {code}"])[-1]


def machine(threads: int) -> dict[str, Any]:
    """The machine, for whoever reads the numbers."""
    processor, memory = platform.processor() or platform.machine(), None
    cpuinfo, meminfo = Path("/proc/cpuinfo"), Path("/proc/meminfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                processor = line.split(":", 1)[1].strip()
                break
    if meminfo.exists():
        memory = int(meminfo.read_text().split()[1]) * 1024
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": threads,
        "memory": memory,
        "system": platform.system(),
        "python": platform.python_version(),
    }


def measure(
    cases: Sequence[Case],
    runs: int,
    results: Results,
    run: Callable[[Case], tuple[dict[str, Any], np.ndarray]],
    references: Mapping[str, np.ndarray],
    changed: Callable[[Case, str | None], object],
) -> None:
    """Runs all cases in turn, `runs` times (A B C A B C ...), so that a machine that gets slower
    or busier is so for all of them alike.

    A case whose first run fails is not run again; what the others give is kept.

    Args:
        cases: to run.
        runs: of each.
        results: gets `"cases"`, a list of `"case"`, `"runs"`, `"error"` and `"log"`.
        run: one measurement, and the pictures it drew; may raise `RunError`.
        references: the right pictures, by the name of the system; see `difference`.
        changed: called after each run with the case and the reason why it failed, if it did.
    """
    results["cases"] = [
        {"case": dataclasses.asdict(case), "runs": [], "error": None} for case in cases
    ]
    for number in range(runs):
        for case, row in zip(cases, results["cases"], strict=True):
            if row["error"] and not row["runs"]:
                changed(case, None)
                continue
            error = None
            try:
                found, pictures = run(case)
            except RunError as failure:
                row["error"] = error = str(failure)
                row["log"] = failure.log
            else:
                found["round"] = number
                found["load_average"] = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
                found["difference"] = difference(pictures, references.get(case.system))
                row["runs"].append(found)
            changed(case, error)


def difference(
    pictures: np.ndarray, reference: np.ndarray | None
) -> dict[str, float | None] | None:
    """How far pictures are from the right ones, in steps of 255.

    Args:
        pictures: uint8 `(batch, height, width, 3)`.
        reference: likewise; None where there is none.

    Returns:
        `"max"` and `"mean"`; None for both where the shapes differ, and None where there is no
        reference.
    """
    if reference is None:
        return None
    if pictures.shape != reference.shape:
        return {"max": None, "mean": None}
    apart = np.abs(pictures.astype(int) - reference.astype(int))
    return {"max": float(apart.max()), "mean": float(apart.mean())}
