"""What a training step on torch takes with torch's gradient of group norms, and with ours.

    KERAS_BACKEND=torch python benchmarks/group_norm.py [--repeat 7] [--batch 8]

Forward and backward of the networks of `emoji-128`, without an optimizer, in turns in one process.
A ratio is ours over torch's of one turn, of which the median counts. The processor chooses whether
bfloat16 makes sense: without instructions for it everything takes several times longer.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
import torch

from keras_sd import backend
from keras_sd.machine import keep_memory
from keras_sd.networks import Autoencoder, UNet
from keras_sd.precision import policy_scope
from keras_sd.weights.checkpoint import open_checkpoint
from keras_sd.weights.presets import PRESETS


def own(x, groups, scale, offset, epsilon):
    """Group normalisation as torch does it."""
    normed = torch.nn.functional.group_norm(
        x.permute(0, 3, 1, 2), groups, scale.to(x.dtype), offset.to(x.dtype), epsilon
    )
    return normed.permute(0, 2, 3, 1)


def ours(x, groups, scale, offset, epsilon):
    """With the gradient that `keras_sd.backend` has for 16 bits."""
    scale, offset = scale.to(x.dtype), offset.to(x.dtype)
    normed = backend._learning_group_norm()(x.permute(0, 3, 1, 2), groups, scale, offset, epsilon)
    return normed.permute(0, 2, 3, 1)


def networks(batch: int):
    """Name, network and its inputs."""
    config = open_checkpoint(PRESETS / "emoji-128").config
    dice = np.random.default_rng(0)

    def normal(*shape):
        return torch.from_numpy(dice.standard_normal(shape, np.float32))

    autoencoder, unet = Autoencoder(config.autoencoder), UNet(config.unet)
    yield "autoencoder, 128x128", autoencoder, (normal(batch, 128, 128, 3),)
    latents, timesteps = normal(4 * batch, 16, 16, 16), torch.full((4 * batch,), 300.0)
    yield "UNet", unet, (latents, timesteps, normal(4 * batch, 48, 256))


def seconds(network: keras.Model, inputs: tuple) -> float:
    """Of forward and backward."""
    begin = time.perf_counter()
    network(*inputs).float().square().mean().backward()
    took = time.perf_counter() - begin
    for variable in network.trainable_variables:
        variable.value.grad = None
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--batch", type=int, default=8, help="pictures; latents four times as many")
    options = parser.parse_args()
    keep_memory()
    forms = {"torch's": own, "ours": ours}
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    print("| network | numbers | torch's, s | ours, s | ratio |\n|---|---|---|---|---|")
    for dtype in ("float32", "mixed_bfloat16"):
        with policy_scope(dtype):
            for name, network, inputs in networks(options.batch):
                found: dict[str, list[float]] = {form: [] for form in forms}
                for turn in range(options.repeat + 1):
                    for form, function in forms.items():
                        backend.group_norm = function
                        took = seconds(network, inputs)
                        if turn:  # the first is for warming up
                            found[form].append(took)
                ratios = [b / a for a, b in zip(*found.values(), strict=True)]
                times = " | ".join(f"{statistics.median(each):.3f}" for each in found.values())
                print(f"| {name} | {dtype} | {times} | {statistics.median(ratios):.2f} |")


if __name__ == "__main__":
    main()
