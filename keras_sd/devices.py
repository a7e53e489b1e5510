"""Pictures over several devices of one process, by `keras.distribution`, which Keras has for JAX.

`keras.distribution.set_distribution` before a model is loaded says how: with `DataParallel` each
device has all weights and draws a part of the pictures; with `model_parallel` each has a part of
the large weights, for a model that does not fit one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import distribution

__all__ = ["batch_shards", "filled", "model_parallel", "spread"]

_OUT, _IN = (None, "model"), ("model", None)
_LAYOUT = {
    # Of each pair of products, the first makes features that the second adds up, so that between
    # the two nothing travels (Shoeybi et al. 2019, "Megatron-LM").
    r"attention/(query|key|value)/kernel": _OUT,
    r"attention/(query|key|value)/bias": ("model",),
    r"attention/out/kernel": _IN,
    r"(feed_forward|layer_\d+)/hidden/kernel": _OUT,
    r"(feed_forward|layer_\d+)/hidden/bias": ("model",),
    r"(feed_forward|layer_\d+)/out/kernel": _IN,
    r"residual/conv1/kernel": (None, None, None, "model"),
    r"residual/conv1/bias": ("model",),
    r"residual/conv2/kernel": (None, None, "model", None),
}


def model_parallel(
    model_devices: int | None = None, devices: Sequence[str] | None = None
) -> distribution.ModelParallel:
    """A distribution in which the large weights of our networks are divided.

    Args:
        model_devices: over how many devices each weight is; None is all of them. The number of all
            devices is a multiple of it, and the batch is over the rest.
        devices: as `keras.distribution.list_devices` names them; None is all.

    Raises:
        ValueError: the numbers do not fit.
    """
    names = list(devices or distribution.list_devices())
    width = len(names) if model_devices is None else model_devices
    if width < 1 or len(names) % width:
        raise ValueError(f"{len(names)} devices are not divided by {model_devices}")
    mesh = distribution.DeviceMesh((len(names) // width, width), ("batch", "model"), names)
    layout = distribution.LayoutMap(mesh)
    for pattern, axes in _LAYOUT.items():
        layout[f".*{pattern}"] = distribution.TensorLayout(axes, mesh)
    return distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")


def batch_shards() -> int:
    """Over how many devices a batch is divided; 1 where nothing was set."""
    current = distribution.distribution()
    if current is None:
        return 1
    mesh = current.device_mesh
    return int(mesh.shape[mesh.axis_names.index(current.batch_dim_name)])


def filled(count: int) -> list[int]:
    """Rows of a batch up to a multiple of `batch_shards`, of which the last is repeated.

    Args:
        count: rows there are.
    """
    return [*range(count), *[count - 1] * (-count % batch_shards())]


def spread(given: Any) -> Any:
    """Tensors whose rows are divided among the devices, as far as their number is a multiple; the
    others are on all.

    Args:
        given: tensors, in dicts and tuples.
    """
    current = distribution.distribution()
    if current is None:
        return given
    shards = batch_shards()

    def placed(x: Any) -> Any:
        if not len(x.shape) or x.shape[0] % shards:
            return x
        return distribution.distribute_tensor(x, current.get_data_layout(tuple(x.shape)))

    return keras.tree.map_structure(placed, given)
