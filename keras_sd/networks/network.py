"""What the networks are beside Keras models: values that can be copied, cloned, pickled, saved."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import keras

from keras_sd.config import from_dict
from keras_sd.files import replace_file

_QUANTIZED = "int8"
"""The only mode of quantization whose layers are made again from its name."""


class Network(keras.Model):
    """A Keras model of the numbers in a dataclass of `keras_sd.config`.

    `copy.deepcopy`, `pickle`, `model.save("x.keras")`, `keras.models.clone_model` and
    `from_config(get_config())` all give a network of its own. Layers that are frozen or quantized
    are so in the copy; adapters (`enable_lora`) are part of its weights. A file of it is whole
    or not there.

    Attributes:
        config: the numbers.
    """

    config_class: ClassVar[type]
    config: Any

    def save_weights(self, filepath, overwrite=True, **others):
        """As Keras' own, which writes in place: a full disk or a killed process left a part there.

        Args:
            filepath: ends in `.weights.h5`.
            overwrite: whether a file that is there is replaced; else Keras asks.
            **others: `max_shard_size`, with which Keras writes several files, in place.

        Raises:
            OSError: the file cannot be written; the message names it.
            ValueError: another ending, as Keras says.
        """
        _write_whole(super().save_weights, ".weights.h5", filepath, overwrite, others)

    def save(self, filepath, overwrite=True, **others):
        """As Keras' own, likewise.

        Args:
            filepath: ends in `.keras`.
            overwrite: see `save_weights`.
            **others: `zipped=False`, with which Keras writes a folder, in place.

        Raises:
            OSError: the file cannot be written; the message names it.
            ValueError: another ending, as Keras says; or see `get_config`.
        """
        _write_whole(super().save, ".keras", filepath, overwrite, others)

    def get_config(self) -> dict[str, Any]:
        """The network without its weights, as plain JSON types.

        Raises:
            ValueError: a layer is quantized in another mode than int8.
        """
        layers = self._flatten_layers()
        frozen, quantized = [], []
        for index, layer in enumerate(layers):
            mode = getattr(layer.dtype_policy, "quantization_mode", None)
            if mode not in (None, _QUANTIZED):
                raise ValueError(
                    f"{self.name} cannot be copied or saved: {layer.path} is quantized to {mode}, "
                    f"and only {_QUANTIZED} can be made again. Copy it first, then quantize"
                )
            frozen += [] if layer.trainable else [index]
            quantized += [] if mode is None else [index]
        return {
            "name": self.name,
            "dtype": self.dtype_policy.name,
            "config": dataclasses.asdict(self.config),
            "frozen": frozen,
            "quantized": quantized,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Network:
        """A network of what `get_config` gave, with weights that are drawn anew.

        Raises:
            ValueError: there is no such network; the message names the number.
        """
        rest = dict(config)
        frozen, quantized = rest.pop("frozen"), rest.pop("quantized")
        numbers = from_dict(cls.config_class, rest.pop("config"), cls.__name__)
        network = cls._made_of(numbers, **rest)
        layers = network._flatten_layers()
        for index in quantized:
            layers[index].quantize(_QUANTIZED)
        if frozen:
            # A layer's flag is that of all below it, so what is below comes after.
            for index, layer in enumerate(layers):
                layer.trainable = index not in frozen
        return network

    @classmethod
    def _made_of(cls, config: Any, name: str, dtype: str) -> Network:
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy(dtype)
        try:
            return cls(config, name=name)
        finally:
            keras.config.set_dtype_policy(policy)


def _write_whole(
    write: Callable[..., Any], ending: str, filepath: Any, overwrite: bool, others: dict[str, Any]
) -> None:
    path = Path(filepath)
    if others or not path.name.endswith(ending) or (path.exists() and not overwrite):
        write(filepath, overwrite, **others)
    else:
        replace_file(path, write)
