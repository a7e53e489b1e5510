"""One measurement: a process that draws a first picture and some more, and says what they took.

It is given a `Job` as JSON on stdin and gives JSON on stdout. The program is started by its path,
with the interpreter of any environment: of keras_sd it needs what it reads from beside itself, and
of the environment the program that is measured.
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import sys
import time
import traceback
import types
from pathlib import Path

if "comparison" not in sys.modules:
    # Started by its path. The package is here, whether or not (another version of) it is installed,
    # and its neighbours are not to be found: they are of another environment.
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != here]
    package = types.ModuleType("comparison")
    package.__path__ = [str(here)]
    sys.modules["comparison"] = package

import numpy as np

from comparison.systems import Job, Laps


def measure(job: Job) -> dict[str, object]:
    """Does what a worker does, in this process.

    Returns:
        Seconds: `import`, `load`, `first` (a picture in this process, compiling included) and its
        `first_parts`, `warm` (the median of the others), and `parts` of one more. `memory`, the
        most bytes that the process had; `device`; `versions`; `threads`.
    """
    threads = _take(job.threads)
    start = time.perf_counter()
    system = importlib.import_module(f"comparison.systems.{job.system}").System(job)
    imported = time.perf_counter()
    system.load()
    loaded = time.perf_counter()
    laps = Laps()
    picture = system.draw(laps)
    first = time.perf_counter()
    np.save(job.picture, picture)
    found: dict[str, object] = {
        "import": imported - start,
        "load": loaded - imported,
        "first": first - loaded,
        "first_parts": laps.seconds,
    }
    if job.warm:
        seconds = []
        for _ in range(job.warm):
            start = time.perf_counter()
            system.draw()
            seconds.append(time.perf_counter() - start)
        laps = Laps()
        system.draw(laps)
        found |= {"warm": statistics.median(seconds), "parts": laps.seconds}
    return {
        **found,
        "memory": _peak(),
        "device": system.device(),
        "versions": _versions(system.packages),
        "threads": threads,
    }


def _take(threads: int) -> int:
    """Keeps this process on that many processors; how many it has (XLA knows no other way)."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
        return len(os.sched_getaffinity(0))
    return threads


def _peak() -> int:
    """Bytes of memory at the highest."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource  # which Linux starts with the memory of this process' parent

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    """The versions of those that are installed, and Python's."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": sys.version.split()[0]}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    # Programs print to stdout; what is for us goes to where it was.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    job = Job(**json.load(sys.stdin))
    try:
        found = measure(job)
    except Exception as error:
        traceback.print_exc()
        found = {"error": _reason(error)}
    with out:
        json.dump(found, out)


def _reason(error: Exception) -> str:
    """The error in a line: of a long message its beginning and its end."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = lines[0] if len(lines) == 1 else " ... ".join([*lines[:1], *lines[-1:]])
    return f"{type(error).__name__}: {message}"


if __name__ == "__main__":
    main()
