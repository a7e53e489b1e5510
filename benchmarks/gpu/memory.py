"""Devices: what they are called, how much memory is in use, and how to wait for them."""

from __future__ import annotations

import resource
from typing import Any


def name_of(backend: str) -> str:
    """Of the device that computes."""
    if backend == "jax":
        import jax

        return str(jax.devices()[0].device_kind)
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def reset() -> None:
    """Begins a new peak, on torch; jax has none but that of the process."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_mb(backend: str) -> float:
    """Most memory of the device, or of this process where that is a CPU."""
    found = None
    if backend == "jax":
        import jax

        stats = jax.devices()[0].memory_stats() or {}
        found = stats.get("peak_bytes_in_use")
    else:
        import torch

        if torch.cuda.is_available():
            found = torch.cuda.max_memory_allocated()
    if found is None:
        found = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(found / 2**20, 1)


def wait(x: Any) -> None:
    """Until a tensor of jax or torch is there."""
    if hasattr(x, "block_until_ready"):
        x.block_until_ready()
        return
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
