"""stable-diffusion.cpp draws from a checkpoint that we saved what we draw ourselves.

    python benchmarks/sd_cpp.py FOLDER VOCABULARY

makes a Stable Diffusion 1.5 of full size with random weights, saves it as one file in FOLDER (4 GB;
kept for the next run), and lets both programs draw from it with the same noise. The exit status is
1 where a pixel differs by more than one of 255. It needs 10 GB of memory.

VOCABULARY is `bpe_simple_vocab_16e6.txt.gz`. `nox -s stable_diffusion_cpp -- VOCABULARY` does all
of this in an environment of its own, where the other program is compiled first (20 minutes).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

PROMPT, NEGATIVE = "a photograph of an astronaut riding a horse", "blurry, low quality"
SIZE, STEPS, GUIDANCE, SEED = 192, 6, 4.0, 42
LIMIT = 1
"""Of 255: what rounding to whole numbers may do."""
CONTRAST = 60
"""Of 255: a picture that is flat would be equal whatever was drawn."""


def noise() -> np.ndarray:
    """The numbers that PyTorch's generator on a GPU, and with it the other program, has for `SEED`:
    Philox 4x32 with ten rounds (Salmon et al. 2011), and of each pair of normal numbers (Box and
    Muller 1958) the first. `(1, SIZE / 8, SIZE / 8, 4)`.
    """
    side = SIZE // 8
    count = 4 * side * side
    words = [np.zeros(count, np.uint64) for _ in range(4)]
    words[2] += np.arange(count, dtype=np.uint64)
    key, low = [SEED & 0xFFFFFFFF, SEED >> 32], np.uint64(0xFFFFFFFF)
    for _ in range(10):
        first = words[0] * np.uint64(0xD2511F53)
        second = words[2] * np.uint64(0xCD9E8D57)
        words = [
            (second >> np.uint64(32)) ^ words[1] ^ np.uint64(key[0]),
            second & low,
            (first >> np.uint64(32)) ^ words[3] ^ np.uint64(key[1]),
            first & low,
        ]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    u, v = ((word.astype(np.float64) + 0.5) / 2**32 for word in words[:2])
    normal = np.sqrt(-2 * np.log(u)) * np.sin(2 * np.pi * v)
    return np.moveaxis(normal.reshape(1, 4, side, side), 1, 3).astype(np.float32)


def make(file: Path, vocabulary: Path) -> None:
    """The checkpoint. Its UNet's last layer and its decoder's are given weights that show."""
    import keras

    from keras_sd import StableDiffusion
    from keras_sd.config import SD_1
    from keras_sd.networks import Autoencoder, TextEncoder, UNet
    from keras_sd.tokenizer import Tokenizer, read_merges

    keras.utils.set_random_seed(0)
    unet, autoencoder = UNet(SD_1.unet), Autoencoder(SD_1.autoencoder)
    generator = np.random.default_rng(0)
    for kernel, scale in (
        (unet.conv_out.kernel, 0.02),
        (autoencoder.decoder.conv_out.kernel, 0.05),
    ):
        kernel.assign(generator.normal(0, scale, kernel.shape))
    tokenizer = Tokenizer(read_merges(vocabulary))
    text_encoder = TextEncoder(SD_1.text_encoder)
    pipeline = StableDiffusion(SD_1, text_encoder, unet, autoencoder, tokenizer)
    pipeline.save_checkpoint(file)


def ours(file: Path, vocabulary: Path) -> np.ndarray:
    from keras_sd import StableDiffusion

    pipeline = StableDiffusion.from_preset(file, vocabulary=vocabulary, height=SIZE, width=SIZE)
    return pipeline.text_to_image(
        PROMPT,
        NEGATIVE,
        num_steps=STEPS,
        unconditional_guidance_scale=GUIDANCE,
        sampler="euler",
        schedule="normal",
        diffusion_noise=noise(),
    )[0]


def theirs(file: Path) -> np.ndarray:
    from stable_diffusion_cpp import StableDiffusion

    (image,) = StableDiffusion(str(file), wtype="f32", verbose=False).generate_image(
        PROMPT,
        NEGATIVE,
        width=SIZE,
        height=SIZE,
        cfg_scale=GUIDANCE,
        sample_method="euler",
        scheduler="discrete",
        sample_steps=STEPS,
        seed=SEED,
    )
    return np.asarray(image.convert("RGB"))


def main(folder: Path, vocabulary: Path) -> int:
    """Everything, a process a picture; the exit status."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "stable-diffusion-cpp.safetensors"
    stages = ["ours", "theirs"] if file.exists() else ["make", "ours", "theirs"]
    for stage in stages:
        command = [sys.executable, __file__, str(folder), str(vocabulary), "--stage", stage]
        subprocess.run(command, check=True)
    first, second = (np.load(folder / f"{name}.npy").astype(int) for name in ("ours", "theirs"))
    apart = np.abs(first - second)
    print(f"pixels from {first.min()} to {first.max()}, the standard deviation {first.std():.0f}")
    print(f"apart: at most {apart.max()} of 255, {(apart > 0).mean():.2%} of the values at all")
    return int(apart.max() > LIMIT or np.ptp(first) < CONTRAST)


def stage(name: str, folder: Path, vocabulary: Path) -> None:
    """One step of it in this process."""
    file = folder / "stable-diffusion-cpp.safetensors"
    if name == "make":
        make(file, vocabulary)
    else:
        np.save(folder / f"{name}.npy", ours(file, vocabulary) if name == "ours" else theirs(file))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="for the checkpoint: 4 GB")
    parser.add_argument("vocabulary", type=Path, help="bpe_simple_vocab_16e6.txt.gz")
    parser.add_argument("--stage", choices=["make", "ours", "theirs"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        stage(arguments.stage, arguments.folder, arguments.vocabulary)
    else:
        sys.exit(main(arguments.folder, arguments.vocabulary))
