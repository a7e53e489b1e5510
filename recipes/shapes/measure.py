"""How much a model loses on pictures that it was not trained on: the same noise for every model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from keras import ops

from keras_sd.backend import to_numpy
from keras_sd.model import Model
from keras_sd.training.batches import Batches, Samples, tokens_of
from keras_sd.training.buckets import Buckets
from keras_sd.training.examples import read_examples
from keras_sd.training.latents import cache_latents
from keras_sd.training.objective import Objective
from keras_sd.training.trainer import DenoiserTrainer


def held_loss(
    model: Model,
    folder: Path,
    latents: Path,
    batches: int = 4,
    caption: str | None = None,
    vectors: Mapping[str, np.ndarray] | None = None,
) -> float:
    """The mean loss of a model on a folder of pictures.

    Args:
        model: with what it has learned in its weights.
        folder: of the pictures.
        latents: where they are kept encoded.
        batches: of 16 samples each.
        caption: in place of their own.
        vectors: of the embedding that the model's tokenizers have a name for, by text encoder.
    """
    examples = read_examples(folder)
    cached = cache_latents(model, examples, Buckets(model.height, square=True), latents)
    tokens = tokens_of(examples, model.tokenizers)
    if caption is not None:
        tokens = {
            part: np.repeat(tokenizer([caption]), len(examples), axis=0)
            for part, tokenizer in model.tokenizers.items()
        }
    empty = {part: tokenizer([""])[0] for part, tokenizer in model.tokenizers.items()}
    given = Batches(
        [Samples(cached, tokens)], model.config, empty, batch=16, seed=2**20, last=batches
    )
    networks = {part: model.parts[part] for part in (*model.config.text_encoders, "unet")}
    trainer = DenoiserTrainer(networks, Objective.of(model.config.noise), vectors)
    return float(
        np.mean(
            [
                to_numpy(trainer({name: ops.convert_to_tensor(x) for name, x in batch.items()}))
                for batch in map(given.batch, range(batches))
            ]
        )
    )
