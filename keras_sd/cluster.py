"""A Ray cluster, as those who draw on one come to it: `connect`."""

from __future__ import annotations

import os

__all__ = ["connect"]

_PASSED = ("KERAS_BACKEND", "KERAS_HOME", "OMP_NUM_THREADS", "PYTHONPATH", "XLA_FLAGS")
"""What decides how a process computes, and is the same in all of them."""


def connect(address: str | None) -> int:
    """Makes this process part of a cluster, if it is of none.

    Args:
        address: of a cluster; None starts one on this machine.

    Returns:
        How many GPUs each model takes there: 1 where there are some, otherwise 0.

    Raises:
        ModuleNotFoundError: ray is not installed.
        ConnectionError: there is no cluster at the address.
    """
    # It asks nobody, and tells its makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if not ray.is_initialized():
        environment = {name: os.environ[name] for name in _PASSED if name in os.environ}
        ray.init(
            address=address,
            include_dashboard=False,
            log_to_driver=False,
            runtime_env={"env_vars": environment},
        )
    return 1 if ray.cluster_resources().get("GPU", 0) else 0
