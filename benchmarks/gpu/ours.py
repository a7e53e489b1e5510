"""A guided step of SD 1.5 as keras_sd computes it, with random weights: on jax compiled, on torch
eager and captured as a CUDA graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from gpu.measuring import clock, failed, row, steady
from gpu.memory import peak_mb, reset, wait

LATENT, TOKENS, SCALE = 64, 77, 7.5
ALPHA, SIGMA, T = 0.6, 0.8, 500.0


def prepare(options: dict[str, Any]) -> None:
    import keras_sd.denoiser
    import keras_sd.networks
    import keras_sd.precision  # noqa: F401


def measure(options: dict[str, Any]) -> None:
    from keras_sd import backend
    from keras_sd.denoiser import compiled_steps

    dtype, tiny = options["dtype"], options["tiny"]
    config, size = unet_config(tiny), 16 if tiny else LATENT
    unet, build = clock(lambda: random_unet(config, dtype))
    step, note = compiled_steps(unet, "epsilon")["guided"], ""
    for batch in options["batches"]:
        if backend.NAME == "torch":
            reset()
        arguments = inputs(batch, size, config)
        try:
            found, first = clock(partial(_there, step, arguments))
        except Exception:
            if backend.NAME != "jax" or note:
                raise
            failed("fused attention")
            backend.takes_fused = lambda *about: False
            step, note = compiled_steps(unet, "epsilon")["guided"], "plain attention"
            found, first = clock(partial(_there, step, arguments))
        row(
            "steps",
            system=f"keras_sd {backend.NAME}" + (" eager" if backend.NAME == "torch" else ""),
            dtype=dtype,
            batch=batch,
            **steady(partial(step, *arguments), wait),
            peak_mb=peak_mb(backend.NAME),
            build_s=build,
            first_s=first,
            note=note if _finite(found) else f"{note} not finite",
        )
        if backend.NAME == "torch" and arguments[0].device.type == "cuda":
            reset()
            try:
                graph(step, arguments, {"dtype": dtype, "batch": batch})
            except Exception:
                failed(f"CUDA graph, {batch} pictures")
            del found


def unet_config(tiny: bool) -> Any:
    """Of SD 1.5; or one that a CPU computes in no time."""
    from keras_sd.config import SD_1

    if not tiny:
        return SD_1.unet
    return replace(
        SD_1.unet, widths=(32, 64), heads=(4, 4), depths=(1, 0), blocks=1, context_width=32
    )


def random_unet(config: Any, dtype: str) -> Any:
    """With weights that keep a signal about as large as it is."""
    import keras

    from keras_sd.networks import UNet
    from keras_sd.networks.initializers import weights_follow
    from keras_sd.precision import policy_scope

    with policy_scope(dtype), weights_follow():
        unet = UNet(config)
    fill = _fill_torch if keras.backend.backend() == "torch" else _fill
    fill(unet.variables)
    wait(unet.variables[-1].value)
    return unet


def _scale(variable: Any) -> tuple[float, float]:
    """Mean and deviation of its values."""
    if len(variable.shape) > 1:
        return 0.0, 1 / math.sqrt(math.prod(variable.shape[:-1]))
    return float(variable.name == "gamma"), 0.02


def _fill_torch(variables: list[Any]) -> None:
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        for variable in variables:
            variable.value.normal_(*_scale(variable))


def _fill(variables: list[Any]) -> None:
    """From one array of the host: to draw on the device, jax would compile for every shape."""
    import ml_dtypes
    import numpy as np

    largest = max(math.prod(variable.shape) for variable in variables)
    drawn = np.random.default_rng(0).standard_normal(largest, np.float32)
    for variable in variables:
        mean, deviation = _scale(variable)
        values = drawn[: math.prod(variable.shape)] * np.float32(deviation) + np.float32(mean)
        dtype = np.dtype(getattr(ml_dtypes, variable.dtype, variable.dtype))
        variable.assign(values.reshape(variable.shape).astype(dtype))


def inputs(batch: int, size: int, config: Any) -> tuple[Any, ...]:
    """What a guided step is called with, see `keras_sd.denoiser.STEPS`."""
    import numpy as np
    from keras import ops

    rng = np.random.default_rng(1)
    latent = rng.standard_normal((batch, size, size, config.in_channels), np.float32)
    context = rng.standard_normal((2 * batch, TOKENS, config.context_width), np.float32)
    t, alpha, sigma, scale = (
        ops.convert_to_tensor(np.float32(number)) for number in (T, ALPHA, SIGMA, SCALE)
    )
    told = {"context": ops.convert_to_tensor(context)}
    return ops.convert_to_tensor(latent), t, alpha, sigma, told, scale


def graph(step: Callable[..., Any], arguments: tuple[Any, ...], about: dict[str, Any]) -> None:
    """The same step captured once and replayed: the host launches one thing a step.

    Inputs are copied into the tensors that the graph reads, as they would be in a run.
    """
    import torch

    expected = step(*arguments)
    latent = arguments[0]

    def capture() -> tuple[torch.cuda.CUDAGraph, torch.Tensor, torch.Tensor]:
        read = latent.clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                step(read, *arguments[1:])
        torch.cuda.current_stream().wait_stream(side)
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            written = step(read, *arguments[1:])
        torch.cuda.synchronize()
        return captured, read, written

    (captured, read, written), first = clock(capture)

    def replay() -> torch.Tensor:
        read.copy_(latent)
        captured.replay()
        return written

    written.zero_()
    wait(replay())
    equal = torch.equal(written, expected)
    apart = float((written - expected).abs().max())
    note = "bits as eager" if equal else f"differs from eager by {apart:.3g}"
    times = steady(replay, wait)
    peak = round(torch.cuda.max_memory_reserved() / 2**20, 1)
    system = "keras_sd torch, CUDA graph"
    note += "; peak is reserved memory"
    row("steps", system=system, **about, **times, first_s=first, peak_mb=peak, note=note)


def _there(step: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    result = step(*arguments)
    wait(result)
    return result


def _finite(x: Any) -> bool:
    from keras_sd.backend import to_numpy
    from keras_sd.precision import all_finite

    return bool(to_numpy(all_finite(x)))
