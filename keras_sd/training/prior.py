"""The pictures of a prior: those that a folder has, and those that the model draws to it before it
is changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from keras_sd.checks import SettingError
from keras_sd.forms import request_of
from keras_sd.image import save_png
from keras_sd.model import Model
from keras_sd.run import run
from keras_sd.training.config import TrainConfig
from keras_sd.training.examples import Example, is_listed, pictures_in, read_examples

__all__ = ["draw_prior", "read_prior"]


def read_prior(config: TrainConfig) -> list[Example]:
    """The pictures of a prior that are there; none where there is no prior.

    Args:
        config: of the training.

    Raises:
        ValueError: one of them cannot be trained on (`ExamplesError`); or some lack, and the folder
            has a list of its pictures, which those that are drawn would not be in.
        FileNotFoundError: what is there is no folder.
        ImportError: the folder is one of `datasets`, which is not installed.
    """
    prior, folder = config.prior, config.prior_folder
    if prior.caption is None or not folder.exists():
        return []
    listed = is_listed(folder)
    if folder.is_dir() and not listed and not any(pictures_in(folder, config.apart)):
        return []
    found = read_examples(folder, prior.caption, without=config.apart)
    if listed and len(found) < prior.count:
        raise SettingError(
            "prior.count",
            f"is at most {len(found)}, not {prior.count}: so many pictures are in the list that "
            f"{folder} has; without a list, those that lack would be drawn to it",
        )
    return [replace(each, caption=prior.caption) for each in found[: prior.count]]


def draw_prior(
    model: Model, config: TrainConfig, side: int, report: Callable[[str], None]
) -> list[Example]:
    """The pictures of a prior, of which those that lack are drawn.

    Args:
        model: that draws.
        config: of the training; it has a prior.
        side: pixels of what is drawn.
        report: is called with a line when something is drawn.

    Raises:
        ValueError: see `read_prior`.
        OSError: a picture cannot be written; the message names it.
    """
    prior, folder = config.prior, config.prior_folder
    there = read_prior(config)
    lack = prior.count - len(there)
    if not lack:
        return there
    report(f"{lack} pictures of {prior.caption!r} are drawn to {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    paths = {number: folder / f"prior-{number:05}.png" for number in range(prior.count)}
    for number in [number for number, path in paths.items() if not path.exists()][:lack]:
        request = request_of(
            [prior.caption], seed=config.train.seed, first_image=number, height=side, width=side
        )
        *_, last = run(model, request)
        save_png(paths[number], last.image()[0], {})
    return read_prior(config)
