"""Controls in a run: what the UNet is told of their hints, and at which steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from keras import ops

from keras_sd import image as images
from keras_sd.conditions import HINT, STRENGTH, Conditions
from keras_sd.config import ControlConfig, ModelConfig
from keras_sd.controls import Control
from keras_sd.inpainting import stacked
from keras_sd.model import Model
from keras_sd.networks import UNet
from keras_sd.request import Request
from keras_sd.start import Attachment

__all__ = ["Active", "Controls"]

Active = tuple[int, ...]
"""The controls that count at a step, by their numbers in the request."""


class Controls:
    """The controls of one run.

    Args:
        model: of the run.
        request: resolved.
        size: height and width of the pictures.
        num_steps: of the run.

    Raises:
        ValueError: a ControlNet is of another model, a hint of another shape, or one of both is not
            there.
    """

    def __init__(self, model: Model, request: Request, size: tuple[int, int], num_steps: int):
        self._model, self._controls, self._count = model, request.controls, len(request)
        self._networks = tuple(_network(model, each) for each in request.controls)
        self._pixels = [_pixels(each, self._count, *size) for each in request.controls]
        #: The last step, counted from 1, of each stretch, and what counts in it.
        self.turns: list[tuple[int, Active]] = []
        for step in range(num_steps):
            active = tuple(
                i for i, each in enumerate(request.controls) if each.counts(step, num_steps)
            )
            if self.turns and self.turns[-1][1] == active:
                self.turns.pop()
            self.turns.append((step + 1, active))

    def steps(self, active: Active) -> Mapping[str, Callable[..., Any]]:
        """The compiled steps in which these count."""
        return self._model.controlled(self._networks)[0] if active else self._model.steps()

    def told(self, active: Active, *, negative: bool = False) -> Conditions:
        """What the UNet is told of them, one row an image.

        Args:
            active: which of them.
            negative: for the negative prompts.
        """
        found = {}
        for i in active:
            strengths = _strengths(self._controls[i], self._networks[i].config, negative)
            rows = np.repeat(strengths[None], self._count, axis=0)
            found[HINT.format(i)] = self._hints[i]
            found[STRENGTH.format(i)] = ops.convert_to_tensor(rows)
        return Conditions(found)

    @cached_property
    def _hints(self) -> list[Any]:
        """The hints as features, computed once a run."""
        hints = []
        _, embeds = self._model.controlled(self._networks)
        for embed, pixels in zip(embeds, self._pixels, strict=True):
            rows = embed(ops.convert_to_tensor(pixels))
            hints.append(ops.repeat(rows, self._count // rows.shape[0], axis=0))
        return hints


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


def _network(model: Model, control: Control) -> Any:
    """The network of a control, which fits the model."""
    if not isinstance(control.net, Attachment):
        raise TypeError(
            "The net of a Control in a request is an Attachment: pipeline.request(..., control=) "
            f"makes it of a ControlNet, not {control.net!r}"
        )
    net = control.net.data
    if net is None:
        raise ValueError(
            f"The ControlNet {control.net.name or control.net.sha256} is known by its hash alone: "
            "give the request its networks with Request.attached"
        )
    if not isinstance(model.parts["unet"], UNet):
        raise ValueError(
            f"A control is added to a keras_sd.networks.UNet, and the UNet is another network: "
            f"{model.parts['unet']!r}"
        )
    if wrong := _misfits(net.network.config, model.config):
        raise ValueError(
            f"The ControlNet {net.name or 'of this run'} is of another model than "
            f"{model.config.name}: {'; '.join(wrong)}"
        )
    return net.network


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
