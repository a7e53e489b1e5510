"""diffusers' `StableDiffusionPipeline`, on torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from comparison.systems import Job, Laps, devices


class System:
    """See `comparison.systems`. Mixed precision is 16-bit weights here, as is usual."""

    packages = ("diffusers", "transformers", "torch")

    def __init__(self, job: Job):
        import torch
        from diffusers import DDIMScheduler, StableDiffusionPipeline

        self._torch = torch
        self._classes = StableDiffusionPipeline, DDIMScheduler
        self._job = job

    def load(self) -> None:
        torch, job = self._torch, self._job
        pipeline_class, scheduler_class = self._classes
        pipeline = pipeline_class.from_pretrained(
            job.model,
            torch_dtype=getattr(torch, job.dtype.replace("mixed_", "")),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.scheduler = scheduler_class.from_config(
            pipeline.scheduler.config,
            timestep_spacing="leading",
            steps_offset=1,
            clip_sample=False,
            set_alpha_to_one=job.final_sigma == "zero",
        )
        pipeline.set_progress_bar_config(disable=True)
        self._pipeline = pipeline.to("cuda" if torch.cuda.is_available() else "cpu")

    def draw(self, laps: Laps | None = None) -> np.ndarray:
        with self._torch.no_grad():
            images = self._all() if laps is None else self._parts(laps)
        return np.asarray((images * 255).round().clip(0, 255), np.uint8)

    def _all(self) -> np.ndarray:
        prompts = [self._job.prompt] * self._job.batch
        return self._pipeline(prompts, output_type="np", **self._settings()).images

    def _parts(self, laps: Laps) -> np.ndarray:
        """What the pipeline does when it is called, in three calls."""
        job, pipeline = self._job, self._pipeline
        prompts = [job.prompt] * job.batch
        guided = job.guidance != 1
        context, unconditional = pipeline.encode_prompt(prompts, pipeline.device, 1, guided)
        context.cpu()
        laps.lap("text")

        def step_end(_pipeline, _index, _timestep, values):
            values["latents"].cpu()
            laps.lap("step")
            return values

        latents = pipeline(
            prompt_embeds=context,
            negative_prompt_embeds=unconditional,
            output_type="latent",
            callback_on_step_end=step_end,
            **self._settings(),
        ).images
        decoded = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
        images = pipeline.image_processor.postprocess(decoded, output_type="np")
        laps.lap("decode")
        return images

    def _settings(self) -> dict[str, Any]:
        job, pipeline = self._job, self._pipeline
        noise = self._torch.from_numpy(np.load(job.noise)).permute(0, 3, 1, 2)
        return {
            "height": job.height,
            "width": job.width,
            "num_inference_steps": job.steps,
            "guidance_scale": job.guidance,
            "latents": noise.to(pipeline.device, pipeline.unet.dtype),
        }

    def device(self) -> dict[str, Any]:
        return devices.of("torch")
