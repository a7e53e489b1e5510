"""The sampler lab: what a sampler makes of its evaluations of the model, measured.

Two places to measure in. `mixture_errors` runs samplers on one-dimensional Gaussian mixtures, where
the ideal denoiser and the solution are known exactly: no weights, no Keras, seconds.
`emoji_fidelity` runs them on the embedded model: how far their pictures are from the converged
ones, and whether they show what was asked for. Both give rows (`Row`) for `write_csv`, `plot` and
`plot_budget`; both run samplers with the project's own driver, by name or as instances::

    from keras_sd import lab

    rows = lab.mixture_errors([MySampler(), "euler"], ["karras"], steps=[10, 20])
    lab.plot(rows, "errors.png")

`keras-sd lab` does all of it with every sampler that is installed.
"""

from keras_sd.lab.emoji import emoji_fidelity
from keras_sd.lab.errors import mixture_errors, sampling_floor
from keras_sd.lab.mixtures import Mixtures
from keras_sd.lab.plots import plot, plot_budget
from keras_sd.lab.rows import Row, at_budget, best, write_csv

__all__ = [
    "Mixtures",
    "Row",
    "at_budget",
    "best",
    "emoji_fidelity",
    "mixture_errors",
    "plot",
    "plot_budget",
    "sampling_floor",
    "write_csv",
]
