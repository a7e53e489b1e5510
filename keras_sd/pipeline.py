"""The doors: `StableDiffusion`. Each builds a `Request` and hands it to `keras_sd.run.run`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_sd.backend import JitCompile
from keras_sd.checks import check_area, check_size
from keras_sd.config import ModelConfig
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

if TYPE_CHECKING:
    pass

_OF_A_MASK = ("mask", *settings(Masking))
_OF_AN_IMAGE = ("image", *settings(Start), *_OF_A_MASK)

Callback = Callable[[Step], object]


def _method(of: Callable[..., Any]) -> Any:
    """A method of the model as one of the pipeline."""

    @functools.wraps(of)
    def call(self: StableDiffusion, *args: Any, **options: Any) -> Any:
        return getattr(self.model, of.__name__)(*args, **options)

    return call


def _attribute(name: str, meaning: str) -> Any:
    """An attribute of the model as one of the pipeline, which can be set too."""
    return property(
        lambda self: getattr(self.model, name),
        lambda self, value: setattr(self.model, name, value),
        doc=meaning,
    )


def _part(name: str, meaning: str) -> Any:
    return property(
        lambda self: self.model.parts[name],
        lambda self, part: self.model.parts.__setitem__(name, part),
        doc=f"{meaning}; one that is set is the next picture's.",
    )


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
        self._size(height, width)

    @classmethod
    def of(
        cls, model: Model, *, height: int | None = None, width: int | None = None
    ) -> StableDiffusion:
        """The pipeline of a model; `height` and `width` as for the class."""
        self = cls.__new__(cls)
        self.model = model
        self._size(height, width)
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
            height: of pictures whose request names none, in pixels, a multiple of 8; None is the
                preset's.
            width: likewise.
        """
        for name, size in (("height", height), ("width", width)):
            if size is not None:
                check_size(name, size)
        return cls.of(Model.from_preset(preset, **options), height=height, width=width)

    text_encoder = _part("text_encoder", "Token ids -> context")
    unet = _part("unet", "Latent, timestep, context -> prediction")
    autoencoder = _part("autoencoder", "Images -> latents -> images")

    config = _attribute("config", "The model's numbers.")
    words = _attribute("words", "Those the model was trained on, or None.")
    license = _attribute("license", "Of the weights.")
    table = _attribute("path", "The noise that the model was trained with.")
    networks = _attribute("parts", "The networks by name.")

    @property
    def tokenizer(self) -> Tokenizer:
        """Prompt -> token ids; one that is set is the next picture's."""
        return self.model.tokenizers["text_encoder"]

    @tokenizer.setter
    def tokenizer(self, tokenizer: Tokenizer) -> None:
        self.model.tokenizers["text_encoder"] = tokenizer

    @property
    def compat(self) -> Rules | None:
        """Whose steps, noise and rounding a run has; None is our own."""
        return None if self.model.rules is OWN else self.model.rules

    @property
    def height(self) -> int:
        """Of pictures whose request names none, in pixels."""
        return self.model.defaults.height

    @height.setter
    def height(self, height: int) -> None:
        self._size(height, None)

    @property
    def width(self) -> int:
        """Likewise."""
        return self.model.defaults.width

    @width.setter
    def width(self, width: int) -> None:
        self._size(None, width)

    def _size(self, height: int | None, width: int | None) -> None:
        given = {"height": height, "width": width}
        sizes: dict[str, Any] = {
            name: check_size(name, size) for name, size in given.items() if size is not None
        }
        defaults = replace(self.model.defaults, **sizes)
        check_area(defaults.height, defaults.width)
        self.model.defaults = defaults

    # --- requests ---------------------------------------------------------------------

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
        those of `draw`."""
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
        arguments are those of `request`, result and errors those of `draw`. Its size, any
        multiples of 8, is that of the result."""
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

    # --- its parts alone --------------------------------------------------------------

    encode_text = _method(Model.encode_text)
    encode = _method(Model.encode)
    decode = _method(Model.decode)
    unknown_words = _method(Model.unknown_words)
    save_preset = _method(Model.save_preset)
    save_checkpoint = _method(Model.save_checkpoint)

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

        Args:
            prompt: what the image shows; `""` is a good one.
            image: as in `image_to_image`.
            unconditional_guidance_scale: 1, no guidance, comes back well; more does not.
            num_refinements: see `keras_sd.inversion.invert`; 2 or 3 make few steps exact.

        Returns:
            float32 array `(images, height / factor, width / factor, channels)`.

        Raises:
            ValueError: an argument that does not fit, said before any step runs.
            FloatingPointError: the result is not finite.
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
