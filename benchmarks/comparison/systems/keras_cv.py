"""KerasCV's `StableDiffusion` and `StableDiffusionV2`, on TensorFlow.

It chooses its timesteps by itself, has other epsilons and gelus, and asks the network twice a
step. Its pictures are compared with those of keras_sd under `compat="keras_cv"`.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from typing import Any

import numpy as np

from comparison.systems import Job, Laps, devices

_MAX_LENGTH = 77


class System:
    """See `comparison.systems`."""

    packages = ("keras-cv", "keras", "tensorflow", "tensorflow-cpu")

    def __init__(self, job: Job):
        if importlib.util.find_spec("tensorflow_datasets") is None:
            # It imports them for a loader of pictures that nothing here uses.
            sys.modules["tensorflow_datasets"] = types.ModuleType("tensorflow_datasets")
        from keras_cv import models
        from keras_cv.src.backend import keras
        from keras_cv.src.models import stable_diffusion as parts
        from keras_cv.src.models.stable_diffusion import diffusion_model, text_encoder

        keras.mixed_precision.set_global_policy(job.dtype)
        self._job = job
        if job.version == 2:
            self._class = models.StableDiffusionV2
            encoder, unet = text_encoder.TextEncoderV2, diffusion_model.DiffusionModelV2
        else:
            self._class = models.StableDiffusion
            encoder, unet = text_encoder.TextEncoder, diffusion_model.DiffusionModel
        self._networks = encoder, unet, parts.Decoder

    def load(self) -> None:
        job = self._job
        self._model = model = self._class(job.height, job.width, jit_compile=job.xla)
        encoder, unet, decoder = self._networks
        model._tokenizer = types.SimpleNamespace(encode=lambda prompt: list(job.tokens))
        made = {
            "text_encoder": encoder(_MAX_LENGTH, download_weights=False),
            "unet": unet(job.height, job.width, _MAX_LENGTH, download_weights=False),
            "decoder": decoder(job.height, job.width, download_weights=False),
        }
        for name, network in made.items():
            if job.xla:
                network.compile(jit_compile=True)
            _fill(network, job.weights[name])
        model._text_encoder = made["text_encoder"]
        model._diffusion_model = made["unet"]
        model._decoder = made["decoder"]

    def draw(self, laps: Laps | None = None) -> np.ndarray:
        job, model = self._job, self._model
        networks = model._text_encoder, model._diffusion_model, model._decoder
        if laps is not None:
            # A step is two calls of the network.
            model._text_encoder = _Timed(networks[0], laps, "text")
            model._diffusion_model = _Timed(networks[1], laps, "step", calls=2)
            model._decoder = _Timed(networks[2], laps, "decode")
        try:
            return model.generate_image(
                model.encode_text(job.prompt),
                batch_size=job.batch,
                num_steps=job.steps,
                unconditional_guidance_scale=job.guidance,
                diffusion_noise=np.load(job.noise),
            )
        finally:
            model._text_encoder, model._diffusion_model, model._decoder = networks

    def device(self) -> dict[str, Any]:
        return devices.of("tensorflow")


class _Timed:
    """A network whose calls are laps. Its answer is NumPy's: the device has finished."""

    def __init__(self, network: Any, laps: Laps, part: str, calls: int = 1):
        self._network, self._laps, self._part = network, laps, part
        self._calls, self._done = calls, 0

    def predict_on_batch(self, inputs: Any) -> Any:
        outputs = np.asarray(self._network.predict_on_batch(inputs))
        self._done += 1
        if self._done % self._calls == 0:
            self._laps.lap(self._part)
        return outputs


def _fill(network: Any, path: str) -> None:
    """Assigns the arrays of a file to the weights of a network, in order."""
    with np.load(path) as arrays:
        if len(arrays.files) != len(network.weights):
            raise ValueError(f"{path} has {len(arrays.files)} arrays, not {len(network.weights)}")
        for name, variable in zip(arrays.files, network.weights):  # noqa: B905
            variable.assign(arrays[name].astype("float32"))
