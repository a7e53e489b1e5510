"""keras-sd's own guidance, found through the entry points of the group ``keras_sd.guidance``; see
`keras_sd.guidance` for the contract.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from keras_sd.guidance import Seen

__all__ = ["APG", "CFG", "PAG", "CFGPlusPlus", "CFGZero"]

_LITTLE = 1e-8  # beside a squared length: of what is 0 the direction does not matter


@dataclass(frozen=True)
class CFG:
    """Classifier-free guidance (Ho & Salimans 2022, equation 6). A run computes it where the model
    computes its halves, compiled with it, and with the run's ``guidance_rescale``.
    """

    def __call__(self, seen: Seen, scale: float, memory: dict[str, Any]) -> Any:
        return seen.unconditional + scale * (seen.conditional - seen.unconditional)


@dataclass(frozen=True)
class CFGPlusPlus(CFG):
    """CFG++ (Chung et al. 2024, "CFG++: Manifold-constrained Classifier Free Guidance for Diffusion
    Models", algorithm 1): a clean latent between both halves, and the noise of the unconditional
    one. The noise is the sampler's part, so it needs one that declares ``unconditional_noise``.

    The scale is the paper's lambda, from 0 to 1; 0.6 is about as strong as 7.5 of `CFG`. Other
    programs go up to 2.
    """

    unconditional_noise: ClassVar[bool] = True
    default_scale: ClassVar[float] = 0.6
    scales: ClassVar[tuple[float, float]] = (0.0, 2.0)


@dataclass(frozen=True)
class APG:
    """Adaptive projected guidance (Sadat et al. 2024, "Eliminating Oversaturation and Artifacts of
    High Guidance Scales in Diffusion Models", algorithm 1): of the difference that a prompt makes,
    less of what differences before it made, no more than `norm`, and little of what lies along the
    conditional latent itself, which is where saturation comes from.

    Args:
        eta: Share of the part along the conditional latent, from 0 to 1; 1 keeps it.
        norm: The longest difference of a picture's latent (the paper's r: 15 for SDXL, 7.5 for
            Stable Diffusion 2.1); 0 is any.
        momentum: Weight of the differences before (the paper's beta), from -1 to 1, below 0 against
            them; 0 remembers nothing.

    Raises:
        ValueError: One of them is out of its range.
    """

    eta: float = 0.0
    norm: float = 15.0
    momentum: float = -0.5

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], got {self.eta!r}.")
        if not 0 <= self.norm < math.inf:
            raise ValueError(f"norm must be a finite number from 0 up, got {self.norm!r}.")
        if not -1 < self.momentum < 1:
            raise ValueError(f"momentum must lie between -1 and 1, got {self.momentum!r}.")

    def __call__(self, seen: Seen, scale: float, memory: dict[str, Any]) -> Any:
        clean, dot = seen.conditional, seen.dot
        change = clean - seen.unconditional
        if self.momentum:
            if "change" in memory:
                change = change + self.momentum * memory["change"]
            memory["change"] = change
        if self.norm:
            length = dot(change, change) ** 0.5
            change = change * (self.norm / _larger(length, self.norm))
        along = dot(change, clean) / (dot(clean, clean) + _LITTLE) * clean
        return clean + (scale - 1) * (change - (1 - self.eta) * along)


@dataclass(frozen=True)
class CFGZero:
    """CFG-zero* (Fan et al. 2025, "CFG-Zero*: Improved Classifier-Free Guidance for Flow Matching
    Models", equation 7): the unconditional prediction is first scaled to be as near to the
    conditional one as it can. Without the paper's first steps of no velocity at all, which have a
    meaning in flow matching alone.

    Args:
        of: The prediction that is scaled: ``"noise"``, ``"v"`` (Salimans & Ho 2022), or ``"flow"``,
            the velocity of flow matching. The model's own is meant.

    Raises:
        ValueError: `of` is something else.
    """

    of: str = "noise"

    def __post_init__(self) -> None:
        if self.of not in ("noise", "v", "flow"):
            raise ValueError(f"of must be 'noise', 'v' or 'flow', got {self.of!r}.")

    def __call__(self, seen: Seen, scale: float, memory: dict[str, Any]) -> Any:
        alpha, sigma = seen.level.alpha, seen.level.sigma
        # Each prediction is a sum of the latent and the clean latent, with these weights.
        noisy, clean = {
            "noise": (1 / sigma, -alpha / sigma),
            "v": (alpha / sigma, -alpha * alpha / sigma - sigma),
            "flow": (1 / sigma, -alpha / sigma - 1),
        }[self.of]
        guided = seen.unconditional + scale * (seen.conditional - seen.unconditional)
        if not clean:  # in pure noise both say the same of the noise
            return guided
        told, untold = (
            noisy * seen.x + clean * each for each in (seen.conditional, seen.unconditional)
        )
        best = seen.dot(told, untold) / (seen.dot(untold, untold) + _LITTLE)
        return guided + (1 - scale) * (best - 1) / clean * untold


@dataclass(frozen=True)
class PAG:
    """Perturbed-attention guidance (Ahn et al. 2024, "Self-Rectifying Diffusion Sampling with
    Perturbed-Attention Guidance", equation 16), beside classifier-free guidance: away from what a
    UNet says whose self-attention in the middle block is the identity. It costs half a step more.

    Args:
        strength: How far away; 3 in the paper.

    Raises:
        ValueError: `strength` is negative or not finite.
    """

    needs: ClassVar[tuple[str, ...]] = ("perturbed",)

    strength: float = 3.0

    def __post_init__(self) -> None:
        if not 0 <= self.strength < math.inf:
            raise ValueError(f"strength must be a finite number from 0 up, got {self.strength!r}.")

    def __call__(self, seen: Seen, scale: float, memory: dict[str, Any]) -> Any:
        guided = seen.unconditional + scale * (seen.conditional - seen.unconditional)
        return guided + self.strength * (seen.conditional - seen.perturbed)


def _larger(one: Any, other: float) -> Any:
    return (one + other + abs(one - other)) / 2
