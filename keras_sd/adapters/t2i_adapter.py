"""A T2I-Adapter for a model: `T2IAdapter`, its network with what it was read from."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, ClassVar

from keras_sd.adapters.controlnet import attached, model_of
from keras_sd.adapters.feature_files import open_features
from keras_sd.adapters.fitting import feature_misfits
from keras_sd.networks import FeatureNetwork
from keras_sd.networks.initializers import weights_follow
from keras_sd.precision import policy_scope
from keras_sd.start import Attachment
from keras_sd.weights.load import load_parts
from keras_sd.weights.parts import printable
from keras_sd.weights.readers import WeightsError, sha256

__all__ = ["T2IAdapter"]


@dataclass(frozen=True, eq=False)
class T2IAdapter:
    """A T2I-Adapter (Mou et al. 2023). A `keras_sd.Control` says how it is used.

    Attributes:
        network: with its weights, which the next picture is drawn with.
        name: of the file, for people; None where it comes from none.
        sha256: of the file, likewise.
    """

    kind: ClassVar[str] = "T2I-Adapter"

    network: FeatureNetwork
    name: str | None = None
    sha256: str | None = None

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], *, model: Any) -> T2IAdapter:
        """Reads one: full, full for XL, or light, in diffusers' or the original layout.

        Args:
            path: of a file, or of a folder of diffusers.
            model: a pipeline, or a `keras_sd.model.Model`, of the family that it was made for. It
                computes in the dtypes of the model's UNet.

        Raises:
            WeightsError: the file is damaged, is no T2I-Adapter, was made for another family, or
                does not fit; the message lists all that does not.
            FileNotFoundError: there is no such file.
        """
        model = model_of(model)
        file = open_features(path)
        if wrong := feature_misfits(file.config, model.config):
            raise WeightsError(
                f"{file.path} is a T2I-Adapter ({file.config.kind}) for {file.base}, and another "
                f"model than {printable(model.config.name)}: {'; '.join(wrong)}"
            )
        with policy_scope(model.parts["unet"].dtype_policy), weights_follow():
            network = FeatureNetwork(file.config)
        load_parts({"T2I-Adapter": network}, {"T2I-Adapter": file.part()}, source=str(file.path))
        of_folder = os.path.isdir(path)
        name = os.path.basename(os.path.abspath(path)) if of_folder else file.path.name
        return cls(network, name, sha256(file.path))

    def attachment(self) -> Attachment:
        """How a request refers to it: by the SHA-256 of its file, or of its weights."""
        return attached(self)
