"""Requests from what people have: texts, paths, Pillow images, arrays, tensors (`request_of`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from keras_sd import image as images
from keras_sd.adaptations import Adaptation
from keras_sd.controls import Control
from keras_sd.few_steps import with_few_steps
from keras_sd.image_prompts import ImagePrompt
from keras_sd.request import Request
from keras_sd.settings import takes
from keras_sd.start import Attachment, Masking, Start

__all__ = [
    "as_float32",
    "attach_controls",
    "attach_image_prompts",
    "attach_masks",
    "attach_pictures",
    "request_of",
]


@takes(Request, Start, Masking, without=("guidance_scale",))
def request_of(
    prompt: Any,
    negative_prompt: Any = None,
    batch_size: int = 1,
    num_steps: int | None = None,
    unconditional_guidance_scale: float | None = None,
    seed: int | None = None,
    *,
    image: Any = None,
    mask: Any = None,
    diffusion_noise: Any = None,
    first_image: int = 0,
    control: Any = None,
    image_prompt: Any = None,
    adapters: Any = None,
    few_steps: str | None = None,
    **settings: Any,
) -> Request:
    """The request that the arguments of `text_to_image`, `image_to_image` and `inpaint` make.

    Args:
        prompt: what to draw: a text, or several in a list, an array or a column of a table, one
            image each. The empty prompt is a good one. Encodings of `encode_text` are taken too,
            one or several.
        negative_prompt: what to keep away from: one for all, or one a prompt.
        batch_size: images of each prompt.
        num_steps: sampler steps; None is the preset's.
        unconditional_guidance_scale: how strongly the prompt counts; 1 is no guidance; None is
            the preset's, 7.5 for Stable Diffusion.
        seed: from 0 to 2**64 - 1; None draws one. The same seed gives the same noise on every
            backend and device.
        image: what the run begins at (Meng et al. 2022, "SDEdit"): a path, a Pillow image or a
            uint8 array `(height, width, 3)`; one for all, or several, one a picture.
        mask: which part of it is painted: a path, a Pillow image or an array `(height, width)`
            of its size, bool, 0 and 1, or 0 to 255; white is painted. A model paints whole cells
            of its latent, those whose first pixel is white.
        diffusion_noise: unit normal numbers to start from instead of a seed's,
            `(latent height, latent width, channels)` or with a batch in front. What a sampler
            draws later is seed 0's.
        first_image: number of the first image. The noise is a function of (seed, number), so
            image 3 of a batch can be made again alone; not with `dpm_adaptive`, whose steps
            are one length for the whole batch.
        control: pictures that steer the run, with their ControlNets: a `keras_sd.Control`, or
            several in a list.
        image_prompt: pictures as a part of the prompt, with their IP-Adapters: a
            `keras_sd.ImagePrompt`, or several in a list.
        adapters: what `merge_adapters` takes, in a list: the weights have them while this is drawn,
            beside those that are merged already.
        few_steps: the kind of distilled model or LoRA that this is for, one of
            `keras_sd.few_steps.KINDS`: its sampler, schedule, steps and guidance are taken where
            none are given.
        **settings: of `keras_sd.request.Request`, and with an image or a mask of
            `keras_sd.start.Start` and `keras_sd.start.Masking`.

    Raises:
        ValueError: an argument does not fit.
        TypeError: an argument is of another kind, or there is none of this name.
    """
    if diffusion_noise is not None and seed is not None:
        raise ValueError(
            "Give a seed or diffusion_noise, not both: the noise is what a seed makes."
        )
    noise = () if diffusion_noise is None else _attach_rows("diffusion_noise", diffusion_noise, 3)
    # The model's own names go before: `guidance_scale=` is taken too.
    named = {"num_steps": num_steps, "guidance_scale": unconditional_guidance_scale}
    return Request.of(
        _texts("prompt", prompt),
        _texts("negative_prompt", negative_prompt),
        batch_size,
        seed,
        first_image=first_image,
        image=() if image is None else attach_pictures(image),
        mask=() if mask is None else attach_masks(mask),
        **{
            "noise": noise,
            "controls": attach_controls(control),
            "image_prompts": attach_image_prompts(image_prompt),
            "adapters": attach_adapters(adapters),
            **with_few_steps(few_steps, {**named, **settings}),
        },
    )


def blank_request(model: Any, count: int = 1, **settings: Any) -> Request:
    """A request of two steps that any model draws, for what is compiled by it.

    Args:
        model: a `keras_sd.model.Model`.
        count: pictures.
        **settings: of the request.
    """
    given = {"num_steps": 2, "seed": 0, **settings}
    if model.paints:  # which needs something to paint
        size = given.pop("height", None) or model.height, given.pop("width", None) or model.width
        given |= {"image": np.full((*size, 3), 128, np.uint8), "mask": np.full(size, 255, np.uint8)}
    return request_of([""] * count, **given)


def attach_pictures(image: Any) -> tuple[Attachment, ...]:
    """Pictures that were given for a run, read.

    Args:
        image: a path, a Pillow image, a uint8 array `(height, width, 3)`, or several of them in a
            list or along a first axis.

    Raises:
        ValueError: one is no picture, or there is none.
        FileNotFoundError: there is no such file.
    """
    return _attached("image", _each(image, 3), images.read_image)


def attach_masks(mask: Any) -> tuple[Attachment, ...]:
    """Masks that were given for a run, read.

    Args:
        mask: a path, a Pillow image or an array `(height, width)`; or several.

    Raises:
        ValueError: one is no mask, or there is none.
        FileNotFoundError: there is no such file.
    """
    if getattr(mask, "ndim", 0) == 3 and 1 in (mask.shape[0], mask.shape[2]):
        mask = [mask]  # one, with an axis of one channel
    return _attached("mask", _each(mask, 2), images.read_mask)


def attach_controls(control: Any) -> tuple[Control, ...]:
    """Controls that were given for a run, their hints read.

    Args:
        control: a `keras_sd.Control`, several in a list, or None.

    Raises:
        ValueError: a hint is no picture, or there is none.
        TypeError: something else was given, or its `net` is no ControlNet.
        FileNotFoundError: there is no such file.
    """
    if control is None:
        return ()
    given = list(control) if isinstance(control, list | tuple) else [control]
    return tuple(map(_attached_control, given))


def attach_image_prompts(image_prompt: Any) -> tuple[ImagePrompt, ...]:
    """Image prompts that were given for a run, their pictures read.

    Args:
        image_prompt: a `keras_sd.ImagePrompt`, several in a list, or None.

    Raises:
        ValueError: there is no picture in one, or what is given is none.
        TypeError: something else was given, or its `adapter` is no IP-Adapter.
        FileNotFoundError: there is no such file.
    """
    if image_prompt is None:
        return ()
    given = list(image_prompt) if isinstance(image_prompt, list | tuple) else [image_prompt]
    for each in given:
        if not isinstance(each, ImagePrompt):
            raise TypeError(
                f"image_prompt is a keras_sd.ImagePrompt, or several in a list, not {each!r}"
            )
    kind = "The adapter of an ImagePrompt is a keras_sd.IPAdapter"
    return tuple(
        replace(
            each,
            adapter=_attached_network(kind, each.adapter),
            image=attach_pictures(each.image),
        )
        for each in given
    )


def attach_adapters(adapters: Any) -> tuple[Adaptation, ...]:
    """Adapters that were given for a run, their files open.

    Args:
        adapters: paths, `keras_sd.adapters.Adapter`s, or pairs of one and its strength, in a list;
            or None.

    Raises:
        WeightsError: a file is damaged or no adapter.
        FileNotFoundError: there is no such file.
        ValueError: a strength does not fit.
        TypeError: something else was given.
    """
    if adapters is None:
        return ()
    if not isinstance(adapters, list | tuple):
        raise TypeError(f"adapters is a list, not {adapters!r}")
    from keras_sd.adapters.matching import given_of

    found = []
    for each in adapters:
        if isinstance(each, Adaptation):
            found.append(each)
            continue
        adapter, strength = given_of(each)
        parts = strength if isinstance(strength, Mapping) else {"unet": strength}
        file = adapter.attachment()
        blocks = tuple((name, number) for name, number in parts.items() if "/" in name)
        unet, text_encoder = parts.get("unet", 0.0), parts.get("text_encoder")
        found.append(Adaptation(file, unet, text_encoder, blocks))
    return tuple(found)


def _attached_control(control: Any) -> Control:
    if not isinstance(control, Control):
        raise TypeError(f"control is a keras_sd.Control, or several in a list, not {control!r}")
    net = _attached_network("The net of a Control is a keras_sd.ControlNet", control.net)
    hints = _attached("hint", _each(control.image, 3), _read_hint)
    return replace(control, net=net, image=hints)


def _attached_network(what: str, given: Any) -> Attachment:
    if isinstance(given, Attachment):
        return given
    if not hasattr(given, "attachment"):
        raise TypeError(f"{what}, not {given!r}")
    return Attachment.of(given)


def _read_hint(one: Any) -> np.ndarray:
    """A picture, or numbers from 0 to 1."""
    if not (hasattr(one, "shape") and getattr(one.dtype, "kind", "f") in "fV"):
        return images.read_image(one)
    array = as_float32("a hint", one)
    if array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise ValueError(f"A hint is (height, width, 3), not {array.shape}")
    if array.min() < 0 or array.max() > 1:
        raise ValueError(
            f"A hint of floats is from 0 to 1; this one is from {array.min():g} to {array.max():g}"
        )
    return array


def as_float32(name: str, given: Any, *, finite: bool = True) -> np.ndarray:
    """Numbers that were given, as a float32 array.

    Args:
        name: of the argument, for errors.
        given: an array, a tensor or a list.
        finite: whether all of them have to be.

    Raises:
        TypeError: they are no real numbers.
        ValueError: one is not finite.
    """
    if hasattr(given, "shape") and not isinstance(given, np.ndarray):
        from keras_sd.backend import to_numpy  # of a tensor; what has none needs no Keras

        given = to_numpy(given)
    try:
        array = np.asarray(given)
    except Exception as error:  # a ragged list, or a backend's own error
        raise TypeError(f"{name} is no array of numbers: {error}") from error
    if array.dtype.kind not in "iuf" and array.dtype.name != "bfloat16":
        raise TypeError(f"{name} is an array of real numbers, not of {array.dtype}")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    if finite and not np.isfinite(array).all():
        raise ValueError(f"{name} holds a number that is not finite")
    return array


def _texts(name: str, given: Any) -> Any:
    """Encodings in an array of numbers as attachments; all else as it is."""
    if not (hasattr(given, "shape") and hasattr(given, "dtype")):
        return given
    if getattr(given.dtype, "kind", "f") in "OSTU":  # of strings
        return given
    return _attach_rows(name, given, 2)


def _attach_rows(name: str, given: Any, dimensions: int) -> tuple[Attachment, ...]:
    """An array of one row, or of several with one axis more in front."""
    array = as_float32(name, given)
    rows = array if array.ndim == dimensions + 1 else array[None]
    if not rows.size:
        raise ValueError(f"{name} is of shape {array.shape}: there is nothing in it")
    return tuple(Attachment.of(np.ascontiguousarray(row)) for row in rows)


def _each(given: Any, dimensions: int) -> list[Any]:
    """What was given as one for all, or in a list or along a first axis as one each."""
    if isinstance(given, list | tuple):
        return list(given)
    return list(given) if getattr(given, "ndim", 0) > dimensions else [given]


def _attached(
    name: str, given: list[Any], read: Callable[[Any], np.ndarray]
) -> tuple[Attachment, ...]:
    if not given:
        raise ValueError(f"There is no {name} in an empty list")
    return tuple(_attached_one(one, read) for one in given)


def _attached_one(one: Any, read: Callable[[Any], np.ndarray]) -> Attachment:
    if isinstance(one, Attachment):
        return one
    # Of a file the name, not where it is: what is made of it may go to others.
    return Attachment.of(read(one), Path(one).name if isinstance(one, str | os.PathLike) else None)
