"""The autoencoder's objective, as a Keras model, and a `fit` on pictures that are drawn.

All randomness comes with the data, made by NumPy from (seed, epoch, step): a run can be repeated,
and goes on where one that was stopped has been.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_sd.backend import to_numpy
from keras_sd.files import replace_file
from keras_sd.networks import Autoencoder
from keras_sd.training.optimizer import make_optimizer, make_schedule
from keras_sd.training.state import damaged


class Batches(keras.utils.PyDataset):
    """An endless supply of batches cut into epochs, each a function of (seed, epoch, step).

    Args:
        make: called with a NumPy generator; returns the inputs and the target of one batch.
        steps: batches an epoch.
        seed: of the run.
        epoch: the first epoch's number.
    """

    def __init__(self, make: Callable, steps: int, seed: int, epoch: int = 0):
        super().__init__(workers=1)
        self.make, self.steps, self.seed, self.epoch = make, steps, seed, epoch

    def __len__(self):
        return self.steps

    def __getitem__(self, index):
        return self.make(np.random.default_rng((self.seed, self.epoch, index)))

    def on_epoch_end(self):
        self.epoch += 1


class AutoencoderTrainer(keras.Model):
    """Mean absolute error of the picture and of its edges, and a small pull to a unit normal.

    Inputs: `{"image": (batch, height, width, 3), "noise": unit normal, shaped like the latents}`;
    the target is the image. The pull is the Kullback-Leibler term of Kingma & Welling 2014.

    Args:
        autoencoder: what is trained.
        kl_weight: of the pull, a latent value.
        edge_weight: of the differences between neighbouring pixels.
    """

    def __init__(self, autoencoder: Autoencoder, kl_weight: float = 1e-4, edge_weight: float = 0.5):
        super().__init__(name="autoencoder_trainer")
        self.autoencoder, self.kl_weight, self.edge_weight = autoencoder, kl_weight, edge_weight
        self.built = True

    def call(self, inputs):
        mean, log_variance = self.autoencoder.moments(inputs["image"])
        mean, log_variance = ops.cast(mean, "float32"), ops.cast(log_variance, "float32")
        self.add_loss(self.kl_weight * divergence(mean, log_variance))
        latents = mean + ops.exp(0.5 * log_variance) * inputs["noise"]
        return self.autoencoder.decode(latents * self.autoencoder.config.scale)

    def reconstruction_loss(self, image, decoded):
        """See the function of this name."""
        return reconstruction_loss(image, decoded, self.edge_weight)


def divergence(mean, log_variance):
    """The Kullback-Leibler divergence of latents from a unit normal, a latent value."""
    return 0.5 * ops.mean(ops.square(mean) + ops.exp(log_variance) - 1.0 - log_variance)


def reconstruction_loss(image, decoded, edge_weight):
    """Mean absolute error, plus that of the horizontal and vertical differences, so weighted."""
    error = decoded - image
    loss = ops.mean(ops.abs(error))
    across = error[:, :, 1:] - error[:, :, :-1]
    down = error[:, 1:] - error[:, :-1]
    return loss + edge_weight * (ops.mean(ops.abs(across)) + ops.mean(ops.abs(down)))


def fit(
    trainer: keras.Model,
    loss: Callable | None,
    make: Callable,
    *,
    steps: int,
    steps_per_epoch: int,
    learning_rate: float,
    seed: int,
    state: Path,
    callbacks: list[keras.callbacks.Callback],
    decay_steps: int | None = None,
) -> None:
    """Trains to `steps`, continuing from `state` where an earlier call stopped.

    After each epoch the weights and the optimizer's state are written there, whole or not at all:
    stopped in whatever way, at most an epoch is lost.

    AdamW with a warm-up of 200 steps and a cosine decay that reaches zero after `decay_steps`
    (None: after `steps`); gradients clipped to norm 1.

    Raises:
        ValueError: `state` is damaged; the message names it.
        OSError: it cannot be written; likewise.
    """
    decay_steps = decay_steps or steps
    warmup = min(200, decay_steps // 10)
    rate = make_schedule(learning_rate, warmup + decay_steps, warmup=warmup)
    trainer.compile(make_optimizer(rate, weight_decay=1e-4), loss)
    trainer.optimizer.build(trainer.trainable_variables)
    first = 0
    if state.exists():
        load_weights(trainer, state)
        first = int(to_numpy(trainer.optimizer.iterations)) // steps_per_epoch
    trainer.fit(
        Batches(make, steps_per_epoch, seed, first),
        initial_epoch=first,
        epochs=-(-steps // steps_per_epoch),
        callbacks=[
            keras.callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs: replace_file(state, trainer.save_weights)
            ),
            *callbacks,
        ],
        shuffle=False,
        verbose=1 if sys.stdout.isatty() else 2,  # a bar, or a line an epoch
    )


def load_weights(model: keras.Model, path: Path) -> None:
    """Loads what a training run has written.

    Raises:
        ValueError: the file is damaged, or another model's; the message names it.
    """
    try:
        model.load_weights(path)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(damaged(path, error)) from error
