"""Controls and image prompts in a run: what the UNet is told of their pictures, and at which
steps; FreeU, which it is told of at all; and token merging, for which its steps are compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from keras import ops

from keras_sd import image as images
from keras_sd.adapters.fitting import feature_misfits, prompt_misfits
from keras_sd.adapters.ip_adapter import prepared
from keras_sd.checks import SettingError
from keras_sd.conditions import FEATURES, FREEU, HINT, STRENGTH, TOKENS, Conditions
from keras_sd.config import ControlConfig, ModelConfig
from keras_sd.controls import Control
from keras_sd.image_prompts import ImagePrompt
from keras_sd.inpainting import stacked
from keras_sd.low_memory import config_of, stranger
from keras_sd.model import Model
from keras_sd.networks import FeatureNetwork, UNet
from keras_sd.request import Request
from keras_sd.start import Attachment

__all__ = ["Active", "Controls"]

Active = tuple[int, ...]
"""What counts at a step, by its number in the request: first controls, then image prompts."""


class Controls:
    """The controls and image prompts of one run, its FreeU and its token merging.

    Args:
        model: of the run.
        request: resolved.
        size: height and width of the pictures.
        num_steps: of the run.

    Raises:
        ValueError: a network is of another model, a hint of another shape, or something of either
            is not there.
    """

    def __init__(self, model: Model, request: Request, size: tuple[int, int], num_steps: int):
        self._model, self._count = model, len(request)
        asked: list[Control | ImagePrompt] = [*request.controls, *request.image_prompts]
        self._freeu, self._merging = request.freeu, request.token_merging
        asks = {"freeu": self._freeu is not None, "token_merging": self._merging > 0}
        for name in (name for name, is_asked in asks.items() if is_asked):
            if (other := stranger(model.parts, "unet", UNet)) is not None:
                raise SettingError(
                    name,
                    f"is for a keras_sd.networks.UNet, and the UNet is another network: {other!r}",
                )
        if self._merging and not config_of(model.parts, "unet", model.config.unet).finest_attention:
            raise SettingError(
                "token_merging",
                f"is for a UNet with attention, and that of {model.config.name} has none",
            )
        self._told = [_told(model, each, len(request), size) for each in asked]
        #: Those that the UNet's steps know, each once for each that is told of it.
        self._beside = tuple(each.network for each in self._told if each.within_steps)
        #: The last step, counted from 1, of each stretch, and what counts in it.
        self.turns: list[tuple[int, Active]] = []
        for step in range(num_steps):
            active = tuple(i for i, each in enumerate(asked) if each.counts(step, num_steps))
            if self.turns and self.turns[-1][1] == active:
                self.turns.pop()
            self.turns.append((step + 1, active))

    def steps(self, active: Active) -> Mapping[str, Callable[..., Any]]:
        """The compiled steps in which these count."""
        if any(self._told[i].within_steps for i in active):
            return self._model.controlled(self._beside, self._merging)
        return self._model.steps(self._merging)

    def told(self, active: Active, *, negative: bool = False) -> Conditions:
        """What the UNet is told of them, one row an image.

        Args:
            active: which of them.
            negative: for the negative prompts.
        """
        found: dict[str, Any] = {}
        if self._freeu is not None:
            rows = np.tile(np.array(self._freeu, np.float32), (self._count, 1))
            found[FREEU] = ops.convert_to_tensor(rows)
        for i in active:
            number = sum(each.within_steps for each in self._told[:i])
            arrays = self._told[i].told(number, self._features[i], negative)
            for name, array in arrays.items():  # features of several add up
                rows = ops.repeat(array, self._count // array.shape[0], axis=0)
                found[name] = found[name] + rows if name in found else rows
        return Conditions(found)

    @cached_property
    def _features(self) -> list[Any]:
        """Of each, what its networks make of its pictures, computed once a run."""
        networks = tuple(network for each in self._told for network in each.embedding)
        embeds = dict(zip(map(id, networks), self._model.embedding(networks), strict=True))
        return [
            each.features(*(embeds[id(network)] for network in each.embedding))
            for each in self._told
        ]


class _Hinted:
    """A ControlNet and its hint."""

    within_steps = True

    def __init__(self, model: Model, control: Control, count: int, size: tuple[int, int]):
        self._control = control
        self.network = _fitting(model, control.net.data, _misfits)
        self.embedding: tuple[Any, ...] = (self.network,)
        self._pixels = _pixels(control, count, *size)

    def features(self, embed: Callable[..., Any]) -> Any:
        return embed(ops.convert_to_tensor(self._pixels))

    def told(self, number: int, features: Any, negative: bool) -> dict[str, Any]:
        strengths = _strengths(self._control, self.network.config, negative)
        return {
            HINT.format(number): features,
            STRENGTH.format(number): ops.convert_to_tensor(strengths[None]),
        }


class _Featured:
    """A T2I-Adapter and its hint. Its features are all that the UNet needs of it."""

    within_steps = False

    def __init__(self, model: Model, control: Control, count: int, size: tuple[int, int]):
        if control.guess_mode:
            raise SettingError("guess_mode", "is for a ControlNet, and this is a T2I-Adapter")
        self._strength = np.float32(control.strength)
        self.network = _fitting(model, control.net.data, feature_misfits)
        self.embedding: tuple[Any, ...] = (self.network,)
        factor = self.network.config.factor
        if wrong := [side for side in size if side % factor]:
            raise ValueError(
                f"The T2I-Adapter takes sides that are multiples of {factor} pixels, not {wrong[0]}"
            )
        pixels = _pixels(control, count, *size)
        if self.network.config.hint_channels == 1:
            pixels = pixels @ np.array([[0.299], [0.587], [0.114]], np.float32)
        self._pixels = pixels

    def features(self, embed: Callable[..., Any]) -> Any:
        found = embed(ops.convert_to_tensor(self._pixels))
        return [each * ops.cast(self._strength, each.dtype) for each in found]

    def told(self, number: int, features: Any, negative: bool) -> dict[str, Any]:
        return {FEATURES.format(level): each for level, each in enumerate(features)}


class _Pictured:
    """An IP-Adapter and its pictures."""

    within_steps = True

    def __init__(self, model: Model, prompt: ImagePrompt, count: int, size: tuple[int, int]):
        adapter = prompt.adapter.data
        self.network = _fitting(model, adapter, prompt_misfits)
        self.embedding: tuple[Any, ...] = (adapter.encoder, self.network)
        self._strength = prompt.strength
        shown = [stacked("picture", [each])[0] for each in prompt.image]
        side = adapter.encoder.config.image_size
        self._pixels = np.stack([prepared(each, side) for each in shown])

    def features(self, encode: Callable[..., Any], embed: Callable[..., Any]) -> Any:
        """The tokens for the prompt, and those for the negative one: of a picture that is grey, or
        where the adapter sees pictures as one vector, of zeros.
        """
        kind = self.network.config.kind
        nothing = np.zeros_like(self._pixels[:1])
        rows = encode(ops.convert_to_tensor(np.concatenate([self._pixels, nothing])))[kind]
        if kind == "base":
            rows = ops.concatenate([rows[:-1], ops.zeros_like(rows[-1:])])
        tokens = embed(rows)
        width, pictures = tokens.shape[-1], len(self._pixels)
        told, untold = tokens[:-1], ops.repeat(tokens[-1:], pictures, axis=0)
        return [ops.reshape(each, (1, -1, width)) for each in (told, untold)]

    def told(self, number: int, features: Any, negative: bool) -> dict[str, Any]:
        return {
            TOKENS.format(number): features[negative],
            STRENGTH.format(number): ops.convert_to_tensor(
                np.full((1, 1), self._strength, np.float32)
            ),
        }


def _told(
    model: Model, asked: Control | ImagePrompt, count: int, size: tuple[int, int]
) -> _Hinted | _Featured | _Pictured:
    """What the run tells the UNet of a control or an image prompt, which fits the model."""
    given, what = (
        (asked.adapter, "adapter of an ImagePrompt")
        if isinstance(asked, ImagePrompt)
        else (asked.net, "net of a Control")
    )
    if not isinstance(given, Attachment):
        door = "image_prompt" if isinstance(asked, ImagePrompt) else "control"
        raise TypeError(
            f"The {what} in a request is an Attachment: pipeline.request(..., {door}=) "
            f"makes it, not {given!r}"
        )
    if given.data is None:
        raise ValueError(
            f"The {what}, {given.name or given.sha256}, is known by its hash alone: "
            "give the request its networks with Request.attached"
        )
    if (other := stranger(model.parts, "unet", UNet)) is not None:
        raise ValueError(
            "A control is added to a keras_sd.networks.UNet, and the UNet is another network: "
            f"{other!r}"
        )
    if isinstance(asked, ImagePrompt):
        return _Pictured(model, asked, count, size)
    made = _Featured if isinstance(given.data.network, FeatureNetwork) else _Hinted
    return made(model, asked, count, size)


def _fitting(model: Model, given: Any, misfits: Callable[[Any, ModelConfig], list[str]]) -> Any:
    """The network of what was read from a file, which fits the model."""
    if wrong := misfits(given.network.config, model.config):
        raise ValueError(
            f"{given.name or 'What is given'}, {'an' if given.kind == 'IP-Adapter' else 'a'} "
            f"{given.kind}, is of another model than {model.config.name}: {'; '.join(wrong)}"
        )
    return given.network


def _strengths(control: Control, config: ControlConfig, negative: bool) -> np.ndarray:
    """How far each of the residuals counts, finest first, the middle's last; float32."""
    last = len(config.widths) - 1
    count = 1 + len(config.widths) * config.blocks + last + 1
    if negative and (control.guess_mode or config.pooled):
        return np.zeros(count, np.float32)
    levels = np.ones(count)
    if control.guess_mode and not config.pooled:
        levels = np.logspace(-1, 0, count)
    return np.asarray(control.strength * levels, np.float32)


def _misfits(config: ControlConfig, model: ModelConfig) -> list[str]:
    pairs = {
        "factor": (config.factor, model.autoencoder.factor),
        "in_channels": (config.in_channels, model.autoencoder.latent_channels),
        **{
            name: (getattr(config, name), getattr(model.unet, name))
            for name in ("context_width", "widths", "blocks")
        },
    }
    return [f"{name} is {its}, not {ours}" for name, (its, ours) in pairs.items() if its != ours]


def _pixels(control: Control, count: int, height: int, width: int) -> np.ndarray:
    """The hint in [0, 1], float32 `(n, height, width, 3)`: one row for all, or one an image."""
    hints = stacked("hint", control.image, count)
    _, tall, wide, _ = hints.shape
    if control.resize is None and tall * width != wide * height:
        raise ValueError(
            f"The hint is {wide}x{tall}, the picture {width}x{height}, which is another shape. "
            "Give resize='stretch', 'crop' or 'pad', and the hint is brought to it"
        )
    how = control.resize or "stretch"
    if hints.dtype == np.uint8:
        sized = np.stack([images.resize(each, height, width, how) for each in hints])
        return sized.astype(np.float32) / np.float32(255)
    if (tall, wide) == (height, width):
        return hints
    return np.stack(
        [
            np.stack([images.resize_mask(c, height, width, how) for c in np.moveaxis(h, -1, 0)], -1)
            for h in hints
        ]
    )
