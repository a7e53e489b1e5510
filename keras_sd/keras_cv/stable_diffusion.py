"""KerasCV's `StableDiffusion` and `StableDiffusionV2`."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from keras_sd import networks, pipeline
from keras_sd.backend import HAS_XLA, JitCompile, resolve_jit_compile, to_numpy
from keras_sd.config import SD_1, SD_2_BASE, ModelConfig
from keras_sd.gallery import Images
from keras_sd.keras_cv.clip_tokenizer import SimpleTokenizer
from keras_sd.keras_cv.decoder import Decoder
from keras_sd.keras_cv.diffusion_model import DiffusionModel, DiffusionModelV2
from keras_sd.keras_cv.image_encoder import ImageEncoder
from keras_sd.keras_cv.lazy import LazyModel, LazyParts, LazyTokenizers
from keras_sd.keras_cv.parts import PRESET, PRESET_V2, PartSource
from keras_sd.keras_cv.text_encoder import TextEncoder, TextEncoderV2
from keras_sd.networks.unet import timestep_embedding
from keras_sd.precision import check_policy, policy_scope
from keras_sd.rules import OWN
from keras_sd.sampling import Step
from keras_sd.settings import takes
from keras_sd.start import MaskConvention
from keras_sd.tokenizer import Tokenizer
from keras_sd.weights.fetch import SOURCES
from keras_sd.weights.vocabulary import tokenizer_of

MAX_PROMPT_LENGTH = 77
"""Tokens of a prompt, start and end mark included."""

_log = logging.getLogger(__name__)


class StableDiffusion(pipeline.StableDiffusion):
    """Stable Diffusion 1.4 with the interface of `keras_cv.models.StableDiffusion`.

    It is `keras_sd.StableDiffusion` with other names, whose parts are loaded when they are first
    used. They can be set (`model._text_encoder = mine`), and the next image is made with them.

    Args:
        img_height: of the images, in pixels, a multiple of 8, which is never rounded (KerasCV took
            the nearest multiple of 128); None is 512, or what the preset has.
        img_width: likewise.
        jit_compile: whether XLA compiles, where the backend has it; `"auto"` is where it is faster.
        preset: another model, as in `keras_sd.StableDiffusion.from_preset`: `"emoji"`, the path of
            a checkpoint, a name. None is the one that KerasCV had, which is fetched once.
        weights: path of a checkpoint on this machine, which is never taken for a name.
        compat: the version of KerasCV whose pictures it makes, see `keras_sd.compat`; None is what
            Stable Diffusion was trained with.
        dtype: the name of the dtype policy of all parts; None is the global one of now.

    Raises:
        ValueError: a size that is no multiple of 8, an unknown `compat` or `dtype`; or a checkpoint
            that is damaged or of another kind (`WeightsError`).
        FileNotFoundError: there is no such preset or checkpoint.
        OSError: it is not on this machine and could not be fetched (`FetchError`).
    """

    _preset: ClassVar[str] = PRESET
    _config: ClassVar[ModelConfig] = SD_1
    _text_encoder_class: ClassVar[type[TextEncoder]] = TextEncoder
    _diffusion_model_class: ClassVar[type[DiffusionModel]] = DiffusionModel

    _text_encoder: TextEncoder | None = None
    _diffusion_model: DiffusionModel | None = None
    _image_encoder: ImageEncoder | None = None
    _decoder: Decoder | None = None
    _tokenizer: Tokenizer | None = None

    def __init__(
        self,
        img_height: int | None = None,
        img_width: int | None = None,
        jit_compile: JitCompile = True,
        *,
        preset: str | Path | None = None,
        weights: str | Path | None = None,
        compat: str | None = None,
        dtype: str | None = None,
    ):
        self.dtype_policy = check_policy(dtype)
        self.jit_compile = jit_compile
        source = PartSource(self._preset, self._config, preset, weights, compat)
        words, license = None, None
        if "checkpoint" in vars(source):
            words, license = source.checkpoint.words, source.checkpoint.license
        if license is None and source.place in SOURCES:
            license = SOURCES[str(source.place)].license
        self._source = source
        self._halves: tuple[Any, Any] = (None, None)
        self.model = LazyModel(
            source.config,
            LazyParts(self),
            LazyTokenizers(self),
            rules=source.compat or OWN,
            words=words,
            license=license,
            # It is the default here, and so no wish that would have to be refused aloud.
            jit_compile=False if jit_compile is True and not HAS_XLA else jit_compile,
        )
        self.model.resize(img_height, img_width)
        if license is not None:
            _log.info("The weights of %s are under the license %s.", source.place, license)

    @classmethod
    def from_preset(  # type: ignore[override]
        cls,
        preset: str | Path,
        *,
        height: int | None = None,
        width: int | None = None,
        jit_compile: JitCompile = True,
        compat: str | None = None,
        dtype: str | None = None,
    ) -> StableDiffusion:
        """The same as `StableDiffusion(height, width, jit_compile, preset=preset, ...)`."""
        return cls(height, width, jit_compile, preset=preset, compat=compat, dtype=dtype)

    @property
    def img_height(self) -> int:
        return self.height

    @property
    def img_width(self) -> int:
        return self.width

    # The parts

    @property
    def text_encoder(self) -> TextEncoder:
        """Tokens -> text encoding."""
        if self._text_encoder is None:
            config = self.config.text_encoder
            self._text_encoder = self._built(
                self._text_encoder_class, config.max_length, config.vocab_size
            )
        return self._text_encoder

    @text_encoder.setter
    def text_encoder(self, part: TextEncoder | None) -> None:
        self._text_encoder = part

    @property
    def diffusion_model(self) -> DiffusionModel:
        """Latent, timestep and text encoding -> prediction."""
        if self._diffusion_model is None:
            self._diffusion_model = self._built(
                self._diffusion_model_class,
                self.height,
                self.width,
                self.config.text_encoder.max_length,
            )
        return self._diffusion_model

    @property
    def unet(self) -> DiffusionModel:
        """`diffusion_model`, as `keras_sd.StableDiffusion` calls it."""
        return self.diffusion_model

    @unet.setter
    def unet(self, part: DiffusionModel | None) -> None:
        self._diffusion_model = part

    @property
    def image_encoder(self) -> ImageEncoder:
        """Images -> latents."""
        if self._image_encoder is None:
            self._image_encoder = self._built(ImageEncoder)
        return self._image_encoder

    @property
    def decoder(self) -> Decoder:
        """Latents -> images."""
        if self._decoder is None:
            self._decoder = self._built(Decoder, self.height, self.width)
        return self._decoder

    @property
    def autoencoder(self) -> networks.Autoencoder:
        """The decoder and, if it is loaded already, the image encoder as one network."""
        halves = self._image_encoder, self.decoder
        if halves != self._halves:
            image_encoder, _ = self._halves = halves
            config = replace(self.config.autoencoder, encoder=image_encoder is not None)
            with policy_scope(self.dtype_policy):
                self._autoencoder = networks.Autoencoder(
                    config,
                    encoder=image_encoder.encoder if image_encoder is not None else None,
                    decoder=self.decoder.decoder,
                )
        return self._autoencoder

    @autoencoder.setter
    def autoencoder(self, part: networks.Autoencoder | None) -> None:
        if part is not None:
            raise AttributeError("The autoencoder is in two halves here: image_encoder and decoder")

    @property
    def tokenizer(self) -> Tokenizer:
        """Prompt -> tokens."""
        if self._tokenizer is None:
            config = self.config
            if self._source.is_default:
                self._tokenizer = SimpleTokenizer(
                    vocab_size=config.text_encoder.vocab_size, pad=config.pad_token
                )
            else:
                known = tokenizer_of(self._source.checkpoint)
                self._tokenizer = SimpleTokenizer(
                    known.merges,
                    max_length=known.max_length,
                    vocab_size=known.vocab_size,
                    pad=known.pad,
                )
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, part: Tokenizer | None) -> None:
        self._tokenizer = part

    def _built(self, part: Callable[..., Any], *numbers: int) -> Any:
        model = part(*numbers, preset=self._source, dtype=self.dtype_policy.name)
        if resolve_jit_compile(self.model.jit):
            model.compile(jit_compile=True)
        return model

    # Images

    @takes(pipeline.StableDiffusion.text_to_image)
    def text_to_image(
        self,
        *args: Any,
        verbose: bool = True,
        callback: Callable[[Step], object] | None = None,
        **options: Any,
    ) -> Images:
        """Makes images of a prompt; the arguments are those of
        `keras_sd.StableDiffusion.text_to_image`, and one more.

        Args:
            verbose: whether a bar shows how far it is.
        """
        return super().text_to_image(*args, callback=_shown(callback, verbose), **options)

    def encode_text(self, prompt: Any) -> np.ndarray:
        """Text encodings, a float32 array `(prompts, max_length, features)`, for `generate_image`.

        Raises:
            ValueError: a prompt is too long (`PromptTooLongError`).
        """
        return to_numpy(super().encode_text(prompt))

    def generate_image(
        self,
        encoded_text: Any,
        negative_prompt: Any = None,
        batch_size: int = 1,
        num_steps: int | None = None,
        unconditional_guidance_scale: float | None = None,
        diffusion_noise: Any = None,
        seed: int | None = None,
        *,
        verbose: bool = True,
        **options: Any,
    ) -> Images:
        """Makes images of text encodings.

        Args:
            encoded_text: `(max_length, features)` or with a batch in front, of one encoding for all
                images or of one each.
            negative_prompt: what to keep away from.
            batch_size: images; with several encodings, as many as these.
            num_steps: None is 50, or what the preset has.
            unconditional_guidance_scale: None is 7.5, or what the preset has.
            diffusion_noise: unit normal numbers `(img_height / 8, img_width / 8, 4)`, or with a
                batch in front, instead of a seed's.
            seed: see `text_to_image`.
            verbose: whether a bar shows how far it is.
            **options: `sampler`, `schedule`, `callback`, `first_image`.

        Returns:
            uint8 array `(batch_size, img_height, img_width, 3)`.

        Raises:
            ValueError: shapes that do not fit, both `diffusion_noise` and `seed`, and more as
                `text_to_image`.
        """
        encoded_text = np.asarray(to_numpy(encoded_text), np.float32)
        count = len(encoded_text) if encoded_text.ndim == 3 else 1
        if count > 1:
            if batch_size not in (1, count):
                raise ValueError(f"batch_size is {batch_size}, but there are {count} encodings")
            batch_size = 1
        return self.text_to_image(
            encoded_text,
            negative_prompt,
            batch_size,
            num_steps,
            unconditional_guidance_scale,
            seed,
            verbose=verbose,
            diffusion_noise=_one_for_all(diffusion_noise),
            **options,
        )

    def inpaint(
        self,
        prompt: Any,
        image: Any,
        mask: Any,
        negative_prompt: Any = None,
        num_resamples: int = 1,
        batch_size: int = 1,
        num_steps: int | None = 25,
        unconditional_guidance_scale: float | None = None,
        diffusion_noise: Any = None,
        seed: int | None = None,
        verbose: bool = True,
        *,
        mask_convention: MaskConvention = "keras_cv",
        callback: Callable[[Step], object] | None = None,
        **options: Any,
    ) -> Images:
        """Paints a part of an image anew; the arguments are those of
        `keras_sd.StableDiffusion.inpaint`, in KerasCV's order and with its mask.

        Args:
            prompt: what to draw.
            image: also an array of floating numbers from 0 to 255, which are rounded.
            mask: 1 keeps a pixel, 0 paints it: with `mask_convention="white_repaints"` the other
                way round, as everywhere else.
            negative_prompt: what to keep away from.
            num_resamples: how often each step is taken.
            batch_size: images of the prompt.
            num_steps: sampler steps.
            unconditional_guidance_scale: None is 7.5, or what the preset has.
            diffusion_noise: see `generate_image`.
            seed: see `text_to_image`.
            verbose: whether a bar shows how far it is.
            mask_convention: see `mask`.
            callback: called with every `Step`.
            **options: all others of `keras_sd.StableDiffusion.inpaint`.
        """
        return super().inpaint(
            prompt,
            _pixels(image),
            _plain_array(mask),
            negative_prompt,
            num_resamples,
            batch_size,
            num_steps,
            unconditional_guidance_scale,
            _one_for_all(diffusion_noise),
            seed,
            mask_convention=mask_convention,
            callback=_shown(callback, verbose),
            **options,
        )

    # What programs call though it is private

    def _get_timestep_embedding(
        self, timestep: int, batch_size: int, dim: int = 320, max_period: int = 10000
    ) -> Any:
        timesteps = ops.convert_to_tensor([timestep] * batch_size, "float32")
        return timestep_embedding(timesteps, dim, max_period)

    def _get_initial_alphas(self, timesteps: Any) -> tuple[list[float], list[float]]:
        alphas = [self.table.alphas_cumprod[int(t)] for t in timesteps]
        return alphas, [1.0, *alphas[:-1]]

    def _get_initial_diffusion_noise(self, batch_size: int, seed: int | None) -> np.ndarray:
        shape = self.model.latent_shape(self.height, self.width)
        drawn = secrets.randbits(32) if seed is None else seed
        return self.model.rules.first_noise(drawn, range(batch_size), shape)

    def _get_unconditional_context(self) -> np.ndarray:
        return self.encode_text("")

    def _expand_tensor(self, text_embedding: Any, batch_size: int) -> Any:
        tensor = ops.squeeze(text_embedding)
        return ops.repeat(tensor[None], batch_size, axis=0) if len(tensor.shape) == 2 else tensor

    def _get_pos_ids(self) -> Any:
        return ops.arange(self.config.text_encoder.max_length, dtype="int32")[None]


class StableDiffusionV2(StableDiffusion):
    """Stable Diffusion 2.1 base with the interface of `keras_cv.models.StableDiffusionV2`.

    The arguments are those of `StableDiffusion`.
    """

    _preset = PRESET_V2
    _config = SD_2_BASE
    _text_encoder_class = TextEncoderV2
    _diffusion_model_class = DiffusionModelV2


def _shown(
    callback: Callable[[Step], object] | None, verbose: bool
) -> Callable[[Step], object] | None:
    """The callback, with Keras' bar of progress before it."""
    if not verbose:
        return callback
    bars: list[Any] = []

    def show(step: Step) -> None:
        if not bars:
            bars.append(keras.utils.Progbar(step.total))
        bars[0].update(step.index)
        if callback is not None:
            callback(step)

    return show


def _one_for_all(noise: Any) -> Any:
    """Noise in a batch of one is that of every image."""
    return noise[0] if noise is not None and len(noise.shape) == 4 and len(noise) == 1 else noise


def _plain_array(array: Any) -> Any:
    """A tensor as an array, without a batch of one; what is no array as it is."""
    if not hasattr(array, "shape"):
        return array
    array = to_numpy(array)
    return array[0] if len(array) == 1 else array


def _pixels(image: Any) -> Any:
    """An image whose pixels are uint8, where they were numbers of another type."""
    image = _plain_array(image)
    if not isinstance(image, np.ndarray) or image.dtype == np.uint8:
        return image
    if not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 255):
        raise ValueError("The image's pixels are from 0 to 255; these are not")
    return np.rint(image).astype(np.uint8)
