"""What a UNet predicts, the noise, v or x0: the names and shapes of a file are the same for all."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from keras_sd.config import Prediction
from keras_sd.weights.architecture import Shapes
from keras_sd.weights.readers import WeightsError, shown

_PREDICTIONS: dict[str, Prediction] = {
    "epsilon": "epsilon",
    "eps": "epsilon",
    "v": "v",
    "v_prediction": "v",
    "x0": "x0",
    "sample": "x0",
}
_ARCHITECTURES = {"stable-diffusion-v2-512": "epsilon", "stable-diffusion-v2-768-v": "v"}
ZERO_SNR = "ztsnr"
"""An empty tensor of this name says that the model was trained to zero terminal SNR."""
_V_PREDICTIONS = ("v_pred", ZERO_SNR)
"""And one of these that its UNet predicts v: nothing else can be trained to zero terminal SNR."""
_PREDICTION_KEYS = ("modelspec.prediction_type", "modelspec.predict_key")
_SIDECAR_BYTES = 1_000_000

ASSUMED = "an assumption"
ASSUMED_NOTE = (
    "The file cannot say what its UNet predicts. v is assumed, as most files of 2.x are those for "
    '768x768; if the pictures are noise, pass prediction="epsilon".'
)


def family_prediction(second: bool, variant: str) -> tuple[Prediction, str]:
    """What the UNets of a family predict, where that is one thing."""
    if not second or variant in ("inpainting", "InstructPix2Pix", "depth-to-image"):
        return "epsilon", "the family"
    return "v", "the family" if variant else ASSUMED


def stated_prediction(
    shapes: Shapes, metadata: Mapping[str, str] | None = None, path: Path | None = None
) -> tuple[Prediction, str] | None:
    """What a file says that its UNet predicts, and where: its metadata, an empty tensor `v_pred`
    or `ztsnr`, a `.yaml` file of the same name beside it. None where nothing does.

    Args:
        shapes: of the tensors, by name.
        metadata: what the file says of itself.
        path: of the file, for messages and for the `.yaml` file.

    Raises:
        WeightsError: it says something that is none of the three.
    """
    metadata = metadata or {}
    said = next((key for key in _PREDICTION_KEYS if key in metadata), None)
    if said is not None:
        value, who = metadata[said], f"the file's metadata, {said}"
    elif metadata.get("modelspec.architecture") in _ARCHITECTURES:
        value = _ARCHITECTURES[metadata["modelspec.architecture"]]
        who = "the file's metadata, modelspec.architecture"
    elif said := next((name for name in _V_PREDICTIONS if name in shapes), None):
        value, who = "v", f"the file's tensor {said}"
    elif path is not None and (stated := _sidecar(path.with_suffix(".yaml"))):
        value, who = stated
    else:
        return None
    if value not in _PREDICTIONS:
        raise WeightsError(
            f"{path or 'the file'}: {who}, says that the UNet predicts {shown(value)}; keras_sd "
            "knows 'epsilon', 'v' and 'x0'. The option prediction overrules it"
        )
    return _PREDICTIONS[value], who


def _sidecar(path: Path) -> tuple[str, str] | None:
    """What the original training configuration says that was put beside a file."""
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        text = file.read(_SIDECAR_BYTES).decode(errors="replace")
    if stated := re.search(r"^ *parameterization: *[\"']?(\w+)", text, re.MULTILINE):
        return stated[1], str(path)
    # The program that these files are of predicts the noise where they do not say otherwise.
    return ("epsilon", str(path)) if re.search(r"^model:", text, re.MULTILINE) else None
