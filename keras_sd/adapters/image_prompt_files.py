"""A file of an IP-Adapter as a value: its kind, its base, the encoder that it was trained with. No
model is needed.

| kind | what it takes of a picture | how it is known |
|---|---|---|
| base | one vector | `image_proj.proj.weight` |
| plus | a vector a patch | `image_proj.latents` |

The projector has the names of its authors or those of diffusers. Other kinds are refused by name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from keras_sd.adapter_configs import ImagePromptConfig
from keras_sd.adapters.files import FAMILIES
from keras_sd.adapters.image_encoder_files import ENCODERS, ImageEncoderFile, feature_width
from keras_sd.config import ModelConfig
from keras_sd.files import checked_path
from keras_sd.weights.names.steering import IMAGE_PROJ, IP_ADAPTER, image_prompt
from keras_sd.weights.parts import Part, listed, printable
from keras_sd.weights.readers import TensorFile, WeightsError, read_file, shown

__all__ = [
    "ImagePromptFile",
    "check_pair",
    "is_image_prompt",
    "open_image_prompt",
    "prompt_file_of",
    "wrong_pair",
]

_FIRST_KEY = f"{IP_ADAPTER}1.to_k_ip.weight"
_OTHERS = {
    rf"^{IMAGE_PROJ}perceiver_resampler\.": "FaceID-plus, which takes the vector of a face",
    rf"^{IP_ADAPTER}\d+\.to_\w+_lora\.": "FaceID, which takes the vector of a face",
    rf"^{IMAGE_PROJ}(proj\.3|ff\.net\.)": "full-face, whose projector is another",
    rf"^{IMAGE_PROJ}proj\.0\.": "FaceID or portrait, which takes the vector of a face",
}
"""Relatives that are not read, by a name that only they have."""


@dataclass(frozen=True)
class ImagePromptFile:
    """A file of an IP-Adapter.

    Attributes:
        path: of the file.
        kind: see `keras_sd.adapter_configs.ImagePromptConfig`, as of the numbers below.
        tensors: by the file's names.
        context: features of a token.
        tokens: of a picture.
        feature_width: features that the image encoder gives.
        width: of the plus kind; it and the rest are 0 in the base kind.
        depth: likewise.
        heads: likewise.
        mlp_width: likewise.
        by_diffusers: its projector has diffusers' names.
    """

    path: Path
    kind: Literal["base", "plus"]
    tensors: Mapping[str, Any]
    context: int
    tokens: int
    feature_width: int
    width: int
    depth: int
    heads: int
    mlp_width: int
    by_diffusers: bool

    @property
    def base(self) -> str:
        """The family that it was made for."""
        other = f"a model with {self.context} features a token"
        return FAMILIES.get(self.context, other)

    @property
    def encoder(self) -> str:
        """The image encoder that it was trained with."""
        place = 0 if self.kind == "plus" else 1
        found = (name for sizes, name in ENCODERS.items() if sizes[place] == self.feature_width)
        what = "patch" if self.kind == "plus" else "picture"
        return next(found, f"one of {self.feature_width} features a {what}")

    def config(self, model: ModelConfig) -> ImagePromptConfig:
        """Its numbers, as far as the model has them.

        Raises:
            WeightsError: it was made for another family.
        """
        unet = model.unet
        if self.context != unet.context_width:
            raise WeightsError(
                f"{self.path} is an IP-Adapter ({self.kind}) for {self.base} ({self.context} "
                f"features a token); the model {printable(model.name)} has {unet.context_width} "
                "features a token. Take a model of that family, or an adapter of this one"
            )
        try:
            return ImagePromptConfig(
                kind=self.kind,
                widths=tuple(width for _, width in unet.cross_attentions),
                context_width=self.context,
                tokens=self.tokens,
                feature_width=self.feature_width,
                width=self.width,
                depth=self.depth,
                heads=self.heads,
                mlp_width=self.mlp_width,
            )
        except ValueError as error:
            raise WeightsError(f"{self.path}: {error}") from None

    def part(self, config: ImagePromptConfig, model: ModelConfig) -> Part:
        """Its weights."""
        table = image_prompt(config, model.unet, self.by_diffusers)
        return Part(self.tensors, table, str(self.path), (self.path,))


def open_image_prompt(path: str | os.PathLike[str]) -> ImagePromptFile:
    """Opens a file of an IP-Adapter.

    Args:
        path: of the file.

    Raises:
        WeightsError: it is damaged, of a kind that is not read, or something else; the message
            names what it is.
        FileNotFoundError: there is no such file.
    """
    path = checked_path(path, "path", "the path of an IP-Adapter")
    return prompt_file_of(read_file(path), path)


def is_image_prompt(names: Iterable[str]) -> bool:
    """Whether a file is an IP-Adapter, read or not, by the names of its tensors."""
    return any(name.startswith((IMAGE_PROJ, IP_ADAPTER)) for name in names)


def check_pair(prompt: ImagePromptFile, encoder: ImageEncoderFile) -> None:
    """Checks that an encoder is the one that an IP-Adapter was trained with, by its sizes.

    Raises:
        WeightsError: it is another.
    """
    if feature_width(encoder.config, prompt.kind) != prompt.feature_width:
        raise WeightsError(wrong_pair(prompt, str(encoder.path), encoder.name))


def wrong_pair(prompt: ImagePromptFile, given: str, name: str) -> str:
    """What is said of an IP-Adapter and an encoder that it was not trained with.

    Args:
        prompt: the adapter.
        given: where the encoder is from.
        name: what it is called, by its size.
    """
    return (
        f"{prompt.path} is an IP-Adapter ({prompt.kind}) for {prompt.base} that was trained with "
        f"the image encoder {prompt.encoder}; {printable(given)} is {name}. h94/IP-Adapter has "
        "ViT-H/14 in models/image_encoder, and ViT-bigG/14 in sdxl_models/image_encoder"
    )


def prompt_file_of(file: TensorFile, path: Path) -> ImagePromptFile:
    """The IP-Adapter of an open file; the errors are those of `open_image_prompt`."""
    tensors = file.tensors
    if not is_image_prompt(tensors):
        raise WeightsError(
            f"{path} is no IP-Adapter: none of its {len(tensors)} tensors begins with "
            f"{IMAGE_PROJ} or {IP_ADAPTER} It has {listed(tensors) or 'none'}. `keras-sd inspect` "
            "says what it is"
        )
    for pattern, what in _OTHERS.items():
        if name := next((name for name in tensors if re.search(pattern, name)), None):
            raise WeightsError(
                f"{path} is an IP-Adapter of the kind {what}, as its {shown(name)} shows; "
                "keras_sd reads those of the kinds base and plus (also plus-face)"
            )

    def shape(name: str, dimensions: int) -> tuple[int, ...]:
        found = getattr(tensors.get(name), "shape", None)
        if found is None or len(found) != dimensions or 0 in found:
            raise WeightsError(
                f"{path} is an IP-Adapter that is not whole, or of another kind than base and "
                f"plus: {name} is {found}, not of {dimensions} dimensions"
            )
        return tuple(map(int, found))

    _, context = shape(_FIRST_KEY, 2)
    if f"{IMAGE_PROJ}latents" not in tensors:
        by_diffusers = f"{IMAGE_PROJ}image_embeds.weight" in tensors
        of_all, features = shape(
            f"{IMAGE_PROJ}{'image_embeds' if by_diffusers else 'proj'}.weight", 2
        )
        tokens = max(1, of_all // context)
        numbers = (0, 0, 0, 0)
        return ImagePromptFile(
            path, "base", tensors, context, tokens, features, *numbers, by_diffusers
        )
    by_diffusers = f"{IMAGE_PROJ}layers.0.attn.to_q.weight" in tensors
    _, tokens, width = shape(f"{IMAGE_PROJ}latents", 3)
    _, features = shape(f"{IMAGE_PROJ}proj_in.weight", 2)
    query, hidden = ("attn.to_q", "ff.1.net.0.proj") if by_diffusers else ("0.to_q", "1.1")
    inner, _ = shape(f"{IMAGE_PROJ}layers.0.{query}.weight", 2)
    mlp_width, _ = shape(f"{IMAGE_PROJ}layers.0.{hidden}.weight", 2)
    layers = {
        m[1] for name in tensors if (m := re.match(rf"{IMAGE_PROJ}layers\.(\d{{1,4}})\.", name))
    }
    heads = inner // ImagePromptConfig.head_width
    return ImagePromptFile(
        *(path, "plus", tensors, context, tokens, features),
        *(width, len(layers), heads, mlp_width, by_diffusers),
    )
