"""What this machine has, without a backend: memory that is free, and how fast it multiplies; and
what is kept of the memory that this process had.
"""

from __future__ import annotations

import ctypes
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["free_memory", "has_gpu", "keep_memory", "speed"]

# Of glibc's malloc.h, and the variables that say the same.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_CHOSEN = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"}


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process can have in all: what it has, and what it can still get.

    On Linux it is what the kernel calls available, within the limits of the control groups that the
    process is in (a container's, say); elsewhere all memory there is, whoever has it.

    Args:
        root: of the file system; another one for tests.

    Returns:
        None where the system does not say it.
    """
    try:
        of_all = _numbers(root / "proc/meminfo")["MemAvailable"] * 1024
        own = _numbers(root / "proc/self/status").get("VmRSS", 0) * 1024
    except (OSError, KeyError):
        try:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, ValueError, OSError):  # Windows has none of it
            return None
    return min([of_all, *_in_groups(root)]) + own


def has_gpu(root: Path = Path("/")) -> bool:
    """Whether NVIDIA's driver has a GPU here, which a backend may compute on.

    Args:
        root: of the file system.
    """
    try:
        return any((root / "proc/driver/nvidia/gpus").iterdir())
    except OSError:
        return False


def keep_memory() -> bool:
    """Has the process keep memory that it is done with, for what it needs next.

    By itself glibc gives every large array back to the system and takes new pages for the next one,
    which the system fills with zeros first: on torch and TensorFlow 4 to 32 % of a step or a decode
    of Stable Diffusion on a CPU (docs/benchmarks.md). The process stays as large as it once was, so
    this is for who owns the process. The command does it; a program may, at its start.

    Returns:
        Whether it does: not where the environment chose another way (`MALLOC_TRIM_THRESHOLD_` and
        its like, `GLIBC_TUNABLES`), or the C library is not glibc.
    """
    is_glibc = "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", {})
    if not is_glibc or not os.confstr("CS_GNU_LIBC_VERSION") or not _CHOSEN.isdisjoint(os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # -1 is the largest number there is.
    return all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, -1)])


def speed(seconds: float = 0.3) -> float:
    """Floating-point operations a second of NumPy's float32 product of matrices, as busy as the
    machine is now: the median of several.

    Args:
        seconds: that it takes at least.
    """
    import numpy as np

    side = 768
    a, b = np.random.default_rng(0).standard_normal((2, side, side), np.float32)
    out, clock = np.empty_like(a), time.perf_counter
    np.matmul(a, b, out)  # threads are there
    took: list[float] = []
    end = clock() + seconds
    while not took or clock() < end:
        began = clock()
        np.matmul(a, b, out)
        took.append(clock() - began)
    return 2 * side**3 / statistics.median(took)


def _numbers(path: Path) -> dict[str, int]:
    """The lines `name: number ...` or `name number` of a file of the kernel's."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, *rest = line.replace(":", " ").split()
        if rest and rest[0].isdecimal():
            found[name] = int(rest[0])
    return found


def _in_groups(root: Path) -> Iterator[int]:
    """What is left in each control group that the process is in and that has a limit. Pages of
    files that nobody used lately are left, too.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        number, kinds, path = line.split(":", 2)
        if number == "0":
            top, limit, usage = root / "sys/fs/cgroup", "memory.max", "memory.current"
        elif "memory" in kinds.split(","):
            top, limit = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
            usage = "memory.usage_in_bytes"
        else:
            continue
        group = top / path.strip("/")
        # In a container the path may be that of the machine outside of it.
        for folder in dict.fromkeys([group, *group.parents, top]):
            if not folder.is_relative_to(top):
                continue
            try:
                most = (folder / limit).read_text(encoding="utf-8").strip()
                used = int((folder / usage).read_text(encoding="utf-8"))
                stat = _numbers(folder / "memory.stat")
            except (OSError, ValueError):
                continue
            if most.isdecimal():
                files = stat.get("total_inactive_file", stat.get("inactive_file", 0))
                yield max(0, int(most) - used + files)
