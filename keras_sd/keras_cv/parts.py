"""What the four networks have in common: where their numbers and weights come from, and files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from keras_sd.config import SD_1, ModelConfig
from keras_sd.keras_cv import files, names, versions
from keras_sd.keras_cv.functional import Functional
from keras_sd.networks.initializers import weights_follow
from keras_sd.precision import policy_scope
from keras_sd.weights.checkpoint import Checkpoint, Part, open_part
from keras_sd.weights.keras_cv_h5 import CLASSES
from keras_sd.weights.load import arrays_of, load_parts
from keras_sd.weights.names import Table, weights_h5
from keras_sd.weights.parts import OF_TRAINING
from keras_sd.weights.presets import open_preset
from keras_sd.weights.readers import TensorFile, WeightsError, read_file
from keras_sd.weights.readers.hdf5 import keras2_order

PRESET, PRESET_V2 = "sd-1.4", "sd-2.1-base"
"""What KerasCV's weights are."""

_TABLES: dict[str, Callable[[Any], Table]] = {
    "text_encoder": names.text_encoder,
    "unet": names.unet,
    "encoder": names.encoder,
    "decoder": names.decoder,
}

_log = logging.getLogger(__name__)


class PartSource:
    """A model that parts are of: its numbers, and its checkpoint, opened when it is first needed.

    Args:
        default: preset where nothing is chosen.
        config: its numbers, so that no file is needed to know them.
        preset: as in `keras_sd.StableDiffusion.from_preset`.
        weights: path of a checkpoint on this machine, of any layout.
        compat: a version of KerasCV, see `keras_sd.compat.get`.

    Raises:
        ValueError: both `preset` and `weights`, or an unknown `compat`.
        OSError: what was chosen is not there, or cannot be fetched.
    """

    def __init__(
        self,
        default: str,
        config: ModelConfig,
        preset: str | Path | None = None,
        weights: str | Path | None = None,
        compat: str | None = None,
    ):
        if preset is not None and weights is not None:
            raise ValueError(
                "Give preset, a name or path, or weights, the path of a file; not both"
            )
        self.compat = versions.get(compat)
        self._compat = compat
        # A path is never taken for a name.
        self.place = Path(weights) if weights is not None else default if preset is None else preset
        self.is_default = preset is None and weights is None
        if not self.is_default:
            config = self.checkpoint.config
        elif self.compat is not None:
            config = self.compat.config(config)
        self.config = config

    @classmethod
    def of(
        cls,
        default: str,
        config: ModelConfig,
        preset: str | Path | PartSource | None,
        weights: str | Path | None,
        compat: str | None,
    ) -> PartSource:
        """The source of a part, which may be one that others are of already."""
        if isinstance(preset, PartSource):
            return preset
        return cls(default, config, preset, weights, compat)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """Opened and checked, nothing loaded."""
        checkpoint = open_preset(self.place, compat=self._compat)
        if checkpoint.unsupported:
            raise WeightsError(checkpoint.unsupported)
        checkpoint.check()
        for note in checkpoint.notes:
            _log.warning("%s", note)
        return checkpoint

    def load(self, model: KerasCVPart) -> None:
        """Fills a network with its weights."""
        whole = self.checkpoint.parts[model.of]
        load_parts({model.of: model}, {model.of: model.share(whole)}, source=whole.source)


@contextmanager
def building(
    model: KerasCVPart, dtype: str | None, source: PartSource, download_weights: bool
) -> Iterator[None]:
    """A network is built inside, and loaded afterwards.

    Args:
        model: the network.
        dtype: the name of its dtype policy; None is the global one.
        source: of its weights.
        download_weights: whether these are loaded, so that none have to be drawn. They have to be
            there before anything is built.
    """
    if download_weights:
        _ = source.checkpoint
    with policy_scope(dtype), weights_follow() if download_weights else nullcontext():
        yield
    if download_weights:
        source.load(model)


class KerasCVPart(Functional):
    """A network with the files of KerasCV's class of that name."""

    of: ClassVar[str]
    """The part of a model that it is: `"text_encoder"`, `"unet"` or `"autoencoder"`."""
    kind: ClassVar[str]
    """The same, but `"encoder"` or `"decoder"` for one half of the autoencoder."""
    sizes: ClassVar[tuple[str, ...]] = ()
    """Arguments of the class that its config does not have; attributes of the same names."""
    config: Any
    name: str

    def get_config(self) -> dict[str, Any]:
        """See `keras_sd.networks.network.Network.get_config`."""
        config: dict[str, Any] = super().get_config()  # type: ignore[misc]  # beside a network
        return {**config, **{name: getattr(self, name) for name in self.sizes}}

    @classmethod
    def _made_of(cls, config: Any, name: str, dtype: str, **sizes: int) -> Any:
        source = PartSource(name, cls._model_with(config, name))
        return cls(**sizes, name=name, download_weights=False, preset=source, dtype=dtype)  # type: ignore[call-arg]

    def share(self, whole: Part) -> Part:
        """What is this network's of a part of a model."""
        if self.kind == self.of:
            return whole
        table = [entry for entry in whole.table if entry.path.startswith(f"{self.kind}/")]
        known = {entry.name for entry in table}
        tensors = {name: tensor for name, tensor in whole.tensors.items() if name in known}
        return Part(tensors, table, whole.source, whole.files)

    def load_weights(self, filepath: str | Path, **options: Any) -> None:
        """Loads a file of KerasCV's (`.h5`, `.weights.h5`), or of any layout in
        docs/checkpoints.md that holds this network, alone or with others: all of it, or nothing.

        Args:
            filepath: of the file, or of the folder of a model.
            **options: of Keras, and none of them: what does not fit is an error here.

        Raises:
            WeightsError: it is damaged, holds something else, or does not fit.
            FileNotFoundError: there is no such file.
        """
        if used := sorted(name for name, value in options.items() if value):
            raise ValueError(
                f"load_weights loads all weights or none, so it has no {', '.join(used)}"
            )
        path = Path(filepath)
        part = self._read(path)
        load_parts({self.of: self}, {self.of: part}, source=str(path))

    def _read(self, path: Path) -> Part:
        file = None if path.is_dir() or not path.exists() else read_file(path)
        if file is None or file.format != "hdf5" or weights_h5.part_of(file.tensors):
            return self.share(
                open_part(self.of, path, self._model_with(self.config, self.name)).part
            )
        self._refuse_another(file)
        table = _TABLES[self.kind](self.config)
        if not any(name.startswith("layers/") for name in file.tensors):
            table = names.in_order(table, keras2_order(path))
        tensors = {name: t for name, t in file.tensors.items() if not OF_TRAINING.match(name)}
        return Part(tensors, table, str(path), (path,))

    def _refuse_another(self, file: TensorFile) -> None:
        """KerasCV's classes are known by their shapes, if they are of its sizes."""
        try:
            kind = files.recognise(file).part
        except WeightsError:
            return
        if kind != self.kind:
            raise WeightsError(
                f"{file.path} is KerasCV's {CLASSES[kind]}, not the {CLASSES[self.kind]}"
            )

    @classmethod
    def _model_with(cls, config: Any, name: str) -> ModelConfig:
        """Some model that a network of this config is a part of."""
        text_encoder, unet, autoencoder = SD_1.text_encoder, SD_1.unet, SD_1.autoencoder
        if cls.of == "text_encoder":
            text_encoder, unet = config, replace(unet, context_width=config.width)
        elif cls.of == "unet":
            unet = config
            width, channels = unet.context_width, unet.out_channels
            text_encoder = replace(text_encoder, width=width, heads=1)
            autoencoder = replace(autoencoder, latent_channels=channels)
        else:
            autoencoder = replace(config, encoder=True)
            channels = autoencoder.latent_channels
            unet = replace(unet, in_channels=channels, out_channels=channels)
        return ModelConfig(name, text_encoder, unet, autoencoder)

    def save_weights(
        self,
        filepath: str | Path,
        overwrite: bool = True,
        save_format: str | None = None,
        options: None = None,
        **others: Any,
    ) -> None:
        """Writes the file that KerasCV's class of this name writes and reads.

        Args:
            filepath: `x.weights.h5` as KerasCV writes it with Keras 3, any other `x.h5` as with
                Keras 2.
            overwrite: whether a file that is there is replaced.
            save_format: `"h5"`, which it is anyway.
            options: of TensorFlow, and none.

        Raises:
            ValueError: another ending, format or option; or a network that KerasCV has not.
            FileExistsError: it is there, and `overwrite` is False.
        """
        path = Path(filepath)
        if path.suffix != ".h5" or save_format not in (None, "h5") or options or others:
            raise ValueError(
                f"KerasCV's files end in .h5 and have no options; not {path.name}, save_format="
                f"{save_format!r}, options={options!r}, {others}"
            )
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} is there already, and overwrite is False")
        arrays = {
            name.removeprefix("model/"): _numbers(array)
            for name, array in arrays_of({"model": self}).items()
        }
        files.write_keras_cv(path, _TABLES[self.kind](self.config), arrays)


def _numbers(array: np.ndarray) -> np.ndarray:
    """HDF5 has no bfloat16."""
    return array if array.dtype.kind == "f" else array.astype(np.float32)
