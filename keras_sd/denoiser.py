"""The UNet as a denoiser: `denoise(x, level) -> x0`, with classifier-free guidance."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from keras_sd.backend import JitCompile, compile_step
from keras_sd.guidance import Guidance
from keras_sd.networks import UNet
from keras_sd.noise import Level
from keras_sd.sampler import Denoise


class Denoiser:
    """Turns a UNet's prediction into the clean latent that it implies.

    Args:
        unet: called once an evaluation: the unconditional and the conditional half of guidance
            are one batch.
        prediction: `"epsilon"` or `"v"`, what the UNet was trained to give.
        jit_compile: see `keras_sd.backend.compile_step`.
    """

    def __init__(self, unet: UNet, prediction: str, jit_compile: JitCompile = "auto"):
        self._unet = unet
        self._prediction = prediction
        self._guided = compile_step(self._guided_x0, [unet], jit_compile)
        self._rescaled = compile_step(self._rescaled_x0, [unet], jit_compile)
        self._plain = compile_step(self._plain_x0, [unet], jit_compile)

    def __call__(
        self, context: Any, unconditional: Any, guidance: Guidance, *channels: Any
    ) -> Denoise:
        """The denoiser of one run.

        Args:
            context: text encodings of the prompts, `(batch, tokens, features)`.
            unconditional: of the negative prompts, the same shape.
            guidance: how both count.
            channels: what the UNet is given beside the latent at every step, `(batch, height,
                width, any)` each: of an inpainting model the mask and the masked picture's latent.

        Returns:
            `denoise(x, level) -> x0`, float32 like x.
        """
        both = None if guidance.scale == 1 else ops.concatenate([unconditional, context])
        strength = _scalars(guidance.scale)
        guided = self._guided
        if guidance.rescale:
            guided, strength = self._rescaled, _scalars(guidance.scale, guidance.rescale)

        def denoise(x: Any, level: Level) -> Any:
            scalars = _scalars(level.t, level.alpha, level.sigma)
            if guidance.guides(level):
                return guided(x, *scalars, both, *strength, *channels)
            return self._plain(x, *scalars, context, *channels)

        return denoise

    def _plain_x0(self, x, t, alpha, sigma, context, *channels):
        return self._x0(x, alpha, sigma, self._predict((x, *channels), t, context))

    def _guided_x0(self, x, t, alpha, sigma, both, scale, *channels):
        guided, _ = self._guide(x, t, both, scale, channels)
        return self._x0(x, alpha, sigma, guided)

    def _rescaled_x0(self, x, t, alpha, sigma, both, scale, rescale, *channels):
        guided, conditional = self._guide(x, t, both, scale, channels)
        spread, meant = (
            ops.std(part, axis=(1, 2, 3), keepdims=True) for part in (guided, conditional)
        )
        return self._x0(x, alpha, sigma, guided * (rescale * meant / spread + (1 - rescale)))

    def _guide(self, x, t, both, scale, channels):
        """The guided prediction, and the conditional one."""
        twice = [ops.concatenate([part, part]) for part in (x, *channels)]
        unconditional, conditional = ops.split(self._predict(twice, t, both), 2)
        return unconditional + scale * (conditional - unconditional), conditional

    def _predict(self, parts, t, context):
        x = ops.concatenate(parts, axis=-1)
        return self._unet(x, ops.broadcast_to(t, (x.shape[0],)), context)

    def _x0(self, x, alpha, sigma, prediction):
        if self._prediction == "v":  # Salimans & Ho 2022, appendix D
            return alpha * x - sigma * prediction
        return (x - sigma * prediction) / alpha


def _scalars(*values: float) -> list[Any]:
    """Float32 tensors: a Python number would be compiled in, one trace a value."""
    return [ops.convert_to_tensor(np.float32(value)) for value in values]
