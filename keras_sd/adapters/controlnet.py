"""A ControlNet for a model: `ControlNet`, its network with what it was read from."""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import ml_dtypes
import numpy as np

from keras_sd.adapters.control_files import ControlFile, open_control
from keras_sd.adapters.control_writing import save_control
from keras_sd.backend import to_numpy
from keras_sd.config import ControlConfig, ModelConfig
from keras_sd.networks import ControlNetwork
from keras_sd.networks.initializers import weights_follow
from keras_sd.precision import policy_scope
from keras_sd.start import Attachment
from keras_sd.weights.files import Dtype
from keras_sd.weights.load import arrays_of, load_parts, variables_of
from keras_sd.weights.parts import Part, is_floating
from keras_sd.weights.readers import WeightsError, sha256

__all__ = ["ControlNet"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ControlNet:
    """A ControlNet (Zhang et al. 2023). A `keras_sd.Control` says how it is used.

    Attributes:
        network: with its weights, which the next picture is drawn with.
        name: of the file, for people; None where it comes from none.
        sha256: of the file, likewise.
        notes: what whoever uses it should know.
    """

    kind: ClassVar[str] = "ControlNet"

    network: ControlNetwork
    name: str | None = None
    sha256: str | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], *, model: Any) -> ControlNet:
        """Reads one: diffusers' or the original layout, of Stable Diffusion 1.x or 2.x.

        Args:
            path: of a file, or of a folder of diffusers.
            model: a pipeline, or a `keras_sd.model.Model`, of the family that it was made for. It
                computes in the dtypes of the model's UNet. A file of differences is added to the
                UNet's weights as they are now.

        Raises:
            WeightsError: the file is damaged, is no ControlNet, was made for another family, or
                does not fit; the message lists all that does not.
            FileNotFoundError: there is no such file.
        """
        model = model_of(model)
        file = open_control(path)
        config = _checked(file, model.config)
        part = file.part(config)
        if file.difference:
            part = _summed(part, model.parts["unet"])
        network = _made(config, model)
        load_parts({"ControlNet": network}, {"ControlNet": part}, source=str(file.path), new=True)
        for note in file.notes:
            _log.warning("%s: %s", file.path, note)
        of_folder = os.path.isdir(path)
        name = os.path.basename(os.path.abspath(path)) if of_folder else file.path.name
        return cls(network, name, sha256(file.path), file.notes)

    @classmethod
    def from_unet(cls, model: Any) -> ControlNet:
        """A new one that is to be trained: the weights of the model's UNet, and convolutions of
        zeros between it and the UNet. It changes no picture.

        Args:
            model: a pipeline, or a `keras_sd.model.Model`.

        Raises:
            ValueError: the model's latents are too small, or its UNet has been quantized.
        """
        model = model_of(model)
        widths = ControlConfig.hint_widths
        levels = int(model.config.autoencoder.factor).bit_length()
        if levels > len(widths):
            raise ValueError(
                f"A cell of a latent of {model.config.name} is {model.config.autoencoder.factor} "
                f"pixels wide; a ControlNet's is at most {2 ** (len(widths) - 1)}"
            )
        channels = model.config.autoencoder.latent_channels
        config = ControlConfig.of(
            model.config.unet, in_channels=channels, hint_widths=widths[:levels]
        )
        with policy_scope(model.parts["unet"].dtype_policy):
            network = ControlNetwork(config)
        base = variables_of(model.parts["unet"])
        for path, variable in variables_of(network).items():
            if path in base:
                variable.assign(_base(path, base[path], tuple(variable.shape)))
        return cls(network)

    def save(self, folder: str | Path, *, dtype: Dtype | None = None) -> None:
        """Writes it as a folder that `from_file` reads, and diffusers.

        Args:
            folder: see `keras_sd.adapters.control_writing.save_control`, as for the errors.
            dtype: of the numbers in the file, `"float16"`, `"bfloat16"` or `"float32"`; None is as
                they are.
        """
        named = arrays_of({"": self.network})
        arrays = {path.removeprefix("/"): array for path, array in named.items()}
        save_control(folder, self.network.config, arrays, dtype=dtype)

    def attachment(self) -> Attachment:
        """How a request refers to it: by the SHA-256 of its file, or of its weights."""
        return attached(self)


def attached(net: Any) -> Attachment:
    """How a request refers to a network with its `sha256`, or None, and its `name`."""
    if net.sha256 is not None:
        return Attachment(net.sha256, net.name, net)
    digest = hashlib.sha256()
    for path, array in sorted(arrays_of({"": net.network}).items()):
        digest.update(f"{path} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return Attachment(digest.hexdigest(), net.name, net)


def model_of(given: Any) -> Any:
    """The model of a pipeline, or a model as it is."""
    model = getattr(given, "model", given)
    if not isinstance(getattr(model, "config", None), ModelConfig) or not hasattr(model, "parts"):
        raise TypeError(f"model is a pipeline or a Model, not {given!r}")
    return model


def _checked(file: ControlFile, model: ModelConfig) -> ControlConfig:
    config = file.config(model)
    if config.factor != model.autoencoder.factor:
        raise WeightsError(
            f"{file.path} is a ControlNet for another model than {model.name}: its hint is "
            f"{config.factor} times as wide as a latent, not {model.autoencoder.factor}"
        )
    return config


def _made(config: ControlConfig, model: Any) -> ControlNetwork:
    with policy_scope(model.parts["unet"].dtype_policy), weights_follow():
        return ControlNetwork(config)


def _summed(part: Part, unet: Any) -> Part:
    """The weights of a file of differences from the UNet's, in float32."""
    base, tensors = variables_of(unet), dict(part.tensors)
    for entry in part.table:
        tensor = tensors.get(entry.name)
        fits = tensor is not None and tuple(tensor.shape) == entry.file_shape
        if fits and entry.path in base:
            weight = entry.theirs(_base(entry.path, base[entry.path], entry.shape))
            tensors[entry.name] = np.asarray(tensor).astype(np.float32) + weight
    return Part(tensors, part.table, part.source, part.files)


def _base(path: str, variable: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The weight of the UNet, float32; of its first convolution what is of the latent, which an
    inpainting UNet has before what else it sees.
    """
    dtype = np.dtype(getattr(ml_dtypes, variable.dtype, variable.dtype))
    if not is_floating(dtype):
        raise WeightsError(
            f"{path} holds {dtype}: a ControlNet is made before weights are quantized"
        )
    value = to_numpy(variable.value).astype(np.float32)
    return value[:, :, : shape[2]] if path == "conv_in/kernel" else value
