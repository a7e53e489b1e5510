"""From a prompt to a picture: `StableDiffusion`.

The whole of a run is on one screen in `StableDiffusion.stream`: the texts become a context, the
seed becomes noise, the schedule gives the levels, the sampler walks down them.
"""

from __future__ import annotations

import itertools
import logging
import math
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from keras import ops

from keras_sd import image, random, registry, sampling, schedules
from keras_sd.backend import JitCompile, compile_step, resolve_jit_compile
from keras_sd.config import ModelConfig, NoiseConfig, check_size
from keras_sd.denoiser import Denoiser
from keras_sd.networks import Autoencoder, TextEncoder, UNet
from keras_sd.noise import Level, Levels, NoiseTable
from keras_sd.sampler import Sampler
from keras_sd.sampling import Step
from keras_sd.tokenizer import Tokenizer

if TYPE_CHECKING:
    from keras_sd.weights.files import Dtype

logger = logging.getLogger("keras_sd")


class StableDiffusion:
    """Text-to-image latent diffusion (Rombach et al. 2022).

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
        self.table = noise_table(config.noise)
        jit = resolve_jit_compile(jit_compile)
        self._encode = compile_step(text_encoder, [text_encoder], jit)
        self._decode = compile_step(autoencoder.decode, [autoencoder], jit)
        self._denoiser = Denoiser(unet, config.noise.prediction, jit)

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
    ) -> StableDiffusion:
        """Loads a model with everything it needs, in the global dtype policy.

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
            compat: `"keras_cv"` computes as KerasCV did, for weights that were trained with it.

        Raises:
            ValueError: a size that does not work, or a checkpoint that is damaged, is of another
                kind or cannot be run (`WeightsError`).
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
        return cls(
            checkpoint.config,
            **build_networks(checkpoint),
            tokenizer=tokenizer,
            words=checkpoint.words,
            license=checkpoint.license,
            height=height,
            width=width,
            jit_compile=jit_compile,
        )

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
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        batch_size: int = 1,
        num_steps: int | None = None,
        unconditional_guidance_scale: float | None = None,
        seed: int | None = None,
        *,
        sampler: str | Sampler | None = None,
        schedule: str | schedules.Schedule | Sequence[float] | None = None,
        callback: Callable[[Step], object] | None = None,
        diffusion_noise: Any = None,
        first_image: int = 0,
    ) -> np.ndarray:
        """Makes images of a prompt.

        Args:
            prompt: what to draw; with a list, one image each. The empty prompt is a good one.
            negative_prompt: what to keep away from: one for all, or one a prompt.
            batch_size: images of each prompt.
            num_steps: sampler steps; None is the preset's.
            unconditional_guidance_scale: how strongly the prompt counts; 1 is no guidance; None is
                the preset's, 7.5 for Stable Diffusion.
            seed: from 0 to 2**64 - 1; None draws one. The same seed gives the same noise on every
                backend and device.
            sampler: a name (`keras_sd.list_samplers()`) or an instance; None is the preset's.
            schedule: a name (`keras_sd.list_schedules()`), a function of (table, num_steps), or a
                falling list of timesteps; None is the preset's.
            callback: called with every `Step`.
            diffusion_noise: unit normal numbers to start from instead of a seed's,
                `(latent height, latent width, channels)` or with a batch in front.
            first_image: number of the first image. The noise is a function of (seed, number), so
                image 3 of a batch can be made again alone.

        Returns:
            uint8 array `(images, height, width, 3)`.

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
            diffusion_noise=diffusion_noise,
            first_image=first_image,
        )
        for step in steps:
            if callback is not None:
                callback(step)
        return self.decode(step.latent)

    def stream(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        batch_size: int = 1,
        num_steps: int | None = None,
        unconditional_guidance_scale: float | None = None,
        seed: int | None = None,
        *,
        sampler: str | Sampler | None = None,
        schedule: str | schedules.Schedule | Sequence[float] | None = None,
        diffusion_noise: Any = None,
        first_image: int = 0,
    ) -> Iterator[Step]:
        """The run behind `text_to_image`, a `Step` at a time; `decode(step.latent)` is its image.

        The arguments are those of `text_to_image` and are checked before this returns. To cancel,
        leave the loop or `close()` the iterator. `step.preview()` is the image so far.
        """
        prompts, negatives = _pair(prompt, negative_prompt, batch_size)
        walker = registry.get_sampler(sampler or self.config.defaults.sampler)
        levels = self.levels(num_steps, schedule)
        scale = self.config.defaults.guidance_scale
        if unconditional_guidance_scale is not None:
            scale = _finite("unconditional_guidance_scale", unconditional_guidance_scale)
        noise, first = self._noise(len(prompts), seed, diffusion_noise, first_image)
        tokens, negative_tokens = self.tokenizer(prompts), self.tokenizer(negatives)
        self._note_unknown_words([*prompts, *negatives])

        def run() -> Iterator[Step]:
            context = self._encode(ops.convert_to_tensor(tokens))
            unconditional = self._encode(ops.convert_to_tensor(negative_tokens))
            denoise = self._denoiser(context, unconditional, scale)
            x = ops.convert_to_tensor(first)
            yield from sampling.sample(walker, denoise, x, levels, noise, preview=self.decode)

        return run()

    def encode_text(self, prompt: str | Sequence[str]) -> Any:
        """Text encodings, a float32 tensor `(prompts, max_length, features)`.

        Raises:
            ValueError: a prompt is too long (`PromptTooLongError`).
        """
        tokens = self.tokenizer([prompt] if isinstance(prompt, str) else prompt)
        return ops.cast(self._encode(ops.convert_to_tensor(tokens)), "float32")

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
        if not np.isfinite(images).all():
            raise FloatingPointError(
                "The decoded image is not finite: the weights or the latents are damaged."
            )
        return image.to_uint8(images)

    def levels(
        self,
        num_steps: int | None = None,
        schedule: str | schedules.Schedule | Sequence[float] | None = None,
    ) -> Levels:
        """The noise levels a run would visit; the arguments are `text_to_image`'s."""
        defaults = self.config.defaults
        if schedule is None:
            schedule = defaults.schedule
        if num_steps is None and (isinstance(schedule, str) or callable(schedule)):
            num_steps = defaults.num_steps
        return schedules.make_levels(
            schedule, self.table, num_steps, final_sigma=self.config.noise.final_sigma
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

    def _noise(
        self, count: int, seed: int | None, diffusion_noise: Any, first_image: int
    ) -> tuple[_NoiseSource, np.ndarray]:
        """What a run draws its noise from, and the noise it starts with."""
        factor = self.config.autoencoder.factor
        shape = (
            self.height // factor,
            self.width // factor,
            self.config.autoencoder.latent_channels,
        )
        given = None
        if diffusion_noise is not None:
            if seed is not None:
                raise ValueError(
                    "Give a seed or diffusion_noise, not both: the noise is what a seed makes."
                )
            given = np.asarray(ops.convert_to_numpy(diffusion_noise), np.float32)
            if given.shape not in (shape, (count, *shape)):
                raise ValueError(
                    f"diffusion_noise is of shape {given.shape}; for {count} image(s) of "
                    f"{self.width}x{self.height} it is {shape} or {(count, *shape)}"
                )
            if not np.isfinite(given).all():
                raise ValueError("diffusion_noise holds a number that is not finite")
            given = np.ascontiguousarray(np.broadcast_to(given, (count, *shape)))
        source = _NoiseSource(
            secrets.randbits(32) if seed is None else seed,
            range(first_image, first_image + count),
            shape,
        )
        return source, source.draw() if given is None else given


class _NoiseSource:
    """The randomness of one run: each draw is a function of (seed, image, number of the draw)."""

    def __init__(self, seed: int, images: range, shape: tuple[int, int, int]):
        self._seed, self._images, self._shape = seed, images, shape
        self._draws = itertools.count()

    def draw(self) -> np.ndarray:
        return random.batch_normal(self._seed, self._images, next(self._draws), self._shape)

    def __call__(self, now: Level, nxt: Level) -> Any:
        return ops.convert_to_tensor(self.draw())


def _pair(
    prompt: str | Sequence[str], negative: str | Sequence[str] | None, batch_size: int
) -> tuple[list[str], list[str]]:
    """One prompt and one negative prompt an image."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size is a number of images from 1 up, not {batch_size!r}")
    if not isinstance(prompt, str | list | tuple):
        raise TypeError(f"prompt is a string or a list of strings, not {prompt!r}")
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not prompts:
        raise ValueError("prompt is an empty list; for a picture of anything, give ''")
    if negative is None:
        negative = ""
    negatives = [negative] * len(prompts) if isinstance(negative, str) else list(negative)
    if len(negatives) != len(prompts):
        raise ValueError(
            f"{len(negatives)} negative prompts for {len(prompts)} prompts; give one for all, or "
            "one a prompt"
        )
    return (
        [text for text in prompts for _ in range(batch_size)],
        [text for text in negatives for _ in range(batch_size)],
    )


def _finite(name: str, value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{name} is a finite number, not {value}")
    return float(value)


def noise_table(config: NoiseConfig) -> NoiseTable:
    """The training noise levels of a config."""
    make = getattr(NoiseTable, config.beta_schedule)
    return make(config.beta_start, config.beta_end, config.num_train_timesteps)
