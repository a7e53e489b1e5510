"""The weights that all systems run on."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_sd.config import SD_1, SD_2_BASE, AutoencoderConfig, ModelConfig
from keras_sd.keras_cv import names as keras_cv
from keras_sd.random import batch_normal
from keras_sd.tokenizer import CLIP_VOCAB_SIZE, UNMERGED, Tokenizer
from keras_sd.weights.checkpoint import Checkpoint
from keras_sd.weights.diffusers_folder import INDEX, write_folder
from keras_sd.weights.names import own, under
from keras_sd.weights.presets import open_preset
from keras_sd.weights.readers import release
from keras_sd.weights.vocabulary import tokenizer_of

RANDOM = {
    "random-sd-1.5": dataclasses.replace(SD_1, name="random-sd-1.5"),
    "random-sd-2.1": dataclasses.replace(SD_2_BASE, name="random-sd-2.1"),
}
"""Models of the real size that are made on the spot: Stable Diffusion 1.5 and 2.1 base."""

_BYTES = 2  # of a float16 number

# Layers whose output is added to what came before. It is kept small, so that no depth makes the
# activations of a float16 run overflow.
_ADDED = ("/conv2/", "/out/")


class RandomArrays(Mapping[str, np.ndarray]):
    """Weights that keep the activations of a network finite in float16, made when they are asked
    for. A weight is a function of its name: the same on every machine.

    Args:
        config: the model's numbers.
    """

    def __init__(self, config: ModelConfig):
        self._shapes = shapes_of(config)

    def __len__(self) -> int:
        return len(self._shapes)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __getitem__(self, path: str) -> np.ndarray:
        shape = self._shapes[path]
        generator = np.random.default_rng(zlib.crc32(path.encode()))
        drawn = generator.standard_normal(shape, np.float32)
        name = path.rsplit("/", 1)[1]
        if name == "gamma":
            drawn = 1 + 0.1 * drawn
        elif name == "kernel":
            added = any(word in path for word in _ADDED)
            drawn *= (0.3 if added else 1.0) / math.prod(shape[:-1]) ** 0.5
        else:
            drawn *= 0.02
        return drawn.astype(np.float16)


def shapes_of(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Of every variable of a model, by `part/path`."""
    return {entry.name: entry.shape for table in own.tables(config).values() for entry in table}


def random_merges() -> list[str]:
    """As many merges as CLIP has, which mean nothing: CLIP's own vocabulary need not be here."""
    # A letter of GPT-2's stands for the space, which no word of CLIP's has inside.
    letters = [token for token in Tokenizer([]).vocabulary[:256] if token != "\u0120"]
    pairs = (f"{one} {other}" for one, other in itertools.product(letters, letters))
    return list(itertools.islice(pairs, CLIP_VOCAB_SIZE - UNMERGED))


@dataclass(frozen=True)
class Model:
    """A model that every system can be given.

    Attributes:
        path: of the checkpoint, which diffusers reads too if it runs.
        config: the model's numbers.
        checkpoint: the weights.
        tokenizer: of the prompts.
    """

    path: Path
    config: ModelConfig
    checkpoint: Checkpoint
    tokenizer: Tokenizer


def make(name: str, folder: Path, *, for_diffusers: bool) -> Model:
    """Finds or makes the model.

    Args:
        name: one of `RANDOM`, or anything that `from_preset` takes.
        folder: for what has to be written.
        for_diffusers: whether diffusers will read it, so that it has to be a folder of diffusers'.

    Raises:
        OSError: there is not enough room in the folder.
        FileNotFoundError: there is no such model.
        WeightsError: it is damaged, or diffusers has no such model.
    """
    if name in RANDOM:
        config = RANDOM[name]
        size = _BYTES * sum(math.prod(shape) for shape in shapes_of(config).values())
        _check_room(folder, size)
        write_folder(folder, config, RandomArrays(config), random_merges(), "float16")
        return _opened(folder)
    path = Path(name) if os.path.exists(name) else name
    model = _opened(path)
    if not for_diffusers or (model.path / INDEX).is_file():
        return model
    arrays = model.checkpoint.arrays()
    _check_room(folder, sum(array.nbytes for array in arrays.values()))
    # Under the compat setting of its own a model may be one that diffusers does not have.
    write_folder(folder, model.config, arrays, model.tokenizer.merges)
    return _opened(folder)


def _opened(path: str | Path) -> Model:
    checkpoint = open_preset(path)
    return Model(checkpoint.path, checkpoint.config, checkpoint, tokenizer_of(checkpoint))


def write_for_keras_cv(model: Model, folder: Path) -> dict[str, str]:
    """Writes the weights in the order of KerasCV's classes, which read no file but their own.

    Args:
        model: one that KerasCV has, see `refusal_of_keras_cv`.
        folder: for the files.

    Returns:
        The paths of the files by the name of the network: `text_encoder`, `unet`, `decoder`.
    """
    arrays, config = model.checkpoint.arrays(), model.config
    networks = {
        "text_encoder": under("", "text_encoder/", keras_cv.text_encoder(config.text_encoder)),
        "unet": under("", "unet/", keras_cv.unet(config.unet)),
        "decoder": under("", "autoencoder/", keras_cv.decoder(config.autoencoder)),
    }
    _check_room(folder, sum(array.nbytes for array in arrays.values()))
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for network, table in networks.items():
        path = folder / f"{network}.npz"
        numbered = {
            f"{number:04}": entry.theirs(arrays[entry.path]) for number, entry in enumerate(table)
        }
        np.savez(path, **numbered)
        for entry in table:
            release(arrays[entry.path])
        paths[network] = str(path)
    return paths


def refusal_of_keras_cv(config: ModelConfig, height: int, width: int) -> str | None:
    """Why KerasCV cannot draw this, or None where it can.

    Args:
        config: the model's numbers.
        height: of the picture, in pixels.
        width: likewise.
    """
    known = [
        (SD_1.text_encoder, SD_1.unet),
        (SD_2_BASE.text_encoder, SD_2_BASE.unet),
    ]
    if (config.text_encoder, config.unet) not in known or config.autoencoder != AutoencoderConfig():
        return "its classes are Stable Diffusion 1.x and 2.x of full size only"
    if config.noise.prediction != "epsilon":
        return "it knows the prediction of epsilon only"
    if height % 128 or width % 128:
        return "its sizes are multiples of 128"
    return None


def noise_of(config: ModelConfig, seed: int, batch: int, height: int, width: int) -> np.ndarray:
    """The noise that all pictures start from, `(batch, height, width, channels)` of the latent."""
    factor = config.autoencoder.factor
    shape = (height // factor, width // factor, config.autoencoder.latent_channels)
    return batch_normal(seed, range(batch), 0, shape)


def _check_room(folder: Path, size: int) -> None:
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if free < size:
        raise OSError(
            f"{folder}: the weights take {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free; "
            "take another folder for the output"
        )
