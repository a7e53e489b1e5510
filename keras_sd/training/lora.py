"""LoRA (Hu et al. 2021): low-rank arrays beside the weights of a model, which alone are trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_sd.adapters.names import Place
from keras_sd.adapters.writing import LowRank, places_of
from keras_sd.backend import to_numpy
from keras_sd.config import ModelConfig
from keras_sd.networks.layers import Conv, Dense
from keras_sd.weights.load import variables_of

__all__ = ["LoRA", "add_lora", "chosen", "unreached_of"]

_ATTENTION = (
    *("to_q", "to_k", "to_v", "to_out.0"),
    *("q_proj", "k_proj", "v_proj", "out_proj"),
)
_BLOCKS = ("down_blocks.", "mid_block.", "up_blocks.", "encoder.layers.")


@dataclass(frozen=True)
class LoRA:
    """The arrays of a LoRA in the networks of a model.

    Attributes:
        layers: of each place, the layer that has the arrays as `lora_kernel_a` and `lora_kernel_b`.
        alpha: their product counts alpha / rank.
    """

    layers: Mapping[Place, Any]
    alpha: float

    @property
    def variables(self) -> list[keras.Variable]:
        """All arrays, two a layer."""
        return [
            variable
            for layer in self.layers.values()
            for variable in (layer.lora_kernel_a, layer.lora_kernel_b)
        ]

    def changes(self, value: Callable[[keras.Variable], Any] = to_numpy) -> list[LowRank]:
        """The changes of the weights, as `keras_sd.adapters.writing.save_lora` takes them.

        Args:
            value: gives the numbers of a variable, such as those of its average.
        """
        found = []
        for place, layer in self.layers.items():
            a, b = (
                np.asarray(value(each), np.float32)
                for each in (layer.lora_kernel_a, layer.lora_kernel_b)
            )
            up, down = b.T, np.moveaxis(a, (-1, -2), (0, 1))
            ones = (1,) * (len(place.weight.file_shape) - 2)  # of a convolution, also of one pixel
            up = up.reshape(*up.shape, *ones)
            down = down if down.ndim > 2 else down.reshape(*down.shape, *ones)
            found.append(LowRank(place, up, down, self.alpha))
        return found


def chosen(config: ModelConfig, targets: str, parts: Sequence[str]) -> list[Place]:
    """The layers that a choice of targets means.

    Args:
        config: of the model.
        targets: `"attention"`: queries, keys, values and outputs, as diffusers' scripts do;
            `"transformer"`: all of the blocks that have them, as kohya's do; `"all"`: all layers of
            the UNet's and the text encoders' blocks.
        parts: of the model.
    """
    unreached = {(part, layer) for part in parts for layer in unreached_of(config, part)}

    def wanted(place: Place) -> bool:
        name, layer = place.name, place.weight.path.partition("/")[0]
        if place.part not in parts or (place.part, layer) in unreached:
            return False
        if len(place.weight.shape) < 2 or not any(block in name for block in _BLOCKS):
            return False
        if targets == "attention":
            return name.endswith(_ATTENTION)
        return targets == "all" or ".attentions." in name or "encoder.layers." in name

    return [place for place in places_of(config) if wanted(place)]


def unreached_of(config: ModelConfig, part: str) -> tuple[str, ...]:
    """The layers of a part that a prediction does not depend on, by the first word of their paths:
    those behind the one whose output a text encoder gives, where no pooled vector is made of it.

    Args:
        config: of the model.
        part: of it.
    """
    encoder = config.text_encoders.get(part)
    pools = config.unet.pooled_width and part == list(config.text_encoders)[-1]
    if encoder is None or not encoder.penultimate or pools:
        return ()
    return ("norm", "projection", *(f"layer_{i}" for i in range(encoder.passed, encoder.depth)))


def add_lora(
    networks: Mapping[str, keras.Model],
    places: Sequence[Place],
    *,
    rank: int,
    alpha: float | None = None,
    seed: int = 0,
) -> LoRA:
    """Gives layers low-rank arrays by Keras' `enable_lora`, whose product is 0 in the beginning.

    The first array is uniform in plus or minus one over the root of its inputs, as PEFT's, drawn by
    NumPy, so that it is the same on every backend.

    Args:
        networks: by part.
        places: the layers.
        rank: of the arrays.
        alpha: their product counts alpha / rank; None is the rank.
        seed: of the first values.

    Raises:
        ValueError: a layer has such arrays already, or there is none.
    """
    if not places:
        raise ValueError("A LoRA needs at least one layer")
    alpha = float(rank) if alpha is None else alpha
    kernels: dict[tuple[str, str], Any] = {}
    for part, network in networks.items():
        if any(getattr(layer, "lora_enabled", False) for layer in network._flatten_layers()):
            raise ValueError(f"The {part} has a LoRA already: load the model again")
        paths = {id(variable): path for path, variable in variables_of(network).items()}
        for layer in network._flatten_layers():
            if isinstance(layer, Dense | Conv):
                kernels[part, paths[id(layer.kernel)]] = layer
    layers = {place: kernels[place.part, place.weight.path] for place in places}
    for number, layer in enumerate(layers.values()):
        layer.enable_lora(rank, b_initializer="zeros", lora_alpha=alpha)
        a = layer.lora_kernel_a
        limit = 1 / math.sqrt(math.prod(a.shape[:-1]))
        rng = np.random.default_rng((seed, 4, number))
        a.assign(rng.uniform(-limit, limit, a.shape).astype(np.float32))
    return LoRA(layers, alpha)
