"""The programs that are measured, each behind the same three calls.

A system is made (imports), then `load()` (weights), then `draw()`, which gives uint8 pictures
`(batch, height, width, 3)`. Given `Laps`, `draw` takes the time of its parts: `"text"`, each
`"step"`, and `"decode"`; and waits for the device at each of them.

These modules run in other environments too, where only the program that they drive is installed:
they import nothing of keras_sd at their top but this package, and are plain Python 3.9.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


class Laps:
    """A stopwatch: the seconds from one call of `lap` to the next, by what was done in them."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {"text": [], "step": [], "decode": []}
        self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        """The part is done: what has passed since the last lap is its."""
        now = time.perf_counter()
        self.seconds[part].append(now - self._last)
        self._last = now


@dataclass(frozen=True)
class Job:
    """What a worker is asked for; JSON types alone.

    Attributes:
        system: the module of this package.
        dtype: a dtype policy of Keras.
        xla: whether XLA compiles the networks.
        model: path of the weights.
        prompt: what to draw.
        batch: pictures at a time.
        height: in pixels.
        width: likewise.
        steps: of DDIM.
        guidance: of classifier-free guidance.
        final_sigma: `"zero"` or `"first"`, where the last step ends.
        noise: path of the noise to start from, `.npy`, channels last.
        picture: path of a `.npy` file for the first picture.
        threads: processors to use.
        warm: pictures after the first; 0 is the first alone, and no parts.
        compat: of keras_sd: None, or `"keras_cv"`, which is the reference of KerasCV's pictures.
        tokens: of the prompt, for KerasCV.
        weights: paths of the weights in KerasCV's order, by network.
        version: KerasCV's class, 1 or 2.
    """

    system: str
    dtype: str
    xla: bool
    model: str
    prompt: str
    batch: int
    height: int
    width: int
    steps: int
    guidance: float
    final_sigma: str
    noise: str
    picture: str
    threads: int
    warm: int
    compat: str | None
    tokens: list[int]
    weights: dict[str, str]
    version: int


class System(Protocol):
    """A program that draws; its constructor takes the `Job` and imports what it needs."""

    packages: tuple[str, ...]
    """The distributions whose versions matter."""

    def load(self) -> None:
        """Reads the weights."""

    def draw(self, laps: Laps | None = None) -> np.ndarray:
        """One batch of pictures, uint8."""

    def device(self) -> dict[str, Any]:
        """`"name"` of the device, and `"memory"`: the most bytes of it in use, None where the
        backend does not tell.
        """
