"""The trainer: a Keras model whose `fit` trains the UNet, and what else is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
from keras import ops

from keras_sd.conditions import CONTEXT, NUMBERS, POOLED
from keras_sd.training.objective import Noising, Objective

__all__ = ["DenoiserTrainer", "Latest", "only"]


class Latest(keras.metrics.Metric):
    """The value of the last batch, which is a loss that a log can be compared by."""

    def __init__(self, name: str = "loss"):
        super().__init__(name=name)
        self.value = self.add_variable((), "zeros", name="value")

    def update_state(self, value):
        """Takes the place of the value before."""
        self.value.assign(value)

    def result(self):
        """The value."""
        return ops.convert_to_tensor(self.value)


class DenoiserTrainer(keras.Model):
    """The loss of a batch; what of the networks is trainable is trained.

    Inputs, an array each with a row a sample:

    | name | what |
    |---|---|
    | `latents` | x0, `(batch, height, width, channels)` float32 |
    | `noise` | unit normal, like the latents |
    | `t`, `alpha`, `sigma` | of their levels, `(batch,)` float32 |
    | the name of each text encoder | token ids, `(batch, tokens)` int32 |
    | `ends` | places of the first end marks, `(batch,)` int32, for a pooled vector |
    | `numbers` | `(batch, count)` float32, where the UNet is told some |
    | `weight` | of each sample's loss, `(batch,)` float32; may be left out |

    Args:
        networks: text encoders and UNet by their parts' names, the text encoders in their order.
        objective: what the loss is.
        vectors: of an embedding that is learned, by text encoder, `(count, width)` float32: the ids
            from the size of its vocabulary on stand for them. None learns none.
    """

    def __init__(
        self,
        networks: Mapping[str, Any],
        objective: Objective,
        vectors: Mapping[str, Any] | None = None,
    ):
        # Ids and timesteps are not to be rounded to a compute dtype.
        super().__init__(name="denoiser_trainer", autocast=False, dtype="float32")
        self.objective = objective
        self.unet = networks["unet"]
        self.text_encoders = [each for name, each in networks.items() if name != "unet"]
        self.part_names = [name for name in networks if name != "unet"]
        self.controls: Sequence[Any] = ()
        self.vectors: dict[str, keras.Variable] = {}
        for part, first in (vectors or {}).items():
            added = self.add_weight(first.shape, dtype="float32", name=f"{part}_vectors")
            added.assign(first)
            self.vectors[part] = added
        self.latest = Latest()
        self.built = True

    def call(self, inputs):
        """The weighted loss of each sample, `(batch,)`."""
        level = Noising(inputs["t"], inputs["alpha"], inputs["sigma"])
        conditions = self.conditions(inputs)
        losses = self.objective(
            self.unet, inputs["latents"], conditions, inputs["noise"], level, self.controls
        )
        return losses * inputs["weight"] if "weight" in inputs else losses

    def conditions(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """What the UNet is told, as `keras_sd.texts.Texts` makes it of plain texts, with its
        gradients.
        """
        found: dict[str, Any] = {}
        encoded = []
        for part, encoder in zip(self.part_names, self.text_encoders, strict=True):
            added = self.vectors.get(part)
            options = {} if added is None else {"added": ops.convert_to_tensor(added)}
            if part == self.part_names[-1] and "ends" in inputs:
                rows, found[POOLED] = encoder(inputs[part], ends=inputs["ends"], **options)
            else:
                rows = encoder(inputs[part], **options)
            encoded.append(rows)
        found[CONTEXT] = encoded[0] if len(encoded) == 1 else ops.concatenate(encoded, axis=-1)
        if NUMBERS in inputs:
            found[NUMBERS] = inputs[NUMBERS]
        return found

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The mean of the samples' losses."""
        return ops.mean(y_pred)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """The loss of this batch alone."""
        self.latest.update_state(ops.mean(y_pred))
        return {"loss": self.latest.result()}


@contextmanager
def only(trained: Sequence[keras.Variable], networks: Sequence[keras.Model]) -> Iterator[None]:
    """Within it, of these networks only some variables are trainable; afterwards those that were.

    Args:
        trained: of the networks, or of somebody else.
        networks: all whose variables are told.

    Raises:
        ValueError: a layer of a variable to train is frozen, so that it would stay as it is.
    """
    wanted = {id(variable) for variable in trained}
    variables = {id(v): v for network in networks for v in network.variables}
    before = {key: variable.trainable for key, variable in variables.items()}
    try:
        for key, variable in variables.items():
            variable.trainable = key in wanted
        reached = {id(v) for network in networks for v in network.trainable_variables}
        if frozen := [v.path for key, v in variables.items() if key in wanted - reached]:
            raise ValueError(
                f"{frozen[0]} and {len(frozen) - 1} more are in frozen layers: set their "
                "`trainable` first"
            )
        yield
    finally:
        for key, variable in variables.items():
            variable.trainable = before[key]
