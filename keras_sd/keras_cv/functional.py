"""A network seen as the functional model that KerasCV had of it.

Programs cut models out of KerasCV's networks: `keras.Model(network.inputs,
network.layers[-2].output)`. Ours are made at once and for any size, without a graph. The graph is
drawn here when somebody first asks for it, over the network's own layers.
"""

from __future__ import annotations

from typing import Any

import keras

_VIEW = "_functional_view"


class _Holder:
    """Keeps the view from Keras, which would save and count its layers once more."""

    def __init__(self, model: keras.Model):
        self.model = model


class Functional:
    """The attributes of a functional model, for a network that can draw its graph.

    Attributes:
        sequential: whether it was a `keras.Sequential`, whose `layers` do not begin with an input.
    """

    sequential = False
    compute_dtype: str
    dtype_policy: Any
    name: str

    def draw(self) -> tuple[Any, Any]:
        """Symbolic inputs, one or a list, and the output of the network's layers called on them."""
        raise NotImplementedError

    def as_functional(self) -> keras.Model:
        """The functional model; always the same one, with the weights of the network."""
        if _VIEW not in vars(self):
            inputs, outputs = self.draw()
            vars(self)[_VIEW] = _Holder(keras.Model(inputs, outputs, name=self.name))
        return vars(self)[_VIEW].model

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """In KerasCV's order."""
        layers: list[keras.layers.Layer] = self.as_functional().layers
        if self.sequential:
            return [each for each in layers if not isinstance(each, keras.layers.InputLayer)]
        return layers

    @property
    def input(self) -> Any:
        return self.as_functional().input

    @property
    def inputs(self) -> list[Any]:
        return self.as_functional().inputs

    @property
    def output(self) -> Any:
        return self.as_functional().output

    @property
    def outputs(self) -> list[Any]:
        return self.as_functional().outputs

    @property
    def input_shape(self) -> Any:
        return self.as_functional().input_shape

    @property
    def output_shape(self) -> Any:
        return self.as_functional().output_shape

    def _silu(self, x: Any) -> Any:
        return keras.layers.Activation("silu", dtype=self.dtype_policy)(x)

    def _float32(self, x: Any) -> Any:
        return x if self.compute_dtype == "float32" else keras.ops.cast(x, "float32")
