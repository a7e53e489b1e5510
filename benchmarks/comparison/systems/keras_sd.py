"""keras_sd, on the backend that KERAS_BACKEND names."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np

from comparison.systems import Job, Laps, devices


class System:
    """See `comparison.systems`."""

    def __init__(self, job: Job):
        import keras

        keras.config.set_dtype_policy(job.dtype)
        from keras_sd.pipeline import StableDiffusion

        backend = keras.backend.backend()
        self.packages: tuple[str, ...] = ("keras-sd", "keras", backend)
        if backend == "tensorflow":
            self.packages += ("tensorflow-cpu",)
        self._backend = backend
        self._class = StableDiffusion
        self._job = job

    def load(self) -> None:
        job = self._job
        self._pipeline = self._class.from_preset(
            job.model,
            height=job.height,
            width=job.width,
            jit_compile=job.xla,
            compat=job.compat,
        )

    def draw(self, laps: Laps | None = None) -> np.ndarray:
        job, pipeline = self._job, self._pipeline
        settings: dict[str, Any] = {
            "batch_size": job.batch,
            "num_steps": job.steps,
            "unconditional_guidance_scale": job.guidance,
            "sampler": "ddim",
            "schedule": self._leading if job.compat is None else None,
            "diffusion_noise": np.load(job.noise),
        }
        if laps is None:
            return np.asarray(pipeline.text_to_image(job.prompt, **settings))
        from keras_sd.backend import to_numpy
        from keras_sd.texts import Texts

        # Encodings that are given are float32 in every policy, and would be compiled for once more.
        encode = Texts.told

        def timed(texts: Texts, *tokens: Any) -> Any:
            told = encode(texts, *tokens)
            for conditions in told:
                to_numpy(conditions["context"])
            laps.lap("text")
            return told

        with mock.patch.object(Texts, "told", timed):
            for step in pipeline.stream(job.prompt, **settings):
                to_numpy(step.latent)
                laps.lap("step")
        images = np.asarray(pipeline.decode(step.latent))
        laps.lap("decode")
        return images

    def device(self) -> dict[str, Any]:
        return devices.of(self._backend)

    def _leading(self, table, num_steps):
        """The timesteps of Stable Diffusion's DDIM. KerasCV's own are those of `compat`."""
        from keras_sd import schedules

        final: Any = self._job.final_sigma
        return schedules.leading(table, num_steps, final_sigma=final)
