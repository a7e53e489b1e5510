"""Makes a preset folder of what `train` or `refine` wrote.

python -m recipes.emoji.preset RUN --subjects subjects.json --merges merges.txt --out FOLDER
python -m recipes.emoji.preset RUN [RUN ...] --subjects subjects.json --start PRESET --out FOLDER

Of several runs of `refine` the preset gets the mean of what they have gained: runs that went on
from the same state, each on a core of its own, are together what one of larger batches would be.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from keras_sd.config import ModelConfig
from keras_sd.networks import Autoencoder, TextEncoder, UNet
from keras_sd.training import scenes, words
from keras_sd.weights.checkpoint import open_checkpoint
from keras_sd.weights.load import arrays_of, build_networks
from keras_sd.weights.readers import sha256
from keras_sd.weights.save import save_preset
from recipes.emoji import pieces
from recipes.emoji.config import CONFIG, with_scale

LICENSE = (
    "Apache-2.0; trained on drawings of Noto Emoji (Google, Apache-2.0 and SIL OFL 1.1) and Fluent "
    "Emoji (Microsoft, MIT), with words of Unicode CLDR (Unicode-3.0)"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, nargs="+", help="the folder `train` or `refine` wrote")
    for name in ("subjects", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--merges", type=Path, help="of the tokenizer; with --start, its own")
    parser.add_argument("--start", type=Path, help="the preset that `refine` went on from")
    parser.add_argument("--dtype", default="int8", help="float16 to train on without a loss")
    options = parser.parse_args()
    if (options.start is None) == (options.merges is None):
        parser.error("--merges for what `train` wrote, or --start for what `refine` wrote")
    if options.start is None:
        if len(options.run) > 1:
            parser.error(f"{len(options.run)} runs: only those of `refine` have a mean")
        (run,) = options.run
        facts = json.loads((run / "facts.json").read_text(encoding="utf-8"))
        if sha256(options.merges) != facts["merges"]:
            parser.error(f"--merges {options.merges} are not those that {run} had")
        config = ModelConfig.from_dict(facts["config"])
        networks = {
            "text_encoder": TextEncoder(config.text_encoder),
            "unet": UNet(config.unet),
            "autoencoder": Autoencoder(config.autoencoder),
        }
        config = with_scale(config, facts["scale"])
        counts = {name: len(each.trainable_variables) for name, each in networks.items()}
        for name, values in pieces.load(run, counts).items():
            for variable, value in zip(networks[name].trainable_variables, values, strict=True):
                variable.assign(value.astype("float32"))
    else:
        checkpoint = open_checkpoint(options.start)
        options.merges = options.start / "merges.txt"
        config = dataclasses.replace(checkpoint.config, defaults=CONFIG.defaults)
        networks = build_networks(checkpoint)
        parts = [pieces.parts_of(run) for run in options.run]
        if any(each != parts[0] for each in parts):
            parser.error(f"The runs have other parts: {', '.join(map(str, map(list, parts)))}")
        for run in options.run:
            for part, name in parts[0].items():
                pieces.add(run, part, name, networks[name], share=1 / len(parts))
    save_preset(
        options.out,
        config,
        arrays_of(networks),
        options.merges,
        scenes.known_words(words.load(options.subjects)),
        dtype=options.dtype,
        license=LICENSE,
    )


if __name__ == "__main__":
    main()
