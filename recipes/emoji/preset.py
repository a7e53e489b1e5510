"""Makes a preset folder of what `train` wrote.

python -m recipes.emoji.preset RUN --subjects subjects.json --merges merges.txt --out FOLDER
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from keras_sd.config import ModelConfig
from keras_sd.networks import Autoencoder, TextEncoder, UNet
from keras_sd.training import scenes, words
from keras_sd.weights.load import arrays_of
from keras_sd.weights.readers import sha256
from keras_sd.weights.save import save_preset
from recipes.emoji import pieces
from recipes.emoji.config import with_scale

LICENSE = (
    "Apache-2.0; trained on drawings of Noto Emoji (Google, Apache-2.0 and SIL OFL 1.1) and Fluent "
    "Emoji (Microsoft, MIT), with words of Unicode CLDR (Unicode-3.0)"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    for name in ("subjects", "merges", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--dtype", default="int8", help="float16 to train on without a loss")
    options = parser.parse_args()
    facts = json.loads((options.run / "facts.json").read_text(encoding="utf-8"))
    if sha256(options.merges) != facts["merges"]:
        parser.error(f"--merges {options.merges} are not those that {options.run} was trained with")
    config = ModelConfig.from_dict(facts["config"])
    networks = {
        "text_encoder": TextEncoder(config.text_encoder),
        "unet": UNet(config.unet),
        "autoencoder": Autoencoder(config.autoencoder),
    }
    counts = {name: len(network.trainable_variables) for name, network in networks.items()}
    for name, values in pieces.load(options.run, counts).items():
        for variable, value in zip(networks[name].trainable_variables, values, strict=True):
            variable.assign(value.astype("float32"))
    save_preset(
        options.out,
        with_scale(config, facts["scale"]),
        arrays_of(networks),
        options.merges,
        scenes.known_words(words.load(options.subjects)),
        dtype=options.dtype,
        license=LICENSE,
    )


if __name__ == "__main__":
    main()
