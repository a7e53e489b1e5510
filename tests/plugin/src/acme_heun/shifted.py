"""Levels for flow matching, shifted by the size of the picture."""

import math

from keras_sd.schedules import from_ratios


def shifted(path, num_steps, *, low=0.5, high=1.15):
    """Equal steps in sigma, shifted by the number of patches of 16 pixels, from 256 to 4096 (Esser
    et al. 2024, section 5.3.2).
    """
    if path.size is None:
        raise ValueError("acme_shifted needs the size of the pictures.")
    height, width = path.size
    patches = height * width / 16**2
    shift = math.exp(low + (high - low) * (patches - 256) / (4096 - 256))
    top = path.noisiest.ratio / shift  # what the shift takes to the noisiest level
    top = 1.0 if math.isinf(top) else top / (1 + top)
    sigmas = [top * (1 - i / num_steps) for i in range(num_steps)]
    return from_ratios(path, [shift * s / (1 - s) if s < 1 else math.inf for s in sigmas])
