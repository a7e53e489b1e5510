"""What is learned, and how it is written: the UNet, a LoRA, an embedding, or a ControlNet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_sd.adapters.controlnet import ControlNet
from keras_sd.adapters.writing import Layout, save_lora
from keras_sd.backend import to_numpy
from keras_sd.checks import SettingError
from keras_sd.embeddings.files import Embedding
from keras_sd.embeddings.writing import save_embedding
from keras_sd.model import Model
from keras_sd.tokenizer import Tokenizer
from keras_sd.training.config import TrainConfig
from keras_sd.training.control import new_control
from keras_sd.training.examples import Example
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
        vectors: first values of an embedding, by text encoder, or None.
        learn_from: is given the trainer, once it is there.
        control: the ControlNet that is trained, or None.
    """

    variables: list[keras.Variable]
    tokenizers: dict[str, Tokenizer]
    write: Callable[[Path, str], list[Path]]
    drawing: Callable[[], Model]
    vectors: dict[str, np.ndarray] | None = None
    learn_from: Callable[[Any], None] = lambda trainer: None
    control: ControlNet | None = None


def learned_of(model: Model, config: TrainConfig, examples: Sequence[Example]) -> Learned:
    """What a config asks for.

    Args:
        model: that is trained; of the method `lora`, its networks get the arrays.
        config: of the training.
        examples: that it is trained on.

    Raises:
        ValueError: the model cannot learn it, or a word would begin as more tokens than it has
            vectors.
    """
    make = {
        "full": _full,
        "lora": _lora,
        "textual_inversion": _embedding,
        "controlnet": _controlnet,
    }
    if config.train.method in ("full", "lora"):  # which learn what a word means
        model = _taught(model, config, examples)
    return make[config.train.method](model, config)


def _taught(model: Model, config: TrainConfig, examples: Sequence[Example]) -> Model:
    """A model of the same networks that knows the words of the captions too, where there is a list
    of those that it knows. The one that was given, which draws the prior, does not know them yet.
    """
    if not model.words:
        return model
    captions = [config.prior.caption or "", *(each.caption for each in examples)]
    return model.sharing(words=model.words.union(*map(model.unknown_words, captions)))


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
        names: dict[Layout, str] = {
            "kohya": f"lora{end}.safetensors",
            "diffusers": f"pytorch_lora_weights{end}.safetensors",
            "PEFT": f"peft{end}",
        }
        return [
            path
            for layout, name in names.items()
            for path in save_lora(folder / name, changes, model.config, layout=layout)
        ]

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
    parts = list(model.config.text_encoders)
    first = {part: _first_vectors(model, part, config) for part in parts}
    layout = "XL" if len(parts) > 1 else "diffusers"

    def embedding(vectors: Mapping[str, np.ndarray]) -> Embedding:
        one, two = vectors[parts[0]], vectors[parts[1]] if len(parts) > 1 else None
        return Embedding(settings.token, one, settings.token, layout, Path(), "", vectors_2=two)

    named = model.with_embeddings({settings.token: embedding(first)})
    trainer: list[Any] = []

    def vectors() -> dict[str, np.ndarray]:
        found = trainer[0].vectors if trainer else first
        return {part: np.asarray(to_numpy(found[part]), np.float32) for part in parts}

    def write(folder: Path, end: str) -> list[Path]:
        word = "".join(sign for sign in settings.token if sign.isalnum() or sign in "-_") or "word"
        by_word, (one, *two) = folder / f"{word}{end}.safetensors", vectors().values()
        if two:
            save_embedding(by_word, one, settings.token, layout="XL", vectors_2=two[0])
            return [by_word]
        paths = [folder / f"learned_embeds{end}.safetensors", by_word]
        save_embedding(paths[0], one, settings.token, layout="diffusers")
        save_embedding(paths[1], one, settings.token, layout="A1111")
        return paths

    def drawing() -> Model:
        return model.with_embeddings({settings.token: embedding(vectors())})

    return Learned([], dict(named.tokenizers), write, drawing, first, trainer.append)


def _first_vectors(model: Model, part: str, config: TrainConfig) -> np.ndarray:
    """Those of the words that were asked for, over and over; or zeros.

    Raises:
        SettingError: the words have no token, or more than there are vectors.
    """
    settings = config.textual_inversion
    encoder = model.parts[part]
    if settings.initial is None:
        return np.zeros((settings.vectors, encoder.config.width), np.float32)
    ids = model.tokenizers[part].encode(settings.initial)[1:-1]
    if not ids:
        raise SettingError("textual_inversion.initial", "has no word")
    if len(ids) > settings.vectors:
        raise SettingError(
            "textual_inversion.initial",
            f"has at most as many tokens as there are vectors, {settings.vectors}, and "
            f"{settings.initial!r} has {len(ids)}: set textual_inversion.vectors = {len(ids)}, or "
            "take a shorter word",
        )
    table = np.asarray(to_numpy(encoder.embedding.tokens.embeddings), np.float32)
    return table[np.resize(ids, settings.vectors)]
