"""The doors: `StableDiffusion`. Each builds a `Request` and hands it to `keras_sd.run.run`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from keras_sd.adapters.merging import Doors
from keras_sd.backend import JitCompile
from keras_sd.checks import check_sizes
from keras_sd.config import ModelConfig
from keras_sd.delegates import attribute_of, item_of, method_of
from keras_sd.forms import request_of
from keras_sd.gallery import Images
from keras_sd.model import Model
from keras_sd.noise import Levels
from keras_sd.request import Request
from keras_sd.rules import OWN, Rules
from keras_sd.run import inverted, levels_of, run
from keras_sd.sampling import Step
from keras_sd.settings import settings, takes
from keras_sd.start import Masking, Start, StepsMode
from keras_sd.tokenizer import Tokenizer

_OF_A_MASK = ("mask", *settings(Masking))
_OF_AN_IMAGE = ("image", *settings(Start), *_OF_A_MASK)

Callback = Callable[[Step], object]


class StableDiffusion(Doors):
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
        height: of pictures whose request names none, in pixels; None is the config's.
        width: likewise.
        jit_compile: `True`, `False` or `"auto"`; switched off by itself on torch.
        compat: whose steps, noise and rounding a run has, where they are not our own. What it
            changes in the networks is in the config already.

    Raises:
        ValueError: a height or width that is not a multiple of 8, or another `jit_compile`.
    """

    def __init__(
        self,
        config: ModelConfig,
        text_encoder: Any,
        unet: Any,
        autoencoder: Any,
        tokenizer: Tokenizer,
        *,
        words: Sequence[str] | None = None,
        license: str | None = None,
        height: int | None = None,
        width: int | None = None,
        jit_compile: JitCompile = "auto",
        compat: Rules | None = None,
    ):
        parts = {"text_encoder": text_encoder, "unet": unet, "autoencoder": autoencoder}
        self.model = Model(
            config,
            parts,
            {"text_encoder": tokenizer},
            rules=compat or OWN,
            words=words,
            license=license,
            jit_compile=jit_compile,
        )
        self.model.resize(height, width)

    @classmethod
    def of(
        cls, model: Model, *, height: int | None = None, width: int | None = None
    ) -> StableDiffusion:
        """The pipeline of a model; `height` and `width` as for the class."""
        self = cls.__new__(cls)
        self.model = model
        model.resize(height, width)
        return self

    @classmethod
    @takes(Model.from_preset)
    def from_preset(
        cls,
        preset: str | Path,
        *,
        height: int | None = None,
        width: int | None = None,
        **options: Any,
    ) -> StableDiffusion:
        """Loads a model with everything it needs.

        Args:
            preset: `"emoji"`, a path, or a name: see `keras_sd.model.Model.from_preset`, which has
                all other arguments too, and the errors.
            height: see the class.
            width: likewise.
        """
        check_sizes(height, width)
        return cls.of(Model.from_preset(preset, **options), height=height, width=width)

    text_encoder = item_of("model.parts", "text_encoder", "Token ids -> context.")
    unet = item_of("model.parts", "unet", "Latent, timestep, context -> prediction.")
    autoencoder = item_of("model.parts", "autoencoder", "Images -> latents -> images.")
    tokenizer = item_of("model.tokenizers", "text_encoder", "Prompt -> token ids.")

    config = attribute_of("model", "config", "The model's numbers.")
    words = attribute_of("model", "words", "Those the model was trained on, or None.")
    license = attribute_of("model", "license", "Of the weights.")
    table = attribute_of("model", "path", "The noise that the model was trained with.")
    networks = attribute_of("model", "parts", "The networks by name.")
    embeddings = attribute_of("model", "embeddings", "Those that prompts may name.")
    tiled = attribute_of("model", "tiled", "Whether larger pictures are decoded in strips.")
    height = attribute_of("model", "height", "Of pictures whose request names none, in pixels.")
    width = attribute_of("model", "width", "Likewise.")

    @property
    def compat(self) -> Rules | None:
        """Whose steps, noise and rounding a run has; None is our own."""
        return None if self.model.rules is OWN else self.model.rules

    request = staticmethod(request_of)

    def draw(self, request: Request, callback: Callback | None = None) -> Images:
        """Makes the pictures of a request.

        Args:
            request: what to draw.
            callback: called with every `Step`; what it raises ends the run.

        Returns:
            uint8 array `(images, height, width, 3)` that knows its request, prompts and seed.

        Raises:
            ValueError: the request does not fit, said before any step runs; `PromptTooLongError`
                for a prompt that does not fit.
            TypeError: likewise.
            FloatingPointError: the model gave a number that is not finite.
        """
        if callback is not None and not callable(callback):
            raise TypeError(f"callback is a function of a Step, not {callback!r}")
        for step in self.stream(request):
            if callback is not None:
                callback(step)
        return step.image()

    @takes(request_of)
    def stream(self, prompt: Any, *args: Any, **settings: Any) -> Iterator[Step]:
        """A run, a `Step` at a time: `step.image()` of the last is the result, `step.preview()`
        the image so far. To cancel, leave the loop or `close()` the iterator.

        Args:
            prompt: a `Request`, or the first of the arguments of `request_of`, which are checked
                before this returns.
        """
        if isinstance(prompt, Request):
            if args or settings:
                raise TypeError("A Request says everything: use dataclasses.replace to change it")
            return run(self.model, prompt)
        return run(self.model, request_of(prompt, *args, **settings))

    @takes(request_of, without=_OF_AN_IMAGE)
    def text_to_image(
        self, *args: Any, callback: Callback | None = None, **settings: Any
    ) -> Images:
        """Makes images of a prompt. The arguments are those of `request_of`, result and errors
        those of `draw`.
        """
        _refuse("text_to_image", _OF_AN_IMAGE, settings)
        return self.draw(request_of(*args, **settings), callback)

    @takes(request_of, without=_OF_A_MASK)
    def image_to_image(
        self,
        prompt: Any,
        image: Any,
        strength: float = 0.8,
        *args: Any,
        callback: Callback | None = None,
        **settings: Any,
    ) -> Images:
        """Makes images of a prompt that begin at an image (Meng et al. 2022, "SDEdit"). The
        arguments are those of `request`, result and errors those of `draw`. The image's size, any
        multiples of 8, is that of the result, unless `resize` brings it to another.
        """
        _refuse("image_to_image", _OF_A_MASK, settings)
        request = request_of(prompt, *args, image=image, strength=strength, **settings)
        return self.draw(request, callback)

    @takes(request_of)
    def inpaint(
        self,
        prompt: Any,
        image: Any,
        mask: Any,
        negative_prompt: Any = None,
        num_resamples: int = 1,
        batch_size: int = 1,
        num_steps: int | None = None,
        unconditional_guidance_scale: float | None = None,
        diffusion_noise: Any = None,
        seed: int | None = None,
        *,
        callback: Callback | None = None,
        **settings: Any,
    ) -> Images:
        """Paints a part of an image anew: with an inpainting model, or by blending latents with
        any other (`keras_sd.inpainting.Blend`). The arguments are those of `request`, in KerasCV's
        order, result and errors those of `draw`. To paint around an image, see
        `keras_sd.inpainting.extend_canvas`.

        Args:
            num_resamples: see Lugmayr et al. 2022, "RePaint". Above 1 a sampler begins anew at each
                step: choose one of those that need no earlier ones, as `ddim`.
        """
        request = request_of(
            prompt,
            negative_prompt,
            batch_size,
            num_steps,
            unconditional_guidance_scale,
            seed,
            image=image,
            mask=mask,
            num_resamples=num_resamples,
            diffusion_noise=diffusion_noise,
            **settings,
        )
        return self.draw(request, callback)

    def with_embeddings(self, *embeddings: Any, clip_l_alone: bool = False) -> StableDiffusion:
        """A pipeline of the same networks, whose prompts may name these embeddings. The arguments
        and errors are those of `keras_sd.embeddings.using.Embeds.with_embeddings`.
        """
        model = self.model.with_embeddings(*embeddings, clip_l_alone=clip_l_alone)
        return self.of(model)

    def with_refiner(self, refiner: StableDiffusion | Model) -> StableDiffusion:
        """A pipeline of the same networks whose runs another one ends, as SDXL's refiner does.

        Args:
            refiner: see `keras_sd.model.Model.with_refiner`, which has the errors too.
        """
        other = refiner.model if isinstance(refiner, StableDiffusion) else refiner
        return self.of(self.model.with_refiner(other))

    # Its parts alone.
    encode_text = method_of("model", Model.encode_text)
    encode = method_of("model", Model.encode)
    decode = method_of("model", Model.decode)
    unknown_words = method_of("model", Model.unknown_words)
    save_preset = method_of("model", Model.save_preset)
    save_checkpoint = method_of("model", Model.save_checkpoint)

    @takes(request_of)
    def invert(
        self,
        prompt: Any,
        image: Any,
        negative_prompt: Any = None,
        num_steps: int | None = None,
        unconditional_guidance_scale: float = 1.0,
        *,
        num_refinements: int = 0,
        **settings: Any,
    ) -> np.ndarray:
        """The noise that a run of `ddim` makes an image of: `diffusion_noise` for `text_to_image`
        with the same prompt, steps, schedule and guidance, or with another prompt, to edit it.
        Result and errors are those of `keras_sd.run.inverted`.

        Args:
            prompt: what the image shows; `""` is a good one.
            unconditional_guidance_scale: 1, no guidance, comes back well; more does not.
            num_refinements: see `keras_sd.inversion.invert`; 2 or 3 make few steps exact.
        """
        request = request_of(
            prompt,
            negative_prompt,
            num_steps=num_steps,
            unconditional_guidance_scale=unconditional_guidance_scale,
            image=image,
            strength=1.0,
            **settings,
        )
        return inverted(self.model, request, num_refinements)

    def levels(
        self,
        num_steps: int | None = None,
        schedule: Any = None,
        strength: float = 1.0,
        steps_mode: StepsMode = "run",
    ) -> Levels:
        """The noise levels a run would visit; the arguments are those of `request_of`."""
        start = Start(pictures=(), strength=strength, steps_mode=steps_mode)
        request = Request.of("", num_steps=num_steps, schedule=schedule)
        return levels_of(self.model, replace(request, start=start).resolved(self.model.defaults))


def _refuse(door: str, names: Sequence[str], settings: dict[str, Any]) -> None:
    if wrong := next((name for name in settings if name in names), None):
        raise TypeError(f"{door} has no argument {wrong!r}")
