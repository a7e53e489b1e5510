"""What a run does by convention: the networks' arithmetic, the steps, the first noise, the pixels.

Stable Diffusion has its own conventions, and programs that came after it have others, of which
their old pictures and their weights are made. `Rules` are ours; what another program did is a
subclass, which a run takes in their place. No run asks whose they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_sd import random
from keras_sd.config import ModelConfig


@dataclass(frozen=True)
class Rules:
    """Stable Diffusion's own conventions, and the interface of all others."""

    def config(self, config: ModelConfig) -> ModelConfig:
        """The model, computed by these rules.

        Args:
            config: the model as it was trained.
        """
        return config

    def timesteps(self, num_steps: int) -> list[int] | None:
        """The timesteps of a whole run that names no schedule, falling; its last step ends at
        sigma 0.

        Args:
            num_steps: how many are asked for.

        Returns:
            None where the schedule of the model's config says them.

        Raises:
            ValueError: there are no such steps.
        """
        return None

    def first_noise(
        self, seed: int, numbers: Sequence[int], shape: Sequence[int]
    ) -> NDArray[np.float32]:
        """The noise that the images of a run start from.

        Args:
            seed: from 0 to 2**64 - 1.
            numbers: of the images. The noise of one does not depend on the others.
            shape: of the latent of one image.

        Returns:
            `(len(numbers), *shape)`, unit normal.

        Raises:
            ValueError: a seed or number out of range.
        """
        return random.batch_normal(seed, numbers, 0, shape)

    def to_uint8(self, images: Any) -> NDArray[np.uint8]:
        """Pixels from decoded images.

        Args:
            images: floating, any shape; -1 is black and 1 white; what is beyond is clipped.

        Raises:
            ValueError: a number is not finite.
        """
        # Checkpoints are opened with these rules too, and need no Pillow for that.
        from keras_sd.image import to_uint8

        return to_uint8(images)


OWN = Rules()
"""Stable Diffusion's."""
