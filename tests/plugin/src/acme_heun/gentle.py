"""Guidance that is gentle where the prompt makes little difference."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Gentle:
    """Classifier-free guidance, less of it the shorter the difference of a picture's latents is.

    Args:
        half: The length at which it counts half.

    Raises:
        ValueError: It is not above 0.
    """

    half: float = 1.0

    def __post_init__(self):
        if not 0 < self.half < math.inf:
            raise ValueError(f"half must be a finite number above 0, got {self.half!r}.")

    def __call__(self, seen, scale, memory):
        change = seen.conditional - seen.unconditional
        length = seen.dot(change, change) ** 0.5
        return seen.conditional + (scale - 1) * length / (length + self.half) * change
