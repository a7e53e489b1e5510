"""From a prompt, and a picture or not, to a picture: `StableDiffusion`.

The whole of a run is on one screen in `StableDiffusion.stream`: the texts become a context, the
seed becomes noise, the picture becomes a latent, the schedule gives the levels, the sampler walks
down them.
"""

from __future__ import annotations

import itertools
import logging
import math
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from keras import ops

from keras_sd import aliases, inpainting, precision, random, registry, sampling, schedules
from keras_sd import compat as compatibility
from keras_sd.backend import JitCompile, compile_step, resolve_jit_compile
from keras_sd.config import ModelConfig, check_size
from keras_sd.denoiser import Denoiser
from keras_sd.gallery import Images
from keras_sd.guidance import Guidance
from keras_sd.image import Resize, from_uint8, to_uint8
from keras_sd.inversion import check_invertible, invert
from keras_sd.levels import StepsMode, make_levels
from keras_sd.networks import Autoencoder, TextEncoder, UNet
from keras_sd.networks.autoencoder import NO_ENCODER
from keras_sd.noise import Level, Levels
from keras_sd.sampler import Sampler
from keras_sd.sampling import Step
from keras_sd.tokenizer import Tokenizer

if TYPE_CHECKING:
    from keras_sd.weights.files import Dtype

logger = logging.getLogger("keras_sd")

Prompt = str | Sequence[str] | Any
"""A text, several, or encodings of `StableDiffusion.encode_text`."""


_MASKING = set(inpainting.masked_canvas.__kwdefaults__ or ()) - {"resize"}


class StableDiffusion:
    """Latent diffusion (Rombach et al. 2022): `text_to_image`, `image_to_image`, `inpaint`.

    Args:
        config: the model's numbers, and what a run does by default.
        text_encoder: token ids -> context.
        unet: latent, timestep, context -> prediction.
        autoencoder: latent -> image.
        tokenizer: prompt -> token ids.
        words: the words the model was trained on, where it is few enough to say; a prompt with
            others still makes a picture, and a line of the log names them.
        license: of the weights, which `save_preset` passes on.
        height: of the images, in pixels, a multiple of 8; None is the config's.
        width: likewise.
        jit_compile: `True`, `False` or `"auto"`; switched off by itself on torch.
        compat: whose timesteps, noise and rounding a run has, where they are not our own. What it
            changes in the networks is in the config already.

    Raises:
        ValueError: a height or width that is not a multiple of 8, or another `jit_compile`.
    """

    def __init__(
        self,
        config: ModelConfig,
        text_encoder: TextEncoder,
        unet: UNet,
        autoencoder: Autoencoder,
        tokenizer: Tokenizer,
        *,
        words: Sequence[str] | None = None,
        license: str | None = None,
        height: int | None = None,
        width: int | None = None,
        jit_compile: JitCompile = "auto",
        compat: compatibility.KerasCV | None = None,
    ):
        self.config = config
        self.height = check_size("height", config.defaults.height if height is None else height)
        self.width = check_size("width", config.defaults.width if width is None else width)
        self.text_encoder = text_encoder
        self.unet = unet
        self.autoencoder = autoencoder
        self.tokenizer = tokenizer
        self.words = None if words is None else frozenset(words)
        self.license = license
        self.compat = compat
        self.table = config.noise.table()
        self._jit = resolve_jit_compile(jit_compile)

    @classmethod
    def from_preset(
        cls,
        preset: str | Path,
        *,
        height: int | None = None,
        width: int | None = None,
        jit_compile: JitCompile = "auto",
        text_encoder: str | Path | None = None,
        unet: str | Path | None = None,
        autoencoder: str | Path | None = None,
        prediction: Literal["epsilon", "v"] | None = None,
        ema: bool = False,
        variant: str | None = None,
        vocabulary: str | Path | None = None,
        compat: str | None = None,
        dtype: Any = None,
    ) -> StableDiffusion:
        """Loads a model with everything it needs.

        Args:
            preset: `"emoji"`, the model in the package; the path of a checkpoint, a file or a
                folder of any layout in docs/checkpoints.md, for which the network is never used;
                a name such as `"sd-1.5"` or `hf://owner/name[@revision]`, which is fetched once.
            height: of the images, in pixels, a multiple of 8; None is the preset's.
            width: likewise.
            jit_compile: `True`, `False` or `"auto"`; switched off by itself on torch.
            text_encoder: path of a file whose text encoder takes the place of the preset's.
            unet: likewise.
            autoencoder: likewise; what others call a VAE file.
            prediction: what the UNet gives, for files that cannot say it: `"epsilon"` or `"v"`.
            ema: take the averaged weights of the UNet, from a file that has both.
            variant: of the files in a diffusers folder, such as `"fp16"`.
            vocabulary: path of CLIP's merges, where none lie beside the weights: `merges.txt` or
                `bpe_simple_vocab_16e6.txt.gz`.
            compat: computes, and draws noise and levels, as KerasCV did: `"keras_cv==0.9"` or
                another of `keras_sd.compat.NAMES`.
            dtype: dtype policy of the networks, one of `keras_sd.precision.POLICIES` such as
                `"mixed_float16"`; None is the global one.

        Raises:
            ValueError: a size or dtype that does not work, or a checkpoint that is damaged, is of
                another kind or cannot be run (`WeightsError`).
            FileNotFoundError: there is no such preset, or a file of it is missing.
            OSError: it is not on this machine and could not be fetched (`FetchError`).
        """
        from keras_sd.weights.load import build_networks
        from keras_sd.weights.presets import open_preset
        from keras_sd.weights.readers import WeightsError
        from keras_sd.weights.vocabulary import tokenizer_of

        for name, size in (("height", height), ("width", width)):
            if size is not None:
                check_size(name, size)
        precision.check_policy(dtype)
        checkpoint = open_preset(
            preset,
            text_encoder=text_encoder,
            unet=unet,
            autoencoder=autoencoder,
            prediction=prediction,
            ema=ema,
            variant=variant,
            compat=compat,
            needs_vocabulary=vocabulary is None,
        )
        if checkpoint.unsupported:
            raise WeightsError(checkpoint.unsupported)
        tokenizer = tokenizer_of(checkpoint, vocabulary)
        for note in checkpoint.notes:
            logger.warning("%s", note)
        with precision.policy_scope(dtype):
            networks = build_networks(checkpoint)
        return cls(
            checkpoint.config,
            **networks,
            tokenizer=tokenizer,
            words=checkpoint.words,
            license=checkpoint.license,
            height=height,
            width=width,
            jit_compile=jit_compile,
            compat=compatibility.get(compat),
        )

    _made_with: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "text_encoder": ("_encode_text",),
        "unet": ("_denoiser",),
        "autoencoder": ("_encode_image", "_decode"),
    }
    """By the name of a part, what is made anew with another."""

    def __setattr__(self, name: str, value: Any) -> None:
        for made in self._made_with.get(name, ()):
            vars(self).pop(made, None)
        super().__setattr__(name, value)

    # Compiled at the first use, and once for each shape.

    @cached_property
    def _encode_text(self) -> Callable[..., Any]:
        return compile_step(self.text_encoder, [self.text_encoder], self._jit)

    @cached_property
    def _encode_image(self) -> Callable[..., Any]:
        return precision.FiniteStep(self.autoencoder, "encode", self._jit)

    @cached_property
    def _decode(self) -> Callable[..., Any]:
        return precision.FiniteStep(self.autoencoder, "decode", self._jit)

    @cached_property
    def _denoiser(self) -> Denoiser:
        return Denoiser(self.unet, self.config.noise.prediction, self._jit)

    @property
    def networks(self) -> dict[str, Any]:
        """The three networks by name."""
        return {
            "text_encoder": self.text_encoder,
            "unet": self.unet,
            "autoencoder": self.autoencoder,
        }

    def save_preset(
        self,
        folder: str | Path,
        *,
        layout: Literal["keras_sd", "diffusers"] = "keras_sd",
        dtype: Dtype | None = None,
    ) -> None:
        """Writes the model as a folder that `from_preset` reads, whole or not at all.

        Args:
            folder: is made where there is none. An older model of the same layout in it is
                replaced; if anything goes wrong, it is as it was.
            layout: ours, or the one of diffusers' `StableDiffusionPipeline`.
            dtype: of the numbers; None is the networks' own.

        Raises:
            ValueError: another layout or dtype; a number that is not finite, or a model that the
                layout has no place for (`WeightsError`).
            FileExistsError: there is a model of another layout in the folder or, for diffusers',
                any file that would not be replaced.
        """
        from keras_sd.weights.diffusers_folder import write_folder
        from keras_sd.weights.load import arrays_of
        from keras_sd.weights.save import save_preset

        arrays, merges = arrays_of(self.networks), self.tokenizer.merges
        if layout == "keras_sd":
            save_preset(
                folder, self.config, arrays, merges, self.words, dtype=dtype, license=self.license
            )
        elif layout == "diffusers":
            write_folder(folder, self.config, arrays, merges, dtype=dtype)
        else:
            raise ValueError(f"layout is 'keras_sd' or 'diffusers', not {layout!r}")

    def save_checkpoint(self, path: str | Path, *, dtype: Dtype | None = None) -> None:
        """Writes the weights as one `.safetensors` file in the original layout, which most other
        programs read. It has no vocabulary: that is CLIP's for every Stable Diffusion.

        Args:
            path: of the file, which ends in `.safetensors`.
            dtype: of the numbers; None is the networks' own.

        Raises:
            ValueError: another dtype or ending; a number that is not finite, or a model that the
                layout has no place for (`WeightsError`).
        """
        from keras_sd.weights.load import arrays_of
        from keras_sd.weights.save import save_checkpoint

        save_checkpoint(path, self.config, arrays_of(self.networks), dtype=dtype)

    def text_to_image(
        self,
        prompt: Prompt,
        negative_prompt: Prompt | None = None,
        batch_size: int = 1,
        num_steps: int | None = None,
        unconditional_guidance_scale: float | None = None,
        seed: int | None = None,
        *,
        sampler: str | Sampler | None = None,
        schedule: str | schedules.Schedule | Sequence[float] | None = None,
        guidance_rescale: float = 0.0,
        guidance_interval: tuple[float, float] | None = None,
        callback: Callable[[Step], object] | None = None,
        diffusion_noise: Any = None,
        first_image: int = 0,
    ) -> Images:
        """Makes images of a prompt.

        Args:
            prompt: what to draw; with a list, one image each. The empty prompt is a good one.
                Encodings of `encode_text` are taken too, one or several.
            negative_prompt: what to keep away from: one for all, or one a prompt.
            batch_size: images of each prompt.
            num_steps: sampler steps; None is the preset's.
            unconditional_guidance_scale: how strongly the prompt counts; 1 is no guidance; None is
                the preset's, 7.5 for Stable Diffusion.
            seed: from 0 to 2**64 - 1; None draws one. The same seed gives the same noise on every
                backend and device.
            sampler: a name (`keras_sd.list_samplers()`), one of web UIs, as `"DPM++ 2M Karras"`,
                which may have a schedule in it, or an instance; None is the preset's.
            schedule: a name (`keras_sd.list_schedules()`), a function of (table, num_steps), or a
                falling list of timesteps; None is the preset's.
            guidance_rescale: from 0 to 1, against colours that strong guidance overdoes; see
                `keras_sd.guidance.Guidance`.
            guidance_interval: the lowest and highest `sigma / alpha` with guidance; None is all.
            callback: called with every `Step`.
            diffusion_noise: unit normal numbers to start from instead of a seed's,
                `(latent height, latent width, channels)` or with a batch in front. What a sampler
                draws later is seed 0's.
            first_image: number of the first image. The noise is a function of (seed, number), so
                image 3 of a batch can be made again alone; not with `dpm_adaptive`, whose steps
                are one length for the whole batch.

        Returns:
            uint8 array `(images, height, width, 3)` that knows its prompts and seed.

        Raises:
            ValueError: an argument that does not fit, said before any step runs;
                `PromptTooLongError` for a prompt that does not fit.
            FloatingPointError: the model gave a number that is not finite.
        """
        steps = self.stream(
            prompt,
            negative_prompt,
            batch_size,
            num_steps,
            unconditional_guidance_scale,
            seed,
            sampler=sampler,
            schedule=schedule,
            guidance_rescale=guidance_rescale,
            guidance_interval=guidance_interval,
            diffusion_noise=diffusion_noise,
            first_image=first_image,
        )
        return _last_image(steps, callback)

    def image_to_image(
        self,
        prompt: Prompt,
        image: Any,
        strength: float = 0.8,
        negative_prompt: Prompt | None = None,
        batch_size: int = 1,
        num_steps: int | None = None,
        unconditional_guidance_scale: float | None = None,
        seed: int | None = None,
        *,
        steps_mode: StepsMode = "run",
        resize: Resize | None = None,
        sampler: str | Sampler | None = None,
        schedule: str | schedules.Schedule | Sequence[float] | None = None,
        guidance_rescale: float = 0.0,
        guidance_interval: tuple[float, float] | None = None,
        callback: Callable[[Step], object] | None = None,
        diffusion_noise: Any = None,
        first_image: int = 0,
    ) -> Images:
        """Makes images of a prompt that begin at an image (Meng et al. 2022, "SDEdit").

        The arguments that are not named here are those of `text_to_image`.

        Args:
            image: a path, a Pillow image or a uint8 array `(height, width, 3)`: one for all, or a
                list (or an array with one more axis in front) of one a picture. Its size, any
                multiples of 8, is that of the result.
            strength: how much noise the image is drowned in, above 0 and at most 1, which leaves
                as good as nothing of it.
            num_steps: sampler steps that are run.
            steps_mode: `"schedule"` runs the last part, `strength`, of `num_steps` steps instead,
                as diffusers does; see `keras_sd.levels.make_levels`.
            resize: brings an image of another size to the pipeline's: `"stretch"`, `"crop"` or
                `"pad"`.

        Returns:
            uint8 array `(images, height, width, 3)` that knows its prompts and seed.

        Raises:
            ValueError: an argument that does not fit, said before any step runs.
            FloatingPointError: the model gave a number that is not finite.
        """
        steps = self.stream(
            prompt,
            negative_prompt,
            batch_size,
            num_steps,
            unconditional_guidance_scale,
            seed,
            image=image,
            strength=strength,
            steps_mode=steps_mode,
            resize=resize,
            sampler=sampler,
            schedule=schedule,
            guidance_rescale=guidance_rescale,
            guidance_interval=guidance_interval,
            diffusion_noise=diffusion_noise,
            first_image=first_image,
        )
        return _last_image(steps, callback)

    def inpaint(
        self,
        prompt: Prompt,
        image: Any,
        mask: Any,
        negative_prompt: Prompt | None = None,
        num_resamples: int = 1,
        batch_size: int = 1,
        num_steps: int | None = None,
        unconditional_guidance_scale: float | None = None,
        diffusion_noise: Any = None,
        seed: int | None = None,
        *,
        strength: float = 1.0,
        steps_mode: StepsMode = "run",
        mask_convention: inpainting.MaskConvention = "white_repaints",
        mask_blur: float = 0,
        only_masked: bool = False,
        padding: int = 32,
        keep_unmasked: bool = True,
        resize: Resize | None = None,
        sampler: str | Sampler | None = None,
        schedule: str | schedules.Schedule | Sequence[float] | None = None,
        guidance_rescale: float = 0.0,
        guidance_interval: tuple[float, float] | None = None,
        callback: Callable[[Step], object] | None = None,
        first_image: int = 0,
    ) -> Images:
        """Paints a part of an image anew: with an inpainting model, or by blending latents with
        any other (`keras_sd.inpainting.Blend`).

        The arguments that are not named here are those of `text_to_image` and `image_to_image`. To
        paint around an image, see `keras_sd.inpainting.extend_canvas`.

        Args:
            mask: a path, a Pillow image or an array `(height, width)` of the image's size, bool, 0
                and 1, or 0 to 255: white is painted. One for all, or one a picture. A model paints
                whole cells of its latent, those whose first pixel is white.
            num_resamples: how often each step is taken, for an inside that fits the outside better
                (Lugmayr et al. 2022, "RePaint"). Above 1 a sampler begins anew at each step: choose
                one of those that need no earlier ones, such as `ddim` or `euler_ancestral`.
            strength: 1 begins at noise alone; below, at the image drowned in noise.
            mask_convention: `"keras_cv"` for masks whose 1 keeps a pixel, as KerasCV's did.
            mask_blur: standard deviation in pixels of a Gaussian that softens the mask: what is
                painted is mixed into the image along its edge.
            only_masked: the run sees only the mask's surroundings, brought to the pipeline's size;
                the image may be of any size.
            padding: pixels of the image around the mask that are its surroundings.
            keep_unmasked: pixels where the mask is 0 come back bit for bit. Without it they are as
                the autoencoder makes them.

        Returns:
            uint8 array `(images, height, width, 3)` that knows its prompts and seed.

        Raises:
            ValueError: an argument that does not fit, said before any step runs.
            FloatingPointError: the model gave a number that is not finite.
        """
        steps = self.stream(
            prompt,
            negative_prompt,
            batch_size,
            num_steps,
            unconditional_guidance_scale,
            seed,
            image=image,
            strength=strength,
            steps_mode=steps_mode,
            resize=resize,
            mask=mask,
            num_resamples=num_resamples,
            mask_convention=mask_convention,
            mask_blur=mask_blur,
            only_masked=only_masked,
            padding=padding,
            keep_unmasked=keep_unmasked,
            sampler=sampler,
            schedule=schedule,
            guidance_rescale=guidance_rescale,
            guidance_interval=guidance_interval,
            diffusion_noise=diffusion_noise,
            first_image=first_image,
        )
        return _last_image(steps, callback)

    def stream(
        self,
        prompt: Prompt,
        negative_prompt: Prompt | None = None,
        batch_size: int = 1,
        num_steps: int | None = None,
        unconditional_guidance_scale: float | None = None,
        seed: int | None = None,
        *,
        image: Any = None,
        strength: float | None = None,
        steps_mode: StepsMode = "run",
        resize: Resize | None = None,
        mask: Any = None,
        num_resamples: int = 1,
        sampler: str | Sampler | None = None,
        schedule: str | schedules.Schedule | Sequence[float] | None = None,
        guidance_rescale: float = 0.0,
        guidance_interval: tuple[float, float] | None = None,
        diffusion_noise: Any = None,
        first_image: int = 0,
        **masking: Any,
    ) -> Iterator[Step]:
        """The run behind `text_to_image`, with `image` behind `image_to_image`, and with `mask`
        behind `inpaint`: a `Step` at a time. `step.image()` of the last one is the result.

        The arguments are those of the three and are checked before this returns. To cancel, leave
        the loop or `close()` the iterator. `step.preview()` is the image so far.

        Args:
            strength: None is 0.8 for an image, and 1 with a mask.
            **masking: of `inpaint`: `mask_convention`, `mask_blur`, `only_masked`, `padding`,
                `keep_unmasked`.
        """
        if unknown := sorted(set(masking) - _MASKING):
            raise TypeError(
                f"stream has no argument {unknown[0]!r}; those of a mask are "
                f"{', '.join(sorted(_MASKING))}"
            )
        texts, negatives = self._texts(prompt, negative_prompt, batch_size)
        count = len(texts.rows)
        canvas = self._canvas(count, image, mask, strength, resize, num_resamples, masking)
        if isinstance(sampler, str):
            sampler, named = aliases.resolve(sampler)
            schedule = named if schedule is None else schedule
        walker = registry.get_sampler(sampler or self.config.defaults.sampler)
        if strength is None:
            strength = 0.8 if canvas is not None and mask is None else 1.0
        levels = self.levels(num_steps, schedule, strength, steps_mode)
        scale = unconditional_guidance_scale
        scale = self.config.defaults.guidance_scale if scale is None else scale
        guidance = Guidance(scale, guidance_rescale, guidance_interval)
        size = (self.height, self.width) if canvas is None else canvas.pixels.shape[1:3]
        noise, first = self._noise(count, size, seed, diffusion_noise, first_image)
        # Walked again and again, a path would give an interval the same noise each time.
        draw = noise.path if getattr(walker, "brownian", False) and num_resamples == 1 else noise
        self._check_tokens(texts, negatives)
        self._note_unknown_words([*texts.strings, *negatives.strings])

        def finish(latent: Any) -> Images:
            pixels = self.decode(latent)
            pixels = pixels if canvas is None else canvas.paste(pixels)
            drawn_from = noise.seed if diffusion_noise is None else None
            return Images(pixels, texts.strings or None, drawn_from, noise.images)

        def run() -> Iterator[Step]:
            start, walk, given = levels[0], walker, []
            x = drawn = ops.convert_to_tensor(first)
            if canvas is not None:
                pixels = from_uint8(canvas.pixels)
                if self._paints and canvas.hidden is not None:
                    seen = self._latents(np.where(canvas.hidden, np.float32(0), pixels))
                    given = [_repeated(part, count) for part in (canvas.cells, seen)]
                if not given or strength < 1:
                    known = self._latents(pixels)
                if mask is None or strength < 1:
                    x = start.alpha * known + start.sigma * drawn
            context, unconditional = self._context(texts), self._context(negatives)
            denoise = self._denoiser(context, unconditional, guidance, *given)
            if canvas is not None and canvas.cells is not None and not given:
                cells = ops.convert_to_tensor(canvas.cells)
                blend = inpainting.Blend(cells, known, drawn, start)
                denoise, walk = blend.denoiser(denoise), blend.sampler(walker, num_resamples)
            steps = sampling.sample(walk, denoise, x, levels, draw, preview=finish)
            yield from precision.finite_steps(steps, self.unet.dtype_policy)

        return run()

    def encode_text(self, prompt: str | Sequence[str]) -> Any:
        """Text encodings, a float32 tensor `(prompts, max_length, features)`.

        Raises:
            ValueError: a prompt is too long (`PromptTooLongError`).
        """
        tokens = self.tokenizer([prompt] if isinstance(prompt, str) else prompt)
        return ops.cast(self._encode_text(ops.convert_to_tensor(tokens)), "float32")

    def encode(self, images: Any, noise: Any = None) -> Any:
        """Latents of images, scaled as the UNet knows them; `decode` is about the inverse.

        Args:
            images: a path, a Pillow image or a uint8 array `(height, width, 3)`, or several of one
                size in a list or an array; heights and widths are multiples of 8.
            noise: unit normal numbers, like the latents, to draw them from the distribution that
                the encoder gives; None is its mean.

        Returns:
            float32 tensor `(images, height / factor, width / factor, channels)`.

        Raises:
            ValueError: these are no images, or the noise is of another shape.
            FloatingPointError: the result is not finite.
        """
        pixels = inpainting.check_pictures(inpainting.read_pictures(images))
        shape = (len(pixels), *self._latent_shape(*pixels.shape[1:3]))
        given = () if noise is None else (_unit_normal("noise", noise, shape),)
        return self._latents(from_uint8(pixels), *given)

    def decode(self, latents: Any) -> np.ndarray:
        """Images of latents.

        Args:
            latents: `(batch, height / factor, width / factor, channels)`, scaled as the UNet
                knows them.

        Returns:
            uint8 array `(batch, height, width, 3)`.

        Raises:
            ValueError: another shape.
            FloatingPointError: the result is not finite.
        """
        channels = self.config.autoencoder.latent_channels
        shape = tuple(np.shape(latents) if isinstance(latents, np.ndarray) else latents.shape)
        if len(shape) != 4 or shape[-1] != channels:
            raise ValueError(
                f"latents are (batch, height, width, {channels}); these are of shape {shape}"
            )
        images = ops.convert_to_numpy(self._decode(ops.convert_to_tensor(latents, "float32")))
        return to_uint8(images) if self.compat is None else self.compat.to_uint8(images)

    def invert(
        self,
        prompt: Prompt,
        image: Any,
        negative_prompt: Prompt | None = None,
        num_steps: int | None = None,
        unconditional_guidance_scale: float = 1.0,
        *,
        schedule: str | schedules.Schedule | Sequence[float] | None = None,
        resize: Resize | None = None,
        num_refinements: int = 0,
    ) -> np.ndarray:
        """The noise that a run of `ddim` makes an image of: `diffusion_noise` for `text_to_image`
        with the same prompt, steps, schedule and guidance, or with another prompt, to edit it.

        Args:
            prompt: what the image shows; `""` is a good one.
            image: as in `image_to_image`.
            negative_prompt: as in `text_to_image`.
            num_steps: None is the preset's. The more, the nearer.
            unconditional_guidance_scale: 1, no guidance, comes back well; more does not.
            schedule: as in `text_to_image`.
            resize: as in `image_to_image`.
            num_refinements: see `keras_sd.inversion.invert`; 2 or 3 make few steps exact.

        Returns:
            float32 array `(images, height / factor, width / factor, channels)`.

        Raises:
            ValueError: an argument that does not fit, said before any step runs.
            FloatingPointError: the result is not finite.
        """
        texts, negatives = self._texts(prompt, negative_prompt, 1)
        canvas = self._canvas(len(texts.rows), image, None, 1.0, resize, 1, {})
        assert canvas is not None  # without an image, that was an error
        guidance = Guidance(unconditional_guidance_scale)
        levels = self.levels(num_steps, schedule)
        if not levels[-1].sigma:  # where no noise can be seen: the nearest level that has some
            first = self.table.level(0)
            ends = [first] if levels[-2].ratio > first.ratio else []
            levels = Levels([*levels[:-1], *ends], path=levels.path)
        check_invertible(levels, num_refinements)
        self._check_tokens(texts, negatives)
        x = _repeated(self._latents(from_uint8(canvas.pixels)), len(texts.rows))
        denoise = self._denoiser(self._context(texts), self._context(negatives), guidance)
        found = invert(denoise, x, levels, num_refinements)
        noise = np.asarray(ops.convert_to_numpy(found), np.float32)
        if not np.isfinite(noise).all():
            raise FloatingPointError("The inversion is not finite: try another dtype or prompt")
        return noise

    def levels(
        self,
        num_steps: int | None = None,
        schedule: str | schedules.Schedule | Sequence[float] | None = None,
        strength: float = 1.0,
        steps_mode: StepsMode = "run",
    ) -> Levels:
        """The noise levels a run would visit; the arguments are `image_to_image`'s, and its
        defaults a whole run's."""
        # KerasCV has no runs that begin at an image.
        if schedule is None and strength == 1 and self.compat is not None:
            num_steps = self.config.defaults.num_steps if num_steps is None else num_steps
            return make_levels(self.compat.timesteps(num_steps), self.table)
        if schedule is None:
            schedule = self.config.defaults.schedule
        if isinstance(schedule, str):
            schedule = aliases.resolve_schedule(schedule)
        # The model's own schedule ends where the model's own runs do; another, where it comes from.
        named = isinstance(schedule, str)
        own = not callable(schedule) and (not named or schedule == self.config.defaults.schedule)
        if num_steps is None and (named or callable(schedule)):
            num_steps = self.config.defaults.num_steps
        return make_levels(
            schedule,
            self.table,
            num_steps,
            final_sigma=self.config.noise.final_sigma if own else "zero",
            strength=strength,
            steps_mode=steps_mode,
        )

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of `prompt` that the model was not trained on; empty where that is not known."""
        return [] if self.words is None else self.tokenizer.unknown_words(prompt, self.words)

    def _note_unknown_words(self, prompts: Sequence[str]) -> None:
        unknown = dict.fromkeys(word for text in prompts for word in self.unknown_words(text))
        if unknown:
            logger.warning(
                "The model %r does not know: %s. It draws something all the same.",
                self.config.name,
                ", ".join(unknown),
            )

    @property
    def _paints(self) -> bool:
        """Whether the UNet is given the mask and the masked image beside the latent."""
        return self.config.unet.in_channels == 2 * self.config.autoencoder.latent_channels + 1

    def _canvas(
        self,
        count: int,
        image: Any,
        mask: Any,
        strength: float | None,
        resize: Resize | None,
        num_resamples: int,
        masking: dict[str, Any],
    ) -> inpainting.Canvas | None:
        """What a run starts from beside noise, if the model can."""
        if mask is None and (masking or num_resamples != 1):
            raise ValueError("To inpaint, give a mask: without one there is nothing to paint")
        if image is None and not (mask is None and strength is None and resize is None):
            raise ValueError("A mask, a strength or a resize is of an image: give one")
        if mask is None and self._paints:
            raise ValueError(
                f"{self.config.name} is an inpainting model: it needs an image and a mask, so "
                "call inpaint"
            )
        _check_count("num_resamples", num_resamples)
        if self._paints and num_resamples > 1:
            raise ValueError(
                "num_resamples is for models whose latents are blended; an inpainting model is "
                "shown the image itself"
            )
        if image is None:
            return None
        if not self.config.autoencoder.encoder:
            raise ValueError(NO_ENCODER)
        if mask is None:
            return inpainting.picture_canvas(image, count, self.height, self.width, resize)
        factor = self.config.autoencoder.factor
        return inpainting.masked_canvas(
            image, mask, count, self.height, self.width, factor, resize=resize, **masking
        )

    def _latents(self, pixels: np.ndarray, *noise: Any) -> Any:
        """Latents of images in [-1, 1]."""
        given = (ops.convert_to_tensor(array, "float32") for array in (pixels, *noise))
        return self._encode_image(*given)

    def _texts(
        self, prompt: Prompt, negative: Prompt | None, batch_size: int
    ) -> tuple[_Texts, _Texts]:
        """The prompts and the negative prompts, one each an image."""
        _check_count("batch_size", batch_size)
        texts = self._text("prompt", prompt)
        negatives = self._text("negative_prompt", "" if negative is None else negative)
        count, given = len(texts.rows), len(negatives.rows)
        if given not in (1, count):
            raise ValueError(
                f"{given} negative prompts for {count} prompts; give one for all, or one a prompt"
            )
        return texts.repeated(batch_size), negatives.repeated(batch_size * count // given)

    def _text(self, name: str, given: Prompt) -> _Texts:
        text: Any = [given] if isinstance(given, str) else given
        if isinstance(text, list | tuple) and all(isinstance(each, str) for each in text):
            if not text:
                raise ValueError(f"{name} is an empty list; for a picture of anything, give ''")
            return _Texts(list(text), self.tokenizer(text))
        if not hasattr(text, "shape"):
            raise TypeError(
                f"{name} is a string, a list of strings, or encodings of them, not {text!r}"
            )
        config = self.config.text_encoder
        rows = np.asarray(ops.convert_to_numpy(text), np.float32)
        rows = rows[None] if rows.ndim == 2 else rows
        if rows.ndim != 3 or not len(rows) or rows.shape[1:] != (config.max_length, config.width):
            shape = f"{config.max_length}, {config.width}"
            raise ValueError(
                f"Encodings are ({shape}) or (prompts, {shape}), as encode_text gives them; "
                f"{name} is of shape {tuple(text.shape)}"
            )
        if not np.isfinite(rows).all():
            raise ValueError(f"{name} holds a number that is not finite")
        return _Texts([], rows)

    def _check_tokens(self, texts: _Texts, negatives: _Texts) -> None:
        """Last of the checks, since it may have to load the text encoder."""
        for name, rows in (("prompt", texts.rows), ("negative_prompt", negatives.rows)):
            known = self.text_encoder.config.vocab_size if rows.ndim == 2 else math.inf
            if rows.max() >= known:
                raise ValueError(
                    f"{name} has a token of number {rows.max()}, which the text encoder does not "
                    f"have: it has {known}. A token that was added needs one with room for it"
                )

    def _context(self, texts: _Texts) -> Any:
        rows = ops.convert_to_tensor(texts.rows)
        return rows if texts.rows.ndim == 3 else self._encode_text(rows)

    def _latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        config = self.config.autoencoder
        return height // config.factor, width // config.factor, config.latent_channels

    def _noise(
        self,
        count: int,
        size: tuple[int, int],
        seed: int | None,
        diffusion_noise: Any,
        first_image: int,
    ) -> tuple[NoiseSource, np.ndarray]:
        """What a run draws its noise from, and the noise it starts with."""
        shape = self._latent_shape(*size)
        if diffusion_noise is not None and seed is not None:
            raise ValueError(
                "Give a seed or diffusion_noise, not both: the noise is what a seed makes."
            )
        drawn = secrets.randbits(32) if seed is None else seed
        if diffusion_noise is not None:
            drawn = 0  # of what is drawn later, so that the run can be had again
        source = NoiseSource(drawn, range(first_image, first_image + count), shape)
        first = source.draw()
        if diffusion_noise is not None:
            return source, _unit_normal("diffusion_noise", diffusion_noise, (count, *shape))
        if self.compat is not None:  # one draw for all images
            first = self.compat.noise(drawn, (first_image + count, *shape))[first_image:]
        return source, first


@dataclass(frozen=True)
class _Texts:
    """The texts of a run, one row an image: their tokens `(n, tokens)`, or encodings that were
    given, `(n, tokens, features)`, of which there are no strings."""

    strings: list[str]
    rows: np.ndarray

    def repeated(self, times: int) -> _Texts:
        strings = [text for text in self.strings for _ in range(times)]
        return _Texts(strings, np.repeat(self.rows, times, axis=0))


class NoiseSource:
    """The randomness of one run: each draw is a function of (seed, image, number of the draw), or
    on a Brownian path of (seed, image, levels)."""

    def __init__(self, seed: int, images: range, shape: tuple[int, int, int]):
        self.seed, self.images, self._shape = seed, images, shape
        self._draws = itertools.count()
        self._path = random.BrownianPath(seed, images, shape)

    def draw(self) -> np.ndarray:
        return random.batch_normal(self.seed, self.images, next(self._draws), self._shape)

    def __call__(self, now: Level, nxt: Level) -> Any:
        return ops.convert_to_tensor(self.draw())

    def path(self, now: Level, nxt: Level) -> Any:
        return ops.convert_to_tensor(self._path(now, nxt))


def _unit_normal(name: str, given: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers that were given for noise, one row an image."""
    noise = np.asarray(ops.convert_to_numpy(given), np.float32)
    if noise.shape not in (shape[1:], shape):
        height, width = shape[1:3]
        raise ValueError(
            f"{name} is of shape {noise.shape}; for {shape[0]} image(s) with latents of "
            f"{width}x{height} it is {shape[1:]} or {shape}"
        )
    if not np.isfinite(noise).all():
        raise ValueError(f"{name} holds a number that is not finite")
    return np.ascontiguousarray(np.broadcast_to(noise, shape))


def _repeated(rows: Any, count: int) -> Any:
    """One row an image, of what may be one for all."""
    return ops.repeat(ops.convert_to_tensor(rows), count // rows.shape[0], axis=0)


def _last_image(steps: Iterator[Step], callback: Callable[[Step], object] | None) -> Images:
    for step in steps:
        if callback is not None:
            callback(step)
    return step.image()


def _check_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is a number from 1 up, not {value!r}")
