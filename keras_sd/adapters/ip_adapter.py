"""An IP-Adapter for a model: `IPAdapter`, its network and its image encoder."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from keras_sd.adapters.controlnet import attached, model_of
from keras_sd.adapters.image_encoder_files import (
    encoder_name,
    feature_width,
    open_image_encoder,
)
from keras_sd.adapters.image_prompt_files import (
    ImagePromptFile,
    check_pair,
    open_image_prompt,
    wrong_pair,
)
from keras_sd.networks import ImageEncoder, ImagePromptNetwork
from keras_sd.networks.initializers import weights_follow
from keras_sd.precision import policy_scope
from keras_sd.start import Attachment
from keras_sd.weights.load import load_parts
from keras_sd.weights.parts import listed
from keras_sd.weights.readers import WeightsError, sha256

__all__ = ["IPAdapter", "prepared"]

_log = logging.getLogger(__name__)

_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
_SPREAD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
"""Of the colours that CLIP was trained with, from 0 to 1."""


@dataclass(frozen=True, eq=False)
class IPAdapter:
    """An IP-Adapter (Ye et al. 2023). A `keras_sd.ImagePrompt` says how it is used.

    Attributes:
        network: with its weights, which the next picture is drawn with.
        encoder: of the pictures that it is shown; several adapters may share one.
        name: of the file, for people; None where it comes from none.
        sha256: of the file, likewise.
    """

    kind: ClassVar[str] = "IP-Adapter"

    network: ImagePromptNetwork
    encoder: ImageEncoder
    name: str | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        own, its = self.network.config, self.encoder.config
        if own.feature_width != feature_width(its, own.kind):
            raise ValueError(
                f"The IP-Adapter ({own.kind}) takes {own.feature_width} features a "
                f"{'picture' if own.kind == 'base' else 'patch'}; the image encoder is "
                f"{encoder_name(its)}"
            )

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        image_encoder: str | os.PathLike[str] | ImageEncoder,
        model: Any,
    ) -> IPAdapter:
        """Reads one of the base or the plus kind.

        Args:
            path: of a `.bin` or `.safetensors` file.
            image_encoder: the path of CLIP's image encoder, a file or a folder of transformers; or
                the `encoder` of another adapter, which both then share.
            model: a pipeline, or a `keras_sd.model.Model`, of the family that it was made for. It
                computes in the dtypes of the model's UNet.

        Raises:
            WeightsError: a file is damaged, is something else, was made for another family, or
                does not fit; or the encoder is not the one that the adapter was trained with.
            FileNotFoundError: there is no such file.
        """
        model = model_of(model)
        file = open_image_prompt(path)
        config = file.config(model.config)
        part = file.part(config, model.config)
        policy = model.parts["unet"].dtype_policy
        encoder = image_encoder
        if not isinstance(encoder, ImageEncoder):
            encoder = _encoder(file, encoder, policy)
        elif feature_width(encoder.config, file.kind) != file.feature_width:
            name = encoder_name(encoder.config)
            raise WeightsError(wrong_pair(file, "the image encoder that is given", name))
        with policy_scope(policy), weights_follow():
            network = ImagePromptNetwork(config)
        load_parts({"IP-Adapter": network}, {"IP-Adapter": part}, source=str(file.path))
        return cls(network, encoder, file.path.name, sha256(file.path))

    def attachment(self) -> Attachment:
        """How a request refers to it: by the SHA-256 of its file, or of its weights."""
        return attached(self)


def prepared(picture: np.ndarray, size: int) -> np.ndarray:
    """A picture as CLIP sees it: its short side brought to a size, the square in the middle of it,
    and colours as it was trained with.

    Args:
        picture: uint8 array `(height, width, 3)`.
        size: pixels of a side.

    Returns:
        float32 array `(size, size, 3)`.
    """
    from PIL import Image

    height, width = picture.shape[:2]
    short = min(height, width)
    tall, wide = (int(size * side / short) for side in (height, width))
    made = Image.fromarray(picture).resize((wide, tall), Image.Resampling.BICUBIC)
    top, left = (tall - size) // 2, (wide - size) // 2
    middle = np.asarray(made)[top : top + size, left : left + size]
    return (middle.astype(np.float32) / np.float32(255) - _MEAN) / _SPREAD


def _encoder(prompt: ImagePromptFile, path: str | os.PathLike[str], policy: Any) -> ImageEncoder:
    file = open_image_encoder(path)
    check_pair(prompt, file)
    if file.left_out:
        left_out = listed(file.left_out)
        _log.warning("%s: left out are %d tensors: %s", file.path, len(file.left_out), left_out)
    with policy_scope(policy), weights_follow():
        encoder = ImageEncoder(file.config)
    load_parts({"image encoder": encoder}, {"image encoder": file.part()}, source=str(file.path))
    return encoder
