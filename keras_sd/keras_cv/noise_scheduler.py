"""KerasCV's `NoiseScheduler`, with which its guides train."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops

from keras_sd.noise import NoiseTable


class NoiseScheduler:
    """The noise that a model is trained with (Ho et al. 2020).

    The defaults are KerasCV's, and not those of Stable Diffusion, which are `beta_start=0.00085,
    beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False`.

    Args:
        train_timesteps: levels of noise.
        beta_start: first beta.
        beta_end: last beta.
        beta_schedule: `"linear"`, or `"scaled_linear"`, whose square roots are in equal steps.
        variance_type: of what `step` adds: `"fixed_small"`, the variance of the posterior, or
            `"fixed_large"`, beta.
        clip_sample: whether `step` holds what it believes to be the clean sample to [-1, 1].

    Attributes:
        betas: `(train_timesteps,)` float32.
        alphas: 1 - betas.
        alphas_cumprod: their products.

    Raises:
        ValueError: another schedule or variance.
    """

    def __init__(
        self,
        train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: Literal["linear", "scaled_linear"] = "linear",
        variance_type: Literal["fixed_small", "fixed_large"] = "fixed_small",
        clip_sample: bool = True,
    ):
        for name, value, allowed in (
            ("beta_schedule", beta_schedule, ("linear", "scaled_linear")),
            ("variance_type", variance_type, ("fixed_small", "fixed_large")),
        ):
            if value not in allowed:
                raise ValueError(f"{name} is one of {', '.join(allowed)}, not {value!r}")
        table: NoiseTable = getattr(NoiseTable, beta_schedule)(
            beta_start, beta_end, train_timesteps
        )
        self.train_timesteps = train_timesteps
        self.variance_type = variance_type
        self.clip_sample = clip_sample
        self.betas = ops.convert_to_tensor(table.betas, "float32")
        self.alphas = ops.convert_to_tensor([1 - beta for beta in table.betas], "float32")
        self.alphas_cumprod = ops.convert_to_tensor(table.alphas_cumprod, "float32")
        self.seed_generator = keras.random.SeedGenerator(42)

    def step(self, model_output: Any, timestep: int, sample: Any, predict_epsilon: bool = True):
        """A draw of the sample one timestep earlier, equation 7 of the paper.

        Args:
            model_output: what the model predicts: the noise, or with `predict_epsilon=False` the
                clean sample.
            timestep: of the sample, a Python integer.
            sample: the noisy sample.
            predict_epsilon: see `model_output`.
        """
        model_output, sample = (ops.convert_to_tensor(x) for x in (model_output, sample))
        product, beta = self.alphas_cumprod[timestep], self.betas[timestep]
        before = self.alphas_cumprod[timestep - 1] if timestep > 0 else ops.ones_like(product)
        clean = model_output
        if predict_epsilon:
            clean = (sample - ops.sqrt(1 - product) * model_output) / ops.sqrt(product)
        if self.clip_sample:
            clean = ops.clip(clean, -1.0, 1.0)
        mean = (
            ops.sqrt(before) * beta / (1 - product) * clean
            + ops.sqrt(self.alphas[timestep]) * (1 - before) / (1 - product) * sample
        )
        if timestep == 0:
            return mean
        variance = beta
        if self.variance_type == "fixed_small":
            variance = beta * (1 - before) / (1 - product)
        noise = keras.random.normal(ops.shape(sample), dtype="float32", seed=self.seed_generator)
        return mean + ops.sqrt(variance) * noise

    def add_noise(self, original_samples: Any, noise: Any, timesteps: Any):
        """Samples with the noise of their timesteps.

        Args:
            original_samples: `(batch, height, width, channels)`, clean.
            noise: unit normal, of the same shape.
            timesteps: `(batch,)` integers.

        Returns:
            What `original_samples` is, noisy.
        """
        original_samples, noise = (ops.convert_to_tensor(x) for x in (original_samples, noise))
        product = ops.reshape(ops.take(self.alphas_cumprod, timesteps), (-1, 1, 1, 1))
        signal = ops.cast(ops.sqrt(product), original_samples.dtype)
        return signal * original_samples + ops.cast(ops.sqrt(1 - product), noise.dtype) * noise

    def __len__(self) -> int:
        return self.train_timesteps
