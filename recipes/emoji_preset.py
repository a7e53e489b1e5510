"""Makes a preset folder of what `emoji_gpu.py` wrote.

python recipes/emoji_preset.py RUN --subjects subjects.json --merges merges.txt --out FOLDER
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np

from keras_sd.config import ModelConfig
from keras_sd.networks import Autoencoder, TextEncoder, UNet
from keras_sd.training import scenes, words
from keras_sd.weights.load import arrays_of
from keras_sd.weights.save import save_preset

LICENSE = (
    "Apache-2.0; trained on drawings of Noto Emoji (Google, Apache-2.0 and SIL OFL 1.1) and Fluent "
    "Emoji (Microsoft, MIT), with words of Unicode CLDR (Unicode-3.0)"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    for name in ("subjects", "merges", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--dtype", default="int8")
    options = parser.parse_args()
    facts = json.loads((options.run / "facts.json").read_text(encoding="utf-8"))
    config = ModelConfig.from_dict(facts["config"])
    networks = {
        "text_encoder": TextEncoder(config.text_encoder),
        "unet": UNet(config.unet),
        "autoencoder": Autoencoder(config.autoencoder),
    }
    for path in sorted(options.run.glob("*.npz")):
        with np.load(path) as piece:
            for name in piece.files:
                network, number = name.split("/")
                networks[network].trainable_variables[int(number)].assign(
                    piece[name].astype("float32")
                )
    config = dataclasses.replace(
        config, autoencoder=dataclasses.replace(config.autoencoder, scale=facts["scale"])
    )
    save_preset(
        options.out,
        config,
        arrays_of(networks),
        options.merges.read_text(encoding="utf-8").splitlines(),
        scenes.known_words(words.load(options.subjects)),
        dtype=options.dtype,
        license=LICENSE,
    )


if __name__ == "__main__":
    main()
