"""The optimizer of a training: AdamW, its schedule, an average of the weights, and loss scaling."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops

__all__ = ["AveragingAdamW", "averages_of", "make_optimizer", "make_schedule"]


class AveragingAdamW(keras.optimizers.AdamW):
    """AdamW (Loshchilov & Hutter 2019), which may keep a moving average of the weights (Polyak &
    Juditsky 1992).

    With Keras' `use_ema`, `ema_momentum` is the most that an update keeps of the average. In
    the beginning it keeps `(1 + n) / (10 + n)` after n updates, so that the first weights, which
    are nobody's, are forgotten. The weights stay what they are when a training ends.
    """

    _now: Any = None

    def apply(self, grads, trainable_variables=None):
        """As Keras' own, with the schedule asked once: for the weight decay TensorFlow's asks it at
        every variable, and a graph of all these takes a minute.
        """
        self._now = self._get_current_learning_rate()
        try:
            super().apply(grads, trainable_variables)
        finally:
            self._now = None

    def _get_current_learning_rate(self):
        if self._now is not None:
            return self._now
        if isinstance(self._learning_rate, keras.optimizers.schedules.LearningRateSchedule):
            return self._learning_rate(self.iterations)  # updates; Keras' own counts batches
        return super()._get_current_learning_rate()

    @property
    def averages(self) -> list[keras.Variable]:
        """The averages of the trained weights, in their order; empty without `use_ema`."""
        return list(self._model_variables_moving_average) if self.use_ema else []

    def finalize_variable_values(self, var_list):
        """Does nothing: Keras would put the averages in the weights' places."""

    # Keras has no other place for it: its own keeps the same part from the first update on, and
    # with accumulated gradients averages at the batches between two updates too.
    def _update_model_variables_moving_average(self, trainable_variables):
        done = ops.cast(self.iterations, "float32")
        keep = ops.minimum(self.ema_momentum, (1.0 + done) / (10.0 + done))
        keep = ops.where(done > 0, keep, 0.0)  # before the first update there is no average
        if self.gradient_accumulation_steps:
            last = (self._iterations + 1) % self.gradient_accumulation_steps == 0
            keep = ops.where(last, keep, 1.0)
        for variable, average in zip(trainable_variables, self.averages, strict=True):
            part = ops.cast(keep, average.dtype)
            average.assign(part * average + (1 - part) * ops.cast(variable, average.dtype))


def make_schedule(
    learning_rate: float,
    steps: int,
    *,
    warmup: int = 0,
    schedule: Literal["cosine", "constant"] = "cosine",
) -> keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate of each update.

    Args:
        learning_rate: the highest.
        steps: updates, of which there are more than those of the warm-up.
        warmup: of these, in which the rate rises from 0.
        schedule: after it, `"cosine"` falls to 0 at the end (Loshchilov & Hutter 2017),
            `"constant"` stays.
    """
    return keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else learning_rate,
        steps - warmup,
        alpha=0.0 if schedule == "cosine" else 1.0,
        warmup_target=learning_rate if warmup else None,
        warmup_steps=warmup,
    )


def make_optimizer(
    rate: Any,
    *,
    weight_decay: float = 1e-2,
    clip: float | None = 1.0,
    ema: float | None = None,
    accumulate: int = 1,
    scale_loss: bool = False,
) -> keras.optimizers.Optimizer:
    """An optimizer for a training.

    Args:
        rate: a learning rate, or `make_schedule`'s.
        weight_decay: of AdamW.
        clip: the norm that all gradients together are brought down to; None does not.
        ema: the most that an update keeps of the average of the weights; None has no average.
        accumulate: batches of an update.
        scale_loss: whether the loss is scaled, for gradients in float16, and updates whose
            gradients are not finite are left out (Micikevicius et al. 2018).
    """
    optimizer = AveragingAdamW(
        rate,
        weight_decay=weight_decay,
        global_clipnorm=clip,
        use_ema=ema is not None,
        ema_momentum=0.999 if ema is None else ema,
        gradient_accumulation_steps=accumulate if accumulate > 1 else None,
        name="adamw",
    )
    if not scale_loss:
        return optimizer
    return keras.optimizers.LossScaleOptimizer(optimizer, name="loss_scale")


def averages_of(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """The averages that an optimizer of `make_optimizer` keeps; empty where it keeps none."""
    inner: AveragingAdamW = getattr(optimizer, "inner_optimizer", optimizer)
    return inner.averages
