"""What the backends say of their device. Nothing is imported here that is not loaded anyway."""

from __future__ import annotations

from typing import Any


def of(backend: str) -> dict[str, Any]:
    """The device that a backend computes on, see `System.device`.

    Args:
        backend: `"jax"`, `"tensorflow"` or `"torch"`.
    """
    return {"jax": _jax, "tensorflow": _tensorflow, "torch": _torch}[backend]()


def _jax() -> dict[str, Any]:
    import jax

    device = jax.devices()[0]
    memory = device.memory_stats() or {}
    return {"name": device.device_kind, "memory": memory.get("peak_bytes_in_use")}


def _tensorflow() -> dict[str, Any]:
    import tensorflow as tf

    found = tf.config.list_physical_devices("GPU")
    if not found:
        return {"name": "cpu", "memory": None}
    name = tf.config.experimental.get_device_details(found[0]).get("device_name", "gpu")
    return {"name": name, "memory": tf.config.experimental.get_memory_info("GPU:0")["peak"]}


def _torch() -> dict[str, Any]:
    import torch

    if not torch.cuda.is_available():
        return {"name": "cpu", "memory": None}
    return {
        "name": torch.cuda.get_device_name(),
        "memory": torch.cuda.max_memory_allocated(),
    }
