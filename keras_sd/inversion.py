"""From a picture's latent back up to the noise that a deterministic run makes it of."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from keras_sd.noise import Levels, denoised, epsilon, transfer
from keras_sd.sampler import Array, Denoise

__all__ = ["check_invertible", "invert"]


def invert(denoise: Denoise, x: Array, levels: Levels, num_refinements: int = 0) -> Array:
    """DDIM inversion (Song et al. 2021, section 4.3; Dhariwal & Nichol 2021, appendix F): the steps
    of DDIM with eta = 0, from the last level to the first.

    A step down asks the model at its noisier end, which on the way up is not known yet. So the
    latent of the clean end is shown to it with the noisier end's timestep, as if nothing had
    changed between: exact for many steps, near for few. Each refinement asks again at the noisier
    end, with the latent found before, until the step down gives back where it came from (Pan et al.
    2023, "AIDI").

    Args:
        denoise: ``denoise(x, level) -> x0``. Guidance above 1 is not to be had back well.
        x: The latent at ``levels[-1]``.
        levels: Noise falling, as for the run that shall come back to `x`; the last with sigma > 0.
        num_refinements: How often a step is taken again; each costs an evaluation.

    Returns:
        The latent at ``levels[0]``.

    Raises:
        ValueError: See `check_invertible`.
    """
    check_invertible(levels, num_refinements)
    for clean, noisy in pairwise(reversed(levels)):
        x0 = denoise(x, replace(clean, t=noisy.t))
        for _ in range(num_refinements):
            # Of the two, the noise changes less along a step than the clean latent does.
            ahead = transfer(x, x0, clean, noisy)
            x0 = denoised(x, epsilon(ahead, denoise(ahead, noisy), noisy), clean)
        x = transfer(x, x0, clean, noisy)
    return x


def check_invertible(levels: Levels, num_refinements: int) -> None:
    """What `invert` can work with.

    Raises:
        ValueError: The last level is clean, where no noise can be seen, the first is pure noise, or
            `num_refinements` is no number from 0 up.
    """
    if not levels[-1].sigma > 0:
        raise ValueError(
            "An inversion starts at a level with noise, however little, but the last is "
            f"{levels[-1]}: end at the model's first training level."
        )
    if not levels[0].alpha > 0:
        raise ValueError(
            f"Of {levels[0]}, pure noise, no way leads down to one picture: start the levels below."
        )
    if type(num_refinements) is not int or num_refinements < 0:
        raise ValueError(f"num_refinements is a number from 0 up, not {num_refinements!r}.")
