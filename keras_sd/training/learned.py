"""What is learned, and how it is written: the UNet, a LoRA, an embedding, or a ControlNet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_sd.adapters.controlnet import ControlNet
from keras_sd.adapters.writing import save_lora
from keras_sd.backend import to_numpy
from keras_sd.checks import SettingError
from keras_sd.embeddings.files import Embedding
from keras_sd.embeddings.writing import save_embedding
from keras_sd.model import Model
from keras_sd.tokenizer import Tokenizer
from keras_sd.training.config import TrainConfig
from keras_sd.training.control import new_control
from keras_sd.training.lora import LoRA, add_lora, chosen, unreached_of
from keras_sd.weights.load import variables_of

__all__ = ["Learned", "learned_of"]


@dataclass(frozen=True)
class Learned:
    """What a training changes.

    Attributes:
        variables: of the networks, which are trained; of an embedding there are none.
        tokenizers: that read the captions.
        write: writes it to a folder, given what follows its names: "" or "-ema". Gives the paths.
        drawing: the model that sample sheets are drawn by.
        vectors: first values of an embedding, or None.
        learn_from: is given the trainer, once it is there.
        control: the ControlNet that is trained, or None.
    """

    variables: list[keras.Variable]
    tokenizers: dict[str, Tokenizer]
    write: Callable[[Path, str], list[Path]]
    drawing: Callable[[], Model]
    vectors: np.ndarray | None = None
    learn_from: Callable[[Any], None] = lambda trainer: None
    control: ControlNet | None = None


def learned_of(model: Model, config: TrainConfig) -> Learned:
    """What a config asks for.

    Args:
        model: that is trained; of the method `lora`, its networks get the arrays.
        config: of the training.

    Raises:
        ValueError: the model cannot learn it.
    """
    make = {
        "full": _full,
        "lora": _lora,
        "textual_inversion": _embedding,
        "controlnet": _controlnet,
    }
    return make[config.train.method](model, config)


def _parts(model: Model, config: TrainConfig) -> list[str]:
    return ["unet", *(model.config.text_encoders if config.train.text_encoder else ())]


def _full(model: Model, config: TrainConfig) -> Learned:
    def write(folder: Path, end: str) -> list[Path]:
        path = folder / f"model{end}"
        model.save_preset(path)
        return [path]

    variables = [
        variable
        for part in _parts(model, config)
        for path, variable in variables_of(model.parts[part]).items()
        if path.partition("/")[0] not in unreached_of(model.config, part)
    ]
    return Learned(variables, dict(model.tokenizers), write, lambda: model)


def _lora(model: Model, config: TrainConfig) -> Learned:
    parts, settings = _parts(model, config), config.lora
    lora: LoRA = add_lora(
        {part: model.parts[part] for part in parts},
        chosen(model.config, settings.targets, parts),
        rank=settings.rank,
        alpha=settings.alpha,
        seed=config.train.seed,
    )

    def write(folder: Path, end: str) -> list[Path]:
        changes = lora.changes()
        paths = [
            folder / f"lora{end}.safetensors",
            folder / f"pytorch_lora_weights{end}.safetensors",
        ]
        save_lora(paths[0], changes, model.config, layout="kohya")
        save_lora(paths[1], changes, model.config, layout="diffusers")
        return paths

    return Learned(lora.variables, dict(model.tokenizers), write, lambda: model)


def _controlnet(model: Model, config: TrainConfig) -> Learned:
    net = new_control(model, config.train.seed)

    def write(folder: Path, end: str) -> list[Path]:
        path = folder / f"controlnet{end}"
        net.save(path)
        return [path]

    variables = list(net.network.trainable_variables)
    return Learned(variables, dict(model.tokenizers), write, lambda: model, control=net)


def _embedding(model: Model, config: TrainConfig) -> Learned:
    settings = config.textual_inversion
    if len(model.config.text_encoders) > 1:
        raise SettingError(
            "train.method",
            f"textual_inversion learns for one text encoder, and {model.config.name} has two",
        )
    (part,) = model.config.text_encoders
    first = _first_vectors(model, part, config)
    embedding = Embedding(settings.token, first, settings.token, "diffusers", Path(), "")
    named = model.with_embeddings({settings.token: embedding})
    trainer: list[Any] = []

    def vectors() -> np.ndarray:
        return np.asarray(to_numpy(trainer[0].vectors), np.float32)

    def write(folder: Path, end: str) -> list[Path]:
        word = "".join(sign for sign in settings.token if sign.isalnum() or sign in "-_") or "word"
        paths = [
            folder / f"learned_embeds{end}.safetensors",
            folder / f"{word}{end}.safetensors",
        ]
        save_embedding(paths[0], vectors(), settings.token, layout="diffusers")
        save_embedding(paths[1], vectors(), settings.token, layout="A1111")
        return paths

    def drawing() -> Model:
        return model.with_embeddings({settings.token: replace(embedding, vectors=vectors())})

    return Learned([], dict(named.tokenizers), write, drawing, first, trainer.append)


def _first_vectors(model: Model, part: str, config: TrainConfig) -> np.ndarray:
    """Those of the words that were asked for, over and over; or zeros."""
    settings = config.textual_inversion
    encoder = model.parts[part]
    if settings.initial is None:
        return np.zeros((settings.vectors, encoder.config.width), np.float32)
    ids = model.tokenizers[part].encode(settings.initial)[1:-1]
    if not ids:
        raise SettingError("textual_inversion.initial", "has no word")
    table = np.asarray(to_numpy(encoder.embedding.tokens.embeddings), np.float32)
    return table[np.resize(ids, settings.vectors)]
