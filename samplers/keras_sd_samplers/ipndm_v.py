"""Improved PNDM with the weights of the steps that are taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from keras_sd_samplers.lms import LMS


@dataclass(frozen=True)
class IPNDMV(LMS):
    """Adams-Bashforth on the noise estimate with the exact weights of unequal steps in
    ``sigma / alpha``, from order 1 up as estimates come in (Zhang & Chen 2022, "iPNDM", with
    variable steps as in Zhou et al. 2024, AMED-Solver). One evaluation a step.

    That is the rule of `lms`, but for a step to sigma 0, which takes the model's clean latent. The
    first steps are of lower order, which holds the order of a whole run at 2.

    Args:
        solver_order: The number of estimates, 1 to 4.

    Raises:
        ValueError: `solver_order` is something else.
    """

    clean_end: ClassVar[bool] = True
