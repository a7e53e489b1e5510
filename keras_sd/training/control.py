"""A ControlNet that is trained (Zhang et al. 2023): its network beside a UNet that stays as it is,
and hints, which are made of the pictures or come with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from keras_sd.adapters.controlnet import ControlNet
from keras_sd.conditions import HINT, STRENGTH
from keras_sd.image import resize
from keras_sd.model import Model
from keras_sd.training.batches import Batches
from keras_sd.training.examples import Example
from keras_sd.training.latents import CachedLatents
from keras_sd.training.objective import Objective
from keras_sd.training.trainer import DenoiserTrainer

__all__ = ["ControlTrainer", "HintedBatches", "Hints", "new_control"]

_HINT = "hint"


def new_control(model: Model, seed: int) -> ControlNet:
    """A ControlNet that is to be trained, see `ControlNet.from_unet`, the same on every backend:
    the kernels that see the hint are uniform (Glorot & Bengio 2010), drawn by NumPy.

    Args:
        model: whose UNet it begins as.
        seed: of the first values.
    """
    net = ControlNet.from_unet(model)
    for number, layer in enumerate((net.network.hint.conv_in, *net.network.hint.blocks)):
        *window, width_in, width_out = layer.kernel.shape
        limit = math.sqrt(6 / (math.prod(window) * (width_in + width_out)))
        rng = np.random.default_rng((seed, 5, number))
        layer.kernel.assign(rng.uniform(-limit, limit, layer.kernel.shape).astype(np.float32))
    return net


class ControlTrainer(DenoiserTrainer):
    """The loss of a batch, where a ControlNet sees the hints.

    Inputs are those of a `DenoiserTrainer`, and `hint`: pixels in [0, 1], `(batch, height, width,
    3)` float32.

    Args:
        networks: text encoders and UNet by their parts' names, the text encoders in their order.
        objective: what the loss is.
        control: the `keras_sd.networks.ControlNetwork`.
    """

    def __init__(self, networks: Mapping[str, Any], objective: Objective, control: Any):
        super().__init__(networks, objective)
        self.controls = [control]

    def conditions(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """What the UNet and the ControlNet are told."""
        found = super().conditions(inputs)
        (control,) = self.controls
        found[HINT.format(0)] = control.embed(inputs[_HINT])
        rows, added = ops.shape(inputs[_HINT])[0], len(control.zeros) + 1
        found[STRENGTH.format(0)] = ops.ones((rows, added))
        return found


@dataclass(frozen=True)
class Hints(Sequence[np.ndarray]):
    """The hints of pictures, each read or made when it is asked for.

    Attributes:
        examples: the pictures.
        latents: of each, in whose size the hint is, cut off as the picture is.
        make: one of `keras_sd.hints.HINTS`; None takes the hints that the examples have.
    """

    examples: Sequence[Example]
    latents: Sequence[CachedLatents]
    make: Callable[[Any], np.ndarray] | None

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: Any) -> Any:
        """Pixels in [0, 1], `(height, width, 3)` float32."""
        example = self.examples[index]
        shown = example.hint if self.make is None else example
        assert shown is not None, example.name
        height, width = self.latents[index].size
        pixels = resize(shown.read(), height, width, "crop")
        made = pixels if self.make is None else self.make(pixels)
        return made.astype(np.float32) / np.float32(255)


class HintedBatches(Batches):
    """Batches with the hints of their samples, of one kind; the arguments are those of `Batches`.

    Args:
        hints: of the samples.
    """

    def __init__(self, hints: Sequence[np.ndarray], *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.hints = hints

    def batch(self, number: int) -> dict[str, np.ndarray]:
        """The inputs of a `ControlTrainer` for one batch.

        Args:
            number: of the batch, from 0.
        """
        ((_, order),) = self.orders
        return super().batch(number) | {_HINT: np.stack([self.hints[i] for i in order[number]])}
